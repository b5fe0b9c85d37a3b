"""Settings of this process that a broker makes once, at start: memory allocator, garbage collector, event loop.

glibc maps and unmaps every buffer above 128 KiB afresh, and the page faults cost up to half of the throughput of
large batches; raising the thresholds keeps such buffers on the heap. The garbage collector's default thresholds
make it walk the heap thousands of times a second under load; objects made at start need no walk.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
from collections.abc import Callable, Coroutine
from typing import Any, Final

from logcluster.model.errors import InvalidConfig
from logcluster.model.limits import MIB
from logcluster.runtime.event_loop import new_event_loop

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
HEAP_THRESHOLD_BYTES: Final = 8 * MIB


def tune_memory() -> bool:
    """Keep buffers up to 8 MiB on the heap, and threads in two arenas; False where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = (
        (M_MMAP_THRESHOLD, HEAP_THRESHOLD_BYTES),
        (M_TRIM_THRESHOLD, 2 * HEAP_THRESHOLD_BYTES),
        (M_ARENA_MAX, 2),
    )
    return all(mallopt(option, value) == 1 for option, value in settings)


def raise_open_files_limit() -> int:
    """Allow as many open files as the system lets this process have; returns the limit. Segments stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def tune_garbage_collector() -> None:
    """Exempt what exists now from collection, and collect the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run_event_loop(main: Callable[[], Coroutine[Any, Any, int]], *, kind: str = "asyncio") -> int:
    """Run `main` to its end on a new event loop of this kind, asyncio or uvloop; returns what it returns.

    Raises:
        InvalidConfig: uvloop is not installed.
    """
    factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    if kind == "uvloop":
        try:
            import uvloop
        except ImportError as error:
            raise InvalidConfig("uvloop is not installed", hint="pip install 'logcluster[uvloop]'") from error
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())
