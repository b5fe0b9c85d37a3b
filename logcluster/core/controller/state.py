"""The controller's replicated state: the metadata image and indexes derived from it.

The image is the state; the indexes only make questions cheap (which partitions does this broker host?). Both change
in `replay` alone, which the active controller calls with what it has just proposed, and everybody else with what is
committed. Because images are immutable, going back to committed state is building this object over the last committed
image again: no history of values is kept (decision: Kafka's timeline structures buy the same at a cost on every read).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from logcluster.core.metadata.image import (
    BrokerRegistration,
    MetadataDelta,
    MetadataImage,
    PartitionRegistration,
    TopicImage,
)
from logcluster.core.metadata.records import MetadataRecord
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.model.ids import TopicId
from logcluster.model.invariants import InvariantViolation, invariant

PartitionKey = tuple[TopicId, int]


class ControllerState:
    """A metadata image with indexes; changes in `replay` only.

    Attributes:
        image: the state, uncommitted changes included on the active controller.
    """

    def __init__(self, image: MetadataImage) -> None:
        self.image = image
        self._hosted: dict[int, dict[PartitionKey, None]] = {}
        self._preferred_counts: dict[int, int] = {}
        self._leaderless: dict[PartitionKey, None] = {}
        self._misplaced: dict[PartitionKey, None] = {}
        self._partition_count = 0
        for topic in image.topics.values():
            for partition in topic.partitions.values():
                self._index(partition, is_new=True)

    @property
    def partition_count(self) -> int:
        """Partitions of all topics."""
        return self._partition_count

    def hosted_by(self, broker_id: int) -> list[PartitionRegistration]:
        """Every partition that has a replica on the broker, in a repeatable order."""
        topics = self.image.topics
        return [topics[topic_id].partitions[index] for topic_id, index in self._hosted.get(broker_id, ())]

    def hosted_count(self, broker_id: int) -> int:
        """How many partitions have a replica on the broker."""
        return len(self._hosted.get(broker_id, ()))

    def preferred_count(self, broker_id: int) -> int:
        """How many partitions name the broker first in their assignment."""
        return self._preferred_counts.get(broker_id, 0)

    def leaderless(self) -> list[PartitionRegistration]:
        """Every partition without a leader."""
        topics = self.image.topics
        return [topics[topic_id].partitions[index] for topic_id, index in self._leaderless]

    def misplaced(self) -> list[PartitionRegistration]:
        """Every partition that is not led by the first replica of its assignment."""
        topics = self.image.topics
        return [topics[topic_id].partitions[index] for topic_id, index in self._misplaced]

    def config_of(self, topic_id: TopicId) -> TopicConfig:
        """Parsed settings of a topic that exists."""
        return TopicConfig.from_overrides(self.image.topics[topic_id].config)

    def topic_name(self, topic_id: TopicId) -> str:
        """Name of a topic that exists."""
        return self.image.topics[topic_id].name

    def broker(self, broker_id: int) -> BrokerRegistration | None:
        """The registration under this id, or None."""
        return self.image.brokers.get(broker_id)

    def replay(self, records: Iterable[MetadataRecord], *, index: int, term: int) -> MetadataDelta:
        """Apply the records of entry `index` of the metadata log.

        Raises:
            InvariantViolation: the records contradict the state.
        """
        before = self.image
        self.image, delta = before.apply(records, offset=index, term=term)
        for topic in delta.removed_topics:
            self._forget(before.topics.get(topic.topic_id, topic))
        for partition in delta.changed_partitions:
            known = before.topics.get(partition.topic_id)
            self._index(partition, is_new=known is None or partition.partition not in known.partitions)
        return delta

    def _index(self, partition: PartitionRegistration, *, is_new: bool) -> None:
        key = (partition.topic_id, partition.partition)
        if is_new:
            self._partition_count += 1
            for broker_id in partition.replicas:
                self._hosted.setdefault(broker_id, {})[key] = None
            preferred = partition.preferred_leader_id
            self._preferred_counts[preferred] = self._preferred_counts.get(preferred, 0) + 1
        _mark(self._leaderless, key, partition.leader_id is None)
        _mark(self._misplaced, key, partition.leader_id != partition.preferred_leader_id)

    def _forget(self, topic: TopicImage) -> None:
        for partition in topic.partitions.values():
            key = (partition.topic_id, partition.partition)
            self._partition_count -= 1
            for broker_id in partition.replicas:
                del self._hosted[broker_id][key]
            self._preferred_counts[partition.preferred_leader_id] -= 1
            self._leaderless.pop(key, None)
            self._misplaced.pop(key, None)

    def check(self) -> None:
        """Check the image, that the indexes follow from it, and that only active brokers lead or are in sync.

        Raises:
            InvariantViolation: one of these does not hold.
        """
        self.image.check()
        fresh = ControllerState(self.image)
        for name in ("_leaderless", "_misplaced", "_partition_count"):
            invariant(getattr(self, name) == getattr(fresh, name), "an index follows from the image", index=name)
        invariant(_filled(self._hosted) == _filled(fresh._hosted), "the index of hosted partitions follows")
        invariant(
            _filled(self._preferred_counts) == _filled(fresh._preferred_counts),
            "the counts of preferred leaders follow",
        )
        for topic in self.image.topics.values():
            for partition in topic.partitions.values():
                self._check_members(partition)

    def _check_members(self, partition: PartitionRegistration) -> None:
        brokers = self.image.brokers
        for broker_id in partition.in_sync_replicas:
            broker = brokers.get(broker_id)
            if broker is None or not broker.is_active:
                raise InvariantViolation("in-sync replicas are active", broker=broker, partition=partition)
        if partition.leader_id is None and partition.in_sync_replicas:
            raise InvariantViolation("a partition with in-sync replicas has a leader", partition=partition)


def _mark(keys: dict[PartitionKey, None], key: PartitionKey, is_in: bool) -> None:
    if is_in:
        keys[key] = None
    else:
        keys.pop(key, None)


def _filled(counts: Mapping[int, object]) -> dict[int, object]:
    return {key: value for key, value in counts.items() if value}
