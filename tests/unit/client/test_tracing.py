"""Traces of clients: what spans say, what records carry, and that nothing else changes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, cast

import pytest
from fake_cluster import FakeCluster
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes as conventions
from opentelemetry.trace import SpanKind, StatusCode
from trace_reading import (
    PARENT,
    SPAN_ID,
    TRACE_ID,
    Spans,
    ids,
    linked_ids,
    parent_ids,
    read_all,
    record_of,
    span_of,
    user_tracer,
)

import logcluster
from logcluster import sync
from logcluster.client import tracing
from logcluster.client.records import Headers
from logcluster.model import errors
from logcluster.model.limits import HEADERS_PER_RECORD_MAX
from logcluster.tracing import context_of, processing

# Sending and processing.


async def test_what_is_sent_in_a_span_and_processed_elsewhere_is_one_trace(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    cluster.add_topic("next")
    async with cluster.client(traces=True) as client, client.producer() as producer:
        with user_tracer().start_as_current_span("order") as order:
            await producer.send("t", b"first")
            await producer.send_nowait("t", b"second", key=b"k", headers={"h": b"1"})
        for record in await read_all(client):
            with processing(record, group="billing"):
                await producer.send("next", record.value)
        passed_on = await read_all(client, "next")
    outer = next(span for span in spans() if span.name == "order")
    sent = [span for span in spans() if span.name == "send t"]
    processed = [span for span in spans() if span.name == "process t"]
    sent_on = [span for span in spans() if span.name == "send next"]
    assert {ids(span)[0] for span in (*sent, *processed, *sent_on)} == {order.get_span_context().trace_id}
    assert [parent_ids(span) for span in sent] == [ids(outer)] * 2
    assert [parent_ids(span) for span in processed] == [ids(span) for span in sent]
    assert [parent_ids(span) for span in sent_on] == [ids(span) for span in processed]
    assert [(span_of(record).trace_id, span_of(record).span_id) for record in passed_on] == [ids(s) for s in sent_on]
    assert [span.kind for span in (*sent, *processed)] == [SpanKind.PRODUCER] * 2 + [SpanKind.CONSUMER] * 2
    assert sent[1].attributes == {
        "messaging.system": "logcluster",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "t",
        "messaging.destination.partition.id": "0",
        "messaging.logcluster.offset": 1,
    }
    assert processed[1].attributes == {
        "messaging.system": "logcluster",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "t",
        "messaging.destination.partition.id": "0",
        "messaging.logcluster.offset": 1,
        "messaging.consumer.group.name": "billing",
    }
    assert all(span.status.status_code is StatusCode.UNSET for span in spans())


def test_names_are_those_of_the_conventions() -> None:
    assert tracing.SYSTEM == conventions.MESSAGING_SYSTEM
    assert tracing.OPERATION_NAME == conventions.MESSAGING_OPERATION_NAME
    assert tracing.OPERATION_TYPE == conventions.MESSAGING_OPERATION_TYPE
    assert tracing.DESTINATION == conventions.MESSAGING_DESTINATION_NAME
    assert tracing.PARTITION == conventions.MESSAGING_DESTINATION_PARTITION_ID
    assert tracing.GROUP == conventions.MESSAGING_CONSUMER_GROUP_NAME
    assert tracing.RECORD_COUNT == conventions.MESSAGING_BATCH_MESSAGE_COUNT
    assert conventions.MESSAGING_KAFKA_OFFSET.replace("kafka", "logcluster") == tracing.OFFSET


async def test_a_span_ends_with_the_outcome_and_not_with_the_call(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    go_on = asyncio.Event()

    async def hold(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            await go_on.wait()

    cluster.before = hold
    async with cluster.client(traces=True) as client, client.producer() as producer:
        producer.send_nowait("t", b"v")  # of a topic that is not known yet: it finds its batch later
        waiting = asyncio.ensure_future(producer.send("t", b"w"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        assert spans() == []
        go_on.set()
        await producer.flush()
        assert [(span.attributes or {})["messaging.logcluster.offset"] for span in spans()] == [0, 1]
        assert all(span.status.status_code is StatusCode.UNSET for span in spans()), "nobody's patience is an error"


async def test_records_of_a_batch_that_is_split_tell_their_own_offsets(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")

    async def refuse_large(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce" and any(len(item.batch) > 2_000 for item in request.partitions):
            raise errors.MessageTooLarge("too large", size_bytes_max=1_500)

    cluster.before = refuse_large
    async with cluster.client(traces=True) as client, client.producer(compression="none") as producer:
        await producer.send("t", b"known")
        for _ in range(8):
            producer.send_nowait("t", b"v" * 500)
    offsets = [(span.attributes or {})["messaging.logcluster.offset"] for span in spans()]
    assert sorted(offsets) == list(range(9))
    assert sum(method == "Produce" for _, method in cluster.calls) > 4, "it was split"


async def test_a_record_that_is_not_written_marks_its_span(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise errors.InvalidRecord("no such schema")

    async with cluster.client(traces=True, topic_wait_ms=10) as client, client.producer() as producer:
        cluster.before = refuse
        with pytest.raises(errors.InvalidRecord):
            await producer.send("t", b"v")
        with pytest.raises(errors.UnknownTopicOrPartition):
            await producer.send("nowhere", b"v")
        with pytest.raises(errors.InvalidRecord):
            producer.send_nowait("t", cast(Any, "text"))
        with pytest.raises(errors.InvalidRecord):
            await producer.send("t", cast(Any, "text"))
    assert [(span.name, (span.attributes or {})["error.type"]) for span in spans()] == [
        ("send t", "InvalidRecord"),
        ("send nowhere", "UnknownTopicOrPartition"),
        ("send t", "InvalidRecord"),
        ("send t", "InvalidRecord"),
    ]
    assert all(span.status.status_code is StatusCode.ERROR for span in spans())
    assert "no such schema" in (spans()[0].status.description or "")
    assert [(span.attributes or {}).get("messaging.destination.partition.id") for span in spans()] == [
        "0",
        None,
        None,
        None,
    ]


async def test_records_that_nobody_awaits_are_still_reported_as_lost(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise errors.InvalidRecord("no")

    cluster.before = refuse
    async with cluster.client(traces=True) as client:
        with pytest.raises(logcluster.RecordsLost, match="2 records not acknowledged"):
            async with client.producer() as producer:
                producer.send_nowait("t", b"v")
                producer.send_nowait("t", b"v")
    assert [span.status.status_code for span in spans()] == [StatusCode.ERROR] * 2


async def test_waiting_for_space_is_part_of_the_one_span(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client(traces=True) as client, client.producer(buffer_size_bytes=200) as producer:
        await asyncio.gather(*(producer.send("t", b"v" * 100) for _ in range(5)))
        with pytest.raises(errors.BufferFull):
            producer.send_nowait("t", b"v" * 300)
    *written, refused = spans()
    assert sorted((span.attributes or {})["messaging.logcluster.offset"] for span in written) == list(range(5))
    assert (refused.attributes or {})["error.type"] == "BufferFull"


async def test_many_records_share_one_span_and_carry_it_all(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t", 2)
    async with cluster.client(traces=True) as client, client.producer() as producer:
        await producer.send_many("t", [b"%d" % index for index in range(3_000)])
        await producer.send_many("t", ((b"k", b"%d" % index) for index in range(10)), headers={"h": b"1"})
        records = await read_all(client)
    assert [(span.name, (span.attributes or {})["messaging.batch.message_count"]) for span in spans()] == [
        ("send t", 3_000),
        ("send t", 10),
    ]
    first, second = spans()
    plain = [record for record in records if record.key is None]
    assert len(plain) == 3_000 and len(records) == 3_010
    assert {(span_of(record).trace_id, span_of(record).span_id) for record in plain} == {ids(first)}
    for record in records:
        if record.key == b"k":
            assert [name for name, _ in record.headers] == ["h", "traceparent"]
            assert span_of(record).span_id == ids(second)[1]


async def test_how_many_were_to_be_sent_is_told_of_those_that_could_not_be(spans: Spans) -> None:
    async with FakeCluster().client(traces=True, topic_wait_ms=10) as client, client.producer() as producer:
        with pytest.raises(errors.UnknownTopicOrPartition):
            await producer.send_many("nowhere", [b"v", b"w"])
    (span,) = spans()
    assert (span.attributes or {})["messaging.batch.message_count"] == 2
    assert (span.attributes or {})["error.type"] == "UnknownTopicOrPartition"


async def test_where_nobody_tells_the_offset_the_span_does_not_either(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client(traces=True) as client, client.producer(acks=0) as producer:
        await producer.send("t", b"v")
    (span,) = spans()
    assert "messaging.logcluster.offset" not in (span.attributes or {})
    assert (span.attributes or {})["messaging.destination.partition.id"] == "0"


async def test_many_records_of_which_some_are_lost_mark_their_span(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise errors.InvalidRecord("no")

    cluster.before = refuse
    async with cluster.client(traces=True) as client, client.producer() as producer:
        with pytest.raises(logcluster.RecordsLost):
            await producer.send_many("t", (b"%d" % index for index in range(10)))
    (span,) = spans()
    assert (span.attributes or {})["error.type"] == "RecordsLost"
    assert (span.attributes or {})["messaging.batch.message_count"] == 10
    assert span.status.status_code is StatusCode.ERROR


# Headers.


async def test_headers_of_the_user_are_kept_as_they_are(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    given = [("h", b"1"), ("h", None), ("traceparent", PARENT)]
    async with cluster.client(traces=True) as client, client.producer() as producer:
        await producer.send("t", b"v", headers=given[:2])
        await producer.send("t", b"v", headers=given)
        await producer.send("t", b"v", headers={"tracestate": b"mine=1"})
        own, theirs, state = await read_all(client)
    assert given == [("h", b"1"), ("h", None), ("traceparent", PARENT)], "the user's list is the user's"
    assert list(own.headers[:2]) == given[:2]
    assert [name for name, _ in own.headers] == ["h", "h", "traceparent"]
    assert list(theirs.headers) == given
    assert [name for name, _ in state.headers] == ["tracestate", "traceparent"]
    assert [linked_ids(span) for span in spans()] == [[], [(TRACE_ID, SPAN_ID)], []]
    assert [span.kind for span in spans()] == [SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.PRODUCER]


async def test_the_state_of_the_trace_is_carried_on(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client(traces=True) as client, client.producer() as producer:
        with processing(record_of([("traceparent", PARENT), ("tracestate", b"vendor=1")])):
            await producer.send("t", b"v")
            await producer.send("t", b"v", headers={"traceparent": PARENT[:-1] + b"0"})
            await producer.send("t", b"v", headers={"tracestate": b"mine=1"})
        record, theirs, state = await read_all(client)
    assert dict(record.headers)["tracestate"] == b"vendor=1"
    assert span_of(record).trace_id == TRACE_ID
    assert list(theirs.headers) == [("traceparent", PARENT[:-1] + b"0")], "this state belongs to another context"
    assert [name for name, _ in state.headers] == ["tracestate", "traceparent"]
    assert state.headers[0][1] == b"mine=1"
    assert spans()[-1].name == "process t"


async def test_a_record_full_of_headers_goes_out_without_a_context(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    given = [(f"h{index}", b"") for index in range(HEADERS_PER_RECORD_MAX)]
    async with cluster.client(traces=True) as client, client.producer() as producer:
        await producer.send("t", b"v", headers=given)
        (record,) = await read_all(client)
    assert list(record.headers) == given
    assert len(spans()) == 1


async def test_headers_that_are_none_are_refused_as_ever(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    for traces in (False, True):
        async with cluster.client(traces=traces) as client, client.producer() as producer:
            await producer.send("t", b"v")
            for wrong in (["no pair"], [("a", b"", b"")], [("a", "text")], [(["a"], b"")]):
                with pytest.raises(errors.InvalidRecord):
                    await producer.send("t", b"v", headers=cast(Any, wrong))
    assert len(spans()) == 5


@pytest.mark.parametrize(
    "headers",
    [
        (),
        [("traceparent", None)],
        [("traceparent", b"")],
        [("traceparent", b"\xff\xfe\x00")],
        [("traceparent", b"00-%032x-%016x-01" % (0, SPAN_ID))],
        [("traceparent", b"ff" + PARENT[2:])],
        [("traceparent", b"0" * 1_000_000)],
        [("traceparent", PARENT + b"-more")],
        [("tracestate", b"a=1")],
    ],
)
def test_garbage_carries_no_context_and_does_no_harm(spans: Spans, headers: Headers) -> None:
    record = record_of(headers)
    assert context_of(record) == Context()
    assert tracing._links([headers]) == []
    with processing(record), processing([record]):
        pass
    batch, one = spans()
    assert one.parent is None and batch.links == ()


def test_of_two_contexts_the_first_counts() -> None:
    other = b"00-%032x-%016x-01" % (TRACE_ID + 1, SPAN_ID)
    assert span_of(record_of([("traceparent", PARENT), ("traceparent", other)])).trace_id == TRACE_ID


def test_a_damaged_state_does_not_lose_the_trace() -> None:
    for state in (b"\xff", b"=,=,=", b"a=1,a=2", None):
        assert span_of(record_of([("traceparent", PARENT), ("tracestate", state)])).trace_id == TRACE_ID


# Processing.


def test_an_exception_marks_the_span_and_travels_on(spans: Spans) -> None:
    for error in (ZeroDivisionError("by zero"), asyncio.CancelledError(), errors.InvalidRecord("bad")):
        with pytest.raises(type(error)), processing(record_of()):
            raise error
    assert [(span.attributes or {})["error.type"] for span in spans()] == [
        "ZeroDivisionError",
        "asyncio.exceptions.CancelledError",
        "InvalidRecord",
    ]
    assert {span.status.status_code for span in spans()} == {StatusCode.ERROR}
    assert spans()[0].status.description == "by zero"
    assert [event.name for event in spans()[0].events] == ["exception"]
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_span_around_is_linked_when_the_record_has_a_trace_of_its_own(spans: Spans) -> None:
    with user_tracer().start_as_current_span("loop"):
        with processing(record_of([("traceparent", PARENT)])):
            pass
        with processing(record_of()):
            pass
    carried, plain, loop = spans()
    assert parent_ids(carried) == (TRACE_ID, SPAN_ID) and linked_ids(carried) == [ids(loop)]
    assert parent_ids(plain) == ids(loop) and plain.links == ()


def test_a_batch_links_to_each_sender_once(spans: Spans) -> None:
    others = [b"00-%032x-%016x-01" % (TRACE_ID, SPAN_ID + index) for index in range(3)]
    records = [record_of([("traceparent", others[index % 3])], offset=index) for index in range(300)]
    records[0] = record_of([*records[0].headers, ("tracestate", b"a=1")])
    with user_tracer().start_as_current_span("loop"), processing([*records, record_of()], group="g"):
        pass
    batch, loop = spans()
    assert batch.name == "process t" and batch.kind is SpanKind.CONSUMER
    assert parent_ids(batch) == ids(loop)
    assert linked_ids(batch) == [(TRACE_ID, SPAN_ID + index) for index in range(3)]
    attributes = dict(batch.attributes or {})
    assert attributes["messaging.batch.message_count"] == 301
    assert attributes["messaging.destination.partition.id"] == "0"
    assert attributes["messaging.consumer.group.name"] == "g"
    assert "messaging.logcluster.offset" not in attributes


def test_a_batch_of_several_topics_names_none(spans: Spans) -> None:
    with processing([record_of(topic="a"), record_of(topic="b")]):
        pass
    with processing([record_of(partition=0), record_of(partition=1)]):
        pass
    topics, partitions = spans()
    assert topics.name == "process" and "messaging.destination.name" not in (topics.attributes or {})
    assert partitions.name == "process t"
    for span in spans():
        assert "messaging.destination.partition.id" not in (span.attributes or {})


def test_a_batch_without_records_is_no_span_and_ends_none(spans: Spans) -> None:
    with user_tracer().start_as_current_span("loop") as loop:
        with processing([]), user_tracer().start_as_current_span("inside"):
            pass
        assert loop.is_recording()
    inside, outside = spans()
    assert parent_ids(inside) == ids(outside)


async def test_without_a_provider_a_context_is_passed_through_and_none_is_made_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client(traces=True) as client, client.producer() as producer:
        await producer.send("t", b"v")
        with processing(record_of([("traceparent", PARENT)])):
            future = producer.send_nowait("t", b"v")
            assert future._batch.waiters == [], "a span that records nothing needs no end"
            await future
        plain, passed = await read_all(client)
    assert list(plain.headers) == []
    assert dict(passed.headers) == {"traceparent": PARENT}


async def test_a_provider_that_is_set_later_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    cluster = FakeCluster()
    cluster.add_topic("t")
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with cluster.client(traces=True) as client, client.producer() as producer:
        await producer.send("t", b"v")
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        await producer.send("t", b"v")
    assert [span.name for span in exporter.get_finished_spans()] == ["send t"]
    provider.shutdown()


async def test_a_span_processor_that_fails_harms_no_record(
    provider: TracerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise ZeroDivisionError

    provider.add_span_processor(Broken())
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client(traces=True) as client, client.producer() as producer:
        for offset in range(3):
            assert (await producer.send("t", b"v")).offset == offset
    assert caplog.text.count("a span could not be ended") == 3


# Off, and missing.


async def test_without_traces_records_carry_nothing(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client() as client, client.producer() as producer:
        assert type(producer) is logcluster.Producer
        with user_tracer().start_as_current_span("order"):
            await producer.send("t", b"v")
            await producer.send_many("t", [b"v"])
        assert [list(record.headers) for record in await read_all(client)] == [[], []]
    assert [span.name for span in spans()] == ["order"]


def run_apart(source: str) -> str:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.strip()


def test_a_client_without_traces_does_not_load_opentelemetry() -> None:
    source = (
        "import sys, logcluster; logcluster.connect('a:1'); logcluster.sync; logcluster.Producer\n"
        "import logcluster.client.group.consumer; print('opentelemetry' in sys.modules)\n"
        "logcluster.connect('a:1', traces=True); print('opentelemetry' in sys.modules)"
    )
    assert run_apart(source).split() == ["False", "True"]


def test_the_missing_extra_is_named_before_anything_is_sent() -> None:
    source = (
        "import sys; sys.modules['opentelemetry'] = None; import logcluster\n"
        "for connect in (logcluster.connect, logcluster.sync.connect):\n"
        "    connect('a:1')\n"
        "    try: connect('a:1', traces=True)\n"
        "    except logcluster.InvalidConfig as error: print(error.definite, error.message, '|', error.hint)\n"
        "try: import logcluster.tracing\n"
        "except ImportError as error: print(error)"
    )
    by_connect, by_sync, by_import = run_apart(source).splitlines()
    assert by_connect == by_sync and by_connect.startswith("True traces need OpenTelemetry")
    assert "| pip install 'logcluster[traces]'" in by_connect
    assert "pip install 'logcluster[traces]'" in by_import


# The blocking client.


def test_the_blocking_client_takes_the_span_of_its_caller_along(spans: Spans) -> None:
    cluster = FakeCluster()
    cluster.max_wait_ms = 5
    with sync.Blocking(cluster.client(traces=True)) as client:
        client.admin.create_topic("t", partitions=1)
        with client.producer() as producer, user_tracer().start_as_current_span("order"):
            producer.send("t", b"0")
            producer.send_nowait("t", b"1").result()
            producer.send_many("t", [b"2", b"3"])
        with client.consumer("t", start="earliest", until="end") as consumer:
            for record in consumer:
                with processing(record), user_tracer().start_as_current_span("inside"):
                    pass
    (order,) = [span for span in spans() if span.name == "order"]
    assert {ids(span)[0] for span in spans()} == {ids(order)[0]}
    sent = [ids(span) for span in spans() if span.name == "send t"]
    processed = [span for span in spans() if span.name == "process t"]
    assert [parent_ids(span) for span in spans() if span.name == "send t"] == [ids(order)] * 3
    assert [parent_ids(span) for span in processed] == [sent[0], sent[1], sent[2], sent[2]]
    assert [parent_ids(span) for span in spans() if span.name == "inside"] == [ids(span) for span in processed]
