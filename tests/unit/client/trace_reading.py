"""What spans and records say of their places in a trace."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from logcluster.client.client import Client
from logcluster.client.records import ConsumerRecord, Headers
from logcluster.tracing import context_of

TRACE_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736
SPAN_ID = 0x00F067AA0BA902B7
PARENT = b"00-%032x-%016x-01" % (TRACE_ID, SPAN_ID)


Spans = Callable[[], list[ReadableSpan]]


def user_tracer() -> trace.Tracer:
    return trace.get_tracer("application")


def record_of(headers: Headers = (), *, topic: str = "t", partition: int = 0, offset: int = 7) -> ConsumerRecord:
    return ConsumerRecord(topic, partition, offset, 0, None, b"v", headers)


async def read_all(client: Client, topic: str = "t") -> list[ConsumerRecord]:
    async with client.consumer(topic, start="earliest", until="end") as consumer:
        return [record async for record in consumer]


def span_of(record: ConsumerRecord) -> trace.SpanContext:
    return trace.get_current_span(context_of(record)).get_span_context()


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent_ids(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def linked_ids(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]
