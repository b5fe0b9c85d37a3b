"""The checks of the core simulators: each that no ablation shows fires by hand, and stays silent where all is well."""

from __future__ import annotations

import zlib
from random import Random
from types import SimpleNamespace

import pytest

from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import Persist
from logcluster.core.raft.messages import Entry, EntryKind, HardState, Snapshot
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.invariants import InvariantViolation
from logcluster.sim.cores.partition_log import Batch, SimulatedLog
from logcluster.sim.cores.raft_checks import RaftChecks, encode_state
from logcluster.sim.cores.raft_disk import RaftDisk
from logcluster.sim.cores.raft_member import RaftMember
from logcluster.sim.cores.replication_ablations import WorldAblations
from logcluster.sim.cores.replication_options import ReplicationOptions
from logcluster.sim.cores.replication_world import ReplicationWorld
from logcluster.sim.cores.result import Notebook


def entry(index: int, term: int = 1, payload: bytes = b"x") -> Entry:
    return Entry(index=index, term=term, kind=EntryKind.DATA, payload=payload)


def write(*entries: Entry, **words: object) -> Persist:
    fields = {"write_id": 1, "hard_state": None, "truncate_from": None, "base": None, "snapshot": None}
    return Persist(**{**fields, **words}, entries=entries)


@pytest.fixture
def book() -> Notebook:
    return Notebook()


@pytest.fixture
def member() -> RaftMember:
    member = RaftMember(config=RaftConfig(node_id=1, directory_id=b"d" * 16))
    for disk in (member.disk, member.memory):
        disk.write(write(entry(1), entry(2), hard_state=HardState(term=1)))
    return member


def node(**facts: object) -> SimpleNamespace:
    return SimpleNamespace(**{"term": 1, "commit_index": 0, "role_name": "Follower", "voters": (), **facts})


class TestRaftChecks:
    def test_entries_applied_in_order_are_fine(self, book: Notebook, member: RaftMember) -> None:
        checks = RaftChecks(book, {})
        checks.on_apply(member, entry(1))
        checks.on_apply(member, entry(2))
        checks.after_step(member, node(commit_index=2))
        assert not book.findings
        assert (member.applied, member.commit_seen) == (2, 2)

    def test_a_skipped_entry(self, book: Notebook, member: RaftMember) -> None:
        RaftChecks(book, {}).on_apply(member, entry(2))
        assert list(book.findings) == ["apply-order"]

    def test_a_snapshot_stands_for_what_it_replaces(self, book: Notebook, member: RaftMember) -> None:
        checks = RaftChecks(book, {})
        checks.on_apply(member, entry(1))
        other = RaftMember(config=member.config)
        checks.on_apply_snapshot(
            other, Snapshot(index=1, term=1, voters=(), payload=encode_state(1, zlib.crc32(b"1/2/x")))
        )
        assert not book.findings
        third = RaftMember(config=member.config)
        checks.on_apply_snapshot(third, Snapshot(index=1, term=1, voters=(), payload=encode_state(1, 77)))
        assert list(book.findings) == ["state-machine-safety"]

    def test_a_term_that_goes_back(self, book: Notebook, member: RaftMember) -> None:
        checks = RaftChecks(book, {})
        checks.after_step(member, node(term=3))
        checks.after_step(member, node(term=2))
        assert list(book.findings) == ["term-regressed"]

    def test_a_disk_that_forgot_its_term(self, book: Notebook, member: RaftMember) -> None:
        checks = RaftChecks(book, {})
        member.disk_term_seen = 1
        checks.check_start(member)
        assert not book.findings
        member.disk_term_seen = 4
        checks.check_start(member)
        assert list(book.findings) == ["term-regressed"]

    def test_a_commit_that_goes_back(self, book: Notebook, member: RaftMember) -> None:
        checks = RaftChecks(book, {})
        checks.after_step(member, node(commit_index=2))
        checks.after_step(member, node(commit_index=1))
        assert list(book.findings) == ["commit-regressed"]

    def test_a_slow_winner_of_an_old_term_may_lack_what_was_committed_later(
        self, book: Notebook, member: RaftMember
    ) -> None:
        checks = RaftChecks(book, {})
        checks.after_step(member, node(term=5, commit_index=2))
        slow, late = RaftMember(config=member.config), RaftMember(config=member.config)
        slow.incarnation, late.incarnation = 1, 2
        checks.after_step(slow, node(term=4, role_name="Leader"))
        assert not book.findings
        checks.after_step(late, node(term=6, role_name="Leader"))
        assert list(book.findings) == ["leader-completeness"]


