"""Traces by OpenTelemetry: a span for each record sent, one for each record handled, joined by what records carry.

The only file that knows OpenTelemetry and the names of its conventions for messaging, which are not stable yet. It is
loaded for clients with `traces=True` and by `logcluster.tracing`; other clients run none of it: a `TracedProducer`
stands in the place of a `Producer`, instead of questions on the path of every record.

Invariants: traces change no outcome. A record goes out as it would without them, but for at most two headers more; a
header that carries no valid context counts as none; asking about an outcome on behalf of a span claims no record.

Sources: W3C Trace Context; OpenTelemetry's semantic conventions for messaging, 1.44, and those for Kafka.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from logcluster.client.futures import RecordFuture, SentRecords
from logcluster.client.producer import Producer, _pairs, _size_bytes
from logcluster.client.records import ConsumerRecord, Headers, RecordAck, RecordsLost
from logcluster.model.errors import BufferFull, LogClusterError
from logcluster.model.limits import HEADERS_PER_RECORD_MAX

if TYPE_CHECKING:
    from logcluster.client.group.processing import Handler

try:
    from opentelemetry import trace
    from opentelemetry.context import Context, get_current
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        f"traces need OpenTelemetry, which cannot be loaded ({error}): pip install 'logcluster[traces]'"
    ) from error

logger = logging.getLogger("logcluster.client")

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
PARTITION: Final = "messaging.destination.partition.id"
OFFSET: Final = "messaging.logcluster.offset"
GROUP: Final = "messaging.consumer.group.name"
RECORD_COUNT: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

_PROPAGATOR = TraceContextTextMapPropagator()
"""Not the one that the process is configured for: records are kept, and baggage would be kept with them."""
Attributes = dict[str, str | int]


# Consuming.


def context_of(record: ConsumerRecord) -> Context:
    """The context that a record carries: of the span that sent it; empty when it carries none, or garbage."""
    return _extract(_carried(record.headers), Context())


@contextmanager
def processing(records: ConsumerRecord | Sequence[ConsumerRecord], *, group: str | None = None) -> Iterator[Span]:
    """Mark what happens in the block as the processing of one record, or of a batch: a span "process TOPIC".

    The span of one record continues the trace that the record belongs to, and links to the span around it, if there is
    one. The span of a batch belongs to the trace around it, or begins one, and links to the span that sent each of its
    records, but once to one that sent many. An exception that leaves the block marks the span. Without a record in the
    batch there is no span.

    Args:
        group: the consumer group on whose behalf it happens.

    Returns:
        The span, for attributes of your own.
    Cancellation: marks the span like any other exception.
    """
    if isinstance(records, ConsumerRecord):
        span = _begin_processing_one(records, group)
    elif records:
        span = _begin_processing_batch(records, group)
    else:
        # Stands for the span around, so that its end here ends nothing.
        span = trace.NonRecordingSpan(trace.get_current_span().get_span_context())
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span
    except BaseException as error:
        span.record_exception(error)
        _mark_failed(span, error)
        raise
    finally:
        span.end()


def traced(handler: Handler, *, group: str) -> Handler:
    """The handler, with a span around each record."""

    async def handle(record: ConsumerRecord) -> None:
        with processing(record, group=group):
            await handler(record)

    return handle


def _begin_processing_one(record: ConsumerRecord, group: str | None) -> Span:
    around = get_current()
    parent = _extract(_carried(record.headers), around)
    links = []
    span_around = trace.get_current_span(around)
    if trace.get_current_span(parent) is not span_around and (context := span_around.get_span_context()).is_valid:
        links.append(Link(context))
    attributes = _attributes("process", record.topic, str(record.partition))
    attributes[OFFSET] = record.offset
    if group is not None:
        attributes[GROUP] = group
    name = f"process {record.topic}"
    return _tracer().start_span(name, parent, kind=SpanKind.CONSUMER, attributes=attributes, links=links)


def _begin_processing_batch(records: Sequence[ConsumerRecord], group: str | None) -> Span:
    topics = {record.topic for record in records}
    partitions = {(record.topic, record.partition) for record in records}
    topic = topics.pop() if len(topics) == 1 else None
    attributes = _attributes("process", topic, str(records[0].partition) if len(partitions) == 1 else None)
    attributes[RECORD_COUNT] = len(records)
    if group is not None:
        attributes[GROUP] = group
    return _tracer().start_span(
        "process" if topic is None else f"process {topic}",
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        links=_links(record.headers for record in records),
    )


# Producing.


class TracedProducer(Producer):
    """A producer whose records carry the context they were sent in; made by `Client.producer` with traces on.

    A span "send TOPIC" ends with the outcome of its record, whether somebody waits for it or not.
    """

    async def send(  # the record's fields
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers | Mapping[str, bytes | None] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordAck:
        """As `Producer.send`; the span includes the wait for space."""
        span, pairs = _begin_sending(topic, headers, partition)
        try:
            try:
                future = self._take(topic, value, key, pairs, partition, timestamp_ms)
            except BufferFull:
                await self._wait_for_space(_size_bytes(value, key))
                future = self._take(topic, value, key, pairs, partition, timestamp_ms)
        except BaseException as error:
            _end_failed(span, error)
            raise
        _end_with_outcome(span, future)
        return await future

    def send_nowait(  # the record's fields
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers | Mapping[str, bytes | None] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordFuture:
        """As `Producer.send_nowait`."""
        span, pairs = _begin_sending(topic, headers, partition)
        try:
            future = self._take(topic, value, key, pairs, partition, timestamp_ms)
        except BaseException as error:
            _end_failed(span, error)
            raise
        _end_with_outcome(span, future)
        return future

    async def send_many(
        self,
        topic: str,
        records: Iterable[bytes | tuple[bytes | None, bytes | None]],
        *,
        partition: int | None = None,
        headers: Headers | Mapping[str, bytes | None] = (),
    ) -> SentRecords:
        """As `Producer.send_many`, with one span for all of them, which ends when this returns or raises."""
        span, pairs = _begin_sending(topic, headers, partition)
        if isinstance(records, Sized):
            span.set_attribute(RECORD_COUNT, len(records))
        try:
            sent = await super().send_many(topic, records, partition=partition, headers=pairs)
        except BaseException as error:
            if isinstance(error, RecordsLost):
                span.set_attribute(RECORD_COUNT, len(error.outcomes))
            _end_failed(span, error)
            raise
        span.set_attribute(RECORD_COUNT, len(sent))
        span.end()
        return sent


class _RecordSpan:
    """A span that stands among those who wait for a record's batch, and ends when the record has its outcome."""

    __slots__ = ("_future", "_span")

    def __init__(self, span: Span, future: RecordFuture) -> None:
        self._span = span
        self._future = future

    def done(self) -> bool:
        """As of a future that nobody cancelled."""
        return False

    def set_result(self, _result: None, /) -> None:
        """The batch is finished; the record may have moved to another one, of its partition or after a split."""
        batch = self._future._leaf()
        if not batch.is_done:
            batch.waiters.append(self)
            return
        span = self._span
        try:
            if batch.partition >= 0:
                span.set_attribute(PARTITION, str(batch.partition))
            if batch.error is not None:
                _mark_failed(span, batch.error)
            elif batch.base_offset >= 0:
                span.set_attribute(OFFSET, batch.base_offset + self._future._index)
            span.end()
        except Exception:  # the user's span processors run here, in the middle of the producer's own work
            logger.exception("a span could not be ended")


