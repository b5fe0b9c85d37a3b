"""Failpoints armed for nodes: the process that hits one for the given time dies there, in the middle of its step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from logcluster.runtime.failpoints import CrashNow, Hook, install
from logcluster.sim.event_loop import CURRENT_PROCESS


@dataclass(slots=True, eq=False)
class Arm:
    """One armed failpoint.

    Args:
        hits_left: hits until it strikes.
        strike: ends the process; called once.
    """

    process_name: str
    failpoint: str
    hits_left: int
    strike: Callable[[], None]


class FailpointArms:
    """The hook of a world: counts hits by the running process; made and ended by the injector."""

    def __init__(self) -> None:
        self._arms: list[Arm] = []
        self._previous: Hook | None = None
        self._is_installed = False
        self.struck: Counter[str] = Counter()

    def install(self) -> None:
        """Have failpoints reported here, and to whoever had the hook before."""
        self._previous = install(self._hit)
        self._is_installed = True

    def uninstall(self) -> None:
        """Give the hook back; idempotent."""
        if self._is_installed:
            self._is_installed = False
            install(self._previous)

    def arm(self, arm: Arm) -> None:
        """Let it strike at the hit it says."""
        self._arms.append(arm)

    def disarm(self, arm: Arm) -> None:
        """It strikes no more; nothing when it has struck."""
        if arm in self._arms:
            self._arms.remove(arm)

    def _hit(self, name: str) -> None:
        if self._previous is not None:
            self._previous(name)
        if not self._arms:
            return
        process = CURRENT_PROCESS.get(None)
        if process is None or not process.is_alive:
            return
        for arm in self._arms:
            if arm.failpoint != name or arm.process_name != process.name:
                continue
            arm.hits_left -= 1
            if arm.hits_left == 0:
                self._arms.remove(arm)
                self.struck[name] += 1
                arm.strike()
                raise CrashNow(name)
