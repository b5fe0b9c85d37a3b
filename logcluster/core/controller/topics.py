"""Topics: creating, growing, configuring, deleting; names, counts and settings are checked here, before the log.

What enters the log is valid: replay trusts it. A request for several topics answers each on its own; what succeeds is
one atomic batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from typing import Final

from logcluster.core.controller.partitions import LiveBrokers, PartitionRules, change_partition
from logcluster.core.controller.placement import PlacementBroker, place
from logcluster.core.controller.requests import (
    AlterTopicConfig,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    NewTopic,
    Result,
    TopicResult,
)
from logcluster.core.controller.sessions import DamagedReplicas
from logcluster.core.controller.state import ControllerState
from logcluster.core.metadata.image import TopicImage
from logcluster.core.metadata.records import (
    ConfigRecord,
    MetadataRecord,
    PartitionRecord,
    RemoveTopicRecord,
    TopicRecord,
)
from logcluster.core.metadata.topic_config import CONFIG_KEYS, TopicConfig, validate_overrides
from logcluster.model.errors import (
    InvalidConfig,
    InvalidPartitions,
    InvalidReplicaAssignment,
    InvalidReplicationFactor,
    InvalidRequest,
    InvalidTopic,
    LogClusterError,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from logcluster.model.ids import TopicId
from logcluster.model.internal_topics import is_internal
from logcluster.model.limits import (
    METADATA_BATCH_RECORDS_MAX,
    PARTITIONS_PER_CLUSTER_MAX,
    PARTITIONS_PER_TOPIC_MAX,
    REPLICATION_FACTOR_MAX,
    TOPIC_NAME_LENGTH_MAX,
)

PARTITIONS_DEFAULT: Final = 1
REPLICATION_FACTOR_DEFAULT: Final = 3
"""Capped by the number of registered brokers, so that a cluster of one needs no flag."""

_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def check_topic_name(name: str) -> None:
    """Check that a topic may be called `name`.

    Raises:
        InvalidTopic: it may not; says why.
    """
    if not name or name in (".", ".."):
        raise InvalidTopic(f"a topic cannot be called {name!r}")
    if len(name) > TOPIC_NAME_LENGTH_MAX:
        raise InvalidTopic(f"the name has {len(name)} characters, at most {TOPIC_NAME_LENGTH_MAX} are allowed")
    if _NAME.fullmatch(name) is None:
        raise InvalidTopic(f"{name!r} has characters that a topic name cannot have")


_IS_INTERNAL: Final = "{name!r}: a name that begins with two underscores is of the cluster's own topics"


def refuse_internal(name: str) -> None:
    """Check that users may make, grow or delete the topic.

    Raises:
        InvalidTopic: it is one of the cluster's own.
    """
    if is_internal(name):
        raise InvalidTopic(_IS_INTERNAL.format(name=name))


class Topics:
    """Handlers of everything about topics; they read the state and change nothing."""

    def __init__(
        self, state: ControllerState, damaged: DamagedReplicas, random: Random, *, trust_synced_logs: bool
    ) -> None:
        self._state = state
        self._damaged = damaged
        self._random = random
        self._trust_synced_logs = trust_synced_logs

    def create(self, request: CreateTopics) -> Result:
        """Create topics; a name that stands twice in the request is refused each time."""
        names = [topic.name for topic in request.topics]
        records: list[MetadataRecord] = []
        results: list[TopicResult] = []
        created = 0
        for topic in request.topics:
            try:
                if names.count(topic.name) > 1:
                    raise InvalidRequest(f"topic {topic.name!r} stands twice in the request")
                if not request.by_cluster:
                    refuse_internal(topic.name)
                topic_records, assignments = self._create_one(topic, pending_partitions=created)
                if len(records) + len(topic_records) > METADATA_BATCH_RECORDS_MAX:
                    raise InvalidPartitions(
                        "too many partitions for one request", hint="create fewer topics or partitions at a time"
                    )
            except LogClusterError as error:
                results.append(TopicResult(name=topic.name, error=error))
                continue
            first = topic_records[0]
            assert isinstance(first, TopicRecord)
            created += len(assignments)
            records.extend(topic_records)
            results.append(
                TopicResult(
                    name=topic.name,
                    topic_id=None if request.validate_only else first.topic_id,
                    partitions=len(assignments),
                    replication_factor=len(assignments[0]),
                )
            )
        return Result(records=() if request.validate_only else tuple(records), response=tuple(results))

    def _create_one(
        self, topic: NewTopic, *, pending_partitions: int
    ) -> tuple[list[MetadataRecord], list[tuple[int, ...]]]:
        check_topic_name(topic.name)
        if topic.name in self._state.image.topic_ids:
            raise TopicAlreadyExists(f"topic {topic.name!r} exists", topic=topic.name)
        validate_overrides(topic.config)
        if topic.assignments:
            if topic.partitions or topic.replication_factor:
                raise InvalidRequest("give either the assignments or the counts, not both")
            self._check_count(len(topic.assignments), pending=pending_partitions)
            assignments = list(topic.assignments)
            self._check_assignments(assignments, replication_factor=len(assignments[0]))
        else:
            count = topic.partitions or PARTITIONS_DEFAULT
            self._check_count(count, pending=pending_partitions)
            assignments = self._place(count, self._replication_factor(topic.replication_factor))
        topic_id = TopicId(self._random.randbytes(16))
        records: list[MetadataRecord] = [TopicRecord(name=topic.name, topic_id=topic_id)]
        records += self._partition_records(topic_id, 0, assignments)
        records += [ConfigRecord(topic=topic.name, key=key, value=topic.config[key]) for key in sorted(topic.config)]
        return records, assignments

    def _check_count(self, count: int, *, pending: int) -> None:
        if not 1 <= count <= PARTITIONS_PER_TOPIC_MAX:
            raise InvalidPartitions(f"{count} partitions: from 1 to {PARTITIONS_PER_TOPIC_MAX} are possible")
        total = self._state.partition_count + pending + count
        if total > PARTITIONS_PER_CLUSTER_MAX:
            raise InvalidPartitions(
                f"the cluster would have {total} partitions, at most {PARTITIONS_PER_CLUSTER_MAX} are allowed"
            )

    def _replication_factor(self, wanted: int) -> int:
        if wanted == 0:
            return max(1, min(REPLICATION_FACTOR_DEFAULT, len(self._state.image.brokers)))
        if not 1 <= wanted <= REPLICATION_FACTOR_MAX:
            raise InvalidReplicationFactor(f"replication factor {wanted}: from 1 to {REPLICATION_FACTOR_MAX}")
        return wanted

    def _place(self, count: int, replication_factor: int, topic: TopicImage | None = None) -> list[tuple[int, ...]]:
        usable = [broker for broker in self._state.image.brokers.values() if broker.is_active]
        settled = [broker for broker in usable if not broker.is_draining]
        if len(settled) >= replication_factor:
            usable = settled
        return place(
            brokers=[
                PlacementBroker(
                    broker_id=broker.broker_id,
                    rack=broker.rack,
                    may_lead=not broker.is_draining,
                    replicas_elsewhere=self._state.hosted_count(broker.broker_id),
                    leaders_elsewhere=self._state.preferred_count(broker.broker_id),
                )
                for broker in sorted(usable, key=lambda broker: broker.broker_id)
            ],
            partitions=count,
            replication_factor=replication_factor,
            rng=self._random,
            existing=() if topic is None else [partition.replicas for partition in topic.partitions.values()],
        )

    def _check_assignments(self, assignments: list[tuple[int, ...]], *, replication_factor: int) -> None:
        brokers = self._state.image.brokers
        for index, replicas in enumerate(assignments):
            if len(replicas) != replication_factor or not 1 <= replication_factor <= REPLICATION_FACTOR_MAX:
                raise InvalidReplicaAssignment(
                    f"assignment {index} has {len(replicas)} replicas where {replication_factor} are expected"
                )
            if len(frozenset(replicas)) != len(replicas):
                raise InvalidReplicaAssignment(f"assignment {index} names a broker twice")
            unknown = [broker_id for broker_id in replicas if broker_id not in brokers]
            if unknown:
                raise InvalidReplicaAssignment(f"assignment {index} names unknown brokers {unknown}")
            if not any(brokers[broker_id].is_active for broker_id in replicas):
                raise InvalidReplicaAssignment(f"assignment {index} names no broker that is up")

    def _partition_records(
        self, topic_id: TopicId, first: int, assignments: list[tuple[int, ...]]
    ) -> list[PartitionRecord]:
        live = LiveBrokers.of(self._state.image.brokers)
        records: list[PartitionRecord] = []
        for index, replicas in enumerate(assignments, first):
            in_sync = tuple(broker_id for broker_id in replicas if broker_id in live.active)
            leader_id = min(in_sync, key=lambda broker_id: broker_id in live.draining)
            records.append(
                PartitionRecord(
                    topic_id=topic_id,
                    partition=index,
                    replicas=replicas,
                    in_sync_replicas=in_sync,
                    leader_id=leader_id,
                )
            )
        return records

    def delete(self, request: DeleteTopics) -> Result:
        """Delete topics; an unknown or repeated name is an error of that name only."""
        records: list[MetadataRecord] = []
        results: list[TopicResult] = []
        seen: set[str] = set()
        for name in request.names:
            topic = self._state.image.topic_by_name(name)
            if topic is None or name in seen:
                error = UnknownTopicOrPartition(f"there is no topic {name!r}", topic=name)
                results.append(TopicResult(name=name, error=error))
                continue
            if is_internal(name):
                results.append(TopicResult(name=name, error=InvalidTopic(_IS_INTERNAL.format(name=name))))
                continue
            seen.add(name)
            records.append(RemoveTopicRecord(topic_id=topic.topic_id))
            results.append(TopicResult(name=name, topic_id=topic.topic_id, partitions=len(topic.partitions)))
        return Result(records=() if request.validate_only else tuple(records), response=tuple(results))

    def create_partitions(self, request: CreatePartitions) -> Result:
        """Add partitions to a topic; present ones stay where they are.

        Raises:
            UnknownTopicOrPartition, InvalidPartitions, InvalidReplicaAssignment, InvalidReplicationFactor
            InvalidTopic: it is the cluster's own; what is in it would belong to other partitions then.
        """
        refuse_internal(request.topic)
        topic = self._find(request.topic)
        present = len(topic.partitions)
        added = request.partitions - present
        if added <= 0:
            raise InvalidPartitions(f"topic {topic.name!r} has {present} partitions, {request.partitions} is not more")
        self._check_count(added, pending=0)
        if request.partitions > PARTITIONS_PER_TOPIC_MAX or added > METADATA_BATCH_RECORDS_MAX:
            raise InvalidPartitions(f"at most {PARTITIONS_PER_TOPIC_MAX} partitions are possible")
        replication_factor = len(topic.partitions[0].replicas)
        if request.assignments:
            assignments = list(request.assignments)
            if len(assignments) != added:
                raise InvalidReplicaAssignment(f"{len(assignments)} assignments for {added} new partitions")
            self._check_assignments(assignments, replication_factor=replication_factor)
        else:
            assignments = self._place(added, replication_factor, topic)
        records = tuple(self._partition_records(topic.topic_id, present, assignments))
        response = TopicResult(
            name=topic.name,
            topic_id=topic.topic_id,
            partitions=request.partitions,
            replication_factor=replication_factor,
        )
        return Result(records=() if request.validate_only else records, response=response)

    def alter_config(self, request: AlterTopicConfig) -> Result:
        """Set and unset overrides.

        Writing `min.insync.replicas` clears the eligible leader replicas of partitions that somebody leads: the
        high watermark may move under the new value, and no longer vouches for them. Allowing unclean elections
        holds one at once where there is no leader.

        Raises:
            UnknownTopicOrPartition, InvalidConfig, InvalidRequest
        """
        topic = self._find(request.topic)
        values, unset_keys = dict(request.set_values), sorted(frozenset(request.unset_keys))
        both = [key for key in unset_keys if key in values]
        if both:
            raise InvalidRequest(f"{', '.join(both)} cannot be set and unset at once")
        unknown = [key for key in unset_keys if key not in CONFIG_KEYS]
        if unknown:
            raise InvalidConfig(f"unknown topic setting {unknown[0]!r}", key=unknown[0])
        validate_overrides(values)
        records: list[MetadataRecord] = [
            ConfigRecord(topic=topic.name, key=key, value=values[key])
            for key in sorted(values)
            if topic.config.get(key) != values[key]
        ]
        records += [ConfigRecord(topic=topic.name, key=key, value=None) for key in unset_keys if key in topic.config]
        changed = {record.key for record in records if isinstance(record, ConfigRecord)}
        after = {key: value for key, value in {**topic.config, **values}.items() if key not in unset_keys}
        records += self._consequences(topic, after, changed)
        return Result(records=() if request.validate_only else tuple(records), response=None)

    def _consequences(self, topic: TopicImage, config: Mapping[str, str], changed: set[str]) -> list[MetadataRecord]:
        clears_eligible = "min.insync.replicas" in changed
        if not clears_eligible and "unclean.leader.election.enable" not in changed:
            return []
        rules = PartitionRules.of(TopicConfig.from_overrides(config), trust_synced_logs=self._trust_synced_logs)
        live = LiveBrokers.of(self._state.image.brokers, damaged=self._damaged)
        records: list[MetadataRecord] = []
        for partition in topic.partitions.values():
            record = change_partition(
                partition,
                in_sync=partition.in_sync_replicas,
                live=live,
                rules=rules,
                clears_eligible=clears_eligible and partition.leader_id is not None,
                reason="settings of the topic changed",
            )
            if record is not None:
                records.append(record)
        return records

    def _find(self, name: str) -> TopicImage:
        topic = self._state.image.topic_by_name(name)
        if topic is None:
            raise UnknownTopicOrPartition(f"there is no topic {name!r}", topic=name)
        return topic
