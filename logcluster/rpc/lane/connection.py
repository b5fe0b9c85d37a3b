"""One lane connection, either side: preface, frames in and out, deadlines, keepalive, back-pressure.

Writes are collected and handed to the transport once per loop turn. All open calls of a connection share one
deadline timer: it is armed at the earliest deadline seen, and when it fires the open calls are looked through, so
that a call that ends in time costs nothing. While the transport cannot take more, this side stops reading if it is
the server (otherwise a caller who does not read its answers would fill our memory); the client always reads, so the
two cannot wait for each other.

`ClientConnection` and `ServerConnection` (in `client_connection` and `server`) say what the frames of calls mean.
"""

from __future__ import annotations

import asyncio
import types
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Final, Generic, Protocol, TypeVar, cast

from logcluster.model.probes import probe
from logcluster.rpc.lane import frames
from logcluster.rpc.lane.network import LaneOptions, LaneProtocol, prepare_transport

TURN_SIZE_BYTES_MAX: Final = 128 * 1024
"""A stream that has queued so much in one loop turn lets the others go first."""


class OpenCall(Protocol):
    """What the connection itself needs of a call."""

    deadline: float | None
    """Loop time after which the call is over."""

    def add_credit(self, size_bytes: int) -> None:
        """The peer takes so many more message bytes."""

    def expire(self) -> None:
        """The deadline has passed; must take the call out of the connection, or clear its deadline."""

    def connection_ended(self, error: Exception | None) -> None:
        """The connection is gone; None means it was closed on purpose."""


CallType = TypeVar("CallType", bound=OpenCall)


@types.coroutine
def next_turn() -> Generator[None, None, None]:
    """Let the loop run everything else once. Cancellation: atomic."""
    yield


class DeadlineWatch(Generic[CallType]):
    """Ends the calls of a table when their deadlines pass; one timer for all of them."""

    __slots__ = ("_armed_for", "_calls", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, calls: dict[int, CallType]) -> None:
        self._loop = loop
        self._calls = calls
        self._armed_for: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """See to it that a call of the table is looked at when `deadline` (loop time) has passed."""
        if self._armed_for is None or deadline < self._armed_for:
            if self._timer is not None:
                self._timer.cancel()
            self._armed_for = deadline
            self._timer = self._loop.call_at(deadline, self._look)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._armed_for = None

    def _look(self) -> None:
        self._timer = None
        self._armed_for = None
        # A millisecond of grace, so that calls opened together expire in one go.
        now = self._loop.time() + 0.001
        due: list[CallType] = []
        earliest: float | None = None
        for call in self._calls.values():
            deadline = call.deadline
            if deadline is None:
                continue
            if deadline <= now:
                due.append(call)
            elif earliest is None or deadline < earliest:
                earliest = deadline
        if earliest is not None:
            self.watch(earliest)
        for call in due:
            call.expire()


