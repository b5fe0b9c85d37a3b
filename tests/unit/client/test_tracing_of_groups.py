"""Traces of what a group processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from fake_cluster import FakeCluster
from trace_reading import (
    PARENT,
    SPAN_ID,
    TRACE_ID,
    Spans,
    ids,
    parent_ids,
    record_of,
    user_tracer,
)

from logcluster.client.group.consumer import GroupConsumer
from logcluster.client.records import ConsumerRecord
from logcluster.client.subscription import PartitionState


class HandedOut:
    """Gives a group consumer records, instead of a cluster."""

    def __init__(self, records: Sequence[ConsumerRecord]) -> None:
        self.batches = [[(PartitionState("t", 0, start="earliest"), record) for record in records], None]

    async def take_for_processing(self, *_: Any) -> Any:
        return self.batches.pop(0)


async def process(traces: bool, handler: Callable[[ConsumerRecord], Awaitable[object]]) -> None:
    cluster = FakeCluster()
    records = [record_of([("traceparent", PARENT)], offset=offset) for offset in range(4)]
    async with cluster.client(traces=traces) as client:
        consumer = cast(GroupConsumer, client.consumer("t", group="billing"))
        consumer.take_for_processing = HandedOut(records).take_for_processing  # type: ignore[method-assign]
        await consumer.process(handler, concurrency=3)


async def test_a_group_processes_each_record_in_a_span_of_its_own(spans: Spans) -> None:
    async def handle(record: ConsumerRecord) -> None:
        await asyncio.sleep(0.01)
        with user_tracer().start_as_current_span(f"inside {record.offset}"):
            await asyncio.sleep(0)

    await process(True, handle)
    processed = {
        (span.attributes or {})["messaging.logcluster.offset"]: span for span in spans() if span.name == "process t"
    }
    assert sorted(processed) == [0, 1, 2, 3]
    for offset, span in processed.items():
        assert parent_ids(span) == (TRACE_ID, SPAN_ID)
        assert (span.attributes or {})["messaging.consumer.group.name"] == "billing"
        (inside,) = [inner for inner in spans() if inner.name == f"inside {offset}"]
        assert parent_ids(inside) == ids(span)


async def test_a_group_without_traces_makes_no_spans(spans: Spans) -> None:
    handled: list[int] = []

    async def handle(record: ConsumerRecord) -> None:
        handled.append(record.offset)

    await process(False, handle)
    assert sorted(handled) == [0, 1, 2, 3] and spans() == []


async def test_a_handler_that_fails_marks_its_span_and_ends_the_processing(spans: Spans) -> None:
    async def handle(record: ConsumerRecord) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await process(True, handle)
    assert {(span.attributes or {}).get("error.type") for span in spans()} == {"ZeroDivisionError"}


# Who records nothing, and who fails.
