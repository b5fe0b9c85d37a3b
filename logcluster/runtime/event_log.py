"""Events: stable names with fields, told through the standard library's logging.

    log = get_logger("replicas")
    log.info("partition_led", partition="orders-2", leader_epoch=3, start_offset=1200)

This is below `observability` because task scopes and interceptors tell events as well, and those also run in users'
processes: there an event is an ordinary record of the logger `logcluster.<area>` with the message
`partition_led partition=orders-2 …`. A node writes it as one JSON object (`observability.logs`).

INFO is a state transition, WARNING needs an action, ERROR a person; nothing is told per record, never a payload. The
name is a literal, and every event stands in docs/logs.md with its fields; a test compares the two.
"""

from __future__ import annotations

import logging
from typing import Final

FEW: Final = 20
"""Of more events of a kind that happen at once, only their sum is told above DEBUG: a failover may move thousands."""

_CALLER: Final = 3
"""How far up the stack is who tells an event, for handlers that show file and line."""


class Event:
    """The message of a log record that is an event."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: dict[str, object]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        return " ".join((self.name, *(f"{name}={value}" for name, value in self.fields.items())))


class EventLogger:
    """Tells the events of one area."""

    __slots__ = ("_logger",)

    def __init__(self, area: str) -> None:
        self._logger = logging.getLogger(f"logcluster.{area}")

    def debug(self, event: str, /, **fields: object) -> None:
        """Tell what only a developer wants to know."""
        self._tell(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Tell a state transition."""
        self._tell(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Tell what needs an action."""
        self._tell(logging.WARNING, event, fields)

    def error(self, event: str, /, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Tell what needs a person; `exc_info` adds a traceback."""
        self._tell(logging.ERROR, event, fields, exc_info)

    def each(self, event: str, /, *, of: int, **fields: object) -> None:
        """Tell one of `of` events of a kind that happen at once: at INFO while they are few, else at DEBUG."""
        self._tell(logging.INFO if of <= FEW else logging.DEBUG, event, fields)

    def tells_each(self, of: int) -> bool:
        """Would `each` tell anything? To be asked before the fields of thousands are put together."""
        return self._logger.isEnabledFor(logging.INFO if of <= FEW else logging.DEBUG)

    def _tell(self, level: int, event: str, fields: dict[str, object], error: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Event(event, fields), exc_info=error, stacklevel=_CALLER)


def get_logger(area: str) -> EventLogger:
    """The logger of an area; cheap, and usable before anything is set up."""
    return EventLogger(area)
