"""A shard's leaderships: who is served, what a load finds, and what becomes of those who wait when one ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from coordinator_bench import Bench, Note, Notebook, in_virtual_time, look, write

from logcluster.broker.coordinators import shard as shard_module
from logcluster.broker.coordinators.requests import Handler
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import Disconnected, LogClusterError, NotCoordinator, Overloaded, StorageFailure
from logcluster.model.probes import counting


def failure(future: asyncio.Future[Any]) -> LogClusterError:
    assert future.done()
    error = future.exception()
    assert isinstance(error, LogClusterError)
    return error


def assert_moved(*futures: asyncio.Future[Any]) -> None:
    for future in futures:
        assert isinstance(failure(future), NotCoordinator) and failure(future).definite


# -- loading ---------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_requests_wait_until_the_start_of_the_epoch_is_committed() -> None:
    """Below it may lie records that the store does not have, and nobody knows yet whether they stay."""
    async with Bench() as bench:
        bench.follow(1)
        bench.replicate((b"a/x", b"1"), epoch=1)
        bench.replicate((b"a/x", b"2"), epoch=1, is_committed=False)
        await bench.pass_time(100)
        bench.lead(2)
        asked = [bench.ask("a", write("a", y="2")), bench.ask("a", look)]
        await bench.pass_time(1_000)
        assert (bench.shard.state, bench.shard.epoch, bench.partition.high_watermark) == ("loading", 2, 1)
        assert bench.partition.log.log_end_offset == 2, "nothing was decided"
        bench.commit()
        await bench.pass_time()
        assert bench.shard.state == "active"
        bench.commit()
        assert [question.result() for question in asked] == [{"x": "2"}, {"x": "2", "y": "2"}]


@in_virtual_time
async def test_a_load_waits_until_the_store_has_come_to_the_start_of_the_epoch() -> None:
    async with Bench() as bench:
        bench.follow(1)
        bench.replicate((b"a/live", b"1"), epoch=1)
        await bench.pass_time(100)
        bench.replicate((b"a/live", b"2"), epoch=1)
        bench.disk.hold()
        bench.lead(2)
        asked = bench.ask("a", look)
        await bench.pass_time(1_000)
        assert bench.partition.high_watermark == 2 and not asked.done()
        bench.disk.release()
        await bench.pass_time(100)
        assert asked.result() == {"live": "2"}


@in_virtual_time
async def test_a_load_waits_for_the_commit_of_what_an_earlier_own_epoch_appended() -> None:
    async with Bench() as bench:
        await bench.serve(1)
        first = bench.ask("a", write("a", x="1"))
        await bench.pass_time()
        bench.lead(2)
        asked = bench.ask("a", look)
        await bench.pass_time(1_000)
        assert bench.shard.state == "loading"
        assert not first.done() and not asked.done(), "its record is in the log still, and may be committed"
        bench.commit()
        await bench.pass_time()
        assert first.result() == {}
        assert asked.result() == {"x": "1"}


@in_virtual_time
async def test_a_second_leadership_shows_what_was_committed_and_nothing_else() -> None:
    async with Bench() as bench:
        await bench.serve(1)
        bench.ask("a", write("a", x="kept", y="kept"))
        await bench.pass_time()
        bench.commit()
        lost = bench.ask("a", write("a", x="lost", y=None, z="lost"))
        await bench.pass_time()
        assert bench.shard.held["a"].entity.values == {"x": "lost", "z": "lost"}
        bench.follow(2)
        bench.partition.truncate_to(bench.partition.high_watermark)
        bench.replicate((b"b/x", b"theirs"), epoch=2)
        await bench.pass_time(100)
        assert isinstance(failure(lost), Disconnected) and not failure(lost).definite
        await bench.serve(3)
        assert await bench.values("a") == {"x": "kept", "y": "kept"}
        assert await bench.values("b") == {"x": "theirs"}


@in_virtual_time
async def test_only_what_lives_is_loaded_and_its_sessions_begin_anew() -> None:
    async with Bench() as bench:
        bench.follow(1)
        bench.replicate((b"a/live", b""), (b"a/x", b"1"), (b"a/from the future", b"?"), (b"b/x", b"2"), epoch=1)
        bench.replicate((b"c/live", b""), (b"c/live", None), (b"c/x", b"3"), (b"d/live", b""), epoch=1)
        await bench.pass_time(400)
        await bench.serve(2)
        assert list(bench.shard.held) == ["a", "d"]
        entity = bench.shard.held["a"].entity
        assert entity.values == {"live": "", "x": "1"}, "and what only a newer version understands is left out"
        assert entity.loaded_at_ms is not None and entity.loaded_at_ms >= 400
        assert await bench.values("c") == {"x": "3"}, "the others are read when they are asked for"


@in_virtual_time
async def test_a_load_that_ends_when_its_epoch_is_over_changes_nothing() -> None:
    async with Bench() as bench:
        bench.follow(1)
        bench.replicate((b"a/live", b"old"), epoch=1)
        await bench.pass_time(100)
        bench.lead(2)
        bench.disk.hold()
        old = bench.ask("a", look)
        bench.commit()
        await bench.pass_time()
        assert bench.disk.waiting == 1, "the load of epoch 2"
        bench.follow(3)
        bench.replicate((b"a/live", b"new"), epoch=3)
        bench.lead(4)
        new = bench.ask("a", look)
        assert_moved(old)
        with counting() as probes:
            bench.disk.release()
            await bench.pass_time()
        assert probes["coordinator.load.ended_late"] == 1
        assert bench.shard.epoch == 4
        bench.commit()
        await bench.pass_time(100)
        assert bench.shard.state == "active"
        assert new.result() == {"live": "new"}


# -- reading on demand -----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_requests_to_an_entity_that_is_read_keep_their_order_and_hold_up_nobody_else() -> None:
    async with Bench() as bench:
        bench.follow(1)
        bench.replicate((b"a/x", b"0"), (b"b/live", b""), epoch=1)
        await bench.pass_time(100)
        await bench.serve(2)
        bench.disk.hold()
        asked = [bench.ask("a", write("a", x="1"))]
        await bench.pass_time()
        asked += [bench.ask("a", write("a", x="2")), bench.ask("a", look)]
        other = bench.ask("b", look)
        await bench.pass_time(100)
        assert other.done() and bench.disk.waiting == 1, "it is read once"
        bench.disk.release()
        await bench.pass_time()
        bench.commit()
        assert [question.result()["x"] for question in asked] == ["0", "1", "2"]


@in_virtual_time
async def test_an_entity_that_was_read_for_an_epoch_that_is_over_is_not_taken() -> None:
    async with Bench() as bench:
        bench.follow(1)
        bench.replicate((b"a/x", b"old"), epoch=1)
        await bench.pass_time(100)
        await bench.serve(2)
        bench.disk.hold()
        old = bench.ask("a", look)
        await bench.pass_time()
        bench.follow(3)
        await bench.pass_time()
        assert_moved(old)
        bench.disk.release()
        bench.replicate((b"a/x", b"new"), epoch=3)
        await bench.pass_time(100)
        assert bench.shard.held == {}
        await bench.serve(4)
        assert await bench.values("a") == {"x": "new"}


# -- who is refused --------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_who_does_not_lead_says_who_does() -> None:
    async with Bench() as bench:
        bench.follow(7)
        await bench.pass_time()
        with pytest.raises(NotCoordinator) as refused:
            bench.ask("a", look)
        assert refused.value.definite
        assert (refused.value.facts["leader_id"], refused.value.facts["leader_epoch"]) == (2, 7)


@in_virtual_time
async def test_a_role_that_has_just_ended_is_noticed_by_the_next_request() -> None:
    async with Bench() as bench:
        await bench.serve(1)
        bench.follow(2)
        with pytest.raises(NotCoordinator):
            bench.ask("a", look)
        assert bench.ended == [0]


@pytest.mark.parametrize("state", ["loading", "active", "uncommitted"])
@in_virtual_time
async def test_more_requests_than_may_wait_are_refused_definitely(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setattr(shard_module, "COORDINATOR_QUEUE_LENGTH_MAX", 3)
    async with Bench() as bench:
        await bench.serve(1)
        if state == "loading":
            bench.follow(2)
            bench.replicate((b"a/x", b"1"), epoch=2, is_committed=False)
            bench.lead(3)
        asked = []
        for number in range(3):
            asked.append(bench.ask("b", write("b", **{f"n{number}": "1"})))
            if state == "uncommitted":
                await bench.pass_time()
        with pytest.raises(Overloaded) as refused:
            bench.ask("b", write("b", n3="1"))
        assert refused.value.definite and refused.value.retriable
        bench.commit()
        await bench.pass_time()
        bench.commit()
        assert all(question.done() for question in asked)
        assert await bench.values("b") == {"n0": "1", "n1": "1", "n2": "1"}, "and there is room again"


@in_virtual_time
async def test_requests_that_wait_for_their_entity_to_be_read_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "COORDINATOR_QUEUE_LENGTH_MAX", 3)
    async with Bench() as bench:
        await bench.serve(1)
        bench.disk.hold()
        with pytest.raises(Overloaded):
            for _ in range(20):
                bench.ask("a", look).add_done_callback(lambda future: future.exception())
                await bench.pass_time()


@in_virtual_time
async def test_a_request_whose_caller_has_gone_is_not_carried_out() -> None:
    async with Bench() as bench:
        await bench.serve(1)
        gone, stays = bench.ask("a", write("a", x="gone")), bench.ask("a", write("a", y="stays"))
        gone.cancel()
        await bench.pass_time()
        bench.commit()
        assert stays.done()
        assert await bench.values("a") == {"y": "stays"}


@in_virtual_time
async def test_one_turn_is_bounded_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "REQUESTS_PER_TURN_MAX", 4)
    async with Bench() as bench:
        await bench.serve(1)
        await bench.values("a")
        seen: list[int] = []

        def note(number: int) -> Handler:
            def handle(entity: Notebook, now_ms: int, wall_ms: int) -> Result[Note, None]:
                seen.append(number)
                return Result(response=None)

            return handle

        for number in range(10):
            bench.ask("a", note(number))
        between: list[int] = []
        while len(seen) < 10:
            await asyncio.sleep(0)
            between.append(len(seen))
        assert all(late - early <= 4 for early, late in zip([0, *between], between, strict=False))
        assert seen == list(range(10))


# -- the end of a leadership -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deposed", "no leader", "elected again", "not hosted", "cancelled"])
@in_virtual_time
async def test_everybody_who_waits_is_told_when_a_leadership_ends(how: str) -> None:
    async with Bench() as bench:
        await bench.serve(1)
        await bench.values("known")
        appended = bench.ask("new", write("new", x="1"))
        await bench.pass_time()
        bench.disk.hold()
        reading = bench.ask("unread", look)
        await bench.pass_time()
        ready = bench.ask("new", write("new", y="1"))
        if how == "deposed":
            bench.follow(2)
        elif how == "no leader":
            bench.partition.stand_by()
        elif how == "elected again":
            bench.lead(2)
        elif how == "not hosted":
            bench.is_hosted = False
            bench.partition.stand_by()
        else:
            bench.partition.stand_by()
            bench.disk.release()
            await bench.scope.close()
        await bench.pass_time()
        bench.disk.release()
        await bench.pass_time(300)
        assert_moved(reading, ready)
        assert bench.ended == [0], "who watches is told once"
        assert bench.shard.held == {} and bench.key_count == 0
        if how == "elected again":
            assert not appended.done()
            bench.commit()
            assert appended.result() == {}
        else:
            assert isinstance(failure(appended), Disconnected) and not failure(appended).definite


@in_virtual_time
async def test_requests_that_wait_for_a_load_are_told_when_it_comes_to_nothing() -> None:
    async with Bench() as bench:
        await bench.serve(1)
        lost = bench.ask("a", write("a", x="1"))
        await bench.pass_time()
        bench.lead(2)
        waiting = [bench.ask("a", look), bench.ask("b", look)]
        await bench.pass_time()
        bench.follow(3)
        await bench.pass_time()
        assert_moved(*waiting)
        assert isinstance(failure(lost), Disconnected)


@in_virtual_time
async def test_a_store_that_failed_ends_the_shard_and_who_waits_is_told() -> None:
    bench = Bench()
    with pytest.raises(StorageFailure):
        async with bench:
            await bench.serve(1)
            bench.kv_store.fail_after(0)
            appended = bench.ask("a", write("a", x="1"))
            await bench.pass_time()
            bench.commit()
            await bench.pass_time(100)
            assert appended.result() == {}, "the log has it"
            assert bench.ended == [0] and bench.shard.epoch is None


# -- memory ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_entity_that_was_asked_after_and_does_not_exist_is_not_kept() -> None:
    async with Bench() as bench:
        await bench.serve(1)
        assert await bench.values("nobody") == {}
        assert bench.shard.held == {} and bench.key_count == 0


@in_virtual_time
async def test_only_what_rests_and_is_in_the_store_is_forgotten_the_least_recently_used_first() -> None:
    async with Bench() as bench:
        await bench.serve(1)
        for key in ("a", "b", "lively", "c"):
            bench.ask(key, write(key, x="1", **({"live": ""} if key == "lively" else {})))
            await bench.pass_time()
        bench.commit()
        await bench.pass_time(200)
        bench.ask("a", write("a", x="2"))  # used again, and not committed
        bench.key_count_max = 0
        await bench.pass_time(200)
        assert list(bench.shard.held) == ["lively", "a"]
        assert bench.key_count == 3 + 2, "one more for each than it has keys"
        bench.commit()
        await bench.pass_time(200)
        bench.ask("lively", look)
        await bench.pass_time()
        assert list(bench.shard.held) == ["lively"]
        bench.key_count_max = 100
        assert await bench.values("a") == {"x": "2"}, "it is read again"
        assert isinstance(bench.shard.held["a"].entity, Notebook)


@in_virtual_time
async def test_a_load_and_its_end_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="logcluster.coordinators")
    async with Bench() as bench:
        seen: list[tuple[str, int]] = []
        bench.shard.on_records = lambda partition, records: seen.append((partition, len(list(records))))
        bench.follow(1)
        bench.replicate((b"a/x", b"1"), (b"a/live", b"1"), epoch=1)
        await bench.pass_time(100)
        bench.lead(2)
        await bench.pass_time(40)
        bench.commit()
        await bench.pass_time()
        assert bench.shard.state == "active"
        bench.ask("a", write("a", y="2"))
        await bench.pass_time()
        assert seen == [], "not committed"
        bench.commit()
        bench.follow(3)
        await bench.pass_time()
    loaded, unloaded = caplog.messages
    assert (
        loaded.startswith("shard_loaded partition=") and " leader_epoch=2 records=2 entities=1 duration_ms=" in loaded
    )
    assert unloaded.startswith("shard_unloaded partition=") and " leader_epoch=2 state=active reason=" in unloaded
    assert seen == [(str(bench.partition.topic_partition), 1)]
