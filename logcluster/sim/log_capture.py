"""Keeps what simulated nodes log, with virtual times, instead of writing it anywhere.

Events and plain messages lead here alike. Only while `captured` is entered.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from logcluster.sim.event_loop import CURRENT_PROCESS
from logcluster.sim.world import World

LINES_MAX: Final = 2_000


class LogCapture:
    """The last lines of all nodes and clients of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lines: deque[str] = deque(maxlen=LINES_MAX)

    def add(self, level: str, message: str, error: str) -> None:
        if self._world.is_over:
            return  # What suspended coroutines say while they are closed is nobody's.
        process = CURRENT_PROCESS.get(None)
        name = process.name if process is not None else "-"
        self.lines.append(f"{self._world.now_ms / 1000:9.3f} s  {name:<10} {level:<8} {message} {error}".rstrip())


@contextmanager
def captured(world: World, *, level: int = logging.WARNING) -> Iterator[LogCapture]:
    """Redirect all logging of this interpreter until the block is left."""
    capture = LogCapture(world)
    root = logging.getLogger()
    handlers, root_level, own_level = root.handlers[:], root.level, logging.getLogger("logcluster").level
    root.handlers[:] = [_Handler(capture)]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("logcluster").setLevel(level)
    try:
        yield capture
    finally:
        root.handlers[:] = handlers
        root.setLevel(root_level)
        logging.getLogger("logcluster").setLevel(own_level)


class _Handler(logging.Handler):
    def __init__(self, capture: LogCapture) -> None:
        super().__init__()
        self._capture = capture

    def emit(self, record: logging.LogRecord) -> None:
        error = "" if record.exc_info is None else repr(record.exc_info[1])
        self._capture.add(record.levelname.lower(), record.getMessage(), error)
