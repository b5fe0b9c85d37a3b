"""An asyncio event loop on virtual time whose schedule is drawn from one seed.

Every callback belongs to a simulated process, recognised by a context variable that tasks and callbacks inherit. The
callbacks of one process run first in, first out, a turn at a time, as asyncio promises; which process has the next
turn is drawn. Time stands still while anybody is ready and then jumps to the next timer; nothing ready and no timer
is a deadlock, and an error. A killed process is one whose callbacks are thrown away: no cleanup code of it ever runs.

What would leave the simulated world (threads, sockets, signals, subprocesses) raises. The running hash of all turns
and of what `note` is told is the identity of a run: the same seed gives the same hash, whatever PYTHONHASHSEED says.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import random
import struct
from asyncio import base_events, events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

CANCELLED_TIMERS_MIN: Final = 256
"""Cancelled timers are swept out when they are this many, and more than the live ones."""
TRACE_BUFFER_SIZE_BYTES: Final = 1 << 16
_TURN: Final = struct.Struct("<dII")


class SimulationError(Exception):
    """The simulation itself cannot go on; never an error of the code under test that it could handle."""


class SimulationDeadlock(SimulationError):
    """Nothing is ready and no timer is set: everybody waits for everybody."""


class SimulationTimeUp(SimulationError):
    """The virtual time of a run is used up."""


class SimulationFence(SimulationError):
    """Code tried to leave the simulated world."""


class Schedulable:
    """What the loop knows of a process: its ready callbacks, and whether they may run.

    Args:
        number: position in the world's list of processes; part of the trace.
        slowness: from 1; each turn of a slow process comes `(slowness - 1)` milliseconds late.
    """

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.is_alive = True
        self.is_paused = False
        self.slowness = 1.0
        self.ready: deque[events.Handle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self.is_queued = False
        self.is_delayed = False
        self.tasks_swept_at = 64


CURRENT_PROCESS: ContextVar[Schedulable] = ContextVar("CURRENT_PROCESS")


class SimulatedEventLoop(base_events.BaseEventLoop):
    """The loop of one simulated world.

    Args:
        rng: decides whose turn it is.
        on_event: told the process after each of its callbacks; may raise to end the run.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._now = 0.0
        self._sequence = 0
        self._timers: list[tuple[float, int, events.TimerHandle]] = []
        self._cancelled_timers = 0
        self._runnable: list[Schedulable] = []
        self._kernel = Schedulable("kernel", 0)
        self._hash = hashlib.sha256()
        self._trace = bytearray()
        self.on_event: Callable[[Schedulable], None] | None = None
        self.time_max = float("inf")
        self.event_count = 0
        self.failure: BaseException | None = None
        self.current: Schedulable = self._kernel
        self.trace_sink: Callable[[float, str, str], None] | None = None

    # -- time and trace -------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the world began."""
        return self._now

    def note(self, data: bytes) -> None:
        """Make `data` part of the trace: what was delivered, which fault was injected."""
        self._trace += data
        if len(self._trace) > TRACE_BUFFER_SIZE_BYTES:
            self._hash.update(self._trace)
            self._trace.clear()

    def trace_hash(self) -> str:
        """The hash of all that happened so far, in hexadecimal."""
        self._hash.update(self._trace)
        self._trace.clear()
        return self._hash.hexdigest()

    def fail(self, error: BaseException) -> None:
        """End the run: `run_until_complete` raises `error` after this callback. The first call decides."""
        if self.failure is None:
            self.failure = error

    # -- scheduling -----------------------------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> events.Handle:
        if context is None:
            context = copy_context()
        handle = events.Handle(callback, args, self, context)
        process = context.get(CURRENT_PROCESS, self._kernel)
        if process.is_alive:
            process.ready.append(handle)
            if not process.is_queued:
                self._queue(process)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> events.Handle:
        # There is one thread, so it is this one.
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> events.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> events.TimerHandle:
        if context is None:
            context = copy_context()
        timer = events.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]  # so that its cancellation is counted
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        return timer

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        if not handle._scheduled:  # type: ignore[attr-defined]
            return
        self._cancelled_timers += 1
        if self._cancelled_timers >= CANCELLED_TIMERS_MIN and 2 * self._cancelled_timers > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def create_task(
        self, coro: Coroutine[Any, Any, Result] | Generator[Any, None, Result], **options: Any
    ) -> asyncio.Task[Result]:
        task: asyncio.Task[Result] = super().create_task(coro, **options)
        context = options.get("context")
        process = CURRENT_PROCESS.get(self._kernel) if context is None else context.get(CURRENT_PROCESS, self._kernel)
        # A process that is killed leaves its tasks suspended for ever; the world closes them at its end.
        process.tasks.append(task)
        if len(process.tasks) > process.tasks_swept_at:
            process.tasks = [old for old in process.tasks if not old.done()]
            process.tasks_swept_at = 2 * len(process.tasks) + 64
        return task

    def _queue(self, process: Schedulable) -> None:
        """Put a process with ready callbacks in line, now or when its slowness allows."""
        if process.is_paused or process.is_delayed:
            return
        if process.slowness > 1.0:
            process.is_delayed = True
            self.call_later((process.slowness - 1.0) / 1000, self._end_delay, process, context=_EMPTY)
            return
        process.is_queued = True
        self._runnable.append(process)

    def _end_delay(self, process: Schedulable) -> None:
        process.is_delayed = False
        if process.ready and process.is_alive and not process.is_paused and not process.is_queued:
            process.is_queued = True
            self._runnable.append(process)

    def pause(self, process: Schedulable) -> None:
        """Let a process stand still; its timers expire late, what reaches it waits."""
        process.is_paused = True

    def resume(self, process: Schedulable) -> None:
        """Let a paused process go on."""
        if process.is_paused:
            process.is_paused = False
            if process.ready and not process.is_queued and process.is_alive:
                self._queue(process)

    def kill(self, process: Schedulable) -> None:
        """Nothing of the process ever runs again, except the rest of a callback that runs now."""
        process.is_alive = False
        process.ready.clear()

    # -- the loop -------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """One turn of one process; called by `run_forever` again and again."""
        if self._timers and (not self._runnable or self._timers[0][0] <= self._now):
            self._expire_timers()
        runnable = self._runnable
        if not runnable:
            if not self._timers:
                raise SimulationDeadlock("nothing is ready and no timer is set")
            return
        count = len(runnable)
        position = self._rng.randrange(count) if count > 1 else 0
        process = runnable[position]
        runnable[position] = runnable[-1]
        runnable.pop()
        process.is_queued = False
        if process.is_paused or not process.is_alive:
            return
        self._run_turn(process)
        if process.ready and not process.is_queued and process.is_alive:
            self._queue(process)

    def _run_turn(self, process: Schedulable) -> None:
        """Run the callbacks that are ready now, as a real loop would between two looks at its selector."""
        self.current = process
        ready = process.ready
        count = len(ready)
        self.note(_TURN.pack(self._now, process.number, count))
        on_event = self.on_event
        process.is_queued = True  # What becomes ready meanwhile has its turn later.
        for _ in range(count):
            if not ready or process.is_paused:
                break
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if self.trace_sink is not None:
                self.trace_sink(self._now, process.name, _label(handle))
            handle._run()
            self.event_count += 1
            if on_event is not None:
                on_event(process)
            if self.failure is not None:
                raise self.failure
            if self._stopping:  # type: ignore[attr-defined]
                break
        process.is_queued = False
        self.current = self._kernel

    def _expire_timers(self) -> None:
        timers = self._timers
        if not self._runnable:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
                self._cancelled_timers -= 1
            if not timers:
                return
            self._now = max(self._now, timers[0][0])
            if self._now > self.time_max:
                raise SimulationTimeUp(f"virtual time is up after {self._now:.3f} s")
        while timers and timers[0][0] <= self._now:
            _when, _sequence, timer = heapq.heappop(timers)
            timer._scheduled = False  # type: ignore[attr-defined]
            if timer._cancelled:
                self._cancelled_timers -= 1
                continue
            process = timer._context.get(CURRENT_PROCESS, self._kernel)  # type: ignore[attr-defined]
            if not process.is_alive:
                continue
            process.ready.append(timer)
            if not process.is_queued:
                self._queue(process)

    # -- what a selector would do ---------------------------------------------------------------------------------

    def _process_events(self, _event_list: list[Any]) -> None:
        """There is no selector."""

    def _write_to_self(self) -> None:
        """There is no other thread to be woken by."""


def _refuse(*_args: Any, **_options: Any) -> NoReturn:
    raise SimulationFence("threads, sockets, signals and subprocesses do not exist in the simulated world")


FENCED: Final = (
    *("run_in_executor", "getaddrinfo", "getnameinfo", "add_signal_handler", "add_reader", "add_writer"),
    *("create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection"),
    *("create_unix_server", "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe"),
    *("subprocess_exec", "subprocess_shell", "sock_connect", "sock_accept", "sock_recv", "sock_sendall"),
)
for _name in FENCED:
    setattr(SimulatedEventLoop, _name, _refuse)

_EMPTY: Final = Context()
"""For callbacks of the loop itself, which belong to no process."""


def _label(handle: events.Handle) -> str:
    callback = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {owner.get_name()}"
    return getattr(callback, "__qualname__", type(callback).__name__)
