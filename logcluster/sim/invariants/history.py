"""What a partition has promised so far, and how much of it each copy on each disk has been seen to hold.

`PartitionHistory` keeps the committed batches in the form (base offset -> next offset, leader epoch, checksum): filled
from the leader's own log when its high watermark first passes them, and the measure for everything afterwards. `Copy`
belongs to one disk of one node and outlives the node's processes. Both are told what happened; they judge nothing.

An unclean election, where allowed, may lose records: the history then begins anew at the new leader's log end, and the
partition counts as `is_tainted`, so that old replicas which have not been cut yet are not compared. A copy whose disk
was replaced, damaged on purpose or (with `flush.mode=async`) without power is excused until it has caught up again.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from logcluster.record.batch import BatchHeader
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.invariants.stored_log import StoredLogWalk
from logcluster.sim.invariants.view import PartitionKey
from logcluster.storage.log import PartitionLog

BATCHES_REMEMBERED: Final = 5


class CommittedBatch(NamedTuple):
    """One batch as it was when a leader's high watermark first passed it."""

    next_offset: int
    leader_epoch: int
    crc: int

    def is_same(self, header: BatchHeader) -> bool:
        """Whether a stored batch with the same base offset is this one."""
        return (
            self.crc == header.crc
            and self.leader_epoch == header.leader_epoch
            and self.next_offset == header.base_offset + header.last_offset_delta + 1
        )


class Mismatch(NamedTuple):
    """Where a copy holds something else than what was committed."""

    offset: int
    found: BatchHeader
    committed: CommittedBatch | None
    """None when no committed batch begins there."""

    def __str__(self) -> str:
        found = self.found
        there = f"[{found.base_offset}, {found.next_offset}) epoch {found.leader_epoch} crc {found.crc:08x}"
        if self.committed is None:
            return f"holds {there}, where no committed batch begins"
        next_offset, leader_epoch, crc = self.committed
        return f"holds {there}, committed was [{self.offset}, {next_offset}) epoch {leader_epoch} crc {crc:08x}"


class PartitionHistory:
    """Everything exposed of one partition, by any leader."""

    __slots__ = (
        "batches",
        "end_offset",
        "exposed_by_epoch",
        "holders_required",
        "is_tainted",
        "key",
        "name",
        "start_by_epoch",
        "was_async",
    )

    def __init__(self, key: PartitionKey, name: str) -> None:
        self.key = key
        self.name = name
        self.batches: dict[int, CommittedBatch] = {}
        self.end_offset = 0
        """Everything below was once below a leader's high watermark."""
        self.exposed_by_epoch: dict[int, int] = {}
        """Highest high watermark of each leader epoch."""
        self.start_by_epoch: dict[int, int] = {}
        """Log end at which each leader epoch began."""
        self.holders_required = 0
        """Smallest number of copies that any commitment so far asked for; 0 before the first."""
        self.is_tainted = False
        self.was_async = False
        """Whether a replica ever counted its page cache as held: then only page caches are compared."""

    def exposed_before(self, leader_epoch: int) -> int:
        """The highest offset exposed in earlier leader epochs."""
        return max((end for epoch, end in self.exposed_by_epoch.items() if epoch < leader_epoch), default=0)

    @property
    def exposed_to(self) -> int:
        """The highest offset ever exposed; what lies above `end_offset` could not be read from any leader's files."""
        return max(self.exposed_by_epoch.values(), default=0)

    def begin_anew(self, log_end_offset: int) -> None:
        """An unclean election has made a log with this end the truth."""
        self.is_tainted = True
        self.batches = {base: batch for base, batch in self.batches.items() if batch.next_offset <= log_end_offset}
        self.end_offset = min(self.end_offset, log_end_offset)
        self.exposed_by_epoch = {epoch: min(end, log_end_offset) for epoch, end in self.exposed_by_epoch.items()}


