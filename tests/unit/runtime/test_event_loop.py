"""The patient selector skips polls that need not wait, and never more than a few in a row."""

from __future__ import annotations

import asyncio
import socket

from logcluster.runtime.event_loop import TURNS_WITHOUT_POLL_MAX, PatientSelector, new_event_loop


def test_a_ready_socket_is_seen_after_a_bounded_number_of_turns() -> None:
    reading, writing = socket.socketpair()
    with reading, writing, PatientSelector() as selector:
        selector.register(reading, 1)
        writing.send(b"x")
        answers = [bool(selector.select(0)) for _ in range(TURNS_WITHOUT_POLL_MAX + 1)]
        assert answers == [False] * TURNS_WITHOUT_POLL_MAX + [True]


def test_a_poll_that_may_wait_is_never_skipped() -> None:
    reading, writing = socket.socketpair()
    with reading, writing, PatientSelector() as selector:
        selector.register(reading, 1)
        writing.send(b"x")
        assert selector.select(1)
        assert selector.select(None)


def test_a_busy_loop_still_serves_its_sockets() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        is_done = False

        def keep_busy() -> None:
            if not is_done:
                loop.call_soon(keep_busy)

        keep_busy()
        with reading, writing:
            writing.send(b"hello")
            data = await asyncio.wait_for(loop.sock_recv(reading, 5), 10)
            writing.send(b"again")
            data += await asyncio.wait_for(loop.sock_recv(reading, 5), 10)
            is_done = True
            return data

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(main()) == b"helloagain"
