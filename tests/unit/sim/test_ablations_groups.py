"""Each ablation of consumer groups takes its safeguard away: shown on one group, one turn, one shard at the bench."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

from ablations_support import proves
from coordinator_bench import Bench as ShardBench, in_virtual_time, look, write
from group_bench import Bench

from logcluster.client.group.consumer import GroupConsumer
from logcluster.model.errors import LogClusterError
from logcluster.model.invariants import InvariantViolation


def is_refused(bench: Bench, member_id: str, word: str, **fields: Any) -> bool:
    try:
        return bench.commit(member_id, word, 1, **fields) is not None
    except LogClusterError:
        return True


def test_who_is_no_member_commits_nothing() -> None:
    def is_kept() -> bool:
        bench = Bench(t=1)
        bench.join("a", "t")
        bench.join("b", "t")
        bench.leave("a")
        return is_refused(bench, "a", "t-0", epoch=1)

    proves("commit-by-members-only", is_kept)


def test_a_member_commits_only_what_it_has() -> None:
    def is_kept() -> bool:
        bench = Bench(t=2)
        bench.join("a", "t")
        bench.join("b", "t")
        bench.settle()
        other = bench.has("b")
        return is_refused(bench, "a", other)

    proves("commit-fence", is_kept)


def test_a_commit_that_comes_late_undoes_nothing() -> None:
    def is_kept() -> bool:
        bench = Bench(t=1)
        bench.join("a", "t")
        bench.commit_all("a", [bench.item("t-0", 8)], sequence=2)
        with contextlib.suppress(LogClusterError):
            bench.commit_all("a", [bench.item("t-0", 3)], sequence=1)
        return bench.fetch("t-0") == {"t-0": 8}

    proves("commit-order", is_kept)


def test_a_partition_is_given_when_it_is_free() -> None:
    def is_kept() -> bool:
        bench = Bench(t=2)
        bench.join("a", "t")
        try:
            bench.join("b", "t")
        except InvariantViolation:  # the group has checked itself
            return False
        return bench.has("b") == ""

    proves("partition-is-free-first", is_kept)


def test_a_partition_is_free_when_its_holder_says_so() -> None:
    def is_kept() -> bool:
        bench = Bench(t=2)
        bench.join("a", "t")
        bench.join("b", "t")
        bench.beat("a")
        return bench.gives_up("a") != ""

    proves("two-step-revocation", is_kept)


def test_a_heartbeat_from_before_the_assignment_frees_nothing() -> None:
    def is_kept() -> bool:
        bench = Bench(t=2)
        version = bench.join("a", "t").assignment_version
        bench.join("b", "t")
        bench.beat("a", assignment_version=version)
        given_up = bench.gives_up("a")
        bench.beat("a", owned="", assignment_version=version)
        return bench.gives_up("a") == given_up != ""

    proves("owned-of-the-newest-assignment", is_kept)


def done_below(*, floor: int | None = None, in_hand: int | None = None) -> int | None:
    """Below which offset a consumer takes everything for done that was read up to 9."""
    state = SimpleNamespace(position=9)
    consumer = SimpleNamespace(
        _settle=lambda: None,
        _floor=None if floor is None else _ByIdentity(state, floor),
        _unfinished=None,
        _in_hand=_ByIdentity(state, in_hand),
    )
    return GroupConsumer._offset_come_back_from(cast("GroupConsumer", consumer), cast(Any, state))


def test_what_is_with_the_application_is_not_done() -> None:
    proves("commit-what-came-back", lambda: done_below(in_hand=5) == 5)


def test_what_a_read_gathers_is_not_done() -> None:
    proves("commit-what-was-handed-out", lambda: done_below(floor=5) == 5)


class _ByIdentity:
    """A mapping of one state, which cannot be hashed here."""

    def __init__(self, state: object, offset: int | None) -> None:
        self._state = state
        self._offset = offset

    def get(self, state: object) -> int | None:
        return self._offset if state is self._state else None


# -- coordinators ----------------------------------------------------------------------------------------------------


def held(scene: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
    """Run a scene in virtual time; returns what it returns."""
    answers: list[bool] = []

    async def run() -> None:
        answers.append(await scene())

    in_virtual_time(run)()  # type: ignore[unused-coroutine]
    return answers[0]


def test_an_answer_waits_for_the_commit() -> None:
    async def scene() -> bool:
        async with ShardBench() as bench:
            await bench.serve()
            answer = bench.ask("a", write("a", x="1"))
            await bench.pass_time()
            return not answer.done()

    proves("answer-after-commit", lambda: held(scene))


def test_a_question_waits_for_the_proof_that_its_coordinator_leads() -> None:
    async def scene() -> bool:
        async with ShardBench() as bench:
            await bench.serve()
            answer = bench.ask("a", look, is_linearizable=True)
            await bench.pass_time()
            return not answer.done()

    proves("fetch-is-not-stale", lambda: held(scene))


def test_a_coordinator_serves_when_it_knows_everything_from_before() -> None:
    async def scene() -> bool:
        async with ShardBench() as bench:
            bench.follow(1)
            bench.replicate((b"a/live", b"1"), epoch=1)
            await bench.pass_time(100)
            bench.replicate((b"a/live", b"2"), epoch=1, is_committed=False)
            bench.lead(2)
            await bench.pass_time(100)
            return bench.shard.state == "loading"

    proves("load-to-the-epoch-start", lambda: held(scene))


def test_a_copy_never_stands_behind_a_newer_value() -> None:
    async def scene() -> bool:
        async with ShardBench(rewrite_size_bytes_min=1_000) as bench:
            bench.follow(1)
            for number in range(300):
                bench.replicate((b"a/live", b"%d" % number), epoch=1)
            await bench.pass_time(500)
            bench.lead(2)
            # It waits for the load, and is handled between the beginning of the rewriting and its first step.
            bench.ask("a", write("a", live="new")).add_done_callback(lambda future: future.exception())
            await bench.pass_time(200)
            bench.commit()
            await bench.pass_time(500)
            assert bench.deleted
            return (await bench.values("a"))["live"] == "new" and bench.stored()[b"a/live"] == b"new"

    proves("rewriting-keeps-newer-values", lambda: held(scene))
