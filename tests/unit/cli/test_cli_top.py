"""`logcluster top`: made-up looks, compared; what is said about them; metrics read back; looks that fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from logcluster.cli.app import app
from logcluster.cli.command import OutputFormat, Settings
from logcluster.cli.top import watch
from logcluster.cli.top_look import Looker, end_offsets_of, fetch_text
from logcluster.cli.top_metrics import Metrics, parse_metrics
from logcluster.cli.top_text import bytes_text, print_view, problems_of, view_json
from logcluster.cli.top_view import BrokerLook, EndOffset, GroupLook, Look, View, compare_looks
from logcluster.client.group_descriptions import GroupListing
from logcluster.client.lag import PartitionLag
from logcluster.client.metadata_cache import BrokerFacts, PartitionFacts, TopicFacts
from logcluster.model.errors import BrokerNotAvailable
from logcluster.model.ids import TopicPartition

ORDERS = TopicPartition("orders", 0)


def exposition(produced: int = 0, *, start: float = 1000, end: int = 0, loop: int = 10, free: float = 50e9) -> str:
    """What a broker might say at /metrics; `produced` calls of 100 bytes each, also appended."""
    return "\n".join([
        "# HELP logcluster_broker_requests_total Requests by outcome.",
        "# TYPE logcluster_broker_requests_total counter",
        f'logcluster_broker_requests_total{{api="Produce",code="OK",transport="lane"}} {produced}.0',
        'logcluster_broker_requests_total{api="Produce",code="OK",transport="grpc"} 5.0',
        "# TYPE logcluster_broker_response_bytes_total counter",
        f'logcluster_broker_request_bytes_total{{api="Produce",transport="lane"}} {produced * 100}.0',
        f'logcluster_event_loop_lag_seconds_bucket{{le="0.001"}} {loop - 1}',
        f'logcluster_event_loop_lag_seconds_bucket{{le="1.0"}} {loop}',
        f'logcluster_event_loop_lag_seconds_bucket{{le="+Inf"}} {loop}',
        f"logcluster_event_loop_lag_seconds_count {loop}",
        f"logcluster_event_loop_lag_seconds_sum {loop * 0.01}",
        f'logcluster_partition_log_end_offset{{partition="0",topic="orders"}} {end}',
        f'logcluster_partition_appended_bytes_total{{partition="0",topic="orders"}} {produced * 100}',
        f"logcluster_log_directory_free_bytes {free}",
        "logcluster_log_directory_disk_bytes 1e11",
        "logcluster_log_directory_failed 0",
        "logcluster_log_replicas_failed 0",
        "logcluster_partitions_under_min_in_sync 0",
        f"process_cpu_seconds_total {produced / 100}",
        "process_resident_memory_bytes 8e7",
        f"process_start_time_seconds {start}",
    ])  # fmt: skip


def broker(broker_id: int, at_ms: int, text: str | None = None, *, state: str = "active") -> BrokerLook:
    facts = BrokerFacts(
        broker_id=broker_id, host="127.0.0.1", grpc_port=7070, lane_port=7071, http_port=7072, state=state
    )
    if text is None:
        return BrokerLook(facts=facts, at_ms=at_ms, is_reachable=False, error="no metrics: no answer in time")
    return BrokerLook(facts=facts, at_ms=at_ms, metrics=parse_metrics(text))


def topic(
    name: str = "orders", *, leader: int | None = 1, topic_id: bytes = b"1", in_sync: tuple[int, ...] = (1, 2)
) -> TopicFacts:
    partition = PartitionFacts(partition=0, leader_id=leader, leader_epoch=1, replicas=(1, 2), in_sync_replicas=in_sync)
    return TopicFacts(name=name, topic_id=topic_id, partitions=(partition,))


def look(at_ms: int, *brokers: BrokerLook, topics: tuple[TopicFacts, ...] = (topic(),), **others: Any) -> Look:
    by_id = {found.facts.broker_id: found for found in brokers}
    by_name = {facts.name: facts for facts in topics}
    others = {"controller_id": 1, "end_offsets": end_offsets_of(by_name, by_id), **others}
    return Look(at_ms=at_ms, time_ms=1_700_000_000_000 + at_ms, cluster_id="c", brokers=by_id, topics=by_name, **others)


def both(first: str, second: str) -> View:
    """Broker 1 at 0 s and at 2 s; broker 2 does nothing."""
    quiet = exposition()
    return compare_looks(
        look(0, broker(1, 0, first), broker(2, 0, quiet)), look(2000, broker(1, 2000, second), broker(2, 2000, quiet))
    )


def test_rates_are_differences_over_the_time_between() -> None:
    view = both(exposition(produced=10, end=100), exposition(produced=50, end=500, loop=20))

    first, second = view.brokers
    assert (first.produce_per_second, first.in_bytes_per_second, first.cpu_percent) == (20, 2000, 20)
    assert (first.leaders, first.replicas, first.is_controller) == (1, 1, True)
    assert first.memory_bytes == 80_000_000
    assert first.event_loop_lag_ms == pytest.approx(10)
    assert first.event_loop_lag_max_ms == 1, "the ten new ones were all at most 1 ms late"
    assert (second.produce_per_second, second.leaders, second.is_controller) == (0, 0, False)
    assert second.event_loop_lag_ms is None, "no timer ran in between"
    (orders,) = view.topics
    assert (orders.records_per_second, orders.bytes_per_second, orders.unknown_partitions) == (200, 2000, 0)
    assert problems_of(view) == []


def test_a_label_that_never_occurred_is_zero_and_a_metric_that_is_not_there_is_unknown() -> None:
    (first, _) = both(exposition(), exposition()).brokers

    assert first.fetch_per_second == 0
    assert first.out_bytes_per_second == 0, "declared, without a series"
    switched_off = exposition().replace("broker_requests_total", "something_else_total")
    assert both(switched_off, switched_off).brokers[0].fetch_per_second is None


def test_a_restart_gives_no_rates_but_for_what_outlives_it() -> None:
    view = both(exposition(produced=1000, end=1000), exposition(produced=2, end=1100, start=5000.0))

    row = view.brokers[0]
    assert row.restarted
    assert (row.produce_per_second, row.in_bytes_per_second, row.event_loop_lag_ms) == (None, None, None)
    assert row.memory_bytes is not None
    assert view.topics[0].records_per_second == 50, "offsets go on after a restart"
    assert view.topics[0].bytes_per_second is None


def test_a_counter_that_went_back_without_a_restart_has_no_rate() -> None:
    view = both(exposition(produced=1000, end=1000), exposition(produced=2, end=10))

    assert view.brokers[0].produce_per_second is None
    assert (view.topics[0].records_per_second, view.topics[0].unknown_partitions) == (None, 1)


def test_two_looks_at_the_same_time_divide_by_nothing() -> None:
    same = look(0, broker(1, 0, exposition(produced=10)), broker(2, 0, exposition()))

    view = compare_looks(same, same)

    assert (view.seconds, view.brokers[0].produce_per_second, view.topics[0].records_per_second) == (0, None, None)
    json.dumps(view_json(view, rows_max=10), allow_nan=False)


def test_a_broker_that_does_not_answer_is_a_row_without_figures() -> None:
    before = look(0, broker(1, 0, exposition(end=0)), broker(2, 0, exposition()))
    silent = broker(2, 1000, state="fenced")
    after = look(1000, broker(1, 1000, exposition(end=30)), silent, topics=(topic(in_sync=(1,)),))

    view = compare_looks(before, after)

    gone = view.brokers[1]
    assert (gone.broker_id, gone.state, gone.reachable, gone.restarted) == (2, "fenced", False, False)
    assert (gone.replicas, gone.memory_bytes, gone.produce_per_second) == (1, None, None)
    assert view.topics[0].records_per_second == 30
    assert problems_of(view) == ["broker 2 is fenced and does not answer", "1 partition under-replicated"]


def test_a_broker_that_comes_back_and_one_that_left_the_cluster() -> None:
    after = look(1000, broker(1, 1000, exposition(produced=5)), broker(3, 1000, exposition()))

    view = compare_looks(look(0, broker(1, 0), broker(2, 0, exposition())), after)

    assert [(row.broker_id, row.produce_per_second) for row in view.brokers] == [(1, None), (3, None)]


def test_a_new_topic_is_counted_from_zero_also_when_it_has_an_old_name() -> None:
    quiet = broker(2, 0, exposition())
    before = look(0, broker(1, 0, exposition(end=900)), quiet, topics=())
    after = look(2000, broker(1, 2000, exposition(produced=10, end=40)), quiet)

    (row,) = compare_looks(before, after).topics
    assert (row.records_per_second, row.bytes_per_second) == (20, 500)

    recreated = replace(before, topics={"orders": topic(topic_id=b"0")}, end_offsets={ORDERS: EndOffset(900, 0)})
    assert compare_looks(recreated, after).topics[0].records_per_second == 20


def test_another_leader_keeps_the_rate_of_records_only() -> None:
    before = look(0, broker(1, 0, exposition(end=100)), broker(2, 0, exposition(end=90)))
    after = look(1000, broker(1, 1000), broker(2, 1000, exposition(end=150)), topics=(topic(leader=2),))

    (row,) = compare_looks(before, after).topics
    assert (row.records_per_second, row.bytes_per_second) == (50, None)


def test_an_offline_partition_and_a_cluster_without_controller_are_said_first() -> None:
    offline = look(0, broker(1, 0), broker(2, 0), topics=(topic(leader=None),), controller_id=None)

    view = compare_looks(offline, offline)

    assert view.partitions.offline == 1
    assert view.partitions.under_min_in_sync is None
    problems = problems_of(view)
    assert problems[0] == "no active controller"
    assert "1 partition offline" in problems


def test_disk_logs_and_event_loop_are_watched() -> None:
    slow = exposition(loop=20, free=5e9).replace('le="0.001"} 19', 'le="0.001"} 9')
    bad = slow.replace("failed 0", "failed 2").replace("under_min_in_sync 0", "under_min_in_sync 1")

    problems = " | ".join(problems_of(both(exposition(), bad)))

    for text in (
        "log directory has failed",
        "2 replicas is damaged",
        "5.0 GB left",
        "stood still",
        "1 partition under",
    ):
        assert text in problems


def lag(committed: int, end: int) -> PartitionLag:
    return PartitionLag(
        topic="orders", partition=0, committed=committed, log_start_offset=0, end_offset=end, records=end - committed,
        seconds=1.0,
    )  # fmt: skip


def group(name: str, at_ms: int, *lags: PartitionLag) -> GroupLook:
    return GroupLook(group=name, state="stable", member_count=1, at_ms=at_ms, lags=lags or None)


def test_groups_are_ordered_by_lag_and_have_a_trend_from_the_second_look_on() -> None:
    before = look(0, groups=(group("old", 0, lag(0, 50)), group("silent", 0)))
    after = look(1000, groups=(group("new", 1000, lag(0, 5)), group("old", 1000, lag(10, 100)), group("silent", 1000)))

    found = {row.group: row for row in compare_looks(before, after).groups}

    assert list(found) == ["old", "new", "silent"]
    assert (found["old"].total.records, found["old"].trend.direction) == (90, "growing")
    assert (found["old"].trend.produced_per_second, found["old"].trend.consumed_per_second) == (50, 10)
    assert (found["new"].total.records, found["new"].trend.direction) == (5, "unknown")
    assert found["silent"].total.records is None


def test_text_and_json_show_the_same_and_no_more_rows_than_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = broker(2, 1000, state="fenced")
    topics = (topic(), topic("audit", leader=2))
    view = compare_looks(
        look(0, broker(1, 0, exposition()), quiet, topics=topics),
        look(1000, broker(1, 1000, exposition(produced=30, end=40)), quiet, topics=topics, groups_error="no list"),
    )

    print_view(view, rows_max=1)
    shown = capsys.readouterr().out

    assert "broker 2 is fenced and does not answer" in shown.splitlines()[0]
    for text in ("fenced, unreachable", "orders", "and 1 more topic", "no groups", "not up to date: no list"):
        assert text in shown
    assert [bytes_text(size) for size in (None, 0, 999.6, 3e15)] == ["-", "0 B", "1.0 kB", "3000.0 TB"]
    document: dict[str, Any] = view_json(view, rows_max=1)
    assert ([row["topic"] for row in document["topics"]], document["healthy"]) == (["orders"], False)


def test_metrics_are_read_with_escapes_and_without_what_is_broken() -> None:
    found = parse_metrics(
        'logcluster_partition_log_end_offset{partition="3",topic="a\\"b\\\\c"} 7.0 1700000000000\n'
        "logcluster_log_directory_free_bytes NaN\n"
        "process_resident_memory_bytes\nprocess_cpu_seconds_total much\nother_metric 1\n"
    )

    assert found.partition("logcluster_partition_log_end_offset", 'a"b\\c', 3) == 7
    assert list(found.series) == ["logcluster_partition_log_end_offset"]
    assert Metrics().total("process_cpu_seconds_total") is None


@asynccontextmanager
async def served(answer: bytes | None) -> AsyncIterator[int]:
    """The port of something that gives one answer to all, or (None) keeps silent."""
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is None:
            await release.wait()
        writer.write(answer or b"")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        release.set()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 Not Found\r\n\r\n", b""])
async def test_an_answer_that_is_not_good_is_refused(answer: bytes) -> None:
    async with served(answer) as port:
        with pytest.raises(OSError, match="it answered"):
            await fetch_text("127.0.0.1", port, "/metrics")


class FakeClock:
    """Stands still while nobody sleeps; counts the looks down."""

    def __init__(self, rounds: int = 10) -> None:
        self.at_ms = 0
        self.rounds = rounds

    def now_ms(self) -> int:
        return 1_700_000_000_000 + self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms

    async def sleep_ms(self, delay_ms: int) -> None:
        if self.rounds == 0:
            raise KeyboardInterrupt
        self.rounds -= 1
        self.at_ms += delay_ms


class FakeCluster:
    """Stands in for a client, its administration and that of groups."""

    def __init__(self, *brokers: BrokerFacts) -> None:
        self.brokers, self.cluster_id, self.controller_id = brokers, "c", 1
        self.list_error: Exception | None = None
        self.admin = self.groups = self

    async def describe_cluster(self) -> Any:
        return self

    async def list_topics(self, *, include_internal: bool) -> Any:
        return {"orders": topic()} if include_internal else {}

    async def node_status(self, broker_id: int) -> Any:
        raise BrokerNotAvailable(f"no answer from {broker_id}")

    async def list_offsets(self, name: str) -> Any:
        return [77]

    async def list(self) -> Any:
        if self.list_error is not None:
            raise self.list_error
        return [GroupListing(group="billing", state="stable", member_count=1, group_epoch=1, coordinator_id=1)]

    async def lag(self, name: str) -> Any:
        return [lag(1, 4)]


async def test_a_look_waits_for_a_silent_broker_no_longer_than_its_time_and_takes_the_rest() -> None:
    text = exposition().replace("logcluster_partition_log_end_offset", "left_out")
    async with served(b"HTTP/1.1 200 OK\r\n\r\n" + text.encode()) as good, served(None) as silent:
        cluster: Any = FakeCluster(
            *(
                BrokerFacts(broker_id=number, host="127.0.0.1", grpc_port=1, lane_port=2, http_port=port)
                for number, port in ((1, good), (2, silent), (3, silent))
            )
        )
        looker = Looker(cluster, FakeClock(), timeout_ms=100)
        async with asyncio.timeout(5):
            seen = await looker.look()
            cluster.list_error = BrokerNotAvailable("broker 2 is silent")
            again = await looker.look()

    assert [found.is_reachable for found in seen.brokers.values()] == [True, False, False]
    assert seen.brokers[2].error is not None
    assert "no answer in time" in seen.brokers[2].error
    assert seen.end_offsets[ORDERS].offset == 77, "asked for, because the metrics leave it out"
    assert [found.group for found in seen.groups] == ["billing"]
    assert again.groups_error == "broker 2 is silent"
    assert [found.group for found in again.groups] == ["billing"], "the groups that were known are still looked at"


class FakeLooker:
    """Gives looks that were made up, and fails at one of them."""

    def __init__(self, clock: FakeClock, *, fails_at: int = -1) -> None:
        self._clock, self._fails_at, self._count = clock, fails_at, 0

    async def look(self) -> Look:
        self._count += 1
        if self._count == self._fails_at:
            raise BrokerNotAvailable("nobody is there")
        now_ms = self._clock.monotonic_ms()
        return look(now_ms, broker(1, now_ms, exposition(produced=self._count)), broker(2, now_ms, exposition()))


async def test_watching_goes_on_after_a_look_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock(rounds=3)
    looker: Any = FakeLooker(clock, fails_at=3)

    with pytest.raises(KeyboardInterrupt):
        await watch(Settings(output=OutputFormat.JSON), looker, clock, interval_ms=4000, rows_max=10)

    first, failed, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["seconds"], first["healthy"]) == (1, True), "the first figures come soon"
    assert (failed["healthy"], failed["problems"]) == (False, ["the cluster does not answer: nobody is there"])
    assert last["seconds"] == 8, "compared with the last look that succeeded"
    assert last["brokers"][0]["produce_per_second"] == pytest.approx(2 / 8)

    clock.rounds = 2
    with pytest.raises(KeyboardInterrupt):
        await watch(Settings(), looker, clock, interval_ms=2000, rows_max=10)
    shown = capsys.readouterr().out
    assert shown.count("all is well") == 2, "without a terminal every look is a block of text"
    assert "\x1b" not in shown


def test_an_interval_that_is_too_short_is_misuse() -> None:
    assert CliRunner().invoke(app, ["top", "--interval", "1ms"]).exit_code == 2
