"""Blocking work completes even when the caller stopped waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from logcluster.runtime.disk import InlineDisk, ThreadedDisk


@pytest.mark.parametrize("kind", [ThreadedDisk, InlineDisk])
async def test_the_result_comes_back(kind: type[ThreadedDisk] | type[InlineDisk]) -> None:
    disk = kind()
    assert await disk.run(lambda: 7) == 7
    with pytest.raises(OSError, match="no"):
        await disk.run(lambda: (_ for _ in ()).throw(OSError("no")))
    disk.close()


async def test_cancelling_the_caller_abandons_only_the_answer() -> None:
    disk = ThreadedDisk(threads_max=1)
    started, release, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(10)
        finished.set()

    task = asyncio.ensure_future(disk.run(work))
    await asyncio.get_running_loop().run_in_executor(None, started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    disk.close()
    assert finished.is_set()
