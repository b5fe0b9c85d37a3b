"""The blocking face of the client: the same names, without `await`.

    with logcluster.sync.connect("127.0.0.1:7070") as client:
        client.admin.create_topic("orders", partitions=6)
        with client.producer() as producer:
            ack = producer.send("orders", b"value")
        with client.consumer("orders", start="earliest", until="end") as consumer:
            for record in consumer: ...

Nothing is written twice: a `Blocking` object stands before an asynchronous one and runs what it returns on one event
loop in one thread, which starts with the first client and ends when the last one is left. Results that are plain
values come as they are. Any thread may call; calls of one object do not overlap on the loop unless made from several
threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self

from logcluster.client.admin import Admin
from logcluster.client.client import Client, connect as _connect
from logcluster.client.consumer import Consumer
from logcluster.client.futures import RecordFuture
from logcluster.client.group_admin import GroupAdmin
from logcluster.client.producer import Producer

_WRAPPED = (Client, Producer, Consumer, Admin, GroupAdmin)
_RECORDS_PER_CALL = 5_000


class LoopThread:
    """One event loop in a thread of its own; users hold it, the last one to let go ends it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._users = 0

    def hold(self) -> None:
        """Start the loop if it does not run."""
        with self._lock:
            self._users += 1
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="logcluster", daemon=True)
                self._thread.start()

    def let_go(self) -> None:
        """End the loop after its last user."""
        with self._lock:
            self._users -= 1
            if self._users or self._loop is None or self._thread is None:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end on the loop; an interrupted wait (Ctrl-C) cancels it.

        Raises: what `work` raises; RuntimeError when no client is open.
        """
        loop = self._loop
        if loop is None:
            work.close()
            raise RuntimeError("no client is open: use `with logcluster.sync.connect(...) as client`")
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking call from the event loop would wait for itself")
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise
        except BaseException:
            future.cancel()
            raise

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())


_thread = LoopThread()


class Blocking:
    """An asynchronous object with blocking methods; `with` where it has `async with`, `for` where `async for`."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._target, name)
        return _blocking_call(value) if callable(value) else _wrap(value)

    def __dir__(self) -> list[str]:
        return dir(self._target)

    def __repr__(self) -> str:
        return f"Blocking({self._target!r})"

    def __enter__(self) -> Self:
        _thread.hold()
        try:
            _thread.run(self._target.__aenter__())
        except BaseException:
            _thread.let_go()
            raise
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            _thread.run(self._target.__aexit__(error_type, error, traceback))
        finally:
            _thread.let_go()

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._target, Consumer):
            return _records(self._target)
        return _iterate(aiter(self._target))


class BlockingFuture:
    """The outcome of `send_nowait`."""

    def __init__(self, future: RecordFuture) -> None:
        self._future = future

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._future.done()

    def result(self, timeout_ms: int | None = None) -> Any:
        """Wait for the acknowledgement.

        Raises:
            LogClusterError: the record was not written.
            TimeoutError: the outcome is not known in time; the record is still on its way.
        """

        async def wait() -> Any:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                return await self._future

        return self._future.result() if self._future.done() else _thread.run(wait())

    def exception(self, timeout_ms: int | None = None) -> BaseException | None:
        """Wait for the outcome; why the record was not written, or None."""
        try:
            self.result(timeout_ms)
        except TimeoutError:
            raise
        except Exception:  # noqa: BLE001  # the record's own failure, which the future keeps
            return self._future.exception()
        return None


def connect(*bootstrap: str, **options: Any) -> Any:
    """Make a blocking client; arguments as of `logcluster.connect`, use as of `Client`, without `await`."""
    return Blocking(_connect(*bootstrap, **options))


def _wrap(value: Any) -> Any:
    if isinstance(value, _WRAPPED):
        return Blocking(value)
    if isinstance(value, RecordFuture):
        return BlockingFuture(value)
    if isinstance(value, AsyncIterator):
        return _iterate(value)
    return value


def _blocking_call(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        def call_and_wait(*args: Any, **kwargs: Any) -> Any:
            return _wrap(_thread.run(method(*args, **kwargs)))

        return call_and_wait
    if inspect.isasyncgenfunction(method):
        return lambda *args, **kwargs: _iterate(method(*args, **kwargs))

    async def on_loop(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return method(*args, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        # Also what does not wait belongs to the loop's thread, which owns all state.
        return _wrap(_thread.run(on_loop(args, kwargs)))

    return call


def _iterate(source: AsyncIterator[Any]) -> Iterator[Any]:
    async def step() -> tuple[bool, Any]:
        try:
            return True, await anext(source)
        except StopAsyncIteration:
            return False, None

    while True:
        is_there, value = _thread.run(step())
        if not is_there:
            return
        yield value


def _records(consumer: Consumer) -> Iterator[Any]:
    """Cross to the loop's thread once per batch, not once per record.

    Leaving the loop early gives back what was not looked at.
    """
    while True:
        records = _thread.run(consumer.take_batch(_RECORDS_PER_CALL))
        if records is None:
            return
        given = 0
        try:
            for record in records:
                given += 1
                yield record
        finally:
            if given < len(records):
                _thread.run(_give_back(consumer, records[given:]))


async def _give_back(consumer: Consumer, records: list[Any]) -> None:
    consumer.give_back(records)
