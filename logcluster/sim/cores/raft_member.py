"""One simulated voter: what dies with its process, and the disk that does not."""

from __future__ import annotations

from dataclasses import dataclass, field

from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import Persist, SendAfterDurable
from logcluster.core.raft.messages import Request
from logcluster.core.raft.node import RaftNode
from logcluster.sim.cores.raft_disk import RaftDisk


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One request of one incarnation; it gets one answer or one failure."""

    asker_id: int
    asker_incarnation: int
    to: int
    request: Request
    sent_ms: int
    is_done: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class RaftMember:
    """A node, its process and its disk.

    Attributes:
        memory: the log as the running node sees it: the disk plus all writes under way.
        skew_ms, clock_rate: its clock reads `rate * now + skew`; the skew only grows.
        pending: proposals of this process that were accepted and are not committed yet, by index.
        inbound: requests taken in and not answered yet, by causality id.
        is_wiped: its disk was lost and it is no voter with the new one yet.
    """

    config: RaftConfig
    disk: RaftDisk = field(default_factory=RaftDisk)
    memory: RaftDisk = field(default_factory=RaftDisk)
    node: RaftNode | None = None
    incarnation: int = 0
    writes: list[Persist] = field(default_factory=list)
    held: list[SendAfterDurable] = field(default_factory=list)
    is_writing: bool = False
    inbound: dict[int, Call] = field(default_factory=dict)
    pending: dict[int, bytes] = field(default_factory=dict)
    applied: int = 0
    digest: int = 0
    commit_seen: int = 0
    term_seen: int = 0
    disk_term_seen: int = 0
    was_leader: bool = False
    was_ready: bool = False
    tick_at_ms: int | None = None
    skew_ms: int = 0
    clock_rate: float = 1.0
    paused_until_ms: int = 0
    is_silenced: int = -1
    is_wiped: bool = False
    led_terms: int = 0

    @property
    def node_id(self) -> int:
        return self.config.node_id

    @property
    def directory_id(self) -> bytes:
        return self.config.directory_id
