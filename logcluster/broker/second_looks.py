"""Looks again at replicas that stepped aside and have nobody to fetch from: a read error may have passed (P8).

A replica with a leader fetches everything again, which is simpler and as good. Without one, the partition is offline
until somebody's log turns out to be sound: this task reads those logs again, less and less often, off the event loop.

Neighbours: `failed_replicas` names them, `storage.second_look` reads, `replica_manager` takes a sound log back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicIdPartition

if TYPE_CHECKING:
    from logcluster.broker.replica_manager import ReplicaManager

FIRST_WAIT_MS: Final = 1_000
WAIT_MS_MAX: Final = 300_000
"""A large log that is really damaged is read rarely; an operator who restored it waits no longer than this."""


class SecondLooks:
    """The task of one replica manager; `run` it in a scope."""

    def __init__(self, manager: ReplicaManager) -> None:
        self._manager = manager
        self._waits_ms: dict[TopicIdPartition, int] = {}
        self._due_ms: dict[TopicIdPartition, int] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._manager.clock.sleep_ms(FIRST_WAIT_MS)
            await self.turn()

    async def turn(self) -> None:
        """Look at what is due."""
        manager = self._manager
        now_ms = manager.clock.monotonic_ms()
        lonely = [key for key in manager.failed_replicas if manager.has_no_leader(key)]
        self._waits_ms = {key: self._waits_ms.get(key, FIRST_WAIT_MS) for key in lonely}
        self._due_ms = {key: self._due_ms.get(key, now_ms) for key in lonely}
        for key in lonely:
            if self._due_ms[key] > now_ms:
                continue
            await self._look_at(key)
            self._due_ms[key] = manager.clock.monotonic_ms() + self._waits_ms[key]
            self._waits_ms[key] = min(2 * self._waits_ms[key], WAIT_MS_MAX)

    async def _look_at(self, key: TopicIdPartition) -> None:
        manager = self._manager
        look = manager.log_manager.prepare_second_look(key)
        if look is not None:
            try:
                log = await manager.disk.run(look.run)
            except LogClusterError:
                return  # the directory has stopped, and says so itself
            if log is not None and manager.log_manager.readmit(look, log):
                manager.on_sound_again(key)
