"""How a node writes its log: one line for each event or message, as JSON or for a console.

Components tell events through `get_logger` of `runtime.event_log`; libraries (asyncio, grpc) log plain text. Both come
out alike: time, level, node, area, event, then the event's fields. What events there are says docs/logs.md.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from logcluster.runtime.event_log import Event, get_logger

__all__ = ["LEVELS", "configure", "get_logger"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, level: str, format_name: str, node_id: int) -> None:
    """Set up logging of this process to standard error, once, at the start of a node.

    Args:
        level: debug, info, warning or error.
        format_name: "json" (one object a line) or "console".
        node_id: stands on every line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(format_name=format_name, node_id=node_id))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("logcluster").setLevel(LEVELS[level])


def formatter(*, format_name: str, node_id: int) -> logging.Formatter:
    """What makes a line of a log record; arguments as of `configure`."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if format_name == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )

    def lay_out(_logger: Any, _method: str, line: Any) -> Any:
        record: logging.LogRecord = line["_record"]
        told = record.msg
        facts = told.fields if isinstance(told, Event) else {}
        return {
            "timestamp": line.pop("timestamp"),
            "level": line.pop("level"),
            "node": node_id,
            "area": record.name.removeprefix("logcluster."),
            **line,
            "event": told.name if isinstance(told, Event) else line["event"],
            **facts,
        }

    processors: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if format_name == "json":
        # The console renderer makes its own; without the values of variables, which may be anybody's data.
        processors.append(structlog.processors.format_exc_info)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lay_out,
        ],
        processors=[*processors, renderer],
    )
