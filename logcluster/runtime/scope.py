"""Task scopes: every task has an owner, and leaving the owner's block ends it.

`asyncio.create_task` is banned elsewhere. A scope is entered with `async with`; tasks spawned in it
are cancelled, newest first, when the block is left. A task that fails with an unexpected exception
reports to the scope's fault handler (default: log, and cancel the whole scope, so that a half-dead
component never lingers). Cancellation always travels on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from logcluster.runtime.event_log import get_logger

log = get_logger("scope")

FaultHandler = Callable[[str, BaseException], None]
"""Told the name of the task and what it raised; called once per failed task, on the event loop."""


class TaskScope:
    """Owner of tasks. Not re-entrant; `close` is idempotent.

    Args:
        name: appears in task names and logs.
        on_fault: what to do when a task fails; by default the failure is logged and kept, `wait_closed`
            and leaving the block re-raise it.
    """

    def __init__(self, name: str, *, on_fault: FaultHandler | None = None) -> None:
        self.name = name
        self._on_fault = on_fault
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._closed = False
        self._failure: BaseException | None = None

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `work` as a task of this scope.

        Raises:
            RuntimeError: the scope is closed, or no event loop runs; `work` is closed and does not run.
        """
        if self._closed:
            work.close()
            raise RuntimeError(f"scope {self.name} is closed, {name} cannot start")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # Somebody's `finally`, run by the garbage collector or at the end of a simulated world.
            work.close()
            raise
        task = loop.create_task(work, name=f"{self.name}/{name}")
        self._tasks[task] = None
        task.add_done_callback(self._finished)
        return task

    @property
    def task_count(self) -> int:
        """How many tasks are running now."""
        return len(self._tasks)

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def failure(self) -> BaseException | None:
        """The first unexpected failure of a task, if there was one and no fault handler took it."""
        return self._failure

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if self._on_fault is not None:
            self._on_fault(task.get_name(), error)
            return
        log.error("task_failed", task=task.get_name(), error=repr(error), exc_info=error)
        if self._failure is None:
            self._failure = error

    async def close(self) -> None:
        """Cancel all tasks, newest first, and wait until each has ended.

        Cancellation: tasks are already told to stop; calling again waits for the rest.
        """
        self._closed = True
        current = asyncio.current_task()
        while True:
            tasks = [task for task in reversed(self._tasks) if task is not current]
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
        if error is None and self._failure is not None:
            raise self._failure
