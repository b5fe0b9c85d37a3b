"""Who leads what, as last heard: answers of brokers and hints in errors, put in order.

Pure. Invariants: an older answer never replaces a newer one. Brokers and topics are ordered by the metadata offset
they were read at; a partition's leader also by its leader epoch, because a hint may be newer than any answer. A topic
created again under its name has another id and starts anew, and hints about the other one are ignored; so does
everything when the cluster id changes. An id is never used again: a topic that is known to be deleted stays so.
Source: KIP-320 (leader epochs in clients), KIP-516 (topic ids), KIP-951 (leaders in error answers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from logcluster.model.ids import Endpoint
from logcluster.model.probes import probe


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
        self._deleted_ids: dict[str, bytes] = {}
        """By name, the topic last deleted through this client."""

    def apply(self, answer: Answer) -> bool:
        """Take over what is new in `answer`; False when it is older than what is known and was ignored.

        A broker that does not know yet which cluster it belongs to, because it has just started, knows nothing else.
        """
        if self.cluster_id and not answer.cluster_id:
            probe("client.metadata.older_answer_ignored")
            return False
        if self.cluster_id is not None and answer.cluster_id != self.cluster_id:
            self._topics.clear()
            self._missing.clear()
            self.metadata_offset = -1
        if answer.metadata_offset < self.metadata_offset:
            probe("client.metadata.older_answer_ignored")
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
        if facts.topic_id and self._deleted_ids.get(facts.name) == facts.topic_id:
            return
        topic = self._topics.get(facts.name)
        if topic is None or topic.facts.topic_id != facts.topic_id:
            topic = self._topics[facts.name] = _Topic(facts, metadata_offset)
        topic.facts = facts
        topic.metadata_offset = metadata_offset
        for partition in facts.partitions:
            known = topic.leaders.get(partition.partition)
            if known is None or partition.leader_epoch >= known.leader_epoch:
                topic.leaders[partition.partition] = Leader(partition.leader_id, partition.leader_epoch)

    def note_leader(
        self, topic_name: str, partition: int, *, leader_id: int | None, leader_epoch: int, topic_id: bytes = b""
    ) -> bool:
        """Take over a hint from an error answer; True when it is newer than what was known.

        Args:
            topic_id: of the topic that was asked about; empty: of whichever has the name.
        """
        topic = self._topics.get(topic_name)
        if topic is None or (topic_id and topic_id != topic.facts.topic_id):
            return False
        if leader_id is not None and leader_id < 0:
            leader_id = None
        known = topic.leaders.get(partition)
        if known is not None and leader_epoch <= known.leader_epoch:
            probe("client.metadata.older_hint_ignored")
            return False
        topic.leaders[partition] = Leader(leader_id, leader_epoch)
        return True

    def leader(self, topic_name: str, partition: int, *, topic_id: bytes = b"") -> Leader | None:
        """The newest known leader; None when the partition is not known at all, or is not of the topic with the id."""
        topic = self._topics.get(topic_name)
        if topic is None or (topic_id and topic_id != topic.facts.topic_id):
            return None
        return topic.leaders.get(partition)

    def topic(self, name: str) -> TopicFacts | None:
        """The topic, or None when it was not asked for, or does not exist."""
        topic = self._topics.get(name)
        return topic.facts if topic is not None else None

    def topic_id(self, name: str) -> bytes:
        """The id of the topic that has the name now; empty when it is not known."""
        topic = self._topics.get(name)
        return topic.facts.topic_id if topic is not None else b""

    def is_missing(self, name: str) -> bool:
        """Whether the newest answer about the topic said that it does not exist."""
        return name in self._missing

    def is_gone(self, name: str, topic_id: bytes) -> bool:
        """Whether this topic certainly is deleted, whatever has its name now."""
        topic = self._topics.get(name)
        if topic is not None:
            return topic_id not in {b"", topic.facts.topic_id}
        return name in self._missing or (topic_id != b"" and self._deleted_ids.get(name) == topic_id)

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

    def forget_topic(self, name: str, topic_id: bytes) -> None:
        """The topic with this id was deleted, and will not be known again; its name may have gone to another one."""
        self._deleted_ids[name] = topic_id
        if topic_id == self.topic_id(name):
            self._topics.pop(name, None)
