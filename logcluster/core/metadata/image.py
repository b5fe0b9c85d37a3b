"""The cluster's metadata as immutable values, and how committed records make the next one.

`MetadataImage.apply` is the one implementation of what a metadata record means: the active controller, standby
controllers, brokers and a restart all use it. Images share what did not change, so that a new one costs what changed
plus shallow copies of the maps above it. Whoever holds an image may keep it for as long as it likes.

Invariants (`check`): partition members are distinct; in-sync and eligible leader replicas are disjoint subsets of the
replicas; a leader is in sync; both directions of the topic name map agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from logcluster.core.metadata.records import (
    BrokerChangeRecord,
    ClusterRecord,
    ConfigRecord,
    MetadataRecord,
    NoOpRecord,
    PartitionChangeRecord,
    PartitionRecord,
    ProducerIdsRecord,
    RegisterBrokerRecord,
    RemoveTopicRecord,
    TopicRecord,
    UnregisterBrokerRecord,
)
from logcluster.model.ids import TopicId
from logcluster.model.invariants import InvariantViolation, invariant
from logcluster.model.limits import DELETED_TOPIC_IDS_REMEMBERED_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRegistration:
    """One registered broker process and what the controller thinks of it."""

    broker_id: int
    broker_epoch: int
    incarnation_id: bytes
    directory_id: bytes
    host: str
    grpc_port: int
    lane_port: int
    http_port: int
    rack: str
    is_fenced: bool
    in_controlled_shutdown: bool
    is_draining: bool
    is_drain_until_restart: bool = False
    """The drain is over when the broker registers again; false while it does not drain."""

    @property
    def is_active(self) -> bool:
        """May lead and join in-sync replicas: neither fenced nor shutting down."""
        return not self.is_fenced and not self.in_controlled_shutdown


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRegistration:
    """One partition: where its replicas are, who leads, who is in sync.

    `leader_epoch` grows with every change of leader, `partition_epoch` with every change at all.
    `last_known_leaders` is only filled while there is no leader.
    """

    topic_id: TopicId
    partition: int
    replicas: tuple[int, ...]
    in_sync_replicas: tuple[int, ...]
    eligible_leader_replicas: tuple[int, ...]
    last_known_leaders: tuple[int, ...]
    leader_id: int | None
    leader_epoch: int
    partition_epoch: int
    is_recovering: bool

    @property
    def preferred_leader_id(self) -> int:
        """The first replica of the assignment."""
        return self.replicas[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicImage:
    """One topic; `config` holds only what differs from the defaults."""

    name: str
    topic_id: TopicId
    partitions: Mapping[int, PartitionRegistration]
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataDelta:
    """What one batch (or snapshot) changed.

    `removed_topics` lists committed deletions only: a topic that is merely absent from a snapshot is not in it.
    `changed_partitions` includes the partitions of created topics, in their new state.
    """

    changed_partitions: tuple[PartitionRegistration, ...] = ()
    created_topics: tuple[TopicImage, ...] = ()
    removed_topics: tuple[TopicImage, ...] = ()
    changed_broker_ids: tuple[int, ...] = ()
    config_changed_topic_ids: tuple[TopicId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataImage:
    """Everything the metadata log says up to and including `offset`.

    `deleted_topic_ids` is an ordered set (the values are None) of deletions, oldest first and bounded: a replica that
    slept through a deletion may delete its data when it finds its topic id here, never because the id is absent.
    """

    offset: int
    term: int
    cluster_id: str
    brokers: Mapping[int, BrokerRegistration]
    topics: Mapping[TopicId, TopicImage]
    topic_ids: Mapping[str, TopicId]
    next_producer_id: int
    deleted_topic_ids: Mapping[TopicId, None]

    def topic_by_name(self, name: str) -> TopicImage | None:
        """The topic called `name`, or None."""
        topic_id = self.topic_ids.get(name)
        return None if topic_id is None else self.topics[topic_id]

    def partition(self, topic_id: TopicId, index: int) -> PartitionRegistration | None:
        """The partition `index` of the topic with this id, or None."""
        topic = self.topics.get(topic_id)
        return None if topic is None else topic.partitions.get(index)

    @property
    def partition_count(self) -> int:
        """Partitions of all topics; walks over the topics."""
        return sum(len(topic.partitions) for topic in self.topics.values())

    def apply(
        self, records: Iterable[MetadataRecord], *, offset: int, term: int
    ) -> tuple[MetadataImage, MetadataDelta]:
        """Make the image after one batch of records, committed as entry `offset` of `term`; this one stays as it is.

        Raises:
            InvariantViolation: a record refers to something that does not exist; the log is not from this history.
        """
        builder = _Builder(self)
        for record in records:
            builder.apply(record)
        return builder.build(offset=offset, term=term)

    def to_records(self) -> list[MetadataRecord]:
        """Write the image as records that rebuild it over `EMPTY`, except offset, term and deleted topic ids."""
        records: list[MetadataRecord] = []
        if self.cluster_id:
            records.append(ClusterRecord(cluster_id=self.cluster_id))
        for broker_id in sorted(self.brokers):
            records.extend(_broker_records(self.brokers[broker_id]))
        for topic in self.topics.values():
            records.append(TopicRecord(name=topic.name, topic_id=topic.topic_id))
            records.extend(_partition_record(partition) for partition in topic.partitions.values())
            records.extend(ConfigRecord(topic=topic.name, key=key, value=value) for key, value in topic.config.items())
        if self.next_producer_id:
            records.append(ProducerIdsRecord(broker_id=-1, broker_epoch=-1, next_producer_id=self.next_producer_id))
        return records

    @staticmethod
    def from_snapshot(
        records: Iterable[MetadataRecord], *, deleted_topic_ids: Iterable[TopicId], offset: int, term: int
    ) -> MetadataImage:
        """Rebuild the image that `to_records` wrote.

        Raises:
            InvariantViolation: the records do not fit together.
        """
        image, _ = EMPTY.apply(records, offset=offset, term=term)
        return replace(image, deleted_topic_ids=dict.fromkeys(deleted_topic_ids))

    def delta_since(self, previous: MetadataImage) -> MetadataDelta:
        """Say what differs from an older image: used after loading a snapshot."""
        changed: list[PartitionRegistration] = []
        created: list[TopicImage] = []
        config_changed: list[TopicId] = []
        for topic_id, topic in self.topics.items():
            before = previous.topics.get(topic_id)
            if before is None:
                created.append(topic)
                changed.extend(topic.partitions.values())
                continue
            changed.extend(part for index, part in topic.partitions.items() if before.partitions.get(index) != part)
            if before.config != topic.config:
                config_changed.append(topic_id)
        removed = [
            topic
            for topic_id, topic in previous.topics.items()
            if topic_id not in self.topics and topic_id in self.deleted_topic_ids
        ]
        broker_ids = sorted({*self.brokers, *previous.brokers})
        return MetadataDelta(
            changed_partitions=tuple(changed),
            created_topics=tuple(created),
            removed_topics=tuple(removed),
            changed_broker_ids=tuple(
                broker_id for broker_id in broker_ids if self.brokers.get(broker_id) != previous.brokers.get(broker_id)
            ),
            config_changed_topic_ids=tuple(config_changed),
        )

    def check(self) -> None:
        """Check every invariant of this file; linear in the number of partitions.

        Raises:
            InvariantViolation: one does not hold.
        """
        invariant(len(self.topics) == len(self.topic_ids), "each topic has one name")
        for name, topic_id in self.topic_ids.items():
            topic = self.topics.get(topic_id)
            invariant(topic is not None and topic.name == name, "topic names and ids agree", name=name)
            invariant(topic_id not in self.deleted_topic_ids, "a deleted topic id is not used again", name=name)
        for topic in self.topics.values():
            for index, partition in topic.partitions.items():
                invariant(partition.partition == index, "a partition is filed under its index", partition=index)
                check_partition(partition)


def check_partition(partition: PartitionRegistration) -> None:
    """Check one partition.

    Raises:
        InvariantViolation: its members contradict each other.
    """
    replicas, in_sync = partition.replicas, partition.in_sync_replicas
    eligible = partition.eligible_leader_replicas
    facts = {"partition": partition}
    invariant(bool(replicas) and len(frozenset(replicas)) == len(replicas), "replicas are distinct", **facts)
    invariant(len(frozenset(in_sync)) == len(in_sync), "in-sync replicas are distinct", **facts)
    invariant(len(frozenset(eligible)) == len(eligible), "eligible leader replicas are distinct", **facts)
    invariant(all(member in replicas for member in in_sync), "in-sync replicas are replicas", **facts)
    invariant(all(member in replicas for member in eligible), "eligible leader replicas are replicas", **facts)
    invariant(not any(member in in_sync for member in eligible), "a replica is in sync or eligible, not both", **facts)
    invariant(partition.leader_id is None or partition.leader_id in in_sync, "a leader is in sync", **facts)
    invariant(not partition.is_recovering or len(in_sync) <= 1, "a recovering leader is alone", **facts)


EMPTY = MetadataImage(
    offset=0,
    term=0,
    cluster_id="",
    brokers={},
    topics={},
    topic_ids={},
    next_producer_id=0,
    deleted_topic_ids={},
)
"""The image before the first entry of the log (whose index is 1)."""


def _broker_records(broker: BrokerRegistration) -> list[MetadataRecord]:
    records: list[MetadataRecord] = [
        RegisterBrokerRecord(
            broker_id=broker.broker_id,
            broker_epoch=broker.broker_epoch,
            incarnation_id=broker.incarnation_id,
            directory_id=broker.directory_id,
            host=broker.host,
            grpc_port=broker.grpc_port,
            lane_port=broker.lane_port,
            http_port=broker.http_port,
            rack=broker.rack,
            fenced=broker.is_fenced,
        )
    ]
    if broker.in_controlled_shutdown or broker.is_draining:
        records.append(
            BrokerChangeRecord(
                broker_id=broker.broker_id,
                broker_epoch=broker.broker_epoch,
                in_controlled_shutdown=broker.in_controlled_shutdown,
                draining=broker.is_draining,
                drain_until_restart=broker.is_drain_until_restart,
            )
        )
    return records


def _partition_record(partition: PartitionRegistration) -> PartitionRecord:
    return PartitionRecord(
        topic_id=partition.topic_id,
        partition=partition.partition,
        replicas=partition.replicas,
        in_sync_replicas=partition.in_sync_replicas,
        eligible_leader_replicas=partition.eligible_leader_replicas,
        last_known_leaders=partition.last_known_leaders,
        leader_id=partition.leader_id,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        recovering=partition.is_recovering,
    )


@dataclass(slots=True)
class _TopicDraft:
    """A topic that this batch changes; its maps are copies."""

    name: str
    topic_id: TopicId
    partitions: dict[int, PartitionRegistration]
    config: dict[str, str]


@dataclass(slots=True)
class _Changes:
    """Ordered sets of what a batch touched; the values of the maps are None."""

    partitions: dict[tuple[TopicId, int], None] = field(default_factory=dict)
    created: dict[TopicId, None] = field(default_factory=dict)
    removed: list[TopicImage] = field(default_factory=list)
    brokers: dict[int, None] = field(default_factory=dict)
    configs: dict[TopicId, None] = field(default_factory=dict)


class _Builder:
    """Collects the changes of one batch over a base image, copying each map at most once."""

    def __init__(self, base: MetadataImage) -> None:
        self._base = base
        self._cluster_id = base.cluster_id
        self._next_producer_id = base.next_producer_id
        self._brokers: dict[int, BrokerRegistration] | None = None
        self._topics: dict[TopicId, TopicImage] | None = None
        self._topic_ids: dict[str, TopicId] | None = None
        self._deleted: dict[TopicId, None] | None = None
        self._drafts: dict[TopicId, _TopicDraft] = {}
        self._changes = _Changes()

    def apply(self, record: MetadataRecord) -> None:
        match record:
            case PartitionChangeRecord():
                self._change_partition(record)
            case PartitionRecord():
                self._put_partition(record)
            case TopicRecord():
                self._create_topic(record)
            case RemoveTopicRecord():
                self._remove_topic(record.topic_id)
            case ConfigRecord():
                self._change_config(record)
            case RegisterBrokerRecord():
                self._register(record)
            case BrokerChangeRecord():
                self._change_broker(record)
            case UnregisterBrokerRecord():
                self._unregister(record.broker_id)
            case ProducerIdsRecord():
                self._next_producer_id = record.next_producer_id
            case ClusterRecord():
                self._cluster_id = record.cluster_id
            case NoOpRecord():
                pass

    def build(self, *, offset: int, term: int) -> tuple[MetadataImage, MetadataDelta]:
        base, changes = self._base, self._changes
        if self._drafts:
            topics = self._writable_topics()
            for topic_id, draft in self._drafts.items():
                topics[topic_id] = TopicImage(
                    name=draft.name, topic_id=topic_id, partitions=draft.partitions, config=draft.config
                )
        image = MetadataImage(
            offset=offset,
            term=term,
            cluster_id=self._cluster_id,
            brokers=base.brokers if self._brokers is None else self._brokers,
            topics=base.topics if self._topics is None else self._topics,
            topic_ids=base.topic_ids if self._topic_ids is None else self._topic_ids,
            next_producer_id=self._next_producer_id,
            deleted_topic_ids=base.deleted_topic_ids if self._deleted is None else self._deleted,
        )
        topics_now = image.topics
        delta = MetadataDelta(
            changed_partitions=tuple(
                topics_now[topic_id].partitions[index]
                for topic_id, index in changes.partitions
                if topic_id in topics_now
            ),
            created_topics=tuple(topics_now[topic_id] for topic_id in changes.created if topic_id in topics_now),
            removed_topics=tuple(changes.removed),
            changed_broker_ids=tuple(sorted(changes.brokers)),
            config_changed_topic_ids=tuple(topic_id for topic_id in changes.configs if topic_id in topics_now),
        )
        return image, delta

    def _writable_topics(self) -> dict[TopicId, TopicImage]:
        if self._topics is None:
            self._topics = dict(self._base.topics)
        return self._topics

    def _writable_topic_ids(self) -> dict[str, TopicId]:
        if self._topic_ids is None:
            self._topic_ids = dict(self._base.topic_ids)
        return self._topic_ids

    def _writable_brokers(self) -> dict[int, BrokerRegistration]:
        if self._brokers is None:
            self._brokers = dict(self._base.brokers)
        return self._brokers

    def _draft(self, topic_id: TopicId) -> _TopicDraft:
        draft = self._drafts.get(topic_id)
        if draft is None:
            topic = (self._base.topics if self._topics is None else self._topics).get(topic_id)
            if topic is None:
                raise InvariantViolation("a record speaks of a topic that exists", topic_id=topic_id.hex())
            draft = _TopicDraft(topic.name, topic_id, dict(topic.partitions), dict(topic.config))
            self._drafts[topic_id] = draft
        return draft

    def _change_partition(self, record: PartitionChangeRecord) -> None:
        partitions = self._draft(record.topic_id).partitions
        before = partitions.get(record.partition)
        if before is None:
            raise InvariantViolation("a change speaks of a partition that exists", record=record)
        if record.partition_epoch <= before.partition_epoch or record.leader_epoch < before.leader_epoch:
            raise InvariantViolation("partition and leader epochs grow", record=record, before=before)
        partitions[record.partition] = PartitionRegistration(
            topic_id=record.topic_id,
            partition=record.partition,
            replicas=before.replicas,
            in_sync_replicas=record.in_sync_replicas,
            eligible_leader_replicas=record.eligible_leader_replicas,
            last_known_leaders=record.last_known_leaders,
            leader_id=record.leader_id,
            leader_epoch=record.leader_epoch,
            partition_epoch=record.partition_epoch,
            is_recovering=record.recovering,
        )
        self._changes.partitions[record.topic_id, record.partition] = None

    def _put_partition(self, record: PartitionRecord) -> None:
        self._draft(record.topic_id).partitions[record.partition] = PartitionRegistration(
            topic_id=record.topic_id,
            partition=record.partition,
            replicas=record.replicas,
            in_sync_replicas=record.in_sync_replicas,
            eligible_leader_replicas=record.eligible_leader_replicas,
            last_known_leaders=record.last_known_leaders,
            leader_id=record.leader_id,
            leader_epoch=record.leader_epoch,
            partition_epoch=record.partition_epoch,
            is_recovering=record.recovering,
        )
        self._changes.partitions[record.topic_id, record.partition] = None

    def _create_topic(self, record: TopicRecord) -> None:
        topic_ids = self._writable_topic_ids()
        if record.name in topic_ids or record.topic_id in self._base.topics:
            raise InvariantViolation("a created topic is new", name=record.name)
        topic_ids[record.name] = record.topic_id
        self._drafts[record.topic_id] = _TopicDraft(record.name, record.topic_id, {}, {})
        self._changes.created[record.topic_id] = None

    def _remove_topic(self, topic_id: TopicId) -> None:
        draft = self._draft(topic_id)
        del self._drafts[topic_id]
        self._writable_topics().pop(topic_id, None)
        del self._writable_topic_ids()[draft.name]
        if self._deleted is None:
            self._deleted = dict(self._base.deleted_topic_ids)
        self._deleted[topic_id] = None
        while len(self._deleted) > DELETED_TOPIC_IDS_REMEMBERED_MAX:
            del self._deleted[next(iter(self._deleted))]
        self._changes.removed.append(
            TopicImage(name=draft.name, topic_id=topic_id, partitions=draft.partitions, config=draft.config)
        )

    def _change_config(self, record: ConfigRecord) -> None:
        topic_id = (self._base.topic_ids if self._topic_ids is None else self._topic_ids).get(record.topic)
        if topic_id is None:
            raise InvariantViolation("a setting belongs to a topic that exists", topic=record.topic)
        config = self._draft(topic_id).config
        if record.value is None:
            config.pop(record.key, None)
        else:
            config[record.key] = record.value
        self._changes.configs[topic_id] = None

    def _register(self, record: RegisterBrokerRecord) -> None:
        brokers = self._writable_brokers()
        before = brokers.get(record.broker_id)
        brokers[record.broker_id] = BrokerRegistration(
            broker_id=record.broker_id,
            broker_epoch=record.broker_epoch,
            incarnation_id=record.incarnation_id,
            directory_id=record.directory_id,
            host=record.host,
            grpc_port=record.grpc_port,
            lane_port=record.lane_port,
            http_port=record.http_port,
            rack=record.rack,
            is_fenced=record.fenced,
            in_controlled_shutdown=False,
            # A drain is the operator's wish about this broker id; a restart takes back only what was asked until then.
            is_draining=before is not None and before.is_draining and not before.is_drain_until_restart,
        )
        self._changes.brokers[record.broker_id] = None

    def _change_broker(self, record: BrokerChangeRecord) -> None:
        brokers = self._writable_brokers()
        before = brokers.get(record.broker_id)
        if before is None or before.broker_epoch != record.broker_epoch:
            raise InvariantViolation("a change speaks of the current registration", record=record, before=before)
        shutting_down = record.in_controlled_shutdown
        is_draining = before.is_draining if record.draining is None else record.draining
        until_restart = (
            before.is_drain_until_restart if record.drain_until_restart is None else record.drain_until_restart
        )
        brokers[record.broker_id] = replace(
            before,
            is_fenced=before.is_fenced if record.fenced is None else record.fenced,
            in_controlled_shutdown=before.in_controlled_shutdown if shutting_down is None else shutting_down,
            is_draining=is_draining,
            is_drain_until_restart=is_draining and until_restart,
        )
        self._changes.brokers[record.broker_id] = None

    def _unregister(self, broker_id: int) -> None:
        invariant(
            self._writable_brokers().pop(broker_id, None) is not None,
            "an unregistered broker was registered",
            broker_id=broker_id,
        )
        self._changes.brokers[broker_id] = None
