"""The links of one broker: what holds for what it sends to, and receives from, each peer; and chunks on their way.

A peer is a broker id, or `CLIENTS`: whatever comes from an address that is no broker's. Broker i owns the loopback
address 127.1.0.(i+1): its listeners are there, and its own connections come from there, so that both ends of every
connection know who is at the other. Rules are kept at the sender; only what clients send is ruled by the broker that
receives it. A rule replaces the one before, and holds for connections that are open as well as for later ones.

Everything here runs on the node's event loop.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol

from chaos.interfaces import CLIENTS

Peer = int | str
"""A broker id, or CLIENTS."""
Direction = Literal["out", "in"]
"""Seen from the broker that has the rule: what it sends, or what it receives."""
LinkKey = tuple[Peer, Direction]

PREFIX_VARIABLE: Final = "CHAOS_ADDRESS_PREFIX"
ADDRESS_PREFIX: Final = os.environ.get(PREFIX_VARIABLE, "127.1.0.")
"""Brokers on hosts of their own are told another one."""
BROKERS_MAX: Final = 250
CHUNK_SIZE_BYTES_MAX: Final = 16 * 1024
"""Larger writes are split where bandwidth is limited, so that they flow instead of arriving at once."""


def address_of(broker_id: int, prefix: str = ADDRESS_PREFIX) -> str:
    """The address that is this broker's alone."""
    if not 0 <= broker_id < BROKERS_MAX:
        raise ValueError(f"broker {broker_id} has no address of its own: ids are below {BROKERS_MAX}")
    return f"{prefix}{broker_id + 1}"


def peer_at(address: str) -> Peer:
    """Who is at this address."""
    last = address.removeprefix(ADDRESS_PREFIX)
    if last == address or not last.isdigit() or not 1 <= int(last) <= BROKERS_MAX:
        return CLIENTS
    return int(last) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRule:
    """What holds for one direction of a link.

    Args:
        is_cut: nothing passes; what is sent is held, and passes when the link is healed.
        delay_ms, jitter_ms: each chunk arrives after the delay and up to the jitter more, in order.
        bytes_per_s: over all connections of the link; None: no bound.
    """

    is_cut: bool = False
    delay_ms: int = 0
    jitter_ms: int = 0
    bytes_per_s: int | None = None

    def __post_init__(self) -> None:
        if self.delay_ms < 0 or self.jitter_ms < 0:
            raise ValueError("a delay is 0 ms or more")
        if self.bytes_per_s is not None and self.bytes_per_s < 1:
            raise ValueError("a bandwidth is 1 byte per second or more")

    @property
    def is_clear(self) -> bool:
        """Whether everything passes at once."""
        return self == CLEAR

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


CLEAR: Final = LinkRule()


class LinkMember(Protocol):
    """A connection of a link."""

    peer: Peer

    def rules_changed(self) -> None:
        """Rules of its link are other ones now."""

    def reset(self) -> None:
        """Close it with a reset."""

    def describe(self) -> tuple[int, int]:
        """Bytes held on their way out and in."""


