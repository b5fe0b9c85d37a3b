"""How a client process writes its history: events to a file at once, and voices that never forget an open operation.

The format is docs/checking.md, the same that the simulator's clients write. Times are nanoseconds of CLOCK_MONOTONIC,
which all processes of a machine share. Nothing is kept in memory but what is open, so that a client may run for hours.
A line is handed to the kernel before an operation that may be left in doubt can take effect, and otherwise after
`FLUSH_INTERVAL_MS` at most: then `kill -9` costs a reader's last results and turns outcomes into doubts, no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from logcluster.check.history import Event, EventType, encode_event
from logcluster.model.errors import LogClusterError, UnknownServerError

FLUSH_INTERVAL_MS: Final = 50
HARMLESS: Final = frozenset(
    {"poll", "assign", "seek", "subscribe", "list_offsets", "fetch_offsets", "resume", "list_topics"}
)
"""Operations that change nothing: whoever never learns how they ended knows enough."""


def monotonic_ns() -> int:
    """Nanoseconds of the clock that all processes of this machine share."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Operation:
    """One invocation without an outcome."""

    invoked: int
    process: str
    f: str
    value: Any
    meta: dict[str, Any] = field(default_factory=dict)


class HistoryWriter:
    """Appends events to a new file.

    Args:
        path: must not exist yet: two lives of a client have a file each.
        client: the name in the history.

    Raises:
        OSError: the file cannot be made (`FileExistsError`: it is there).
    """

    def __init__(self, path: Path, client: str, clock_ns: Callable[[], int] = monotonic_ns) -> None:
        self.client = client
        self._clock_ns = clock_ns
        self._file = path.open("x", encoding="utf-8", buffering=1 << 20)
        self._count = 0
        self._process_count = 0

    def new_process(self) -> str:
        """A fresh logical process; needed by each voice, and after every `info`."""
        self._process_count += 1
        return f"{self.client}/{self._process_count - 1}"

    def append(
        self,
        process: str,
        type: EventType,  # noqa: A002
        f: str,
        value: Any,
        error: str | None = None,
        **meta: Any,
    ) -> int:
        """Write one event; returns its index."""
        event = Event(self._count, self._clock_ns(), process, self.client, type, f, value, error, meta)
        self._count += 1
        self._file.write(encode_event(event) + "\n")
        return event.index

    def note(self, f: str, value: Any, error: str | None = None) -> None:
        """Write what is no operation: the client's start and end, what it met; at once."""
        self.append(self.new_process(), "info" if error else "ok", f, value, error)
        self.flush()

    def flush(self) -> None:
        """Hand everything to the kernel, where it survives this process."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Write no more; nothing may begin afterwards."""
        self._file.close()


class Voice:
    """A voice in the history: one producer identity, one consumer. Its logical process changes after every `info`."""

    def __init__(self, writer: HistoryWriter) -> None:
        self._writer = writer
        self._process = writer.new_process()
        self._open: dict[int, Operation] = {}

    @property
    def open_count(self) -> int:
        """Operations that have no outcome yet."""
        return len(self._open)

    def invoke(self, f: str, value: Any, *, is_flushed: bool = True, **meta: Any) -> Operation:
        """An operation begins; write it before anything of it can take effect.

        Args:
            is_flushed: False: more come at once, and the caller flushes before the event loop goes on.
        """
        invoked = self._writer.append(self._process, "invoke", f, value, **meta)
        if is_flushed and f not in HARMLESS:
            self._writer.flush()
        operation = self._open[invoked] = Operation(invoked, self._process, f, value, meta)
        return operation

    def mark(self, f: str, value: Any, **meta: Any) -> None:
        """Something that takes no time."""
        self._writer.append(self._process, "ok", f, value, **meta)

    def ok(self, operation: Operation, value: Any, **meta: Any) -> None:
        """It was applied."""
        self._close(operation, "ok", value, None, meta)

    def failed(self, operation: Operation, error: LogClusterError, *, is_doubtful: bool = False, **meta: Any) -> None:
        """It ended with an error: `fail` when that is definite, otherwise `info`.

        Args:
            is_doubtful: the error does not speak for the whole operation, whatever it says.
        """
        outcome: EventType = "fail" if error.definite and not is_doubtful else "info"
        self._close(operation, outcome, operation.value, self._describe(operation, error), meta)

    def refused(self, operation: Operation, error: LogClusterError | str) -> None:
        """A call that changes nothing did not succeed, for whatever reason: `fail`."""
        text = error if isinstance(error, str) else self._describe(operation, error)
        self._close(operation, "fail", {} if operation.f == "poll" else operation.value, text, {})

    def doubted(self, operation: Operation, reason: str, **meta: Any) -> None:
        """Nobody knows how it ended: `info`."""
        self._close(operation, "info", operation.value, reason, meta)

    def abandon(self, reason: str) -> int:
        """Give everything that is open the outcome `info`; returns how many there were."""
        operations = list(self._open.values())
        for operation in operations:
            self.doubted(operation, reason)
        return len(operations)

    def _describe(self, operation: Operation, error: LogClusterError) -> str:
        """The error as the history names it. That something failed that should not is an event of its own, too."""
        text = f"{type(error).__name__}: {error.message}"
        if isinstance(error, UnknownServerError):
            self._writer.note("internal_error", {"f": operation.f, "value": operation.value}, text)
        return text

    def _close(
        self, operation: Operation, outcome: EventType, value: Any, error: str | None, meta: dict[str, Any]
    ) -> None:
        if self._open.pop(operation.invoked, None) is None:
            return  # abandoned: it has its outcome
        merged = {**operation.meta, **meta, "invoked": operation.invoked}
        self._writer.append(operation.process, outcome, operation.f, value, error, **merged)
        if outcome == "info" and operation.process == self._process:
            self._process = self._writer.new_process()
