"""Keeping a shard's log short: what is copied, what is deleted and when, and what a leadership that ends leaves."""

from __future__ import annotations

import asyncio

import pytest
from coordinator_bench import Bench, Pair, batches, in_virtual_time, write, write_all

from logcluster.broker.coordinators import rewriting as rewriting_module
from logcluster.broker.coordinators.rewriting import KEYS_PER_PIECE, RETRY_PAUSE_MS
from logcluster.model.probes import counting
from logcluster.runtime.failpoints import install


def live(pairs: list[list[Pair]]) -> dict[bytes, bytes]:
    """What a reader of these batches ends up with."""
    found: dict[bytes, bytes] = {}
    for key, value in (pair for batch in pairs for pair in batch):
        if value is None:
            found.pop(key, None)
        else:
            found[key] = value
    return found


def write_rounds(bench: Bench, rounds: int, *, keys: int = 10) -> None:
    """As the follower of epoch 1: so many rounds over these keys, of which the last one counts."""
    bench.follow(1)
    for number in range(rounds):
        bench.replicate(*[(b"a/%03d" % key, b"%d" % number) for key in range(keys)], epoch=1)


async def due(bench: Bench, *, keys: int = 10) -> int:
    """Lead a shard whose log is to be rewritten now; returns the log's end, from where on the copies will stand."""
    write_rounds(bench, (KEYS_PER_PIECE + 2 * keys) // keys + 2, keys=keys)
    await bench.pass_time(500)
    end = bench.partition.log.log_end_offset
    bench.lead(2)
    bench.commit()
    return end


@in_virtual_time
async def test_a_log_of_superseded_records_is_cut_to_what_lives() -> None:
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        end = await due(bench)
        before = bench.stored()
        await bench.pass_time(100)
        assert bench.deleted == [], "the copies are not committed"
        assert live(batches(bench.partition, end)) == before
        bench.commit()
        await bench.pass_time(100)
        assert bench.deleted == [end]
        assert bench.partition.log.log_start_offset == end
        assert live(batches(bench.partition)) == bench.stored() == before
        await bench.pass_time(RETRY_PAUSE_MS + 1_000)
        assert bench.deleted == [end], "there is nothing more to gain"


@pytest.mark.parametrize(("rounds", "size_bytes_min"), [(30, 1 << 20), (12, 1_000)], ids=["small", "mostly live"])
@in_virtual_time
async def test_a_log_that_is_short_or_mostly_live_is_left_alone(rounds: int, size_bytes_min: int) -> None:
    async with Bench(rewrite_size_bytes_min=size_bytes_min) as bench:
        write_rounds(bench, rounds, keys=20)
        await bench.pass_time(500)
        end = bench.partition.log.log_end_offset
        bench.lead(2)
        bench.commit()
        await bench.pass_time(1_000)
        assert bench.partition.log.log_end_offset == end and bench.deleted == []


@in_virtual_time
async def test_a_follower_rewrites_nothing() -> None:
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        write_rounds(bench, 60)
        await bench.pass_time(2_000)
        assert bench.partition.log.log_end_offset == 600 and bench.deleted == []


@in_virtual_time
async def test_copies_come_in_small_pieces_with_pauses_in_which_requests_are_served() -> None:
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        keys = 3 * KEYS_PER_PIECE + 20
        end = await due(bench, keys=keys)
        await bench.pass_time(5)
        assert bench.partition.log.log_end_offset == end + KEYS_PER_PIECE, "one piece, and a pause"
        asked = bench.ask("b", write("b", x="1"))
        await bench.pass_time(2)
        assert bench.partition.log.log_end_offset == end + KEYS_PER_PIECE + 1
        await bench.pass_time(1_000)
        sizes = [len(batch) for batch in batches(bench.partition, end)]
        assert sizes == [KEYS_PER_PIECE, 1, KEYS_PER_PIECE, KEYS_PER_PIECE, 20]
        bench.commit()
        await bench.pass_time(100)
        assert asked.done() and bench.deleted == [end]
        assert live(batches(bench.partition)) == bench.stored()
        assert len(bench.stored()) == keys + 1


async def change_before_the_walk(bench: Bench, values: dict[str, str | None]) -> int:
    """Let a log be due, and these values be appended behind the place before anything is copied; returns the place."""
    write_rounds(bench, 30)
    bench.replicate((b"a/live", b""), epoch=1)
    await bench.pass_time(500)
    end = bench.partition.log.log_end_offset
    bench.lead(2)
    # It waits for the load, and is handled in the turn between the beginning of the rewriting and its first step.
    bench.ask("a", write_all("a", values)).add_done_callback(lambda future: future.exception())
    await bench.pass_time()
    assert bench.partition.log.log_end_offset >= end + len(values)
    assert [value for _, value in batches(bench.partition, end)[0]] == [
        None if value is None else value.encode() for value in values.values()
    ]
    return end


@in_virtual_time
async def test_a_key_that_changed_since_is_not_copied_over_its_newer_value() -> None:
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        end = await change_before_the_walk(bench, {"003": "new", "004": None, "new": "1"})
        await bench.pass_time(200)
        bench.commit()
        await bench.pass_time(500)
        assert bench.deleted == [end]
        found = live(batches(bench.partition))
        assert found == bench.stored()
        assert found[b"a/003"] == b"new" and b"a/004" not in found and found[b"a/new"] == b"1"
        assert len(found) == 11


@in_virtual_time
async def test_changes_during_the_pauses_win_over_the_copies_wherever_the_walk_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rewriting_module, "KEYS_PER_PIECE", 4)
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        end = await due(bench, keys=20)
        for number in range(8):
            await bench.pass_time(7)
            changes: dict[str, str | None] = {f"{number:03}": None, f"{number + 8:03}": f"changed {number}"}
            bench.ask("a", write_all("a", changes))
        await bench.pass_time(500)
        bench.commit()
        await bench.pass_time(500)
        assert bench.deleted[:1] == [end]
        expected = {b"a/%03d" % key: b"changed %d" % (key - 8) for key in range(8, 16)}
        found = live(batches(bench.partition))
        assert found == bench.stored()
        assert found.keys() == {b"a/%03d" % key for key in range(8, 20)}
        assert expected.items() <= found.items()


