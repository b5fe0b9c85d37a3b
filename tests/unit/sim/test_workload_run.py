"""The workload on simulated clusters: sound runs are found sound, and each of its own checks fires when it should."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from logcluster.broker.partition import Partition
from logcluster.broker.produce import ProduceHandler
from logcluster.check.checker import check
from logcluster.check.history import Recorder
from logcluster.check.registry import CheckOptions
from logcluster.client.fetcher import Fetcher
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.record.builder import build_batch
from logcluster.sim.workload import Workload, WorkloadOptions, hostile
from logcluster.sim.workload.consuming import ConsumingActor
from logcluster.sim.workload.garbage import Garbage
from logcluster.sim.workload.options import (
    AdminOptions,
    ConsumerOptions,
    HostileOptions,
    ProducerOptions,
    TopicOptions,
)
from logcluster.sim.world import World
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb

STRICT = TopicOptions(name="strict", partitions=2, config={"segment.ms": "100"})
LAZY = TopicOptions(
    name="lazy", partitions=1, is_durable=False, is_trimmed=True, config={"flush.mode": "async", "retention.ms": "500"}
)
CALM = WorkloadOptions(
    topics=(STRICT,),
    producers=(ProducerOptions(name="producer-0", records_per_s=60),),
    consumers=(ConsumerOptions(name="consumer-0"),),
)
EVERYTHING = replace(
    CALM,
    topics=(STRICT, LAZY),
    producers=(
        ProducerOptions(name="producer-0", compression="zstd", sizes="large", header_probability=0.5),
        ProducerOptions(name="producer-1", acks="leader", idempotent=False, renew_after_sends=20),
        ProducerOptions(name="producer-2", acks="none", idempotent=False, batch_size_bytes=300),
    ),
    consumers=(ConsumerOptions(name="consumer-0", seek_probability=0.3, polls_max=5),),
    admin=AdminOptions(
        name="admin-0",
        interval_ms=60,
        actions={
            "create_topic": 2,
            "delete_topic": 1,
            "create_partitions": 2,
            "alter_topic": 2,
            "delete_records": 3,
            "elect_leaders": 1,
            "list_offsets": 4,
        },
    ),
    hostile=HostileOptions(name="hostile-0", interval_ms=40, repeat_delay_ms_max=200),
)
ONLY_HOSTILE = replace(CALM, producers=(), consumers=(), hostile=HostileOptions(name="hostile-0", interval_ms=20))

Step = Callable[[World, Workload], Awaitable[None]]


def run(options: WorkloadOptions, *, seed: int = 1, duration_ms: int = 1_000, then: Step | None = None) -> Workload:
    """A run without faults but those of `then`, which comes between the work and its end."""
    world = World(seed)
    recorder = Recorder(lambda: int(world.loop.time() * 1e9))
    workload = Workload(world, options, recorder)

    async def main() -> None:
        await world.start()
        await workload.prepare()
        await workload.start()
        await world.sleep_ms(duration_ms)
        if then is not None:
            await then(world, workload)

    world.run(main)
    return workload


async def finish(_world: World, workload: Workload) -> None:
    await workload.stop()
    assert await workload.probe_liveness() == []
    assert await workload.drain() == []


def names(workload: Workload) -> set[str]:
    return {finding.name for finding in workload.findings}


def open_operations(workload: Workload) -> int:
    events = workload.books.recorder.events
    return sum(1 if event.type == "invoke" else -1 for event in events)


def operations(workload: Workload, name: str, outcome: str = "ok") -> list[Any]:
    return [event for event in workload.books.recorder.events if (event.f, event.type) == (name, outcome)]


# -- sound runs ------------------------------------------------------------------------------------------------------


def test_everything_at_once_on_a_sound_cluster_is_found_sound() -> None:
    workload = run(EVERYTHING, duration_ms=2_500, then=finish)
    assert workload.findings == []
    assert open_operations(workload) == 0
    report = check(workload.checked_events(), CheckOptions(drain_required=True))
    assert report.passed, report.render()
    assert report.metrics["drained"]
    assert report.metrics["sends"]["ok"] > 100
    statistics = workload.statistics
    for name in ("create_topic", "create_partitions", "alter_topic", "delete_records", "list_offsets", "seek"):
        assert statistics.get(f"{name}.ok"), f"no {name} in {statistics}"
    assert statistics["garbage.fail"]
    assert statistics["repeat.ok"] or statistics["repeat.fail"]
    acks = {(event.meta["acks"], event.meta["idempotent"]) for event in operations(workload, "send")}
    assert acks == {("all", True), ("all", False), ("leader", False), ("none", False)}
    assert all(event.value[1] is None for event in operations(workload, "send") if event.meta["acks"] == "none")


def test_a_seed_decides_the_history() -> None:
    first, again, other = (run(EVERYTHING, seed=seed, then=finish).books.recorder.events for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_final_clients_read_what_was_written() -> None:
    workload = run(CALM, then=finish)
    drained = [event for event in operations(workload, "poll") if event.meta.get("drain")]
    values = {value for event in drained for records in event.value.values() for _, value in records}
    assert {event.value[2] for event in operations(workload, "send")} <= values
    assert {key for event in drained for key in event.value} == {"strict-0", "strict-1"}


def test_clients_die_and_come_back() -> None:
    killed_at: list[int] = []

    async def kill(world: World, workload: Workload) -> None:
        for name in workload.clients():
            workload.kill_client(name)
        killed_at.append(len(workload.books.recorder.events))
        assert workload.clients() == []
        workload.kill_client("producer-0")  # dead already: nothing happens
        await world.sleep_ms(1_000)
        assert sorted(workload.clients()) == ["client-consumer-0", "client-producer-0"]
        await finish(world, workload)

    workload = run(CALM, then=kill)
    assert open_operations(workload) == 0
    assert workload.statistics["client.killed"] == 2
    events = workload.books.recorder.events
    died = [event for event in events[: killed_at[0]] if event.type == "info"]
    assert {event.error for event in died} == {"the client was killed"}
    assert {"producer-0", "consumer-0"} <= {event.client for event in events[killed_at[0] :]}
    assert not {event.process for event in died} & {event.process for event in events[killed_at[0] :]}
    assert check(events).passed


def test_clients_are_killed_as_often_as_the_options_say() -> None:
    workload = run(replace(CALM, crash_probability=2.0, restart_delay_ms_max=100), duration_ms=2_000, then=finish)
    assert workload.statistics["client.killed"] > 3
    assert "client.killed" not in run(CALM, then=finish).statistics


def test_a_broker_that_dies_loses_nothing() -> None:
    async def crash(world: World, workload: Workload) -> None:
        world.nodes[1].crash(power_loss=True)  # started again by its supervisor
        await world.sleep_ms(800)
        workload.excuse(power_loss=True, disk_damage=False)
        await finish(world, workload)

    workload = run(replace(CALM, crash_probability=0.3), duration_ms=700, then=crash)
    assert workload.findings == []
    report = check(workload.checked_events(), CheckOptions(drain_required=True))
    assert report.passed, report.render()


# -- liveness --------------------------------------------------------------------------------------------------------


def test_a_partition_that_takes_no_write_is_found() -> None:
    async def cripple(world: World, workload: Workload) -> None:
        await workload.stop()
        for node_id in (0, 1):
            world.nodes[node_id].keep_down = True
            world.nodes[node_id].crash()
        findings = await workload.probe_liveness(timeout_ms=3_000)
        assert {finding.detail.split(":")[0] for finding in findings} == {"strict-0", "strict-1"}
        assert {(finding.name, finding.source) for finding in findings} == {("partition-not-writable", "liveness")}
        assert workload.findings == []

    assert open_operations(run(CALM, then=cripple)) == 0


def test_a_partition_that_cannot_be_read_is_found() -> None:
    async def cripple(world: World, workload: Workload) -> None:
        await workload.stop()
        for node in world.nodes.values():
            node.keep_down = True
            node.crash()
        findings = await workload.drain(timeout_ms=3_000)
        assert {(finding.name, finding.source) for finding in findings} == {("partition-not-readable", "liveness")}
        assert len(findings) == 2

    assert open_operations(run(CALM, then=cripple)) == 0


def test_a_drain_that_stays_short_of_what_was_acknowledged_is_found() -> None:
    async def pretend(_world: World, workload: Workload) -> None:
        await workload.stop()
        workload.books.note_acked("strict", 0, 1_000_000)
        (finding,) = await workload.drain(timeout_ms=12_000)
        assert finding.detail.startswith("strict-0: at ")
        assert {"drain-1", "drain-2"} <= {event.client for event in workload.books.recorder.events}

    run(CALM, then=pretend)


def test_what_is_excused_is_not_asked_for() -> None:
    async def lose(world: World, workload: Workload) -> None:
        await workload.stop()
        assert workload.excuse(power_loss=False, disk_damage=False) == []
        assert workload.excuse(power_loss=True, disk_damage=False) == ["lazy"]
        before = len(workload.books.recorder.events)
        await workload.probe_liveness()
        await workload.drain()
        late = workload.books.recorder.events[before:]
        assert {event.value[0] for event in late if event.f == "send"} == {"strict-0", "strict-1"}
        assert not [event for event in workload.checked_events() if event.f == "poll" and "lazy-0" in event.value]

    run(replace(CALM, topics=(STRICT, LAZY)), then=lose)


def test_a_topic_that_is_deleted_while_it_is_probed_is_no_finding() -> None:
    async def delete(world: World, workload: Workload) -> None:
        await workload.stop()
        for node_id in (0, 1):
            world.nodes[node_id].keep_down = True
            world.nodes[node_id].crash()
        world.loop.call_later(1, lambda: setattr(workload.books.topics["strict"], "is_deleted", True))
        assert await workload.probe_liveness(timeout_ms=6_000) == []

    run(CALM, then=delete)


def test_what_hangs_at_the_end_is_in_doubt() -> None:
    async def hang(world: World, workload: Workload) -> None:
        for node in world.nodes.values():
            node.pause()
        await world.sleep_ms(200)
        await workload.stop(timeout_ms=100)

    options = replace(CALM, producers=(ProducerOptions(name="producer-0", delivery_timeout_ms=30_000),))
    workload = run(options, then=hang)
    assert open_operations(workload) == 0
    assert operations(workload, "send", "info")
    assert workload.statistics["client.stuck"] >= 1


# -- bugs in clients -------------------------------------------------------------------------------------------------


def test_a_client_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: ConsumingActor) -> list[Any]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(ConsumingActor, "_choose_keys", fail)
    workload = run(CALM)
    assert [(finding.name, finding.source) for finding in workload.findings] == [("client-failed", "crash")]
    assert "planted" in workload.findings[0].detail


def test_a_background_task_of_the_client_library_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Fetcher, "_answered", fail)
    # Noticed in the task, and by whoever reads.
    found = names(run(replace(CALM, consumers=(ConsumerOptions(name="consumer-0", polls_max=2),))))
    assert found == {"client-failed", "internal-error"}


# -- the hostile client ----------------------------------------------------------------------------------------------


def test_a_sound_broker_withstands_the_hostile_client() -> None:
    workload = run(ONLY_HOSTILE, duration_ms=2_000, then=finish)
    assert workload.findings == []
    assert check(workload.checked_events(), CheckOptions(drain_required=True)).passed
    statistics = workload.statistics
    assert statistics["repeat.ok"] and statistics["send.ok"] and statistics["send.fail"] and statistics["garbage.fail"]


def test_a_repetition_that_is_appended_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProducerStates, "check_append", lambda *_args: None)
    workload = run(ONLY_HOSTILE, duration_ms=2_000, then=finish)
    assert names(workload) == {"repeat-appended"}
    assert "duplicate" in check(workload.checked_events()).names


def test_a_leader_that_believes_in_future_epochs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    require_leader = Partition.require_leader
    monkeypatch.setattr(Partition, "require_leader", lambda self, _epoch=None: require_leader(self))
    options = replace(ONLY_HOSTILE, hostile=HostileOptions(name="hostile-0", interval_ms=20, stale_probability=1.0))
    assert names(run(options)) == {"future-epoch-accepted"}


def test_garbage_that_is_accepted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def sound(_rng: object, topic: str, partition: int, value: bytes) -> Garbage:
        request = pb.ProduceRequest(acks=pb.ACKS_ALL, timeout_ms=500)
        request.partitions.add(topic=topic, partition=partition, batch=build_batch([(1, None, value, [])]))
        return Garbage("sound", request)

    monkeypatch.setattr(hostile, "make_garbage", sound)
    workload = run(ONLY_HOSTILE, then=finish)
    assert names(workload) == {"garbage-accepted"}
    assert "phantom" in check(workload.checked_events()).names


def test_a_broker_that_fails_over_a_request_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(ProduceHandler, "_append", fail)
    assert names(run(ONLY_HOSTILE)) == {"garbage-broke-server", "internal-error"}