def _begin_sending(
    topic: str, headers: Headers | Mapping[str, bytes | None] | None, partition: int | None
) -> tuple[Span, Headers]:
    """Begin a span; returns it with the headers of its records."""
    given: Headers = ()
    names: Collection[str] = ()
    links: list[Link] = []
    if headers:
        given = _pairs(headers)
        try:
            names = {name for name, _ in given}
            links = _links([given])
        except (TypeError, ValueError):
            names = {TRACEPARENT}  # these are no headers: left as they are for the builder to refuse
    attributes = _attributes("send", topic, None if partition is None else str(partition))
    # By the conventions a span is a producer when its records carry it, and else a mere client.
    kind = SpanKind.CLIENT if TRACEPARENT in names else SpanKind.PRODUCER
    span = _tracer().start_span(f"send {topic}", kind=kind, attributes=attributes, links=links)
    if TRACEPARENT in names or not span.get_span_context().is_valid:
        return span, given
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    added = [(name, text.encode()) for name, text in carrier.items() if name not in names]
    if len(given) + len(added) > HEADERS_PER_RECORD_MAX:  # the record would be refused on our account
        return span, given
    return span, [*given, *added]


def _end_with_outcome(span: Span, future: RecordFuture) -> None:
    """End the span when the record has its outcome; one that records nothing needs no end."""
    if span.is_recording():
        _RecordSpan(span, future).set_result(None)


def _end_failed(span: Span, error: BaseException) -> None:
    """Nothing was taken, or not everything was written."""
    _mark_failed(span, error)
    span.end()


# What both have in common.


def _tracer() -> Tracer:
    """Of the provider that the process has now; one that is set later is found, too."""
    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    from logcluster import __version__

    return provider.get_tracer("logcluster", __version__)


def _attributes(operation: str, topic: str | None, partition: str | None) -> Attributes:
    attributes: Attributes = {SYSTEM: "logcluster", OPERATION_NAME: operation, OPERATION_TYPE: operation}
    if topic is not None:
        attributes[DESTINATION] = topic
    if partition is not None:
        attributes[PARTITION] = partition
    return attributes


def _carried(headers: Headers) -> dict[str, str]:
    """The headers that carry a context, as text; of several of one name the first."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in {TRACEPARENT, TRACESTATE} and value is not None and name not in found:
            found[name] = value.decode("ascii", "replace")
    return found


def _extract(carried: dict[str, str], around: Context) -> Context:
    """`around` with the span that sent the record in it; unchanged when there is none."""
    return _PROPAGATOR.extract(carried, around) if carried else around


def _links(many_headers: Iterable[Headers]) -> list[Link]:
    """Links to the spans that these records carry, each once."""
    carried = {tuple(found.items()): found for headers in many_headers if (found := _carried(headers))}
    contexts: dict[tuple[int, int], SpanContext] = {}
    for found in carried.values():
        context = trace.get_current_span(_extract(found, Context())).get_span_context()
        if context.is_valid:
            contexts.setdefault((context.trace_id, context.span_id), context)
    return [Link(context) for context in contexts.values()]


def _mark_failed(span: Span, error: BaseException) -> None:
    span.set_attribute(ERROR_TYPE, _type_name(error))
    span.set_status(StatusCode.ERROR, error.message if isinstance(error, LogClusterError) else str(error))


def _type_name(error: BaseException) -> str:
    """Errors of the tree, and Python's own, by their names alone; others with their modules."""
    kind = type(error)
    is_well_known = isinstance(error, LogClusterError) or kind.__module__ == "builtins"
    return kind.__qualname__ if is_well_known else f"{kind.__module__}.{kind.__qualname__}"
