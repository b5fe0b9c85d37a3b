"""Deadlines of a shard's entities: looked at when they come, again when nothing came of it, by no old leader."""

from __future__ import annotations

import pytest
from coordinator_bench import Bench, in_virtual_time, look, write

from logcluster.broker.coordinators.shard import RETRY_PAUSE_MS


@in_virtual_time
async def test_what_is_due_is_looked_at_when_its_time_has_come_and_not_before() -> None:
    async with Bench() as bench:
        await bench.serve()
        bench.ask("a", write("a", due="1000"))
        bench.ask("b", write("b", due="700"))
        await bench.pass_time()
        bench.commit()
        await bench.pass_time(699 - bench.clock.monotonic_ms())
        assert bench.coordinator.expired == []
        await bench.pass_time(2)
        assert bench.coordinator.expired == [("b", 700)]
        await bench.pass_time(2_000)
        assert bench.coordinator.expired == [("b", 700), ("a", 1_000)]
        assert "due" not in bench.shard.held["b"].entity.values
        bench.commit()
        assert bench.committed[-2:] == [("b", ()), ("a", ())]


@pytest.mark.parametrize(("moved_to", "expected"), [("400", 400), ("900", 900), (None, None)])
@in_virtual_time
async def test_a_deadline_that_moved_counts_where_it_is_now(moved_to: str | None, expected: int | None) -> None:
    async with Bench() as bench:
        await bench.serve()
        bench.ask("a", write("a", due="600"))
        await bench.pass_time(50)
        bench.ask("a", write("a", due=moved_to))
        await bench.pass_time(3_000)
        assert bench.coordinator.expired == ([] if expected is None else [("a", expected)])


@in_virtual_time
async def test_what_could_not_be_appended_is_due_still_and_tried_again_after_a_pause() -> None:
    async with Bench() as bench:
        await bench.serve()
        bench.ask("a", write("a", due="500"))
        await bench.pass_time()
        bench.commit()
        bench.lead(1, in_sync=1)
        await bench.pass_time(500 + 3 * RETRY_PAUSE_MS - bench.clock.monotonic_ms() - 1)
        times = [at_ms for _, at_ms in bench.coordinator.expired]
        assert times == [500, 500 + RETRY_PAUSE_MS, 500 + 2 * RETRY_PAUSE_MS]
        assert bench.shard.held["a"].entity.values == {"due": "500"}
        bench.lead(1, in_sync=2)
        await bench.pass_time(2_000)
        assert len(bench.coordinator.expired) == 4
        assert bench.shard.held["a"].entity.values == {}


@in_virtual_time
async def test_a_deadline_of_which_nothing_comes_does_not_keep_the_shard_busy() -> None:
    async with Bench() as bench:
        await bench.serve()
        bench.coordinator.is_lazy = True
        bench.ask("a", write("a", due="200"))
        await bench.pass_time(200 + 4 * RETRY_PAUSE_MS - bench.clock.monotonic_ms() - 1)
        assert 2 <= len(bench.coordinator.expired) <= 4
        bench.coordinator.is_lazy = False
        await bench.pass_time(2 * RETRY_PAUSE_MS)
        assert bench.shard.held["a"].entity.values == {}


@in_virtual_time
async def test_no_deadline_of_a_leadership_outlives_it() -> None:
    async with Bench() as bench:
        await bench.serve()
        bench.ask("a", write("a", due="500", live=""))
        await bench.pass_time()
        bench.commit()
        await bench.pass_time(100)
        bench.follow(2)
        await bench.pass_time(2_000)
        assert bench.coordinator.expired == []
        loaded_from_ms = bench.clock.monotonic_ms()
        await bench.serve(3)
        await bench.pass_time()
        ((key, at_ms),) = bench.coordinator.expired
        assert key == "a" and at_ms >= loaded_from_ms, "the next leadership looks when it has loaded it"


@in_virtual_time
async def test_a_deadline_that_was_noted_before_the_epoch_changed_under_the_shard_decides_nothing() -> None:
    async with Bench() as bench:
        await bench.serve()
        bench.ask("a", write("a", due="500"))
        await bench.pass_time()
        bench.commit()
        await bench.pass_time(499 - bench.clock.monotonic_ms())
        end = bench.partition.log.log_end_offset
        bench.shard.post("a", bench.coordinator.expire)
        bench.follow(2)  # between the request and its turn
        await bench.pass_time(50)
        assert bench.coordinator.expired == []
        assert bench.partition.log.log_end_offset == end


@in_virtual_time
async def test_what_the_runtime_asks_by_itself_is_nothing_while_the_shard_is_not_served() -> None:
    async with Bench() as bench:
        bench.follow(1)
        bench.replicate((b"a/live", b""), epoch=1, is_committed=False)
        bench.shard.post("a", bench.coordinator.expire)
        bench.lead(2)
        bench.ask("a", look)
        bench.shard.post("a", bench.coordinator.expire)
        await bench.pass_time(100)
        bench.commit()
        await bench.pass_time(100)
        assert bench.shard.state == "active"
        assert bench.coordinator.expired == []
        bench.shard.post("a", bench.coordinator.expire)
        await bench.pass_time()
        assert [key for key, _ in bench.coordinator.expired] == ["a"]


@in_virtual_time
async def test_changed_topics_are_a_matter_of_those_that_live() -> None:
    async with Bench() as bench:
        await bench.serve()
        bench.ask("rests", write("rests", x="1"))
        bench.ask("lives", write("lives", live=""))
        await bench.pass_time()
        bench.shard.on_metadata_changed()
        await bench.pass_time()
        assert bench.coordinator.metadata_seen == ["lives"]
        bench.shard.check()
