"""The controller and the metadata quorum, as a scrape reads them, and what committed metadata did."""

from __future__ import annotations

from logcluster.broker.controller_driver import ControllerDriver
from logcluster.broker.raft_driver import RaftDriver
from logcluster.core.metadata.image import BrokerRegistration, MetadataDelta, MetadataImage
from logcluster.metrics.exposition import Sink

ROLES = ("follower", "precandidate", "candidate", "leader", "resigned")
BROKER_STATES = ("active", "draining", "shutting-down", "fenced")


class MetadataChanges:
    """Counts what entries changed that were committed while this node was the active controller."""

    def __init__(self) -> None:
        self.elections = {"clean": 0, "unclean": 0}
        self.in_sync_changes = {"expand": 0, "shrink": 0}

    def on_change(self, before: MetadataImage, delta: MetadataDelta) -> None:
        """Take in one committed entry; a new partition is no election.

        A leader that may lack acknowledged records begins as recovering: that is how an unclean election shows.
        """
        for partition in delta.changed_partitions:
            earlier = before.partition(partition.topic_id, partition.partition)
            if earlier is None:
                continue
            if partition.leader_id is not None and partition.leader_epoch > earlier.leader_epoch:
                is_unclean = partition.is_recovering and not earlier.is_recovering
                self.elections["unclean" if is_unclean else "clean"] += 1
            difference = len(partition.in_sync_replicas) - len(earlier.in_sync_replicas)
            if difference:
                self.in_sync_changes["expand" if difference > 0 else "shrink"] += 1


class ControllerSource:
    """The controller on this voter, active or not."""

    def __init__(self, driver: ControllerDriver) -> None:
        self._driver = driver
        self.changes = MetadataChanges()

    def collect(self, sink: Sink) -> None:
        """Put what it knows; most of it only while it is active."""
        controller = self._driver.controller
        sink.put("logcluster_controller_active", float(controller is not None))
        for kind, count in self.changes.elections.items():
            sink.put("logcluster_controller_elections_total", count, kind)
        for kind, count in self.changes.in_sync_changes.items():
            sink.put("logcluster_controller_in_sync_changes_total", count, kind)
        if controller is None:
            return
        state = controller.state
        counts = dict.fromkeys(BROKER_STATES, 0)
        for broker in state.image.brokers.values():
            counts[_state_of(broker)] += 1
        for name, count in counts.items():
            sink.put("logcluster_controller_brokers", count, name)
        sink.put("logcluster_controller_requests_waiting", self._driver.waiting_count)
        sink.put("logcluster_controller_topics", len(state.image.topics))
        sink.put("logcluster_controller_partitions", state.partition_count)
        sink.put("logcluster_controller_partitions_offline", len(state.leaderless()))
        sink.put("logcluster_controller_partitions_misplaced", len(state.misplaced()))


def _state_of(broker: BrokerRegistration) -> str:
    if broker.is_fenced:
        return "fenced"
    if broker.in_controlled_shutdown:
        return "shutting-down"
    return "draining" if broker.is_draining else "active"


def collect_raft(raft: RaftDriver, sink: Sink) -> None:
    """Put what a voter knows of the quorum."""
    role = raft.role_name.lower()
    for name in ROLES:
        sink.put("logcluster_raft_role", float(name == role), name)
    sink.put("logcluster_raft_term", raft.term)
    sink.put("logcluster_raft_has_leader", float(raft.leader_id is not None))
    sink.put("logcluster_raft_voters", len(raft.voters))
    sink.put("logcluster_raft_commit_index", raft.commit_index)
    sink.put("logcluster_raft_applied_index", raft.applied_index)
    sink.put("logcluster_raft_last_log_index", raft.last_log_index)
    sink.put("logcluster_raft_snapshot_index", raft.snapshot_index)
    for peer, index in sorted(raft.peer_match_indexes().items()):
        sink.put("logcluster_raft_peer_lag_entries", max(0, raft.last_log_index - index), str(peer))