class LaneConnection(LaneProtocol, ABC, Generic[CallType]):
    """Base of both sides. Made by a network; not reusable."""

    def __init__(self, *, options: LaneOptions, is_server: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.options = options
        self.calls: dict[int, CallType] = {}
        self.deadlines = DeadlineWatch(self.loop, self.calls)
        self.peer_credit_bytes = 0
        self.peer_frame_size_bytes_max = 0
        self.is_ready = False
        self.is_closed = False
        self.is_congested = False
        self.peer = ""
        self.peer_identity: bytes | None = None
        self.close_reason: Exception | None = None
        self._is_server = is_server
        self._decoder = frames.FrameDecoder(frame_size_bytes_max=options.frame_size_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._out: list[frames.Buffer] = []
        self._out_size_bytes = 0
        self._out_has_large = False
        self._flush_is_due = False
        self.is_write_paused = False
        self.write_waiters: list[asyncio.Future[None]] = []
        self._heard = False
        self._is_pinged = False
        self._life_timer: asyncio.TimerHandle | None = None

    @property
    def message_size_bytes_max(self) -> int:
        """The largest message that fits a frame of both sides."""
        return min(self.peer_frame_size_bytes_max, self.options.frame_size_bytes_max)

    # What the two sides add.

    def on_ready(self) -> None:
        """The peer's preface is accepted."""

    @abstractmethod
    def on_frame(self, kind: int, call_id: int, payload: frames.Buffer) -> None:
        """A frame of a call, or GOAWAY, arrived. May raise FrameError."""

    def on_closed(self, error: Exception | None) -> None:
        """The connection is gone and its calls have been told."""

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.is_closed:  # Refused before it was made.
            self._transport.abort()
            return
        prepare_transport(self._transport)
        peername = transport.get_extra_info("peername")
        self.peer = _peer_name(peername)
        self.peer_identity = _common_name(transport.get_extra_info("peercert"))
        self._transport.write(
            frames.encode_preface(
                stream_credit_bytes=self.options.stream_credit_bytes,
                frame_size_bytes_max=self.options.frame_size_bytes_max,
            )
        )
        self._life_timer = self.loop.call_later(self.options.handshake_timeout_ms / 1000, self._handshake_late)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self.is_closed:
            return
        self._heard = True
        try:
            received = self._decoder.received(nbytes) if self.is_ready else self._read_preface(nbytes)
            on_frame = self.on_frame
            for kind, call_id, payload in received:
                on_frame(kind, call_id, payload)
        except frames.FrameError as error:
            probe("lane.connection.broken_frame")
            self.fail(error)

    def eof_received(self) -> bool | None:
        return None

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self.is_congested = True
        if self._is_server and self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self.is_congested = self._out_size_bytes >= TURN_SIZE_BYTES_MAX
        if self._is_server and self._transport is not None and not self.is_closed:
            self._transport.resume_reading()
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(self.close_reason or exc)

    # Writing.

    def send(self, kind: int, call_id: int, payload: frames.Buffer = b"") -> None:
        """Queue one frame; a very large payload is passed on without a copy."""
        size = len(payload)
        out = self._out
        out.append(frames.FRAME_HEADER.pack(size, call_id, kind))
        if size:
            out.append(payload)
            if size >= frames.LARGE_FRAME_SIZE_BYTES:
                self._out_has_large = True
        self._out_size_bytes += size + frames.FRAME_HEADER_SIZE_BYTES
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)
        if self._out_size_bytes >= TURN_SIZE_BYTES_MAX:
            self.is_congested = True

    def send_raw(self, start: bytes, message: frames.Buffer) -> None:
        """Queue a frame given as its start and the rest of its payload."""
        out = self._out
        out.append(start)
        size = len(message)
        if size:
            out.append(message)
            if size >= frames.LARGE_FRAME_SIZE_BYTES:
                self._out_has_large = True
        self._out_size_bytes += size + len(start)
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)
        if self._out_size_bytes >= TURN_SIZE_BYTES_MAX:
            self.is_congested = True

    def _flush(self) -> None:
        self._flush_is_due = False
        out = self._out
        if not out or self._transport is None:
            return
        self._out = []
        self._out_size_bytes = 0
        if not self.is_write_paused:
            self.is_congested = False
        if not self._out_has_large:
            self._transport.write(b"".join(out))
            return
        self._out_has_large = False
        # Joining a payload to its frame's start costs less than sending the start alone, which wakes the peer twice.
        group: list[frames.Buffer] = []
        group_size_bytes = 0
        for part in out:
            size = len(part)
            if size >= frames.UNJOINED_SIZE_BYTES or group_size_bytes + size > frames.UNJOINED_SIZE_BYTES:
                if group:
                    self._transport.write(b"".join(group))
                    group = []
                    group_size_bytes = 0
                if size >= frames.UNJOINED_SIZE_BYTES:
                    self._transport.write(part)
                    continue
            group.append(part)
            group_size_bytes += size
        if group:
            self._transport.write(b"".join(group))

    def _wake_writers(self) -> None:
        waiters, self.write_waiters = self.write_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Beginning, life and end.

    def _read_preface(self, size_bytes: int) -> list[frames.Frame]:
        decoder = self._decoder
        decoder.written(size_bytes)
        preface = decoder.peek(frames.PREFACE.size)
        if len(preface) < frames.PREFACE.size:
            frames.check_preface_start(preface)
            return []
        self.peer_credit_bytes, self.peer_frame_size_bytes_max = frames.decode_preface(preface)
        decoder.skip(frames.PREFACE.size)
        self.is_ready = True
        self._watch_life()
        self.on_ready()
        return decoder.received(0)

    def _handshake_late(self) -> None:
        self.fail(frames.FrameError(f"no lane preface within {self.options.handshake_timeout_ms} ms"))

    def _watch_life(self) -> None:
        if self._life_timer is not None:
            self._life_timer.cancel()
        self._heard = False
        self._is_pinged = False
        self._life_timer = self.loop.call_later(self.options.keepalive_idle_ms / 1000, self._check_life)

    def _check_life(self) -> None:
        if self._heard or self._is_deaf():
            self._watch_life()
        elif self._is_pinged:
            self.fail(TimeoutError(f"the peer has been silent for {self.options.keepalive_idle_ms} ms and longer"))
        else:
            self._is_pinged = True
            self.send(frames.PING, 0, b"lanelane")
            self._life_timer = self.loop.call_later(self.options.keepalive_timeout_ms / 1000, self._check_life)

    def _is_deaf(self) -> bool:
        # A server that has stopped reading hears nothing; that says nothing about the peer.
        return self._is_server and self.is_write_paused

    def on_control_frame(self, kind: int, payload: frames.Buffer) -> None:
        """Answer PING, take note of PONG; anything else is a broken peer.

        Raises:
            FrameError: the kind is unknown or wrong in this direction.
        """
        if kind == frames.PING:
            if not self.is_write_paused:
                self.send(frames.PONG, 0, payload)
        elif kind != frames.PONG:
            raise frames.FrameError(f"unexpected frame of kind {kind}")

    def fail(self, error: Exception) -> None:
        """End the connection because of `error`: say why to the peer if it listens, then cut."""
        if self.is_closed:
            return
        self.close_reason = error
        if isinstance(error, frames.FrameError) and self._transport is not None:
            if self.is_ready:
                self._out.append(frames.encode_frame(frames.GOAWAY, 0, str(error).encode()[:512]))
            self._flush()
            self._close_transport()
        elif self._transport is not None:
            self._transport.abort()
        self._end(error)

    def close(self) -> None:
        """Send what is queued and close. Idempotent."""
        if self.is_closed:
            return
        self._flush()
        self._close_transport()
        self._end(None)

    def abort(self) -> None:
        """Drop the connection and what is queued. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._end(self.close_reason)

    def _close_transport(self) -> None:
        transport = self._transport
        if transport is None:
            return
        # asyncio's TLS transport has no buffer to ask about once it is closed a second time.
        unsent = transport.get_write_buffer_size() if transport.is_closing() else None
        transport.close()
        if transport.get_write_buffer_size() if unsent is None else unsent:
            # A peer that takes nothing must not keep the socket open for ever.
            self.loop.call_later(self.options.keepalive_timeout_ms / 1000, transport.abort)

    def _end(self, error: Exception | None) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.close_reason = error
        if self._life_timer is not None:
            self._life_timer.cancel()
        self.deadlines.close()
        self._out = []
        for call in list(self.calls.values()):
            call.connection_ended(error)
        self._wake_writers()
        self.on_closed(error)


def _peer_name(peername: object) -> str:
    if isinstance(peername, tuple) and len(peername) >= 2:
        family = "ipv6" if ":" in str(peername[0]) else "ipv4"
        return f"{family}:{peername[0]}:{peername[1]}"
    return str(peername) if peername else "unknown"


def _common_name(certificate: object) -> bytes | None:
    if not isinstance(certificate, dict):
        return None
    for names in certificate.get("subject", ()):
        for key, value in names:
            if key == "commonName":
                return str(value).encode()
    return None
