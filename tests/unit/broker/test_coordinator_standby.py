"""Keeping the store in step with the log: committed records only, from a position that the log agrees with."""

from __future__ import annotations

import asyncio

import pytest
from coordinator_bench import Bench, in_virtual_time, write

from logcluster.broker.coordinators import standby as standby_module
from logcluster.broker.coordinators.standby import BARRIER_KEY, Standby, committed_changes
from logcluster.model.errors import CorruptLog
from logcluster.model.probes import counting
from logcluster.record.batch import stamp
from logcluster.record.builder import build_batch
from logcluster.record.control import ControlType, build_control_batch
from logcluster.storage.shard_store import ShardPosition

ANEW = "coordinator.store.position_not_believed"


def plain(*pairs: tuple[bytes | None, bytes | None], base_offset: int = 0, leader_epoch: int = 1) -> bytes:
    return stamp(
        build_batch([(5, key, value, []) for key, value in pairs]), base_offset=base_offset, leader_epoch=leader_epoch
    )


# -- what is taken over ------------------------------------------------------------------------------------------


def test_changes_are_in_order_and_the_epoch_is_that_of_the_last_batch() -> None:
    data = plain((b"a", b"1"), (b"b", None)) + plain((b"a", b"2"), base_offset=2, leader_epoch=4)
    assert committed_changes(data, 0) == ([(b"a", b"1"), (b"b", None), (b"a", b"2")], 4)


def test_records_before_the_position_are_left_out_although_their_batch_is_read() -> None:
    """Logs are read in whole batches, and a position may lie inside of one."""
    data = plain((b"a", b"1"), (b"b", b"1"), (b"a", b"2"), base_offset=10)
    assert committed_changes(data, 12) == ([(b"a", b"2")], 1)


def test_barriers_and_records_without_key_say_nothing() -> None:
    data = plain((BARRIER_KEY, None), (None, b"x"), (b"a", b"1"), (BARRIER_KEY + b"more", b"x"))
    assert committed_changes(data, 0) == ([(b"a", b"1")], 1)
    assert committed_changes(b"", 0) == ([], None)


def test_control_batches_say_nothing_but_their_epoch() -> None:
    marker = build_control_batch(
        ControlType.COMMIT, producer_id=7, producer_epoch=0, coordinator_epoch=0, timestamp_ms=5
    )
    assert committed_changes(stamp(marker, base_offset=0, leader_epoch=3), 0) == ([], 3)


@in_virtual_time
async def test_a_follower_takes_over_what_is_committed_and_nothing_else() -> None:
    async with Bench() as bench:
        bench.follow(1)
        bench.replicate((b"a/x", b"1"), (b"a/y", b"1"), epoch=1)
        bench.replicate((b"a/x", None), epoch=1)
        bench.replicate((b"a/y", b"2"), epoch=1, is_committed=False)
        await bench.pass_time(500)
        assert bench.stored() == {b"a/y": b"1"}
        assert bench.shard.standby.position == ShardPosition(3, 1, 1)
        bench.partition.learn_high_watermark(4)
        await bench.pass_time(500)
        assert bench.stored() == {b"a/y": b"2"}
        assert bench.store.position(bench.partition.topic_id_partition) == ShardPosition(4, 1, 1)


@in_virtual_time
async def test_the_leader_takes_over_only_what_is_committed_too() -> None:
    async with Bench() as bench:
        await bench.serve()
        bench.ask("a", write("a", x="1"))
        await bench.pass_time(500)
        assert bench.stored() == {}
        bench.commit()
        await bench.pass_time(500)
        assert bench.stored() == {b"a/x": b"1"}


@in_virtual_time
async def test_a_long_log_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby_module, "READ_SIZE_BYTES", 2_000)
    bench = Bench()
    bench.follow(1)
    for number in range(40):
        bench.replicate((b"a/%02d" % number, b"x" * 300), epoch=1)
    standby = bench.shard.standby
    steps: list[int] = []
    await standby.open()
    while await standby.catch_up():
        steps.append(standby.position.next_offset)
        assert len(bench.stored()) == standby.position.key_count == standby.position.next_offset
    assert len(steps) > 5 and steps[-1] == 40
    assert all(0 < late - early < 10 for early, late in zip([0, *steps], steps, strict=False))
    assert not await standby.catch_up()


# -- positions -----------------------------------------------------------------------------------------------------


async def store_of_an_earlier_process(bench: Bench) -> None:
    """Four records of epoch 1 in log and store; then the process ends, and nothing is followed."""
    bench.follow(1)
    bench.replicate((b"a/x", b"1"), (b"a/y", b"1"), (b"b/x", b"1"), (b"b/x", b"2"), epoch=1)
    standby = bench.shard.standby
    await standby.open()
    assert await standby.catch_up()
    bench.restart()


@in_virtual_time
async def test_a_position_that_the_log_agrees_with_is_believed_and_nothing_is_read_twice() -> None:
    bench = Bench()
    await store_of_an_earlier_process(bench)
    standby = bench.shard.standby
    with counting() as probes:
        await standby.open()
    assert probes[ANEW] == 0
    assert standby.position == ShardPosition(4, 1, 3)
    assert not await standby.catch_up()
    bench.replicate((b"a/x", b"3"), epoch=1)
    assert await standby.catch_up()
    assert bench.stored() == {b"a/x": b"3", b"a/y": b"1", b"b/x": b"2"}