@in_virtual_time
async def test_a_leadership_that_ends_in_the_middle_deletes_nothing() -> None:
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        await due(bench)
        await bench.pass_time(100)
        before = bench.stored()
        bench.follow(3)
        await bench.pass_time(100)
        assert bench.scope.task_count == 1, "nobody waits for the copies any more"
        bench.partition.learn_high_watermark(bench.partition.log.log_end_offset)
        await bench.pass_time(1_000)
        assert bench.deleted == []
        assert live(batches(bench.partition)) == bench.stored() == before


@in_virtual_time
async def test_a_rewriting_of_an_epoch_that_is_over_deletes_nothing_for_the_next_one() -> None:
    """The copies of epoch 2 are committed under epoch 3, whose own appends the old walk does not know in full."""
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        end = await due(bench)
        await bench.pass_time(100)
        bench.lead(3)
        bench.commit()
        await bench.pass_time(100)
        bench.ask("b", write("b", x="1"))
        await bench.pass_time()
        bench.commit()
        await bench.pass_time(RETRY_PAUSE_MS // 2)
        assert bench.deleted == []
        assert bench.partition.log.log_end_offset == end + 10 + 1, "and it is not begun again at once"


@in_virtual_time
async def test_a_refused_append_gives_the_rewriting_up_until_later() -> None:
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        end = await due(bench)
        bench.lead(2, in_sync=1)
        with counting() as probes:
            await bench.pass_time(RETRY_PAUSE_MS // 2)
        assert probes["coordinator.log.rewriting_given_up"] == 1
        assert bench.partition.log.log_end_offset == end
        bench.lead(2, in_sync=2)
        await bench.pass_time(RETRY_PAUSE_MS)
        bench.ask("b", write("b", x="1"))
        await bench.pass_time()
        bench.commit()
        await bench.pass_time(200)
        bench.commit()
        await bench.pass_time(200)
        assert bench.deleted == [end + 1]
        assert live(batches(bench.partition)) == bench.stored()


@in_virtual_time
async def test_the_walk_waits_until_the_store_has_come_to_the_place() -> None:
    """Otherwise it would copy what a record below the place supersedes, and stand behind it."""
    async with Bench() as bench:
        write_rounds(bench, 24)
        await bench.pass_time(500)
        await bench.serve(2)
        bench.ask("b", write("b", x="1"))
        bench.ask("a", write_all("a", {"000": "newest"}))
        await bench.pass_time()
        end = bench.partition.log.log_end_offset
        bench.rewrite_size_bytes_min = 1_000
        bench.commit(end - 1)  # something is committed, the newest record is not
        await bench.pass_time(1_000)
        assert bench.partition.log.log_end_offset == end, "nothing is copied yet"
        bench.commit()
        await bench.pass_time(100)
        bench.commit()
        await bench.pass_time(100)
        assert bench.deleted == [end]
        assert live(batches(bench.partition))[b"a/000"] == bench.stored()[b"a/000"] == b"newest"


@in_virtual_time
async def test_nothing_is_deleted_while_the_only_newer_value_of_a_key_is_not_committed() -> None:
    """All keys change behind the place, so nothing is copied; then the log is cut, and the changes are lost."""
    async with Bench(rewrite_size_bytes_min=1_000) as bench:
        changes: dict[str, str | None] = {f"{key:03}": "never committed" for key in range(10)}
        await change_before_the_walk(bench, {**changes, "live": "never committed"})
        await bench.pass_time(500)
        committed = bench.partition.high_watermark
        bench.follow(3)
        bench.partition.truncate_to(committed)
        assert len(live(batches(bench.partition))) == 11, "the log does not say everything any more"


@in_virtual_time
async def test_a_crash_before_the_deletion_leaves_records_twice_which_means_nothing() -> None:
    class Crash(BaseException):
        pass

    def strike(name: str) -> None:
        if name == "coordinator.rewrite.before_delete":
            raise Crash

    bench = Bench(rewrite_size_bytes_min=1_000)
    previous = install(strike)
    try:
        with pytest.raises(Crash):
            async with bench:
                await due(bench)
                await bench.pass_time(100)
                bench.commit()
                await asyncio.sleep(1)
    finally:
        install(previous)
    assert bench.deleted == []
    assert live(batches(bench.partition)) == bench.stored()