class TestRaftDisk:
    def test_writes_truncate_compact_and_replace(self) -> None:
        disk = RaftDisk()
        assert disk.write(write(entry(1), entry(2), entry(3))) == 0
        assert disk.write(write(entry(3, 2), truncate_from=3)) == 1
        disk.write(write(base=(2, 1)))
        assert (disk.base_index, disk.last_index, disk.term_at(2), disk.term_at(3)) == (2, 3, 1, 2)
        assert disk.holds(1, 1)
        assert disk.holds(3, 2)
        assert not disk.holds(3, 1)
        copy = disk.copy()
        disk.write(write(entry(4, 2)))
        assert (copy.last_index, disk.last_index) == (3, 4)
        assert disk.persisted().entries[0].index == 3


def batch(offset: int, count: int = 1, *, epoch: int = 0, producer_id: int = 7, sequence: int = 0, value: int) -> Batch:
    return Batch(offset, count, epoch, producer_id, sequence, value)


class TestReplicationChecks:
    @pytest.fixture
    def world(self, book: Notebook) -> ReplicationWorld:
        return ReplicationWorld(Random(1), ReplicationOptions(), WorldAblations(), book)

    def test_two_leaders_in_one_epoch(self, world: ReplicationWorld, book: Notebook) -> None:
        registration = SimpleNamespace(leader_epoch=3, is_recovering=False)
        world.checks.on_new_leader(world.brokers[1], registration)
        world.checks.on_new_leader(world.brokers[1], registration)
        assert not book.findings
        world.checks.on_new_leader(world.brokers[2], registration)
        assert list(book.findings) == ["two-leaders"]

    def test_a_high_watermark_that_goes_back(self, world: ReplicationWorld, book: Notebook) -> None:
        broker = world.brokers[1]
        for number in range(3):
            broker.log.append(batch(number, sequence=number, value=number), broker.producers)
        broker.leader = SimpleNamespace(leader_epoch=1, latest_offset=lambda: 3)
        world.checks.on_exposed(broker, 0, 2)
        world.checks.on_exposed(broker, 2, 3)
        assert not book.findings
        world.checks.on_exposed(broker, 2, 2)
        assert list(book.findings) == ["high-watermark-regressed"]

    def test_a_producer_state_that_missed_a_batch(self, world: ReplicationWorld, book: Notebook) -> None:
        broker = world.brokers[1]
        producer_id = world.producer_ids[0]
        broker.log.append(batch(0, producer_id=producer_id, value=1), broker.producers)
        world.checks.check_producers(broker)
        assert not book.findings
        broker.producers = ProducerStates()
        world.checks.check_producers(broker)
        assert list(book.findings) == ["producer-state"]

    def test_order_of_a_producer(self, world: ReplicationWorld, book: Notebook) -> None:
        log = [batch(0, 2, sequence=0, value=1), batch(2, producer_id=-1, value=9), batch(3, sequence=2, value=2)]
        world.checks.check_order(log)
        assert not book.findings
        world.checks.check_order([log[2], log[0]])
        assert list(book.findings) == ["reordered"]
        world.checks.check_order([log[0], batch(2, 2, sequence=0, value=1)])
        assert list(book.findings) == ["reordered", "duplicate"]


class TestSimulatedLog:
    def filled(self, producers: ProducerStates) -> SimulatedLog:
        log = SimulatedLog()
        for number in range(20):
            log.append(batch(2 * number, 2, epoch=number // 8, sequence=2 * number, value=number), producers)
        return log

    def test_a_power_loss_keeps_what_was_flushed(self) -> None:
        log = self.filled(ProducerStates())
        log.flushed_offset = 30
        assert log.lose_power(1) == 4
        log.recover(is_clean=False)
        assert (log.log_end_offset, log.flushed_offset, log.epochs.entries) == (32, 32, ((0, 0), (1, 16)))

    def test_a_truncation_takes_epochs_and_snapshots_along(self) -> None:
        producers = ProducerStates()
        log = self.filled(producers)
        assert [each.value for each in log.truncate_to(15)] == list(range(7, 20))
        assert (log.log_end_offset, log.flushed_offset) == (14, 14)
        assert log.epochs.entries == ((0, 0),)
        log.load_producers(producers)
        assert producers.get(7).batches == log.replay_producers().get(7).batches
        assert producers.get(7).batches[-1].last_offset == 13

    def test_a_snapshot_is_as_good_as_the_batches_before_it(self) -> None:
        log = self.filled(ProducerStates())
        assert log.snapshots
        producers = ProducerStates()
        log.load_producers(producers)
        assert producers.get(7).batches == log.replay_producers().get(7).batches

    def test_an_append_that_does_not_continue_is_refused(self) -> None:
        log = self.filled(ProducerStates())
        with pytest.raises(InvariantViolation):
            log.append(batch(41, value=99), ProducerStates())