@in_virtual_time
async def test_a_position_in_an_epoch_that_the_log_knows_otherwise_is_not_believed() -> None:
    """What the store has was overwritten: the log was cut, and other records stand at these offsets."""
    bench = Bench()
    await store_of_an_earlier_process(bench)
    bench.partition.restart_at(0)
    bench.follow(2)
    bench.replicate(*[(b"c/%d" % number, b"1") for number in range(5)], epoch=2)
    standby = bench.shard.standby
    with counting() as probes:
        await standby.open()
    assert probes[ANEW] == 1
    assert standby.position == ShardPosition(0, None, 0) and bench.stored() == {}
    assert await standby.catch_up()
    assert bench.stored() == {b"c/%d" % number: b"1" for number in range(5)}


@in_virtual_time
async def test_a_position_beyond_the_end_of_the_log_is_not_believed() -> None:
    bench = Bench()
    await store_of_an_earlier_process(bench)
    bench.partition.restart_at(0)
    bench.replicate((b"c/x", b"1"), epoch=1)
    await bench.shard.standby.open()
    assert bench.shard.standby.position.next_offset == 0
    assert await bench.shard.standby.catch_up()
    assert bench.stored() == {b"c/x": b"1"}


@in_virtual_time
async def test_a_position_below_the_start_of_the_log_is_not_believed() -> None:
    """Between the two, removals may be missing: only from the log's start on the log is complete by itself."""
    bench = Bench()
    await store_of_an_earlier_process(bench)
    bench.replicate((b"a/x", None), (b"c/x", b"1"), (b"c/x", b"2"), epoch=1)
    bench.partition.log.advance_log_start(6)
    await bench.shard.standby.open()
    assert bench.shard.standby.position == ShardPosition(6, None, 0)
    assert await bench.shard.standby.catch_up()
    assert bench.stored() == {b"c/x": b"2"}


@in_virtual_time
async def test_a_log_that_begins_later_while_it_is_read_is_read_anew_from_there() -> None:
    bench = Bench()
    await store_of_an_earlier_process(bench)
    standby = bench.shard.standby
    await standby.open()
    bench.replicate((b"c/x", b"1"), (b"c/y", b"1"), epoch=1)
    bench.partition.log.advance_log_start(5)
    assert await standby.catch_up()
    assert standby.position == ShardPosition(5, None, 0)
    assert await standby.catch_up()
    assert bench.stored() == {b"c/y": b"1"}


@in_virtual_time
async def test_a_store_that_lost_its_last_writes_reads_them_again() -> None:
    bench = Bench()
    await store_of_an_earlier_process(bench)
    bench.kv_store.crash()  # nothing was synced
    assert bench.stored() == {}
    async with bench:
        await bench.pass_time(200)
        assert bench.stored() == {b"a/x": b"1", b"a/y": b"1", b"b/x": b"2"}
        assert bench.shard.standby.position == ShardPosition(4, 1, 3)


# -- writing -------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_one_shard_writes_at_a_time() -> None:
    bench = Bench()
    bench.follow(1)
    bench.replicate((b"a/x", b"1"), epoch=1)
    standby = Standby(bench.partition, bench.store, bench.disk, bench.writes)
    await standby.open()
    async with bench.writes:
        catching_up = asyncio.ensure_future(standby.catch_up())
        await bench.pass_time()
        assert bench.stored() == {} and not catching_up.done()
    assert await catching_up
    assert bench.stored() == {b"a/x": b"1"}


@in_virtual_time
async def test_nobody_writes_while_the_write_of_a_cancelled_shard_is_still_going_on() -> None:
    """Its place in the store may be older than what another one writes meanwhile, and would replace it."""
    bench = Bench()
    bench.follow(1)
    bench.replicate((b"a/x", b"1"), epoch=1)
    await bench.shard.standby.open()
    bench.disk.hold()
    catching_up = asyncio.ensure_future(bench.shard.standby.catch_up())
    await bench.pass_time()
    catching_up.cancel()
    await bench.pass_time()
    try:
        assert bench.disk.waiting == 1
        assert bench.writes.locked()
    finally:
        bench.disk.release()


@in_virtual_time
async def test_a_log_that_cannot_be_read_for_a_moment_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Bench() as bench:
        bench.follow(1)
        await bench.pass_time()

        def fail(*_: object, **__: object) -> None:
            raise CorruptLog("a reader found damage")

        with monkeypatch.context() as patched, counting() as probes:
            patched.setattr(type(bench.partition.log), "read_tail", fail)
            bench.replicate((b"a/x", b"1"), epoch=1)
            await bench.pass_time(1_000)
            assert 2 < probes["coordinator.standby.cannot_read"] < 10
            assert bench.stored() == {}
        await bench.pass_time(500)
        assert bench.stored() == {b"a/x": b"1"}
