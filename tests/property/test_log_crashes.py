"""A partition log on a disk that fails and loses power at any step, against a plain list of batches."""

import errno
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logcluster.model.errors import StorageFailure
from logcluster.model.ids import TopicId, TopicIdPartition, TopicPartition
from logcluster.record.batch import read_header, stamp
from logcluster.record.builder import BatchBuilder
from logcluster.record.compression import Compression
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_manager import LogManager
from logcluster.storage.tail_cache import TailCache

PARTITION = TopicPartition("orders", 0)
TOPIC_ID = TopicId(b"i" * 16)
KEY = TopicIdPartition(TOPIC_ID, 0)
CONFIG = LogConfig(
    segment_bytes=3000,
    index_interval_bytes=300,
    preallocate_bytes_min=1024,
    preallocate_bytes_max=4096,
    tail_cache_bytes_max=1500,
)


def make_batch(*, records: int, value_size: int, timestamp_ms: int) -> bytes:
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=1 << 20)
    for number in range(records):
        assert builder.append(timestamp_ms + number, b"k", bytes([number % 251 + 1]) * value_size, [])
    return builder.build()


class LogUnderPowerLoss(RuleBasedStateMachine):
    """The model: batches appended so far, and how far they are flushed, committed and cut at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimulatedDisk()
        self.batches: list[tuple[int, int, int, bytes]] = []  # base offset, next offset, max timestamp, bytes
        self.epochs: list[tuple[int, int]] = []
        self.epoch = 0
        self.flushed = 0
        self.committed = 0
        self.log_start = 0
        self.manager: Any = None
        self.log: Any = None

    @initialize()
    def start(self) -> None:
        self.open()

    def open(self) -> None:
        self.manager = LogManager.open(
            self.disk,
            "/data",
            cluster_id="c",
            node_id=1,
            new_directory_id=lambda: b"d" * 16,
            config_for=lambda _: CONFIG,
            tail_cache=TailCache(size_bytes_max=2500),
        )
        assert not self.manager.quarantined
        self.log: PartitionLog = self.manager.get_or_create(PARTITION, TOPIC_ID, CONFIG)

    @property
    def end(self) -> int:
        return self.batches[-1][1] if self.batches else self.log_start

    # -- what an owner does -----------------------------------------------------------------------------------------

    @rule(records=st.integers(1, 4), value_size=st.integers(0, 700), count=st.integers(1, 3), jump=st.integers(-50, 50))
    def append(self, records: int, value_size: int, count: int, jump: int) -> None:
        data = b""
        after = self.log.log_end_offset
        for _ in range(count):
            base = after
            timestamp = 1000 + base * 10 + jump
            batch = stamp(
                make_batch(records=records, value_size=value_size, timestamp_ms=timestamp),
                base_offset=base,
                leader_epoch=self.epoch,
            )
            after = base + records
            self.batches.append((base, after, timestamp + records - 1, batch))
            data += batch
        if not self.epochs or self.epochs[-1][0] != self.epoch:
            start = self.batches[-count][0]
            self.epochs = [entry for entry in self.epochs if entry[1] < start]
            self.epochs.append((self.epoch, start))
        self.log.append(data)

    @rule()
    def new_epoch(self) -> None:
        self.epoch += 1

    @rule()
    def flush(self) -> None:
        self.flushed = self.log.flush()
        assert self.flushed == self.end

    @rule(records=st.integers(1, 3))
    def append_while_flushing(self, records: int) -> None:
        pending = self.log.prepare_flush()
        self.append(records=records, value_size=100, count=1, jump=0)
        if pending is not None:
            pending.run()
            self.flushed = self.log.complete_flush(pending)
            assert self.flushed == pending.target_offset

    @rule(choice=st.integers(0, 100))
    def truncate_while_flushing(self, choice: int) -> None:
        pending = self.log.prepare_flush()
        self.truncate(choice)
        if pending is not None:
            pending.run()
            self.log.complete_flush(pending)
        assert self.log.flushed_offset <= self.log.log_end_offset

    @rule(choice=st.integers(0, 100))
    def commit(self, choice: int) -> None:
        self.committed = max(self.committed, self.log_start + (self.flushed - self.log_start) * choice // 100)
        self.log.high_watermark = self.committed

    @rule()
    def checkpoint(self) -> None:
        self.manager.checkpoint()

    @rule(choice=st.integers(0, 100), mid_batch=st.booleans())
    def truncate(self, choice: int, mid_batch: bool = False) -> None:
        """Cut anywhere at or above the log start, also below what was committed, as an unclean election would."""
        offsets = [base for base, _, _, _ in self.batches if base >= self.log_start]
        if not offsets:
            return
        offset = offsets[choice * len(offsets) // 101] + (1 if mid_batch else 0)
        before = self.log.flushed_offset
        end = self.log.truncate_to(offset)
        if offset >= self.end:
            assert (end, self.log.flushed_offset) == (self.end, before)
            return
        kept = [item for item in self.batches if item[1] <= offset]
        if len(kept) < len(self.batches):
            assert end == min(offset, self.batches[len(kept)][0])
        self.batches = kept
        self.epochs = [entry for entry in self.epochs if entry[1] < end]
        self.log_start = min(self.log_start, end)
        self.flushed = self.log.flushed_offset
        assert self.flushed == end == self.log.log_end_offset
        self.committed = min(self.committed, end)

    @rule(offset=st.integers(0, 1000))
    def start_again_elsewhere(self, offset: int) -> None:
        self.log.truncate_fully_and_start_at(offset)
        self.batches, self.epochs = [], []
        self.log_start = self.flushed = self.committed = offset

    @rule(choice=st.integers(0, 100))
    def delete_records(self, choice: int) -> None:
        self.log_start = max(self.log_start, self.log_start + (self.committed - self.log_start) * choice // 100)
        self.log.advance_log_start(self.log_start)
        self.forget_epochs()

    @rule(keep=st.integers(0, 6000))
    def retain(self, keep: int) -> None:
        self.log.apply_retention(0, high_watermark=self.committed, retention_ms=None, retention_bytes=keep)
        assert self.log.log_start_offset >= self.log_start
        assert self.log.log_start_offset <= max(self.committed, self.log_start)
        self.log_start = self.log.log_start_offset
        self.forget_epochs()
        self.manager.remove_paths(self.manager.collect_trash())

    @rule()
    def snapshot(self) -> None:
        self.log.write_producer_snapshot(self.end, repr(self.batches).encode())

    # -- what befalls it --------------------------------------------------------------------------------------------

    @rule()
    def stop_and_start(self) -> None:
        assert self.manager.close(clean=True, broker_epoch=7)
        self.open()
        assert self.manager.previous_broker_epoch == 7
        self.flushed = self.end
        assert self.log.log_end_offset == self.end
        self.after_restart()

    @rule(seed=st.integers(0, 2**32))
    def kill(self, seed: int) -> None:
        self.disk.crash(power_loss=False, rng=random.Random(seed))
        self.open()
        assert self.manager.previous_broker_epoch is None
        assert self.log.log_end_offset == self.end  # nothing written is lost with the process alone
        self.flushed = self.end
        self.after_restart()

    @rule(seed=st.integers(0, 2**32), what=st.sampled_from([("sync", ".log"), ("sync", ".json"), ("sync_dir", "")]))
    def fail_to_sync(self, seed: int, what: tuple[str, str]) -> None:
        """What was to be synced can be read and is not on the disk; a new process finds it and counts it as flushed."""
        self.disk.fail_next(what[0], errno.EIO, path_contains=what[1])
        try:
            self.flushed = self.log.flush()
        except StorageFailure:
            assert self.log.flushed_offset == self.flushed
        self.disk.forget_failures()
        self.kill(seed)

    @rule(seed=st.integers(0, 2**32), choice=st.integers(0, 100))
    def fail_to_cut(self, seed: int, choice: int) -> None:
        """How far the cut went is what the next process finds; from then on it stays so."""
        offsets = [base for base, _, _, _ in self.batches if base >= self.log_start]
        if not offsets:
            return
        offset = offsets[choice * len(offsets) // 101]
        self.disk.fail_next("sync", errno.EIO, path_contains=".log")
        with pytest.raises(StorageFailure):
            self.log.truncate_to(offset)
        self.disk.crash(power_loss=False, rng=random.Random(seed))
        self.open()
        self.flushed = self.log.log_end_offset
        assert offset <= self.flushed <= self.end
        self.batches = [item for item in self.batches if item[1] <= self.flushed]
        self.epochs = [entry for entry in self.epochs if entry[1] < self.flushed]
        self.log_start = min(self.log_start, self.flushed)
        assert self.flushed == self.end
        self.committed = min(self.committed, self.end)
        self.after_restart()

    @rule(seed=st.integers(0, 2**32), again=st.booleans())
    def lose_power(self, seed: int, again: bool) -> None:
        self.disk.crash(power_loss=True, rng=random.Random(seed))
        if again:
            self.open()
            self.disk.crash(power_loss=True, rng=random.Random(seed + 1))
        self.open()
        assert self.log.log_end_offset >= self.flushed, "flushed data is lost"
        assert self.log.log_end_offset <= self.end, "phantom data"
        ends = {base for base, _, _, _ in self.batches} | {
            self.end,
            self.log.log_end_offset if not self.batches else -1,
        }
        assert self.log.log_end_offset in ends
        self.batches = [item for item in self.batches if item[1] <= self.log.log_end_offset]
        self.flushed = self.log.log_end_offset
        self.epochs = [entry for entry in self.epochs if entry[1] < self.flushed]
        self.after_restart()

    def after_restart(self) -> None:
        assert self.log.log_start_offset <= self.log_start
        # The start is checkpointed lazily; an owner learns it again from its leader.
        self.log_start = min(self.log_start, self.end)
        self.log.advance_log_start(self.log_start)
        self.forget_epochs()
        found = [tuple(entry) for entry in self.log.leader_epochs.entries]
        if self.log_start == self.end and len(found) <= 1:
            self.epochs = found  # the epoch of what is gone may be forgotten or not
        self.committed = self.log.high_watermark = max(self.log.log_start_offset, min(self.committed, self.end))

    def forget_epochs(self) -> None:
        while len(self.epochs) > 1 and self.epochs[1][1] <= self.log_start:
            del self.epochs[0]
        self.epochs = [(epoch, max(start, self.log_start)) for epoch, start in self.epochs]

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def log_equals_model(self) -> None:
        if self.log is None:
            return
        self.log.check()
        assert self.log.log_end_offset == self.end
        expected = b"".join(data for _, after, _, data in self.batches if after > self.log_start)
        found = b""
        offset = self.log_start
        while offset < self.end:
            read = self.log.read(offset, size_bytes_max=1000, end_offset=self.end)
            assert read.data
            assert read.next_offset > offset
            found += read.data
            offset = read.next_offset
        assert found == expected

    @invariant()
    def lookups_equal_linear_search(self) -> None:
        if self.log is None:
            return
        for base, after, _, data in self.batches[-12:]:
            if after <= self.log_start:
                continue
            offset = max(after - 1, self.log_start)
            assert self.log.read(offset, size_bytes_max=1, end_offset=self.end).data == data
            assert not self.log.read(offset, size_bytes_max=1, end_offset=after - 1).data
            tail = self.log.read_tail(offset, size_bytes_max=1, end_offset=self.end)
            if tail is not None:
                assert (tail.data, tail.next_offset) == (data, after)
            wide = self.log.read_tail(max(base, self.log_start), size_bytes_max=2000, end_offset=after)
            if wide is not None:
                assert (wide.data, wide.next_offset) == (data, after)

    @invariant()
    def epochs_match_batches(self) -> None:
        if self.log is None:
            return
        assert [tuple(entry) for entry in self.log.leader_epochs.entries] == self.epochs

    @invariant()
    def timestamps_are_found(self) -> None:
        if self.log is None or not self.batches:
            return
        for wanted in (0, self.batches[len(self.batches) // 2][2], self.batches[-1][2], 10**9):
            expected = None
            for base, after, newest, _ in self.batches:
                count = after - base
                for number in range(count):
                    offset, timestamp = base + number, newest - count + 1 + number
                    if offset >= self.log_start and timestamp >= wanted and expected is None:
                        expected = (offset, timestamp)
            assert self.log.offset_for_timestamp(wanted) == expected

    @invariant()
    def snapshots_belong_to_this_history(self) -> None:
        if self.log is None:
            return
        found = self.log.latest_producer_snapshot()
        if found is not None:
            offset, payload = found
            assert offset <= self.end
            taken = {item[0]: item[3] for item in eval(payload.decode())}
            for base, after, _, data in self.batches:
                if after <= offset and base in taken:
                    assert taken[base] == data

    @precondition(lambda self: self.log is not None)
    @invariant()
    def headers_replay(self) -> None:
        expected = [base for base, after, _, _ in self.batches if after > self.log_start]
        assert [header.base_offset for header in self.log.headers_from(0)] == expected


LogUnderPowerLoss.TestCase.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLogUnderPowerLoss = pytest.mark.timeout(120)(LogUnderPowerLoss.TestCase)


def test_header_helper_agrees_with_the_model() -> None:
    batch = stamp(make_batch(records=3, value_size=10, timestamp_ms=5), base_offset=7, leader_epoch=2)
    header = read_header(batch)
    assert (header.base_offset, header.next_offset, header.max_timestamp_ms, header.leader_epoch) == (7, 10, 7, 2)
