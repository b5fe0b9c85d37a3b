"""One turn of the event loop in a shard: requests are handled, and what they decide shares appends.

A handler never sees an entity with records that are decided and not appended: then the batch is appended first. Records
are replayed into their entity only when the append succeeded, so a refused append has changed nothing, and its error is
definite. Answers wait for the commit of all that they show; a question that must not be stale waits for a record that
was appended after it was handled, its own barrier if there is no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from logcluster.broker.coordinators.requests import Held, Request
from logcluster.broker.coordinators.standby import BARRIER_KEY
from logcluster.broker.partition import Partition
from logcluster.core.coordinators.machine import RecordCodec, Result
from logcluster.model.errors import LogClusterError, NotCoordinator, NotLeaderOrFollower
from logcluster.model.limits import COORDINATOR_BATCH_BYTES_MAX
from logcluster.model.probes import probe
from logcluster.record.batch import read_header
from logcluster.record.builder import build_batch
from logcluster.record.compression import Compression
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.failpoints import failpoint

log = get_logger("coordinators")

_PLAIN_SIZE_BYTES_MAX = 4096
"""Batches up to here are not worth compressing."""


class _Decided(NamedTuple):
    """A request whose records are in the open batch."""

    request: Request
    held: Held[Any]
    result: Result[Any, Any]


class _Question(NamedTuple):
    """A request without records whose answer, or refusal, waits for whatever is appended next."""

    request: Request
    settle: Callable[[LogClusterError | None], None]


class TurnHost(Protocol):
    """What a turn asks of its shard."""

    partition: Partition

    def on_changed(self, request: Request, held: Held[Any]) -> None:
        """The entity may have changed: its deadline, its size."""

    def on_keys_appended(self, keys: list[bytes]) -> None:
        """These keys have a newer value in the log now."""

    def on_committed(self, key: str, result: Result[Any, Any]) -> None:
        """What the result shows is committed: tell whom it names."""

    def on_append_refused(self, request: Request) -> None:
        """One of the runtime's own requests has come to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a turn happens, in milliseconds."""

    now_ms: int
    wall_ms: int


class Turn:
    """Handles requests, each with its entity; `finish` it."""

    def __init__(self, host: TurnHost, codec: RecordCodec[Any], times: Times) -> None:
        self._host = host
        self._codec = codec
        self._times = times
        self._decided: list[_Decided] = []
        self._records: list[tuple[bytes, bytes | None]] = []
        self._entities: set[str] = set()
        self._questions: list[_Question] = []
        self._size_bytes = 0

    def handle(self, request: Request, held: Held[Any]) -> None:
        """Run one handler."""
        if request.key in self._entities:
            self._append()
        try:
            result = request.handler(held.entity, self._times.now_ms, self._times.wall_ms)
        except LogClusterError as error:
            if request.is_linearizable:
                self._questions.append(_Question(request, partial(_refuse_when_proved, request, error)))
            else:
                self._when_committed(request, held.last_offset, partial(_refuse, request, error))
            return
        except Exception as error:  # one request that meets a bug does not keep the others from being served
            partition = str(self._host.partition.topic_partition)
            log.error("coordinator_failed", partition=partition, key=request.key, error=repr(error), exc_info=error)
            request.fail(error)
            return
        if result.records:
            self._add(_Decided(request, held, result))
            return
        if result.on_appended is not None:
            result.on_appended()
            self._host.on_changed(request, held)
        if request.is_linearizable:
            self._questions.append(_Question(request, partial(self._settle, request, result)))
        else:
            self._answer_later(request, result, held.last_offset)

    def finish(self) -> None:
        """Append what is left."""
        if self._questions and not self._records:
            self._records.append((BARRIER_KEY, None))
        self._append()

    def _add(self, decided: _Decided) -> None:
        records = [self._codec.encode(record) for record in decided.result.records]
        size_bytes = sum(len(key) + len(value or b"") for key, value in records)
        if self._records and self._size_bytes + size_bytes > COORDINATOR_BATCH_BYTES_MAX:
            probe("coordinator.batch.full")
            self._append()
        self._decided.append(decided)
        self._records.extend(records)
        self._entities.add(decided.request.key)
        self._size_bytes += size_bytes

    def _append(self) -> None:
        """Append the open batch, if there is one, and what it decided."""
        records, decided, questions = self._records, self._decided, self._questions
        if not records:
            return
        self._records, self._decided, self._questions = [], [], []
        self._entities.clear()
        self._size_bytes = 0
        try:
            next_offset = append_records(self._host.partition, records, self._times.wall_ms)
        except LogClusterError as error:
            probe("coordinator.append.refused")
            for request in (*(item.request for item in decided), *(item.request for item in questions)):
                _refuse(request, error, None)
                if request.future is None:
                    self._host.on_append_refused(request)
            return
        failpoint("coordinator.append.after")
        self._host.on_keys_appended([key for key, _ in records])
        for item in decided:
            held = item.held
            for record in item.result.records:
                held.entity.replay(record)
            held.last_offset = next_offset
            item.request.was_appended = True
            if item.result.on_appended is not None:
                item.result.on_appended()
            self._host.on_changed(item.request, held)
            self._answer_later(item.request, item.result, next_offset)
        for question in questions:
            self._when_committed(question.request, next_offset, question.settle)

    def _answer_later(self, request: Request, result: Result[Any, Any], next_offset: int) -> None:
        self._when_committed(request, next_offset, partial(self._settle, request, result))

    def _settle(self, request: Request, result: Result[Any, Any], error: LogClusterError | None) -> None:
        if error is not None:
            _fail(request, error)
            return
        self._host.on_committed(request.key, result)
        request.answer(result.response)

    def _when_committed(
        self, request: Request, next_offset: int, notify: Callable[[LogClusterError | None], None]
    ) -> None:
        if not self._host.partition.when_committed(next_offset, request.deadline_ms, notify):
            notify(None)


def _fail(request: Request, error: LogClusterError) -> None:
    """A commit whose outcome is not known; of a question nothing is in doubt, it was not answered, that is all."""
    if not request.was_appended and not error.definite:
        request.fail(NotCoordinator(f"not answered: {error.message}"))
    else:
        request.fail(error)


def _refuse(request: Request, refusal: LogClusterError, _error: LogClusterError | None) -> None:
    """Give the refusal, whatever became of the records that it is based on."""
    if isinstance(refusal, NotLeaderOrFollower):
        refusal = NotCoordinator(refusal.message, leader_id=refusal.facts.get("leader_id"))
    request.fail(refusal)


def _refuse_when_proved(request: Request, refusal: LogClusterError, error: LogClusterError | None) -> None:
    """Give the refusal, unless it is in doubt who leads: then it may be stale."""
    if error is not None:
        _fail(request, error)
    else:
        _refuse(request, refusal, None)


def append_records(partition: Partition, records: list[tuple[bytes, bytes | None]], wall_ms: int) -> int:
    """Append records as one batch that must be committed; returns the offset behind it.

    Raises:
        LogClusterError: as `Partition.append_as_leader`; MessageTooLarge. Nothing was written, but for StorageFailure.
    """
    size_bytes = sum(len(key) + len(value or b"") for key, value in records)
    batch = build_batch(
        [(wall_ms, key, value, []) for key, value in records],
        compression=Compression.NONE if size_bytes <= _PLAIN_SIZE_BYTES_MAX else Compression.LZ4,
    )
    return partition.append_as_leader(batch, read_header(batch), acks_all=True).next_offset
