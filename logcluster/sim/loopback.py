"""The loopback carrier: the lane's own frames and state machines over links in memory.

A `LoopbackNetwork` holds the links of one simulated world. Each node takes a view of it, `network.node(name)`, and
hands that to its `LaneServer`, `LaneChannel` and `ChannelPool` as their network. Bytes are really encoded, cut into
segments, delayed and decoded; the order within a connection is kept, as TCP keeps it. Links are directed:
what `a` sends to `b` may be delayed, held back (`cut`) or reset independently of the other way. Everything
runs on the running loop's clock, so a virtual loop replays a world exactly.

A cut holds bytes back rather than dropping them: TCP sends again until it gives up, and here the lane's keepalive
is what gives up. Connecting over a cut hangs until the caller's timeout.

What travels belongs to nobody, as in a kernel: segments of a paused sender still arrive. What a protocol is told runs
in the context that its node listened or connected in, so that a simulated loop knows whose work it is.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from typing import Any, Final

from logcluster.model.ids import Endpoint
from logcluster.rpc.lane.network import ConnectionType, LaneProtocol, Listener
from logcluster.runtime.clock import Clock
from logcluster.sim.clock import sleep

SEGMENT_SIZE_BYTES_MAX: Final = 64 * 1024
FIRST_FREE_PORT: Final = 20_000
EPHEMERAL_PORT_FIRST: Final = 40_000
HIGH_WATER_SIZE_BYTES_DEFAULT: Final = 64 * 1024


@dataclass(slots=True)
class Link:
    """One direction between two nodes. Change the fields while the world runs."""

    delay_ms_min: float = 0
    delay_ms_max: float = 0
    is_cut: bool = False
    reset_probability: float = 0.0
    """Chance that a write resets its connection instead of arriving."""
    tail_probability: float = 0.0
    tail_delay_ms_max: float = 0
    """Some segments take up to so much longer, with that chance: the slow tail of a network that is fast otherwise."""


class LoopbackNetwork:
    """All listeners, links and connections of one world.

    Args:
        rng: the only source of delays and losses.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.rng = rng
        self.default_link = Link()
        self._links: dict[tuple[str, str], Link] = {}
        self._listeners: dict[Endpoint, _LoopbackListener] = {}
        self._transports: dict[LoopbackTransport, None] = {}
        self._next_port = FIRST_FREE_PORT
        self._next_ephemeral_port = EPHEMERAL_PORT_FIRST
        self.context = Context()
        """Where what travels is scheduled: nobody's."""
        self.on_delivery: Callable[[str, str, bytes], None] | None = None
        """Told source, target and content of every segment that arrives."""

    def node(self, name: str) -> LoopbackNode:
        """Return the view of one node: what its servers and channels take as `network`."""
        return LoopbackNode(self, name)

    def link(self, source: str, target: str) -> Link:
        """Return the link from `source` to `target`, a copy of `default_link` at first."""
        link = self._links.get((source, target))
        if link is None:
            link = replace(self.default_link)
            self._links[source, target] = link
        return link

    def cut(self, source: str, target: str) -> None:
        """Hold back all that `source` sends to `target`, from now on."""
        self.link(source, target).is_cut = True

    def heal(self, source: str, target: str) -> None:
        """Deliver what was held back, and all that follows."""
        self.link(source, target).is_cut = False
        for transport in list(self._transports):
            if transport.source == source and transport.target == target:
                transport.pump()

    def heal_all(self) -> None:
        """Undo every cut."""
        for source, target in list(self._links):
            self.heal(source, target)

    def reset(self, source: str, target: str) -> None:
        """Break all connections between the two nodes, as a RST would, on both ends at once."""
        for transport in list(self._transports):
            if transport.source == source and transport.target == target:
                transport.reset()

    def crash(self, name: str) -> None:
        """Take a node off the network as a killed process: its listeners vanish, its peers see resets."""
        for endpoint, listener in list(self._listeners.items()):
            if listener.node == name:
                del self._listeners[endpoint]
        for transport in list(self._transports):
            if transport.source == name:
                transport.reset()

    @property
    def connection_count(self) -> int:
        return len(self._transports) // 2

    # What nodes and transports use.

    def add_listener(self, node: str, host: str, port: int, factory: Callable[[], LaneProtocol]) -> _LoopbackListener:
        if port == 0:
            while Endpoint(host, self._next_port) in self._listeners:
                self._next_port += 1
            port = self._next_port
            self._next_port += 1
        endpoint = Endpoint(host, port)
        if endpoint in self._listeners:
            raise OSError(98, f"address {endpoint} is in use")
        listener = _LoopbackListener(self, node, endpoint, factory)
        self._listeners[endpoint] = listener
        return listener

    def remove_listener(self, listener: _LoopbackListener) -> None:
        if self._listeners.get(listener.endpoint) is listener:
            del self._listeners[listener.endpoint]

    async def connect(self, source: str, factory: Callable[[], ConnectionType], endpoint: Endpoint) -> ConnectionType:
        loop = asyncio.get_running_loop()
        # One trip there, to find out who listens, and one back.
        await self._travel(loop, source, endpoint)
        listener = self._listeners.get(endpoint)
        if listener is None:
            raise ConnectionRefusedError(111, f"nobody listens at {endpoint}")
        self._next_ephemeral_port += 1
        client_address = (source, self._next_ephemeral_port)
        client = LoopbackTransport(self, loop, source=source, target=listener.node, peername=tuple(endpoint))
        server = LoopbackTransport(self, loop, source=listener.node, target=source, peername=client_address)
        client.other, server.other = server, client
        self._transports[client] = None
        self._transports[server] = None
        protocol = factory()
        client.start(protocol)
        loop.call_soon(server.accept, listener.factory, context=listener.context.copy())
        return protocol

    async def _travel(self, loop: asyncio.AbstractEventLoop, source: str, endpoint: Endpoint) -> None:
        listener = self._listeners.get(endpoint)
        delay = 0.0
        if listener is not None:
            there, back = self.link(source, listener.node), self.link(listener.node, source)
            while there.is_cut or back.is_cut:
                await sleep(loop, 0.01)
            delay = self.delay(there) + self.delay(back)
        await sleep(loop, delay)

    def delay(self, link: Link) -> float:
        """Draw the seconds that one segment takes."""
        delay_ms = self.rng.uniform(link.delay_ms_min, link.delay_ms_max) if link.delay_ms_max > 0 else 0.0
        if link.tail_probability > 0 and self.rng.random() < link.tail_probability:
            delay_ms += self.rng.uniform(0, link.tail_delay_ms_max)
        return delay_ms / 1000

    def remove_transport(self, transport: LoopbackTransport) -> None:
        self._transports.pop(transport, None)


