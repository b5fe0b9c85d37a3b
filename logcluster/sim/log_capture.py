"""Keeps what simulated nodes log, with virtual times, instead of writing it anywhere.

Both kinds of logging lead here: structured events and the standard library's. Only while `captured` is entered.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

import structlog

from logcluster.sim.event_loop import CURRENT_PROCESS
from logcluster.sim.world import World

LINES_MAX: Final = 2_000


class LogCapture:
    """The last lines of all nodes and clients of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lines: deque[str] = deque(maxlen=LINES_MAX)

    def add(self, level: str, event: str, facts: str) -> None:
        if self._world.is_over:
            return  # What suspended coroutines say while they are closed is nobody's.
        process = CURRENT_PROCESS.get(None)
        name = process.name if process is not None else "-"
        self.lines.append(f"{self._world.now_ms / 1000:9.3f} s  {name:<10} {level:<8} {event} {facts}")


@contextmanager
def captured(world: World, *, level: int = logging.WARNING) -> Iterator[LogCapture]:
    """Redirect all logging of this interpreter until the block is left."""
    capture = LogCapture(world)

    def keep(_logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        facts = " ".join(f"{name}={value}" for name, value in event.items() if name not in {"event", "area"})
        capture.add(method, str(event.get("event")), facts)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    handlers, root_level, own_level = root.handlers[:], root.level, logging.getLogger("logcluster").level
    root.handlers[:] = [_Handler(capture)]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("logcluster").setLevel(level)
    try:
        yield capture
    finally:
        structlog.configure(**before)
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
