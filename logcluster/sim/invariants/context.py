"""What all invariants share: where findings go, the histories of partitions, and who was last seen in which state.

One `Context` per world. A `Watch` belongs to one process of a node: what lives in memory is forgotten with it; what
lives on disk is in `Copy` and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from logcluster.broker.controller_driver import Reign
from logcluster.broker.partition import Partition
from logcluster.core.metadata.image import EMPTY, MetadataImage
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.raft.messages import HardState
from logcluster.core.raft.roles import Role
from logcluster.core.raft.state import ReplicaState
from logcluster.core.replication.follower import FollowerState
from logcluster.core.replication.leader import LeaderState
from logcluster.node import Node
from logcluster.sim.findings import Finding
from logcluster.sim.invariants.catalogue import INVARIANTS
from logcluster.sim.invariants.history import Copy, PartitionHistory
from logcluster.sim.invariants.view import NodeView, PartitionKey, WorldView, hosted_partitions


class Seen:
    """One hosted partition as it was after the last event in which it changed."""

    __slots__ = ("copy", "follower", "high_watermark", "leader", "log", "log_end_offset", "partition")

    def __init__(self, partition: Partition, copy: Copy) -> None:
        self.partition = partition
        self.log = partition.log
        self.copy = copy
        self.high_watermark = -1
        self.log_end_offset = partition.log.log_end_offset
        self.leader: LeaderState | None = None
        self.follower: FollowerState | None = None


class Watch:
    """One process of a node, and what was last seen of it."""

    def __init__(self, machine: NodeView, node: Node, raft: ReplicaState | None) -> None:
        self.machine = machine
        self.node = node
        self.process = machine.process
        self.node_id = machine.node_id
        self.name = machine.name
        self.hosted: Mapping[PartitionKey, Partition] = hosted_partitions(node)
        self.rows: list[Seen] = []
        """What was last seen of each hosted replica, in the order of `hosted`."""
        self.raft = raft
        self.hard_state: HardState | None = None
        self.commit_index = -1
        self.role: Role | None = None
        self.image: MetadataImage = EMPTY
        self.committed: MetadataImage = EMPTY
        self.reign: Reign | None = None
        self.damaged_count = 0


class Context:
    """See the top of the file.

    Args:
        on_finding: told at once of every finding; may raise, to end the run.
    """

    def __init__(self, world: WorldView, on_finding: Callable[[Finding], None]) -> None:
        self.world = world
        self.findings: list[Finding] = []
        self.histories: dict[PartitionKey, PartitionHistory] = {}
        self.copies: dict[PartitionKey, dict[int, Copy]] = {}
        self.watches: dict[int, Watch] = {}
        self.image: MetadataImage = EMPTY
        """The newest committed metadata, replayed from the quorum's log independently of the nodes."""
        self._on_finding = on_finding
        self._reported: dict[tuple[str, object], None] = {}

    def report(self, name: str, subject: object, detail: str) -> None:
        """Record a violation; the second one of the same invariant about the same subject is left out."""
        assert name in INVARIANTS, name
        if (name, subject) in self._reported:
            return
        self._reported[name, subject] = None
        finding = Finding(name, detail, self.world.now_ms, "invariant")
        self.findings.append(finding)
        self._on_finding(finding)

    def history(self, key: PartitionKey, name: str) -> PartitionHistory:
        """The history of a partition, begun on first sight."""
        history = self.histories.get(key)
        if history is None:
            history = self.histories[key] = PartitionHistory(key, name)
        return history

    def copy(self, key: PartitionKey, node_id: int) -> Copy | None:
        """A node's copy of a partition, if it was ever seen."""
        return self.copies.get(key, {}).get(node_id)

    def copies_on(self, node_id: int) -> list[Copy]:
        """Every copy that a node was ever seen to host."""
        return [copies[node_id] for copies in self.copies.values() if node_id in copies]

    def note_flush_mode(self, history: PartitionHistory, partition: Partition) -> None:
        """Remember whether page caches ever counted: by the topic's committed settings, not by what replicas do."""
        topic = self.image.topics.get(history.key.topic_id)
        config = partition.config if topic is None else TopicConfig.from_overrides(topic.config)
        if config.flush_mode != "sync":
            history.was_async = True

    def adopt(self, watch: Watch, key: PartitionKey, partition: Partition) -> tuple[Copy, bool]:
        """The copy behind a hosted partition that is seen for the first time; also whether its files are new ones."""
        copies = self.copies.setdefault(key, {})
        history = self.history(key, str(partition.topic_partition))
        self.note_flush_mode(history, partition)
        directory, disk = partition.log.directory, watch.machine.disk
        copy = copies.get(watch.node_id)
        if copy is None:
            copy = copies[watch.node_id] = Copy(watch.node_id, history, disk, directory)
            return copy, True
        if copy.disk is not disk:
            copy.begin(disk, directory)
            return copy, True
        return copy, False