class LoopbackNode:
    """One node's network: implements `LaneNetwork`. TLS contexts are accepted and play no part."""

    def __init__(self, network: LoopbackNetwork, name: str) -> None:
        self.network = network
        self.name = name

    async def listen(
        self, factory: Callable[[], LaneProtocol], host: str, port: int, *, ssl_context: ssl.SSLContext | None
    ) -> Listener:
        return self.network.add_listener(self.name, host, port, factory)

    async def connect(
        self, factory: Callable[[], ConnectionType], endpoint: Endpoint, *, ssl_context: ssl.SSLContext | None
    ) -> ConnectionType:
        return await self.network.connect(self.name, factory, endpoint)


class _LoopbackListener:
    def __init__(
        self, network: LoopbackNetwork, node: str, endpoint: Endpoint, factory: Callable[[], LaneProtocol]
    ) -> None:
        self._network = network
        self.node = node
        self.endpoint = endpoint
        self.factory = factory
        self.context = copy_context()

    @property
    def port(self) -> int:
        return self.endpoint.port

    def close(self) -> None:
        self._network.remove_listener(self)


class LoopbackTransport(asyncio.Transport):
    """One end of a connection in memory.

    `_unsent` is what the writer has written and the link has not taken, the counterpart of a socket buffer;
    its size drives `pause_writing`. A segment leaves when the reader has taken the one before.
    """

    def __init__(
        self,
        network: LoopbackNetwork,
        loop: asyncio.AbstractEventLoop,
        *,
        source: str,
        target: str,
        peername: tuple[str | int, ...],
    ) -> None:
        super().__init__({"peername": peername})
        self.source = source
        self.target = target
        self.other: LoopbackTransport | None = None
        self._network = network
        self._loop = loop
        self._link = network.link(source, target)
        self._protocol: LaneProtocol | None = None
        self._unsent: deque[bytes] = deque()
        self._unsent_size_bytes = 0
        self._high = HIGH_WATER_SIZE_BYTES_DEFAULT
        self._is_paused_by_protocol = False
        self._is_travelling = False
        self._is_reading = True
        self._arrived: bytes | None = None
        self._is_closing = False
        self._is_lost = False
        self._lost_to: Exception | None = None
        self._context: Context | None = None

    def start(self, protocol: LaneProtocol) -> None:
        self._protocol = protocol
        self._context = copy_context()
        protocol.connection_made(self)

    def accept(self, factory: Callable[[], LaneProtocol]) -> None:
        """Let the listening side begin; by then the connection may be over again."""
        self.start(factory())
        if self._is_lost:
            self._tell_lost()
        elif self._arrived is not None:
            self._hand_over()

    # asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_closing or not data:
            return
        link = self._link
        if link.reset_probability > 0 and self._network.rng.random() < link.reset_probability:
            self._loop.call_soon(self.reset, context=self._network.context)
            return
        for start in range(0, len(data), SEGMENT_SIZE_BYTES_MAX):
            self._unsent.append(bytes(data[start : start + SEGMENT_SIZE_BYTES_MAX]))
        self._unsent_size_bytes += len(data)
        if self._unsent_size_bytes > self._high and not self._is_paused_by_protocol and self._protocol is not None:
            self._is_paused_by_protocol = True
            self._protocol.pause_writing()
        self.pump()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self._unsent_size_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER_SIZE_BYTES_DEFAULT if high is None else high

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        if self._arrived is not None:
            self._loop.call_soon(self._hand_over)

    def is_reading(self) -> bool:
        return self._is_reading

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.pump()

    def abort(self) -> None:
        if not self._is_lost:
            self._drop()
            self._lose(None)
            other = self.other
            if other is not None:
                self._loop.call_soon(other.reset, context=self._network.context)

    # The link.

    def reset(self) -> None:
        """Both ends lose the connection with ConnectionResetError, and what was under way with it."""
        for end in (self, self.other):
            if end is not None and not end._is_lost:
                end._drop()
                end._lose(ConnectionResetError(104, "connection reset by peer"))

    def pump(self) -> None:
        """Let the next segment travel, if the link is free and open."""
        if self._is_travelling or self._link.is_cut or self._is_lost:
            return
        if self._unsent:
            self._is_travelling = True
            self._after_delay(self._arrive)
        elif self._is_closing:
            self._is_travelling = True
            self._after_delay(self._arrive_end)

    def _after_delay(self, step: Callable[[], None]) -> None:
        delay = self._network.delay(self._link)
        if delay > 0:
            self._loop.call_later(delay, step, context=self._network.context)
        else:
            self._loop.call_soon(step, context=self._network.context)

    def _arrive(self) -> None:
        if self._is_lost or not self._unsent:
            return
        if self._link.is_cut:
            self._is_travelling = False  # Cut while under way: it waits for the healing.
            return
        segment = self._unsent.popleft()
        other = self.other
        if other is not None and not other._is_lost:
            if self._network.on_delivery is not None:
                self._network.on_delivery(self.source, self.target, segment)
            other._arrived = segment
            if other._context is not None:
                self._loop.call_soon(other._hand_over, context=other._context)
        else:
            self._taken(len(segment))

    def _arrive_end(self) -> None:
        if self._is_lost:
            return
        if self._link.is_cut:
            self._is_travelling = False
            return
        self._lose(None)
        other = self.other
        if other is not None and not other._is_lost:
            other._drop()
            other._lose(None)

    def _hand_over(self) -> None:
        """Give the segment that has arrived to the protocol, as a socket that is read would."""
        segment = self._arrived
        if segment is None or not self._is_reading or self._is_lost or self._protocol is None:
            return
        self._arrived = None
        protocol = self._protocol
        position = 0
        while position < len(segment) and not self._is_lost:
            buffer = memoryview(protocol.get_buffer(-1))
            size = min(len(buffer), len(segment) - position)
            buffer[:size] = segment[position : position + size]
            position += size
            protocol.buffer_updated(size)
        if self.other is not None:
            self.other._taken(len(segment))

    def _taken(self, size_bytes: int) -> None:
        self._is_travelling = False
        self._unsent_size_bytes -= size_bytes
        if self._is_paused_by_protocol and self._unsent_size_bytes <= self._high // 4 and self._protocol is not None:
            self._is_paused_by_protocol = False
            self._loop.call_soon(self._protocol.resume_writing, context=self._context)
        self.pump()

    def _drop(self) -> None:
        self._unsent.clear()
        self._unsent_size_bytes = 0
        self._arrived = None

    def _lose(self, error: Exception | None) -> None:
        self._is_lost = True
        self._is_closing = True
        self._network.remove_transport(self)
        self._lost_to = error
        if self._protocol is not None:
            self._tell_lost()

    def _tell_lost(self) -> None:
        assert self._protocol is not None
        self._loop.call_soon(self._protocol.connection_lost, self._lost_to, context=self._context)
