"""Images: what records mean, what a delta says, snapshots, and what is refused."""

from __future__ import annotations

import pytest

from logcluster.core.metadata.image import EMPTY
from logcluster.core.metadata.records import (
    BrokerChangeRecord,
    ClusterRecord,
    ConfigRecord,
    NoOpRecord,
    PartitionChangeRecord,
    PartitionRecord,
    ProducerIdsRecord,
    RegisterBrokerRecord,
    RemoveTopicRecord,
    TopicRecord,
    UnregisterBrokerRecord,
)
from logcluster.model.errors import CorruptLog, UnsupportedVersion
from logcluster.model.ids import TopicId
from logcluster.model.invariants import InvariantViolation
from logcluster.wire.gen.logcluster.internal.v1 import records_pb2
from logcluster.wire.records import decode_batch, decode_snapshot, encode_batch, encode_snapshot

TOPIC = TopicId(b"t" * 16)
OTHER = TopicId(b"u" * 16)


def broker(broker_id=1, epoch=1, **changes):
    fields = {
        "incarnation_id": b"i",
        "directory_id": b"d",
        "host": "h",
        "grpc_port": 1,
        "lane_port": 2,
        "http_port": 3,
        "rack": "r",
        "fenced": True,
        **changes,
    }
    return RegisterBrokerRecord(broker_id=broker_id, broker_epoch=epoch, **fields)


def partition(index=0, topic_id=TOPIC, **changes):
    fields = {"replicas": (1, 2), "in_sync_replicas": (1, 2), "leader_id": 1, **changes}
    return PartitionRecord(topic_id=topic_id, partition=index, **fields)


def change(**changes):
    fields = {
        "topic_id": TOPIC,
        "partition": 0,
        "in_sync_replicas": (1,),
        "eligible_leader_replicas": (2,),
        "last_known_leaders": (),
        "leader_id": 1,
        "leader_epoch": 0,
        "partition_epoch": 1,
        "recovering": False,
        "reason": "test",
        **changes,
    }
    return PartitionChangeRecord(**fields)


ALL = (
    ClusterRecord(cluster_id="c"),
    broker(),
    broker(2, 2, fenced=False),
    BrokerChangeRecord(broker_id=2, broker_epoch=2, in_controlled_shutdown=True, draining=True),
    TopicRecord(name="t", topic_id=TOPIC),
    partition(0),
    partition(1, leader_id=None, in_sync_replicas=(), last_known_leaders=(2,), leader_epoch=4, partition_epoch=9),
    change(),
    ConfigRecord(topic="t", key="retention.ms", value="5"),
    ProducerIdsRecord(broker_id=1, broker_epoch=1, next_producer_id=3000),
    NoOpRecord(),
)


def image_of(*records, base=EMPTY, offset=1):
    image, _ = base.apply(records, offset=offset, term=1)
    return image


def test_every_kind_of_record_survives_the_wire():
    more = (
        RemoveTopicRecord(topic_id=TOPIC),
        UnregisterBrokerRecord(broker_id=1, broker_epoch=1),
        ConfigRecord(topic="t", key="k", value=None),
        ConfigRecord(topic="t", key="k", value=""),
        BrokerChangeRecord(broker_id=1, broker_epoch=1, fenced=False),
        change(leader_id=None),
        change(leader_id=0),
    )
    assert decode_batch(encode_batch((*ALL, *more))) == (*ALL, *more)


def test_a_snapshot_gives_the_same_image():
    image = image_of(*ALL)
    image = image_of(TopicRecord(name="u", topic_id=OTHER), RemoveTopicRecord(topic_id=OTHER), base=image, offset=2)
    image.check()
    assert decode_snapshot(encode_snapshot(image), offset=2, term=1) == image
    assert list(image.deleted_topic_ids) == [OTHER]


def test_an_older_image_is_not_changed_by_the_next():
    before = image_of(*ALL)
    copy = image_of(*ALL)
    image_of(change(partition_epoch=2, in_sync_replicas=(1, 2)), RemoveTopicRecord(topic_id=TOPIC), base=before)
    assert before == copy


def test_a_delta_names_what_changed():
    base = image_of(*ALL)
    _, delta = base.apply([change(partition_epoch=2), broker(1, 7)], offset=2, term=1)
    assert [part.partition_epoch for part in delta.changed_partitions] == [2]
    assert delta.changed_broker_ids == (1,)
    assert (delta.created_topics, delta.removed_topics, delta.config_changed_topic_ids) == ((), (), ())
    _, delta = base.apply(
        [TopicRecord(name="u", topic_id=OTHER), partition(0, OTHER), ConfigRecord(topic="t", key="k", value="v")],
        offset=2,
        term=1,
    )
    assert [topic.name for topic in delta.created_topics] == ["u"]
    assert [part.topic_id for part in delta.changed_partitions] == [OTHER]
    assert delta.config_changed_topic_ids == (TOPIC,)
    _, delta = base.apply([RemoveTopicRecord(topic_id=TOPIC)], offset=2, term=1)
    assert [topic.name for topic in delta.removed_topics] == ["t"]
    assert len(delta.removed_topics[0].partitions) == 2


