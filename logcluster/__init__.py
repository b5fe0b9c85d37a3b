"""logcluster: a distributed, replicated commit log.

    import logcluster
    async with logcluster.connect("127.0.0.1:7070") as client: ...

The client's names and all errors are here; the server is not. Everything is loaded when it is first used, so that
importing costs next to nothing. `logcluster.sync` is the blocking client, `logcluster.testing` starts test clusters,
`logcluster.tracing` joins what is done with records to the traces they belong to.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logcluster import sync as sync, testing as testing, tracing as tracing
    from logcluster.client.admin import Admin as Admin
    from logcluster.client.client import Client as Client, connect as connect
    from logcluster.client.consumer import Consumer as Consumer
    from logcluster.client.futures import RecordFuture as RecordFuture
    from logcluster.client.producer import Producer as Producer
    from logcluster.client.records import (
        ConsumerRecord as ConsumerRecord,
        RecordAck as RecordAck,
        RecordsLost as RecordsLost,
        Timestamp as Timestamp,
    )
    from logcluster.model.errors import *  # noqa: F403
    from logcluster.model.ids import TopicPartition as TopicPartition
    from logcluster.model.tls import Tls as Tls

__version__ = "0.1.0"

_NAMES = {
    "Admin": "logcluster.client.admin",
    "Client": "logcluster.client.client",
    "Consumer": "logcluster.client.consumer",
    "ConsumerRecord": "logcluster.client.records",
    "Producer": "logcluster.client.producer",
    "RecordAck": "logcluster.client.records",
    "RecordFuture": "logcluster.client.futures",
    "RecordsLost": "logcluster.client.records",
    "Timestamp": "logcluster.client.records",
    "Tls": "logcluster.model.tls",
    "TopicPartition": "logcluster.model.ids",
    "connect": "logcluster.client.client",
}
_SUBMODULES = ("sync", "testing", "tracing")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"logcluster.{name}")
    module_name = _NAMES.get(name)
    value = _error_type(name) if module_name is None else getattr(importlib.import_module(module_name), name)
    globals()[name] = value
    return value


def _error_type(name: str) -> type[Exception]:
    """A class of the error tree."""
    if name[:1].isupper():
        errors = importlib.import_module("logcluster.model.errors")
        value = getattr(errors, name, None)
        if isinstance(value, type) and issubclass(value, errors.LogClusterError):
            return value
    raise AttributeError(f"module 'logcluster' has no attribute {name!r}")


def __dir__() -> list[str]:
    errors = importlib.import_module("logcluster.model.errors")
    names = [
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    return sorted([*globals(), *_NAMES, *_SUBMODULES, *names])
