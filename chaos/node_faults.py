"""What can be done to a broker from outside, by name: the actions of its control channel.

    set-links    links: [{"peer", "direction", rule...}]   all rules at once; what is not named is clear
    reset-link   peer                                      -> {"connections"}
    slow-disk    delay_ms
    fail-disk    operation, error, count, area             a count of 0 forgets the failures that are due
    set-clock    offset_ms                                 of the wall clock, from the machine's
    status                                                 -> {"now_ms", "links", "disk", "pending_bytes"}

All but `fail-disk` and `reset-link` set a state, so that sending one again changes nothing; the same states may be
given at the start (`FaultsAtStart`), because a cut link or a slow disk outlives the process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from chaos.control import ActionFailed, BadArguments, UnknownAction
from chaos.node_clock import JumpingClock
from chaos.node_hurt_disk import AREAS, OPERATIONS, DiskFaults, errno_of
from chaos.node_lazy_disk import LazyFilesystem
from chaos.node_links import LinkKey, LinkRule, Links

LOOP_TIMEOUT_MS: Final = 4_000
"""How long the node's event loop may take to get round to an action."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultsAtStart:
    """What holds when a broker starts; a JSON text on its command line."""

    links: Sequence[Mapping[str, Any]] = ()
    disk_delay_ms: int = 0
    clock_offset_ms: int = 0

    def to_text(self) -> str:
        return json.dumps(
            {
                "links": list(self.links),
                "disk_delay_ms": self.disk_delay_ms,
                "clock_offset_ms": self.clock_offset_ms,
            }
        )

    @classmethod
    def parse(cls, text: str) -> FaultsAtStart:
        """Raises:
        ValueError: it is not what `to_text` gives.
        """
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("faults are a JSON object")
        try:
            return cls(**content)
        except TypeError as error:
            raise ValueError(str(error)) from error


def link_to_json(key: LinkKey, rule: LinkRule) -> dict[str, Any]:
    """One element of `links`."""
    return {"peer": key[0], "direction": key[1], **rule.to_json()}


def links_from_json(links: Sequence[Mapping[str, Any]]) -> dict[LinkKey, LinkRule]:
    """The rules that `link_to_json` wrote.

    Raises:
        BadArguments: an element is not one.
    """
    rules: dict[LinkKey, LinkRule] = {}
    for link in links:
        fields = dict(link)
        peer, direction = fields.pop("peer", None), fields.pop("direction", None)
        if not isinstance(peer, int | str) or direction not in {"out", "in"}:
            raise BadArguments(f"a link has a peer and a direction, out or in: {link}")
        try:
            rules[peer, direction] = LinkRule(**fields)
        except (TypeError, ValueError) as error:
            raise BadArguments(f"{link}: {error}") from error
    return rules


class NodeFaults:
    """Carries out actions on the ports of one node; on any thread but the loop's."""

    def __init__(
        self,
        *,
        links: Links,
        disk: DiskFaults,
        clock: JumpingClock,
        lazy: LazyFilesystem | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._links = links
        self._disk = disk
        self._clock = clock
        self._lazy = lazy
        self._loop = loop
        self._actions: dict[str, Callable[..., dict[str, Any]]] = {
            "set-links": self._set_links,
            "reset-link": self._reset_link,
            "slow-disk": self._slow_disk,
            "fail-disk": self._fail_disk,
            "set-clock": self._set_clock,
            "status": self._status,
        }

    def handle(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one action.

        Raises:
            ControlError: it is unknown, or cannot be done.
        """
        action = self._actions.get(name)
        if action is None:
            raise UnknownAction(f"there is no action {name!r}; there are {', '.join(self._actions)}")
        try:
            return action(**arguments)
        except TypeError as error:
            raise BadArguments(f"{name}: {error}") from error

    def _set_links(self, *, links: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        rules = links_from_json(links)
        self._on_loop(lambda: self._links.set_rules(rules))
        return {}

    def _reset_link(self, *, peer: int | str) -> dict[str, Any]:
        return {"connections": self._on_loop(lambda: self._links.reset(peer))}

    def _slow_disk(self, *, delay_ms: int) -> dict[str, Any]:
        if not isinstance(delay_ms, int) or delay_ms < 0:
            raise BadArguments("delay_ms is a number of milliseconds, 0 or more")
        self._disk.set_delay(delay_ms)
        return {}

    def _fail_disk(self, *, operation: str, error: str, count: int, area: str = "logs") -> dict[str, Any]:
        chosen = next((known for known in OPERATIONS if known == operation), None)
        chosen_area = next((known for known in AREAS if known == area), None)
        if chosen is None:
            raise BadArguments(f"operation {operation!r} is none of {', '.join(OPERATIONS)}")
        if chosen_area is None:
            raise BadArguments(f"area {area!r} is none of {', '.join(AREAS)}")
        if not isinstance(count, int) or count < 0:
            raise BadArguments("count is a number of operations, 0 or more")
        try:
            self._disk.fail_next(chosen, errno_of(error), count=count, area=chosen_area)
        except ValueError as reason:
            raise BadArguments(str(reason)) from reason
        return {}

    def _set_clock(self, *, offset_ms: int) -> dict[str, Any]:
        if not isinstance(offset_ms, int):
            raise BadArguments("offset_ms is a number of milliseconds")
        self._clock.offset_ms = offset_ms
        return {"now_ms": self._clock.now_ms()}

    def _status(self) -> dict[str, Any]:
        return {
            "now_ms": self._clock.now_ms(),
            "links": self._on_loop(self._links.describe),
            "disk": self._disk.describe(),
            "pending_bytes": None if self._lazy is None else self._lazy.pending_bytes,
        }

    def _on_loop(self, work: Callable[[], Result]) -> Result:
        """Run `work` on the node's loop, and wait for it."""
        answer: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def run() -> None:
            try:
                answer.set_result(work())
            except Exception as error:  # noqa: BLE001 - raised again for whoever waits
                answer.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run)
            return answer.result(LOOP_TIMEOUT_MS / 1000)
        except TimeoutError as error:
            raise ActionFailed(f"the node's event loop has not come to it within {LOOP_TIMEOUT_MS} ms") from error
        except RuntimeError as error:
            raise ActionFailed(f"the node has ended: {error}") from error
