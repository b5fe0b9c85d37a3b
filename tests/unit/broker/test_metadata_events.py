"""What the active controller tells of committed entries, and what brokers tell of the roles that follow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from test_controller_driver import World, settle
from test_partition_rim import SETTINGS, TOPIC_ID, make_partition, registration

from logcluster.broker.metadata_events import Commit, tell
from logcluster.broker.partition import Partition
from logcluster.broker.role_events import RoleEvents, tell_directory_failed
from logcluster.core.controller.requests import CreateTopics, NewTopic
from logcluster.core.metadata.image import EMPTY, MetadataImage
from logcluster.core.metadata.records import (
    BrokerChangeRecord,
    MetadataRecord,
    PartitionChangeRecord,
    PartitionRecord,
    RegisterBrokerRecord,
    TopicRecord,
)
from logcluster.model.errors import StorageFailure
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.event_log import FEW, Event


class Told:
    """Events that were told since the last look."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def look(self, level: int = logging.INFO) -> list[tuple[str, dict[str, Any]]]:
        found = [
            (record.msg.name, record.msg.fields)
            for record in self._caplog.records
            if isinstance(record.msg, Event) and record.levelno >= level
        ]
        self._caplog.clear()
        return found

    def names(self, level: int = logging.INFO) -> list[str]:
        return [name for name, _ in self.look(level)]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    caplog.set_level(logging.DEBUG, logger="logcluster")
    return Told(caplog)


def cluster(partitions: int) -> MetadataImage:
    """Three active brokers, and a topic that broker 0 leads."""
    records: list[MetadataRecord] = [
        RegisterBrokerRecord(
            broker_id=broker_id, broker_epoch=10 + broker_id, incarnation_id=b"i", directory_id=b"d", host="h",
            grpc_port=1, lane_port=2, http_port=3, fenced=False,
        )
        for broker_id in range(3)
    ]  # fmt: skip
    records.append(TopicRecord(name="orders", topic_id=TOPIC_ID))
    records += [
        PartitionRecord(topic_id=TOPIC_ID, partition=index, replicas=(0, 1, 2), in_sync_replicas=(0, 1, 2), leader_id=0)
        for index in range(partitions)
    ]
    image, _ = EMPTY.apply(records, offset=1, term=1)
    return image


def moved(index: int, *, leader_id: int | None = 1, recovering: bool = False) -> PartitionChangeRecord:
    return PartitionChangeRecord(
        topic_id=TOPIC_ID, partition=index, in_sync_replicas=() if leader_id is None else (leader_id,),
        eligible_leader_replicas=(), last_known_leaders=(), leader_id=leader_id, leader_epoch=1, partition_epoch=1,
        recovering=recovering, reason="broker 0 fenced: silent for 1500 ms",
    )  # fmt: skip


def commit(image: MetadataImage, records: Sequence[MetadataRecord]) -> MetadataImage:
    after, delta = image.apply(records, offset=2, term=1)
    tell(image, after, delta, Commit(tuple(records), "silent for 1500 ms", 7))
    return after


FENCE = BrokerChangeRecord(broker_id=0, broker_epoch=10, fenced=True)


def test_a_failover_is_told_with_its_reason_and_each_partition(told: Told) -> None:
    commit(cluster(2), [FENCE, moved(0), moved(1)])
    fenced, sums, *elected = told.look()
    assert fenced == ("broker_fenced", {"broker_id": 0, "broker_epoch": 10, "reason": "silent for 1500 ms"})
    assert sums[0] == "leaders_elected"
    assert sums[1] == {
        "partitions": 2, "without_leader": 0, "reason": "broker 0 fenced: silent for 1500 ms", "duration_ms": 7,
    }  # fmt: skip
    assert [name for name, _ in elected] == ["leader_elected"] * 2
    assert elected[0][1] == {
        "partition": "orders-0", "leader_id": 1, "leader_epoch": 1, "in_sync_replicas": (1,), "previous_leader_id": 0,
        "reason": "broker 0 fenced: silent for 1500 ms",
    }  # fmt: skip