class ProducerShadow:
    """What a log's batch headers say of its producers: kept independently of `ProducerStates`, by the same rule."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: dict[int, tuple[int, deque[tuple[int, int, int, int, int]]]] = {}

    def note(self, header: BatchHeader) -> None:
        """Take in the next batch of the log."""
        producer_id = header.producer_id
        if producer_id < 0:
            return
        entry = self.entries.get(producer_id)
        if entry is None or entry[0] != header.producer_epoch:
            entry = self.entries[producer_id] = (header.producer_epoch, deque(maxlen=BATCHES_REMEMBERED))
        if header.base_sequence >= 0:
            entry[1].append(
                (
                    header.base_sequence,
                    header.last_sequence,
                    header.base_offset,
                    header.last_offset,
                    header.max_timestamp_ms,
                )
            )


class Copy:
    """One node's replica of one partition, as far as it has been looked at; belongs to a disk."""

    __slots__ = (
        "directory",
        "disk",
        "durable",
        "durable_to",
        "ended_at",
        "excuse",
        "excused_below",
        "excused_broker_epoch",
        "has_forgotten_producers",
        "held_at_stop",
        "history",
        "last_start_offset",
        "log",
        "matched_to",
        "mismatch",
        "node_id",
        "role_epoch",
        "shadow",
        "shadow_walk",
        "visible",
        "was_damaged",
    )

    def __init__(self, node_id: int, history: PartitionHistory, disk: SimulatedDisk, directory: str) -> None:
        self.node_id = node_id
        self.history = history
        self.role_epoch = -1
        """Newest leader epoch in which this node led or followed, over all its processes."""
        self.excuse: str | None = None
        """Why it need not hold what it once held; None again when it has caught up."""
        self.excused_broker_epoch: int | None = None
        """While the node's committed registration is this one, the excuse stays: what that process reported counts."""
        self.excused_below = 0
        """The excuse stays until so much was committed and is held."""
        self.was_damaged = False
        self.has_forgotten_producers = False
        self.begin(disk, directory)

    def begin(self, disk: SimulatedDisk, directory: str) -> None:
        """The copy's files are others: another disk, or a new log in place of a damaged one."""
        self.disk = disk
        self.directory = directory
        self.log: PartitionLog | None = None
        """The log of the process that runs now; None while there is none."""
        self.last_start_offset = 0
        self.held_at_stop = 0
        self.ended_at = 0
        self.look_again()

    @property
    def log_start_offset(self) -> int:
        """Below which offset records were deleted on purpose: by retention, which each replica does for itself."""
        return self.last_start_offset if self.log is None else self.log.log_start_offset

    @property
    def log_end_offset(self) -> int:
        """What the node may have reported as held; after its process has ended, the last it had."""
        return self.ended_at if self.log is None else self.log.log_end_offset

    def leave(self) -> None:
        """The process has ended; what the copy held then must be there after the next start."""
        self.last_start_offset = max(self.last_start_offset, self.log_start_offset)
        self.ended_at = self.log_end_offset
        self.log = None
        self.held_at_stop = self.matched_to if self.history.was_async else self.durable_to

    def look_again(self) -> None:
        """Forget what was seen of the files, so that it is read from their beginning."""
        self.visible = StoredLogWalk(self.disk, self.directory, durable=False)
        self.durable = StoredLogWalk(self.disk, self.directory, durable=True)
        self.matched_to = 0
        """Every committed batch below was seen in the files as processes see them."""
        self.durable_to = 0
        """Every committed batch below was seen in what a power cut leaves, with a sound checksum."""
        self.mismatch: Mismatch | None = None
        self.shadow = ProducerShadow()
        self.shadow_walk = StoredLogWalk(self.disk, self.directory, durable=False)

    def forgive(self, reason: str, *, broker_epoch: int | None = None, below: int = 0) -> None:
        """The copy may have lost anything, through no fault of the node; it counts again when it has caught up.

        Args:
            broker_epoch: the registration under which the loss is not known to the controller yet.
            below: the end of what the node had reported, so that the leader may count it as held, committed or not.
        """
        self.excuse = reason
        self.excused_broker_epoch = broker_epoch
        self.excused_below = below

    @property
    def held_to(self) -> int:
        """Below which offset everything committed was seen in the visible files; deleted records count as held."""
        return max(self.matched_to, self.log_start_offset)

    def look(self, log_end_offset: int) -> Mismatch | None:
        """Read on in the visible files as far as `log_end_offset`; returns where they differ from what was committed.

        Only committed batches can be compared, so the walk ends where the history ends.
        """
        mismatch = self.mismatch
        if mismatch is not None and mismatch.found.next_offset <= self.log_start_offset:
            # What differed was never committed here, and has been deleted since.
            mismatch = self.mismatch = None
        limit = min(self.history.end_offset, log_end_offset)
        if mismatch is not None or self.held_to >= limit:
            return mismatch
        walk = self._walk_from_start(self.visible)
        batches = self.history.batches
        while self.matched_to < limit:
            header = walk.next()
            if header is None or header.base_offset > self.held_to:
                return None
            if header.next_offset <= self.held_to:
                continue
            committed = batches.get(header.base_offset)
            if committed is None or not committed.is_same(header):
                if self.was_damaged or not walk.is_last_sound():
                    self.forgive("its files are damaged")
                    walk.restart()
                    return None
                self.mismatch = Mismatch(header.base_offset, header, committed)
                return self.mismatch
            self.matched_to = header.next_offset
        return None

    def extend_history(self, high_watermark: int) -> bool:
        """Take what lies below `high_watermark` here as committed; returns whether all was there, and fit."""
        history = self.history
        self.look(high_watermark)
        if self.held_to < history.end_offset or self.was_damaged:
            return False
        walk = self._walk_from_start(self.visible)
        while history.end_offset < high_watermark:
            header = walk.next()
            if header is None:
                return False
            if header.next_offset <= history.end_offset:
                continue
            history.batches[header.base_offset] = CommittedBatch(header.next_offset, header.leader_epoch, header.crc)
            history.end_offset = self.matched_to = header.next_offset
        return True

    def look_durable(self, limit: int) -> int:
        """Read on in what a power cut leaves, as far as `limit`; returns below which offset all committed is there."""
        if self.durable_to >= limit:
            return self.durable_to
        walk = self._walk_from_start(self.durable)
        batches = self.history.batches
        while self.durable_to < limit:
            header = walk.next()
            if header is None or header.base_offset > max(self.durable_to, self.log_start_offset):
                break
            committed = batches.get(header.base_offset)
            if header.next_offset > self.log_start_offset and (committed is None or not committed.is_same(header)):
                walk.restart()
                break
            self.durable_to = max(self.durable_to, header.next_offset)
        return max(self.durable_to, self.log_start_offset)

    def _walk_from_start(self, walk: StoredLogWalk) -> StoredLogWalk:
        """Where the log begins anew beyond the walk, begin there."""
        if walk.next_offset is not None and walk.next_offset < self.log_start_offset:
            walk.restart()
        return walk
