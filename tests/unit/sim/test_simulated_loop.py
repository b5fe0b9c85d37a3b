"""The simulated loop: virtual time, seeded turns, processes that are killed and paused, the fence."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

import pytest

from logcluster.sim.clock import sleep
from logcluster.sim.event_loop import (
    CURRENT_PROCESS,
    Schedulable,
    SimulatedEventLoop,
    SimulationDeadlock,
    SimulationFence,
    SimulationTimeUp,
)


def make_loop(seed: int = 1) -> SimulatedEventLoop:
    return SimulatedEventLoop(random.Random(seed))


def run(loop: SimulatedEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def spawn(loop: SimulatedEventLoop, process: Schedulable, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    context = copy_context()
    context.run(CURRENT_PROCESS.set, process)
    return loop.create_task(work(), context=context)


def test_waiting_takes_virtual_time_only() -> None:
    loop = make_loop()
    run(loop, sleep(loop, 3_600.0))
    assert loop.time() == 3_600.0


def test_everybody_waiting_for_everybody_is_an_error() -> None:
    loop = make_loop()

    async def wait_for_ever() -> None:
        await loop.create_future()

    with pytest.raises(SimulationDeadlock):
        run(loop, wait_for_ever())


def test_virtual_time_is_bounded() -> None:
    loop = make_loop()
    loop.time_max = 5.0

    async def tick() -> None:
        while True:
            await sleep(loop, 1.0)

    with pytest.raises(SimulationTimeUp):
        run(loop, tick())


def turns(seed: int) -> tuple[list[str], str]:
    """Who had the turns of a small world, and its trace hash."""
    loop = make_loop(seed)
    order: list[str] = []

    async def main() -> None:
        async def work(name: str) -> None:
            for _ in range(5):
                order.append(name)
                await sleep(loop, 0.0)

        tasks = [
            spawn(loop, Schedulable(name, number), lambda name=name: work(name)) for number, name in enumerate("abc", 1)
        ]
        for task in tasks:
            await task

    run(loop, main())
    return order, loop.trace_hash()


def test_turns_of_processes_are_drawn_from_the_seed() -> None:
    assert turns(1) == turns(1)
    assert len({turns(seed)[1] for seed in range(10)}) > 5


def test_callbacks_of_one_process_keep_their_order() -> None:
    loop = make_loop()
    seen: list[int] = []

    async def main() -> None:
        for number in range(50):
            loop.call_soon(seen.append, number)
        await sleep(loop, 0.001)

    run(loop, main())
    assert seen == list(range(50))


def test_a_killed_process_runs_no_cleanup() -> None:
    loop = make_loop()
    process = Schedulable("victim", 1)
    seen: list[str] = []

    async def victim() -> None:
        try:
            while True:
                seen.append("alive")
                await sleep(loop, 1.0)
        finally:
            seen.append("cleanup")

    async def main() -> None:
        spawn(loop, process, victim)
        await sleep(loop, 2.5)
        loop.kill(process)
        await sleep(loop, 10.0)

    run(loop, main())
    assert seen == ["alive"] * 3
    process.tasks[0].get_coro().close()  # type: ignore[union-attr]


def test_a_paused_process_stands_still_and_goes_on() -> None:
    loop = make_loop()
    process = Schedulable("sleeper", 1)
    seen: list[float] = []

    async def work() -> None:
        while True:
            seen.append(loop.time())
            await sleep(loop, 1.0)

    async def main() -> None:
        spawn(loop, process, work)
        await sleep(loop, 1.5)
        loop.pause(process)
        await sleep(loop, 5.0)
        loop.resume(process)
        await sleep(loop, 1.5)

    run(loop, main())
    # Its timer went off while it was paused, and was served as soon as it ran again.
    assert seen == [0.0, 1.0, 6.5, 7.5]


def test_a_slow_process_has_its_turns_late() -> None:
    loop = make_loop()
    process = Schedulable("slow", 1)
    process.slowness = 101.0
    seen: list[float] = []

    async def work() -> None:
        seen.append(loop.time())

    async def main() -> None:
        spawn(loop, process, work)
        await sleep(loop, 1.0)

    run(loop, main())
    assert seen == [0.1]


def test_an_observer_is_told_of_each_callback_and_may_end_the_run() -> None:
    loop = make_loop()
    events: list[str] = []

    def observe(process: Schedulable) -> None:
        events.append(process.name)
        if len(events) == 3:
            loop.fail(ValueError("enough"))

    loop.on_event = observe

    async def work() -> None:
        while True:
            await sleep(loop, 1.0)

    with pytest.raises(ValueError, match="enough"):
        run(loop, work())
    assert events == ["kernel"] * 3


def test_cancelled_timers_are_swept_out() -> None:
    loop = make_loop()

    async def main() -> None:
        for _ in range(2_000):
            loop.call_later(1_000.0, print).cancel()
        assert len(loop._timers) < 600
        await sleep(loop, 1.0)

    run(loop, main())
    assert loop.time() == 1.0


def test_leaving_the_simulated_world_is_refused() -> None:
    loop = make_loop()

    async def main() -> None:
        with pytest.raises(SimulationFence):
            await loop.run_in_executor(None, print)
        with pytest.raises(SimulationFence):
            await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1)
        with socket.socket() as sock, pytest.raises(SimulationFence):
            loop.add_reader(sock, print)
        with pytest.raises(SimulationFence):
            await asyncio.create_subprocess_exec("true")
        with pytest.raises(SimulationFence):
            loop.add_signal_handler(15, print)

    run(loop, main())
