"""Structured logging: stable event names with fields, as JSON lines or for a console.

Every component asks for `get_logger(area)` and writes `log.info("leader_elected", partition=…, leader_epoch=…)`.
INFO is a state transition, WARNING needs an action, ERROR a person; nothing is written per record, never a payload.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Protocol, cast

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Logger(Protocol):
    """What components use of a logger: an event name and its fields."""

    def debug(self, event: str, /, **fields: Any) -> Any: ...
    def info(self, event: str, /, **fields: Any) -> Any: ...
    def warning(self, event: str, /, **fields: Any) -> Any: ...
    def error(self, event: str, /, **fields: Any) -> Any: ...


def get_logger(area: str) -> Logger:
    """A logger whose events carry `area`; cheap, and usable before `configure`."""
    return cast("Logger", structlog.get_logger(area=area))


def configure(*, level: str, format_name: str, node_id: int) -> None:
    """Set up logging of this process to standard error, once, at the start of a node.

    Args:
        level: debug, info, warning or error.
        format_name: "json" (one object a line) or "console".
        node_id: stands on every line.
    """
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if format_name == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _method, event: {"node": node_id, **event},
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (asyncio, grpc) and the task scope log through the standard library.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("logcluster").setLevel(LEVELS[level])
