"""Replicas of this broker whose log is damaged: what the controller is told of them, and when a new log may begin.

Invariants: a report speaks of the newest leader epoch known here, since the controller ignores older ones. A new log
begins only once nobody counts on the replica, and in a leader epoch later than the one in which the damaged log last
took part: until then its leader may still propose the replica for what the old log held, and would make an empty log
an in-sync one. The controller ends the epoch when it hears of the damage.

Neighbours: `replica_manager` owns it, `lifecycle` sends the reports. Promise P8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from logcluster.core.metadata.image import PartitionRegistration
from logcluster.model.ids import TopicIdPartition


class FailedReplicas:
    """See the top of the file.

    Args:
        on_change: told whenever `reports` changed.
    """

    __slots__ = ("_broker_id", "_last_epochs", "_on_change", "_reports")

    def __init__(self, *, broker_id: int, on_change: Callable[[], None]) -> None:
        self._broker_id = broker_id
        self._on_change = on_change
        self._reports: dict[TopicIdPartition, int] = {}
        self._last_epochs: dict[TopicIdPartition, int] = {}

    @property
    def reports(self) -> Mapping[TopicIdPartition, int]:
        """The leader epoch to be told of each damaged replica; in the order in which they were found."""
        return self._reports

    def note(self, registration: PartitionRegistration, *, last_epoch: int | None = None) -> None:
        """The log of this replica is damaged, as of this registration.

        Args:
            last_epoch: the leader epoch in which the log last took part in replication; None when this process never
                used it, or has said so before.
        """
        key = TopicIdPartition(registration.topic_id, registration.partition)
        if last_epoch is not None:
            self._last_epochs[key] = last_epoch
        if self._reports.get(key, -1) < registration.leader_epoch:
            self._reports[key] = registration.leader_epoch
            self._on_change()

    def forget(self, key: TopicIdPartition) -> None:
        """A new log has taken its place, or the broker has no replica of the partition any more."""
        self._last_epochs.pop(key, None)
        if self._reports.pop(key, None) is not None:
            self._on_change()

    def may_begin_anew(self, registration: PartitionRegistration) -> bool:
        """Is there a leader to fetch everything from, and does nobody count on what the damaged log holds?"""
        key = TopicIdPartition(registration.topic_id, registration.partition)
        is_counted = self._broker_id in (
            *registration.in_sync_replicas,
            *registration.eligible_leader_replicas,
            *registration.last_known_leaders,
        )
        return (
            registration.leader_id is not None
            and not is_counted
            and registration.leader_epoch > self._last_epochs.get(key, -1)
        )
