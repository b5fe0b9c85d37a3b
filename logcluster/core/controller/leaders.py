"""Moving leaderships on purpose: elections that an operator asks for, and the slow way back to preferred leaders.

The first replica of an assignment is the preferred leader; placement spread these evenly, so giving leadership back to
them evens out load after a failure. That happens by itself: a partition is moved when its preferred leader was found
able to lead in two scans, half an interval apart, and at most `LEADER_MOVES_PER_SCAN` move at a time. Draining brokers
lose leaderships the same way as soon as another replica is in sync.
"""

from __future__ import annotations

from typing import Final

from logcluster.core.controller.partitions import LiveBrokers, PartitionRules, Wish, change_partition
from logcluster.core.controller.requests import ElectLeaders, ElectResult, RebalanceLeaders, Result
from logcluster.core.controller.sessions import DamagedReplicas
from logcluster.core.controller.state import ControllerState, PartitionKey
from logcluster.core.metadata.image import PartitionRegistration
from logcluster.core.metadata.records import MetadataRecord, PartitionChangeRecord
from logcluster.model.errors import (
    ElectionNotNeeded,
    LeaderNotAvailable,
    LogClusterError,
    PreferredLeaderNotAvailable,
    UnknownTopicOrPartition,
)
from logcluster.model.probes import probe

LEADER_MOVES_PER_SCAN: Final = 200


class Leaders:
    """Elections on request and by the clock; reads the state, and what brokers say of damaged copies."""

    def __init__(
        self,
        state: ControllerState,
        damaged: DamagedReplicas,
        *,
        interval_ms: int | None,
        now_ms: int,
        trust_synced_logs: bool,
    ) -> None:
        self._state = state
        self._damaged = damaged
        self._scan_interval_ms = None if interval_ms is None else max(1, interval_ms // 2)
        self._next_scan_ms = now_ms + (self._scan_interval_ms or 0)
        self._ripe: dict[PartitionKey, None] = {}
        self._trust_synced_logs = trust_synced_logs

    def due(self, now_ms: int) -> RebalanceLeaders | None:
        """Which partitions should be moved now, if it is time to look and there are any."""
        if self._scan_interval_ms is None or now_ms < self._next_scan_ms:
            return None
        self._next_scan_ms = now_ms + self._scan_interval_ms
        live = LiveBrokers.of(self._state.image.brokers, damaged=self._damaged)
        movable = {
            (partition.topic_id, partition.partition): None
            for partition in [*self._state.misplaced(), *self._led_by_draining(live)]
            if self._target(partition, live) not in (None, partition.leader_id)
        }
        ready = [key for key in movable if key in self._ripe][:LEADER_MOVES_PER_SCAN]
        self._ripe = {key: None for key in movable if key not in ready}
        return RebalanceLeaders(partitions=tuple(ready)) if ready else None

    def rebalance(self, request: RebalanceLeaders) -> Result:
        """Move the leaderships that still should move."""
        live = LiveBrokers.of(self._state.image.brokers, damaged=self._damaged)
        records: list[MetadataRecord] = []
        for topic_id, index in request.partitions:
            partition = self._state.image.partition(topic_id, index)
            target = None if partition is None else self._target(partition, live)
            if partition is None or target is None:
                continue
            record = self._change(partition, live, Wish(preferred=target), "leaderships are evened out")
            if record is not None:
                probe("controller.leadership.evened_out")
                records.append(record)
        return Result(records=tuple(records), response=None)

    def elect(self, request: ElectLeaders) -> Result:
        """Hold the elections that an operator asks for."""
        live = LiveBrokers.of(self._state.image.brokers, damaged=self._damaged)
        records: list[MetadataRecord] = []
        results: list[ElectResult] = []
        seen: set[tuple[str, int]] = set()
        for name, index in self._asked_for(request):
            if (name, index) in seen:
                continue
            seen.add((name, index))
            try:
                partition = self._find(name, index)
                change = self._elect_unclean if request.unclean else self._elect_preferred
                record = change(partition, live)
            except LogClusterError as error:
                results.append(ElectResult(topic=name, partition=index, error=error))
                continue
            records.append(record)
            results.append(ElectResult(topic=name, partition=index, leader_id=record.leader_id))
        return Result(records=tuple(records), response=tuple(results))

    def _asked_for(self, request: ElectLeaders) -> list[tuple[str, int]]:
        if request.partitions is not None:
            return list(request.partitions)
        needing = self._state.leaderless() if request.unclean else self._state.misplaced()
        return [(self._state.topic_name(partition.topic_id), partition.partition) for partition in needing]

    def _find(self, name: str, index: int) -> PartitionRegistration:
        topic = self._state.image.topic_by_name(name)
        partition = None if topic is None else topic.partitions.get(index)
        if partition is None:
            raise UnknownTopicOrPartition(f"there is no partition {name}-{index}", topic=name, partition=index)
        return partition

    def _elect_preferred(self, partition: PartitionRegistration, live: LiveBrokers) -> PartitionChangeRecord:
        preferred = partition.preferred_leader_id
        if partition.leader_id == preferred:
            raise ElectionNotNeeded(leader_id=preferred)
        record = self._change(partition, live, Wish(preferred=preferred), "preferred leader asked for")
        if record is None or record.leader_id != preferred:
            raise PreferredLeaderNotAvailable(f"broker {preferred} is not active and in sync", broker_id=preferred)
        return record

    def _elect_unclean(self, partition: PartitionRegistration, live: LiveBrokers) -> PartitionChangeRecord:
        if partition.leader_id is not None:
            raise ElectionNotNeeded(leader_id=partition.leader_id)
        record = self._change(partition, live, Wish(allow_unclean=True), "unclean election asked for")
        if record is None or record.leader_id is None:
            raise LeaderNotAvailable("no replica of the partition is active")
        return record

    def _led_by_draining(self, live: LiveBrokers) -> list[PartitionRegistration]:
        return [
            partition
            for broker_id in sorted(live.draining)
            for partition in self._state.hosted_by(broker_id)
            if partition.leader_id == broker_id
        ]

    def _target(self, partition: PartitionRegistration, live: LiveBrokers) -> int | None:
        """Who should lead: the preferred leader, or where that one cannot, somebody in place of a draining leader."""
        able = [
            member
            for member in partition.replicas
            if member in partition.in_sync_replicas and member in live.active and member not in live.draining
        ]
        if not able or partition.leader_id is None:
            return None
        if partition.preferred_leader_id in able:
            return partition.preferred_leader_id
        return able[0] if partition.leader_id in live.draining else partition.leader_id

    def _change(
        self, partition: PartitionRegistration, live: LiveBrokers, wish: Wish, reason: str
    ) -> PartitionChangeRecord | None:
        rules = PartitionRules.of(self._state.config_of(partition.topic_id), trust_synced_logs=self._trust_synced_logs)
        return change_partition(
            partition, in_sync=partition.in_sync_replicas, live=live, rules=rules, wish=wish, reason=reason
        )