class Links:
    """The rules of all links of one broker, and the connections they hold for."""

    def __init__(self, *, randomness: random.Random) -> None:
        self._rules: dict[LinkKey, LinkRule] = {}
        self._members: dict[LinkMember, None] = {}
        self._changed = asyncio.Event()
        self._randomness = randomness
        self._free_at: dict[LinkKey, float] = {}
        self._queued_bytes: Counter[Peer] = Counter()

    def rule(self, key: LinkKey) -> LinkRule:
        return self._rules.get(key, CLEAR)

    def set_rules(self, rules: Mapping[LinkKey, LinkRule]) -> None:
        """Replace all rules; directions that are not named are clear."""
        self._rules = dict(rules)
        self._free_at.clear()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for member in list(self._members):
            member.rules_changed()

    async def wait_uncut(self, peer: Peer) -> None:
        """Wait until something sent to the peer would reach it. Cancellation: atomic."""
        while self.rule((peer, "out")).is_cut:
            await self._changed.wait()

    def add(self, member: LinkMember) -> None:
        self._members[member] = None

    def remove(self, member: LinkMember) -> None:
        self._members.pop(member, None)

    def reset(self, peer: Peer) -> int:
        """Close the connections with a peer by a reset; returns how many there were."""
        chosen = [member for member in self._members if member.peer == peer]
        for member in chosen:
            member.reset()
        return len(chosen)

    def due(self, key: LinkKey, size_bytes: int, now: float) -> float:
        """When a chunk that is sent at `now` (loop time) is through, by the rule's delay and bandwidth; counts it."""
        rule = self.rule(key)
        self._queued_bytes[key[0]] += size_bytes
        due = now
        if rule.bytes_per_s is not None:
            due = max(now, self._free_at.get(key, now)) + size_bytes / rule.bytes_per_s
            self._free_at[key] = due
        return due + (rule.delay_ms + self._randomness.uniform(0, rule.jitter_ms)) / 1000

    def describe(self) -> dict[str, dict[str, int]]:
        """By peer: connections, bytes held on their way now, and bytes that a rule has held up since the start."""
        found: dict[str, dict[str, int]] = {}
        for peer in {*self._queued_bytes, *(member.peer for member in self._members)}:
            counts = {"connections": 0, "held_out_bytes": 0, "held_in_bytes": 0}
            found[str(peer)] = {**counts, "held_up_bytes_total": self._queued_bytes[peer]}
        for member in self._members:
            held_out, held_in = member.describe()
            counts = found[str(member.peer)]
            counts["connections"] += 1
            counts["held_out_bytes"] += held_out
            counts["held_in_bytes"] += held_in
        return found


class LinkQueue:
    """Chunks of one connection on their way in one direction; delivered in order, when they are due and nothing holds.

    Args:
        deliver: takes a chunk that has arrived.
        on_change: told after chunks were delivered.
    """

    def __init__(
        self, links: Links, key: LinkKey, *, deliver: Callable[[bytes], None], on_change: Callable[[], None]
    ) -> None:
        self._links = links
        self._key = key
        self._deliver = deliver
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self.size_bytes = 0

    @property
    def is_passing(self) -> bool:
        """Whether a chunk that is sent now arrives now, so that nobody needs the queue."""
        return not self._chunks and not self._is_stopped and self._links.rule(self._key).is_clear

    def put(self, data: bytes) -> None:
        """Send a chunk."""
        now = self._loop.time()
        for begin in range(0, len(data), CHUNK_SIZE_BYTES_MAX):
            chunk = data[begin : begin + CHUNK_SIZE_BYTES_MAX]
            self._last_due = max(self._last_due, self._links.due(self._key, len(chunk), now))
            self._chunks.append((self._last_due, chunk))
            self.size_bytes += len(chunk)
        self._arm()

    def rules_changed(self) -> None:
        """A link that is healed lets everything pass at once; other rules hold for later chunks."""
        if self._links.rule(self._key).is_clear:
            self._last_due = 0.0
            self._chunks = deque((0.0, chunk) for _, chunk in self._chunks)
        self._arm()

    def stop(self, is_stopped: bool) -> None:
        """Hold everything because who is to take it cannot, or go on."""
        self._is_stopped = is_stopped
        self._arm()

    def clear(self) -> None:
        """Forget what is on its way."""
        self._chunks.clear()
        self.size_bytes = 0
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._chunks and not self._is_stopped and not self._links.rule(self._key).is_cut:
            self._timer = self._loop.call_at(self._chunks[0][0], self._run)

    def _run(self) -> None:
        self._timer = None
        now = self._loop.time() + 0.0005
        while self._chunks and self._chunks[0][0] <= now and not self._is_stopped:
            _, chunk = self._chunks.popleft()
            self.size_bytes -= len(chunk)
            self._deliver(chunk)
        self._arm()
        self._on_change()