def test_a_failover_of_thousands_is_two_lines(told: Told) -> None:
    commit(cluster(3_000), [FENCE, *(moved(index) for index in range(3_000))])
    assert told.names() == ["broker_fenced", "leaders_elected"]
    commit(cluster(FEW + 1), [FENCE, *(moved(index) for index in range(FEW + 1))])
    assert told.names(logging.DEBUG).count("leader_elected") == FEW + 1


def test_a_warning_names_partitions_that_nobody_can_lead(told: Told) -> None:
    commit(cluster(30), [FENCE, *(moved(index, leader_id=None) for index in range(30))])
    _, sums, warning = told.look()
    assert sums[1]["without_leader"] == 30
    assert warning[0] == "partitions_without_leader"
    assert warning[1]["partitions"] == 30
    assert warning[1]["first"] == [f"orders-{index}" for index in range(10)]


def test_an_unclean_election_is_a_warning_however_many_there_are(told: Told) -> None:
    commit(cluster(30), [moved(0, recovering=True), *(moved(index) for index in range(1, 30))])
    assert told.look(logging.WARNING) == [
        ("leader_elected_uncleanly", {
            "partition": "orders-0", "leader_id": 1, "leader_epoch": 1, "in_sync_replicas": (1,),
            "previous_leader_id": 0, "reason": "broker 0 fenced: silent for 1500 ms",
        })
    ]  # fmt: skip


def test_an_in_sync_change_alone_is_no_election(told: Told) -> None:
    change = PartitionChangeRecord(
        topic_id=TOPIC_ID, partition=0, in_sync_replicas=(0, 1), eligible_leader_replicas=(), last_known_leaders=(),
        leader_id=0, leader_epoch=0, partition_epoch=1, recovering=False,
    )  # fmt: skip
    commit(cluster(1), [change])
    assert told.names(logging.DEBUG) == []


def test_who_asked_to_leave_is_not_told_as_a_failure(told: Told) -> None:
    image = commit(cluster(1), [BrokerChangeRecord(broker_id=0, broker_epoch=10, in_controlled_shutdown=True)])
    assert told.names() == ["broker_shutting_down"]
    image = commit(image, [FENCE])
    assert told.names() == ["broker_left"]
    commit(image, [BrokerChangeRecord(broker_id=0, broker_epoch=10, fenced=False, draining=True)])
    assert told.names() == ["broker_unfenced", "broker_drain_changed"]


async def test_nothing_is_told_before_it_is_committed(told: Told) -> None:
    world = World()
    world.quorum.lead()
    feed = world.join()
    world.driver.submit_nowait(CreateTopics(topics=(NewTopic(name="t", replication_factor=1),)))
    world.quorum.commit()
    assert told.names() == [
        "controller_elected", "broker_registered", "broker_session_opened", "broker_unfenced", "topic_created",
    ]  # fmt: skip
    async with world.driver:
        world.driver.heartbeat(feed, world.beat(1, feed.broker_epoch, log_directory_failed=True))
        await settle()
        assert told.names(logging.DEBUG) == []
        world.clock.ms += 12
        world.quorum.commit()
        fenced, sums, *_ = told.look()
        assert fenced[0] == "broker_fenced"
        assert fenced[1]["reason"] == "its log directory failed"
        assert (sums[1]["without_leader"], sums[1]["duration_ms"]) == (1, 12)
        world.register(2)
        world.quorum.lose()
        assert told.look() == [("controller_deposed", {"term": 1, "requests_in_doubt": 1})]
        world.quorum.truncate()


async def test_a_broker_that_lapsed_is_fenced_with_the_time_it_was_silent(told: Told) -> None:
    world = World()
    world.quorum.lead()
    async with world.driver:
        feed = world.join()
        world.driver.close_session(feed)
        await settle()
        told.look()
        await world.clock.advance(2_000)
        assert told.names() == []
        world.quorum.commit()
        (name, facts), *_ = told.look()
        assert (name, facts["broker_id"]) == ("broker_fenced", 1)
        assert facts["reason"] == "silent for 2000 ms"