def test_the_delta_to_a_snapshot_removes_only_what_a_committed_deletion_removed():
    base = image_of(TopicRecord(name="t", topic_id=TOPIC), TopicRecord(name="u", topic_id=OTHER))
    gone = image_of(offset=5)
    assert gone.delta_since(base).removed_topics == ()
    deleted = image_of(RemoveTopicRecord(topic_id=TOPIC), base=base, offset=5)
    delta = deleted.delta_since(base)
    assert [topic.name for topic in delta.removed_topics] == ["t"]
    assert deleted.delta_since(EMPTY).created_topics == (deleted.topics[OTHER],)


def test_the_delta_to_a_snapshot_is_the_sum_of_the_deltas_between():
    base = image_of(*ALL)
    later = image_of(
        change(partition_epoch=2),
        ConfigRecord(topic="t", key="retention.ms", value=None),
        UnregisterBrokerRecord(broker_id=1, broker_epoch=1),
        base=base,
        offset=9,
    )
    delta = later.delta_since(base)
    assert [part.partition for part in delta.changed_partitions] == [0]
    assert delta.config_changed_topic_ids == (TOPIC,)
    assert delta.changed_broker_ids == (1,)


def test_a_topic_recreated_in_one_batch_gets_its_new_id():
    base = image_of(TopicRecord(name="t", topic_id=TOPIC), partition())
    image, delta = base.apply(
        [RemoveTopicRecord(topic_id=TOPIC), TopicRecord(name="t", topic_id=OTHER), partition(0, OTHER)],
        offset=2,
        term=1,
    )
    image.check()
    assert image.topic_ids == {"t": OTHER}
    assert [part.topic_id for part in delta.changed_partitions] == [OTHER]


def test_a_drain_survives_a_registration_and_a_shutdown_does_not():
    image = image_of(*ALL)
    image = image_of(broker(2, 9), base=image, offset=9)
    assert image.brokers[2].is_draining
    assert not image.brokers[2].in_controlled_shutdown


@pytest.mark.parametrize(
    "record",
    [
        change(topic_id=OTHER),
        change(partition=9),
        change(partition_epoch=0),
        change(partition_epoch=2, leader_epoch=-1),
        TopicRecord(name="t", topic_id=OTHER),
        TopicRecord(name="x", topic_id=TOPIC),
        RemoveTopicRecord(topic_id=OTHER),
        ConfigRecord(topic="x", key="k", value="v"),
        BrokerChangeRecord(broker_id=1, broker_epoch=99, fenced=False),
        UnregisterBrokerRecord(broker_id=9, broker_epoch=1),
    ],
)
def test_records_that_contradict_the_image_stop_the_node(record):
    base = image_of(broker(), TopicRecord(name="t", topic_id=TOPIC), partition())
    with pytest.raises(InvariantViolation):
        base.apply([record], offset=2, term=1)


@pytest.mark.parametrize(
    "bad",
    [
        partition(replicas=(1, 1)),
        partition(in_sync_replicas=(3,), leader_id=None),
        partition(leader_id=3),
        partition(eligible_leader_replicas=(1,)),
        partition(recovering=True),
    ],
)
def test_check_finds_impossible_partitions(bad):
    image = image_of(TopicRecord(name="t", topic_id=TOPIC), bad)
    with pytest.raises(InvariantViolation):
        image.check()


def test_what_cannot_be_read_is_refused_and_never_skipped():
    newer = records_pb2.MetadataBatch(version=2).SerializeToString()
    with pytest.raises(UnsupportedVersion):
        decode_batch(newer)
    unknown = records_pb2.MetadataBatch(version=1, records=[records_pb2.MetadataRecord()]).SerializeToString()
    with pytest.raises(CorruptLog):
        decode_batch(unknown)
    for garbage in (b"", b"\xff\xff\xff"):
        with pytest.raises(CorruptLog):
            decode_batch(garbage)
        with pytest.raises(CorruptLog):
            decode_snapshot(garbage, offset=1, term=1)


def test_deleted_topic_ids_are_bounded(monkeypatch):
    monkeypatch.setattr("logcluster.core.metadata.image.DELETED_TOPIC_IDS_REMEMBERED_MAX", 2)
    image = EMPTY
    ids = [TopicId(bytes([number]) * 16) for number in range(3)]
    for offset, topic_id in enumerate(ids, 1):
        image = image_of(
            TopicRecord(name="t", topic_id=topic_id), RemoveTopicRecord(topic_id=topic_id), base=image, offset=offset
        )
    assert list(image.deleted_topic_ids) == ids[1:]
