"""Who leads what, as last heard: answers of brokers and hints in errors, put in order.

Pure. Invariants: an older answer never replaces a newer one. Brokers and topics are ordered by the metadata offset
they were read at; a partition's leader also by its leader epoch, because a hint may be newer than any answer. A topic
created again under its name has another id and starts anew; so does everything when the cluster id changes.
Source: KIP-320 (leader epochs in clients), KIP-951 (leaders in error answers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from logcluster.model.ids import Endpoint


class Leader(NamedTuple):
    """Who leads a partition; `broker_id` is None while nobody does."""

    broker_id: int | None
    leader_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """One broker of an answer."""

    broker_id: int
    host: str
    grpc_port: int
    lane_port: int
    http_port: int = 0
    rack: str = ""
    broker_epoch: int = 0
    state: str = "active"
    """"active", "fenced", "shutting-down" or "unknown"."""

    @property
    def is_active(self) -> bool:
        return self.state == "active"

    @property
    def grpc_endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.grpc_port)

    @property
    def lane_endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.lane_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """One partition of an answer."""

    partition: int
    leader_id: int | None
    leader_epoch: int
    partition_epoch: int = 0
    replicas: tuple[int, ...] = ()
    in_sync_replicas: tuple[int, ...] = ()
    eligible_leader_replicas: tuple[int, ...] = ()
    offline_replicas: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """One topic of an answer; `partitions` ordered by number."""

    name: str
    topic_id: bytes
    is_internal: bool = False
    partitions: tuple[PartitionFacts, ...] = ()

    @property
    def replication_factor(self) -> int:
        """Of its best replicated partition."""
        return max((len(partition.replicas) for partition in self.partitions), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one broker says about the cluster."""

    cluster_id: str
    metadata_offset: int
    brokers: tuple[BrokerFacts, ...]
    controller_id: int | None = None
    topics: tuple[TopicFacts, ...] = ()
    missing_topics: tuple[str, ...] = ()
    """Asked for and unknown to the broker."""


class _Topic:
    __slots__ = ("facts", "leaders", "metadata_offset")

    def __init__(self, facts: TopicFacts, metadata_offset: int) -> None:
        self.facts = facts
        self.metadata_offset = metadata_offset
        self.leaders: dict[int, Leader] = {}


class MetadataCache:
    """The newest known state of brokers and of the topics somebody asked about."""

    def __init__(self) -> None:
        self.cluster_id: str | None = None
        self.controller_id: int | None = None
        self.metadata_offset = -1
        self.brokers: Mapping[int, BrokerFacts] = {}
        self._topics: dict[str, _Topic] = {}
        self._missing: dict[str, int] = {}

    def apply(self, answer: Answer) -> bool:
        """Take over what is new in `answer`; False when it is older than what is known and was ignored."""
        if self.cluster_id is not None and answer.cluster_id != self.cluster_id:
            self._topics.clear()
            self._missing.clear()
            self.metadata_offset = -1
        if answer.metadata_offset < self.metadata_offset:
            return False
        self.cluster_id = answer.cluster_id
        self.controller_id = answer.controller_id
        self.metadata_offset = answer.metadata_offset
        self.brokers = {broker.broker_id: broker for broker in answer.brokers}
        for facts in answer.topics:
            self._missing.pop(facts.name, None)
            self._apply_topic(facts, answer.metadata_offset)
        for name in answer.missing_topics:
            self._topics.pop(name, None)
            self._missing[name] = answer.metadata_offset
        return True

    def _apply_topic(self, facts: TopicFacts, metadata_offset: int) -> None:
        topic = self._topics.get(facts.name)
        if topic is None or topic.facts.topic_id != facts.topic_id:
            topic = self._topics[facts.name] = _Topic(facts, metadata_offset)
        topic.facts = facts
        topic.metadata_offset = metadata_offset
        for partition in facts.partitions:
            known = topic.leaders.get(partition.partition)
            if known is None or partition.leader_epoch >= known.leader_epoch:
                topic.leaders[partition.partition] = Leader(partition.leader_id, partition.leader_epoch)

    def note_leader(self, topic_name: str, partition: int, *, leader_id: int | None, leader_epoch: int) -> bool:
        """Take over a hint from an error answer; True when it is newer than what was known."""
        topic = self._topics.get(topic_name)
        if topic is None:
            return False
        if leader_id is not None and leader_id < 0:
            leader_id = None
        known = topic.leaders.get(partition)
        if known is not None and leader_epoch <= known.leader_epoch:
            return False
        topic.leaders[partition] = Leader(leader_id, leader_epoch)
        return True

    def leader(self, topic_name: str, partition: int) -> Leader | None:
        """The newest known leader; None when the partition is not known at all."""
        topic = self._topics.get(topic_name)
        return topic.leaders.get(partition) if topic is not None else None

    def topic(self, name: str) -> TopicFacts | None:
        """The topic, or None when it was not asked for, or does not exist."""
        topic = self._topics.get(name)
        return topic.facts if topic is not None else None

    def is_missing(self, name: str) -> bool:
        """Whether the newest answer about the topic said that it does not exist."""
        return name in self._missing

    def partition_count(self, name: str) -> int:
        """How many partitions the topic has; 0 when it is not known."""
        topic = self._topics.get(name)
        return len(topic.facts.partitions) if topic is not None else 0

    def led_partitions(self, name: str) -> Sequence[int]:
        """Partitions of the topic that have a leader, in order."""
        topic = self._topics.get(name)
        if topic is None:
            return ()
        return [partition for partition, leader in sorted(topic.leaders.items()) if leader.broker_id is not None]

    def forget_topics(self, names: Iterable[str]) -> None:
        """Drop topics nobody asks about any more."""
        for name in names:
            self._topics.pop(name, None)
            self._missing.pop(name, None)