# -- what a broker tells ---------------------------------------------------------------------------------------------


def leading(*in_sync: int) -> Partition:
    partition, _ = make_partition()
    partition.lead(registration(in_sync=in_sync), SETTINGS)
    return partition


def metadata(*, in_sync: tuple[int, ...], fenced: tuple[int, ...] = ()) -> MetadataImage:
    """Brokers 1 and 2, and the partition that broker 1 leads."""
    records: list[MetadataRecord] = [
        RegisterBrokerRecord(
            broker_id=broker_id, broker_epoch=10, incarnation_id=b"i", directory_id=b"d", host="h", grpc_port=1,
            lane_port=2, http_port=3, fenced=broker_id in fenced,
        )
        for broker_id in (1, 2)
    ]  # fmt: skip
    records.append(TopicRecord(name="orders", topic_id=TOPIC_ID))
    records.append(
        PartitionRecord(topic_id=TOPIC_ID, partition=0, replicas=(1, 2, 3), in_sync_replicas=in_sync, leader_id=1)
    )
    return EMPTY.apply(records, offset=1, term=1)[0]


def test_a_new_leader_tells_where_it_begins_and_whom_it_lost(told: Told) -> None:
    roles, partition = RoleEvents(SystemClock()), leading(1)
    with roles.batch(metadata(in_sync=(1, 2, 3)), metadata(in_sync=(1,), fenced=(2,)), 1):
        roles.led(partition)
    (led, led_facts), (shrunk, shrunk_facts) = told.look()
    assert (led, shrunk) == ("partition_led", "in_sync_shrunk")
    assert led_facts["start_offset"] == led_facts["high_watermark"] == 0
    assert shrunk_facts["removed"] == [2, 3]
    assert shrunk_facts["reason"] == "fenced, unregistered"


def test_a_leader_that_goes_on_tells_what_has_changed_and_only_that(told: Told) -> None:
    roles, partition = RoleEvents(SystemClock()), leading(1, 2)
    before, after = metadata(in_sync=(1,)), metadata(in_sync=(1, 2))
    with roles.batch(before, after, 1):
        roles.led_on(partition, (1, 2))
        assert told.names(logging.DEBUG) == []
        roles.led_on(partition, (1,))
        ((name, facts),) = told.look()
    assert (name, facts["added"], facts["in_sync_replicas"]) == ("in_sync_expanded", [2], (1, 2))
    with roles.batch(after, before, 1):
        roles.led_on(leading(1), (1, 2))
    ((name, facts),) = told.look()
    assert (name, facts["removed"], facts["reason"]) == ("in_sync_shrunk", [2], "lagging")


def test_many_roles_at_once_are_one_line_with_their_sums(told: Told) -> None:
    roles, partition = RoleEvents(SystemClock()), leading(1)
    with roles.batch(metadata(in_sync=(1, 2, 3)), metadata(in_sync=(1,)), FEW + 1):
        for _ in range(3):
            roles.led(partition)
        roles.without_leader(partition, 4)
    ((name, facts),) = told.look()
    assert name == "roles_taken"
    assert {key: facts[key] for key in ("led", "followed", "without_leader", "in_sync_changed")} == {
        "led": 3, "followed": 0, "without_leader": 1, "in_sync_changed": 3,
    }  # fmt: skip
    roles.without_leader(partition, 5)
    assert told.names() == ["partition_without_leader"], "one by itself, after the batch"


@pytest.mark.parametrize(("number", "reason"), [(28, "disk full"), (122, "disk full"), (5, "disk failed")])
def test_a_full_disk_is_told_from_a_broken_one(told: Told, number: int, reason: str) -> None:
    tell_directory_failed("/data", StorageFailure("/data/x: no", hint="free space", path="/data/x", errno=number))
    ((name, facts),) = told.look(logging.ERROR)
    assert (name, facts["path"], facts["reason"], facts["hint"]) == (
        "log_directory_failed", "/data", reason, "free space",
    )  # fmt: skip
