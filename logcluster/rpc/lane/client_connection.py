"""The caller's end of one lane connection: opens calls and hands them their frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import grpc

from logcluster.model.probes import probe
from logcluster.rpc.lane import frames
from logcluster.rpc.lane.calls import DEADLINE_EXCEEDED_DETAILS, ClientCall
from logcluster.rpc.lane.connection import LaneConnection
from logcluster.rpc.lane.network import LaneOptions

StatusCode = grpc.StatusCode
METHODS_PER_CONNECTION_MAX: Final = 4_096
CLOSED_EARLY: Final = (
    "the peer closed the connection before its preface, as one does that speaks TLS to one that does not"
)
CALL_ID_MAX: Final = 2**32 - 1


class ClientConnection(LaneConnection[ClientCall]):
    """A connection that opens calls."""

    def __init__(self, *, options: LaneOptions, on_end: Callable[[ClientConnection, Exception | None], None]) -> None:
        super().__init__(options=options, is_server=False)
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self.is_draining = False
        self._on_end = on_end
        self._method_ids: dict[str, int] = {}
        self._last_call_id = 0

    def on_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def on_closed(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError(CLOSED_EARLY))
            self.ready.exception()  # Seen here, should nobody wait any more.
        self._on_end(self, error)

    def _close_transport(self) -> None:
        transport = self._transport
        if transport is not None and transport.get_extra_info("sslcontext") is not None:
            # Frames say where a call ends, so nobody needs TLS's own farewell. It takes a round trip, for which the
            # loop of a program that is done does not live.
            transport.abort()
            return
        super()._close_transport()

    def open_call(self, call: ClientCall, path: str, message: bytes | None, metadata: bytes) -> None:
        """Queue the opening frame of `call`; `message` is its unary request."""
        call_id = self._last_call_id + 1
        if call_id > CALL_ID_MAX or call_id in self.calls:
            call_id = self._free_call_id(call_id)
        self._last_call_id = call_id
        name = None
        method_id = self._method_ids.get(path)
        if method_id is None:
            method_id = len(self._method_ids)
            if method_id >= METHODS_PER_CONNECTION_MAX:
                call.never_sent(StatusCode.UNIMPLEMENTED, "too many different methods on one connection")
                return
            self._method_ids[path] = method_id
            name = path
        deadline_ms = 0
        if call.deadline is not None:
            deadline_ms = min(int((call.deadline - self.loop.time()) * 1000) + 1, 0xFFFFFFFF)
            if deadline_ms <= 0:
                call.never_sent(StatusCode.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_DETAILS)
                return
        self.calls[call_id] = call
        call.attached(self, call_id)
        if call.deadline is not None:
            self.deadlines.watch(call.deadline)
        if message is not None and name is None and not metadata:
            # The common case, without a function call in between.
            start = frames.FRAME_AND_OPEN.pack(
                frames.OPEN_FIELDS.size + len(message), call_id, frames.OPEN, frames.HAS_MESSAGE, method_id, deadline_ms
            )
        else:
            start = frames.encode_open(
                call_id=call_id,
                method_id=method_id,
                name=name,
                deadline_ms=deadline_ms,
                metadata=metadata,
                message_size=None if message is None else len(message),
            )
        self.send_raw(start, message or b"")

    def _free_call_id(self, call_id: int) -> int:
        while call_id > CALL_ID_MAX or call_id in self.calls:
            call_id = 1 if call_id >= CALL_ID_MAX else call_id + 1
        return call_id

    def on_frame(self, kind: int, call_id: int, payload: frames.Buffer) -> None:
        if kind == frames.ANSWER:
            call = self.calls.pop(call_id, None)
            if call is not None:
                call.on_answer(payload)
        elif kind == frames.MESSAGE:
            call = self.calls.get(call_id)
            if call is not None:
                call.on_message(payload)
        elif kind == frames.GOAWAY:
            probe("lane.connection.told_to_go_away")
            self.is_draining = True
        elif kind in _CALL_FRAMES:
            # A call that has ended here is unknown; what still comes for it is dropped.
            call = self.calls.get(call_id)
            if call is not None:
                self._on_rare_frame(kind, call, payload)
        else:
            self.on_control_frame(kind, payload)
        if self.is_draining and not self.calls:
            self.close()

    def _on_rare_frame(self, kind: int, call: ClientCall, payload: frames.Buffer) -> None:
        if kind == frames.STATUS:
            del self.calls[call.call_id]
            call.on_status(payload)
        elif kind == frames.CREDIT:
            call.add_credit(frames.decode_credit(payload))
        else:
            call.on_headers(payload)


_CALL_FRAMES: Final = frozenset({frames.STATUS, frames.CREDIT, frames.HEADERS})
