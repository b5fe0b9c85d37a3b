"""The message flow of one call: what both sides share. Credit out, a bounded inbox in.

A sender may send while its credit is above zero, so the last message may overdraw it: any message up to the
frame limit passes, and a reader holds at most the credit and one message. The reader gives credit back
when the application has taken half of the window.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import grpc

from logcluster.rpc.lane import frames
from logcluster.rpc.lane.connection import LaneConnection, next_turn

StatusCode = grpc.StatusCode
STATUS_BY_NUMBER: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in StatusCode}
NUMBER_BY_STATUS: Final[dict[grpc.StatusCode, int]] = {code: code.value[0] for code in StatusCode}
Serializer = Callable[[Any], bytes]
Deserializer = Callable[[Any], Any]


class MessageTooBig(Exception):
    """A message does not fit the largest frame of one of the sides."""

    def __init__(self, size_bytes: int, size_bytes_max: int) -> None:
        super().__init__(f"message of {size_bytes} bytes exceeds the limit of {size_bytes_max} (FRAME_SIZE_BYTES_MAX)")


class MessageStream(ABC):
    """Both directions of messages of one call; base of the calls of either side."""

    __slots__ = (
        "_inbox",
        "_inbox_ended",
        "_inbox_waiter",
        "_send_credit",
        "_send_waiters",
        "_taken",
        "_window",
        "call_id",
        "connection",
        "deadline",
    )

    def __init__(self) -> None:
        self.call_id = 0
        self.connection: LaneConnection[Any] | None = None
        self.deadline: float | None = None
        self._send_credit = 0
        self._send_waiters: list[asyncio.Future[None]] | None = None
        self._inbox: deque[frames.Buffer] | None = None
        self._inbox_waiter: asyncio.Future[None] | None = None
        self._inbox_ended = False
        self._taken = 0
        self._window = 0

    # Receiving.

    def open_inbox(self, window: int) -> None:
        """Get ready for messages of the peer, which may send `window` bytes ahead."""
        self._inbox = deque()
        self._window = window

    def deliver(self, payload: frames.Buffer) -> None:
        """Put a message into the inbox.

        Raises:
            FrameError: the peer sent more than its credit, or after its end.
        """
        if self._inbox is None or self._inbox_ended:
            raise frames.FrameError("a message came where none is allowed")
        if self._window <= 0:
            raise frames.FrameError("the peer sent more than its credit")
        self._window -= len(payload) + frames.MESSAGE_OVERHEAD_BYTES
        self._inbox.append(payload)
        waiter = self._inbox_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end_inbox(self) -> None:
        """No more messages will come."""
        self._inbox_ended = True
        self._wake_reader()

    async def next_message(self) -> frames.Buffer | None:
        """Take the next message; None at the end. Cancellation: atomic."""
        inbox = self._inbox
        if inbox is None:
            return None
        while not inbox:
            if self._inbox_ended:
                return None
            waiter = self._inbox_waiter
            if waiter is None or waiter.done():
                waiter = self._inbox_waiter = asyncio.get_running_loop().create_future()
            await waiter
        payload = inbox.popleft()
        self._taken += len(payload) + frames.MESSAGE_OVERHEAD_BYTES
        connection = self.connection
        if connection is not None and self._taken * 2 >= connection.options.stream_credit_bytes:
            self._return_credit(connection)
        return payload

    def _return_credit(self, connection: LaneConnection[Any]) -> None:
        self._window += self._taken
        if not self._inbox_ended and not connection.is_closed:
            connection.send(frames.CREDIT, self.call_id, frames.SIZE_U32.pack(self._taken))
        self._taken = 0

    def _wake_reader(self) -> None:
        waiter = self._inbox_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Sending.

    def add_credit(self, size_bytes: int) -> None:
        self._send_credit += size_bytes
        if self._send_credit > 0:
            self.wake_senders()

    def wake_senders(self) -> None:
        """Let waiting senders look again: there is credit, or the call is over."""
        waiters, self._send_waiters = self._send_waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    @abstractmethod
    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""

    async def send_message(self, payload: bytes) -> bool:
        """Send one message as soon as credit and transport allow; False when the call ended before that.

        Raises:
            MessageTooBig: it would not fit a frame.
            Cancellation: the message was not sent.
        """
        connection = self.connection
        assert connection is not None
        size = len(payload)
        size_max = min(connection.peer_frame_size_bytes_max, connection.options.frame_size_bytes_max)
        if size > size_max:
            raise MessageTooBig(size, size_max)
        while self._send_credit <= 0 or connection.is_congested:
            if self.is_over():
                return False
            if self._send_credit > 0 and not connection.is_write_paused:
                await next_turn()
                continue
            waiter: asyncio.Future[None] = connection.loop.create_future()
            if self._send_waiters is None:
                self._send_waiters = []
            self._send_waiters.append(waiter)
            if self._send_credit > 0:
                connection.write_waiters.append(waiter)
            await waiter
        if self.is_over():
            return False
        self._send_credit -= size + frames.MESSAGE_OVERHEAD_BYTES
        connection.send(frames.MESSAGE, self.call_id, payload)
        return True
