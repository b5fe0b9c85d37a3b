"""How a member is led to its target: the table of docs/protocol/groups.md, row by row."""

from __future__ import annotations

import pytest
from group_bench import Bench


@pytest.fixture
def bench():
    """Two members, the second of which waits for half of what the first one has."""
    bench = Bench(t=4)
    bench.join("a", "t")
    bench.join("b", "t")
    return bench


def test_a_lone_member_gets_everything_with_the_answer_to_its_join():
    bench = Bench(t=2, u=1)
    answer = bench.join("a", "t", "u")
    assert answer.assignment == bench.parts("t-0 t-1 u-0")
    assert sorted(answer.topic_names.values()) == ["t", "u"]
    assert (answer.member_epoch, answer.group_epoch, answer.is_settled) == (1, 1, True)


def test_what_must_be_given_up_is_told_first_and_the_epoch_stays(bench):
    answer = bench.beat("a")
    assert answer.assignment == bench.parts("t-0 t-1")
    assert (answer.member_epoch, answer.is_settled) == (1, False)
    assert bench.group.currents["a"].state == "revoking"
    assert bench.gives_up("a") == "t-2 t-3"


def test_a_partition_is_held_until_its_holder_says_it_let_go(bench):
    assert bench.beat("b").assignment is None
    bench.beat("a")
    for _ in range(2):
        # `owned` is absent, or still has them.
        bench.beat("a")
        bench.beat("a", owned="t-0 t-1 t-2 t-3")
        assert bench.beat("b").assignment is None
    bench.beat("a", owned="t-0 t-1")
    assert bench.beat("b").assignment == bench.parts("t-2 t-3")


def test_each_partition_is_free_as_soon_as_it_is_let_go(bench):
    bench.beat("a")
    answer = bench.beat("a", owned="t-0 t-1 t-3")
    assert (answer.member_epoch, bench.gives_up("a")) == (1, "t-3")
    answer = bench.beat("b")
    assert answer.assignment == bench.parts("t-2")
    assert (answer.member_epoch, answer.is_settled) == (2, False)
    assert bench.group.currents["b"].state == "waiting"


def test_who_has_given_up_everything_takes_the_epoch_of_the_target(bench):
    bench.beat("a")
    answer = bench.beat("a", owned="t-0 t-1")
    assert (answer.member_epoch, answer.is_settled) == (2, True)
    assert answer.assignment is None
    assert bench.group.currents["a"].state == "stable"


def test_an_added_partition_carries_the_epoch_in_which_it_was_given_and_a_kept_one_its_old_epoch(bench):
    bench.beat("a")
    bench.beat("a", owned="t-0 t-1")
    bench.beat("b")
    assert bench.group.currents["a"].assigned == {bench.part("t-0"): 1, bench.part("t-1"): 1}
    assert bench.group.currents["b"].assigned == {bench.part("t-2"): 2, bench.part("t-3"): 2}


def test_a_member_whose_target_has_nothing_new_takes_the_epoch_and_keeps_what_it_has():
    bench = Bench(t=2, u=2)
    bench.join("a", "t")
    bench.join("b", "u")
    answer = bench.beat("a")
    assert (answer.member_epoch, answer.assignment, answer.is_settled) == (2, None, True)


def test_a_member_without_partitions_is_stable_at_once():
    bench = Bench(t=1)
    bench.join("a", "t")
    answer = bench.join("b", "t")
    assert (answer.assignment, answer.is_settled) == (frozenset(), True)
    assert bench.group.state == "stable"


def test_an_owned_without_a_partition_that_nobody_took_back_frees_nothing(bench):
    # Such a heartbeat may be older than the answer that gave the partition.
    answer = bench.beat("a", owned="")
    assert bench.gives_up("a") == "t-2 t-3"
    assert answer.assignment == bench.parts("t-0 t-1")
    assert bench.beat("b").assignment is None
    bench.beat("a", owned="")
    assert bench.has("a") == "t-0 t-1"
    assert bench.beat("b").assignment == bench.parts("t-2 t-3")


def test_a_partition_that_comes_back_while_it_is_given_up_is_given_anew(bench):
    bench.beat("a")
    bench.leave("b")
    assert bench.beat("a").member_epoch == 1
    assert bench.gives_up("a") == "t-2 t-3"
    answer = bench.beat("a", owned="t-0 t-1")
    assert answer.assignment == bench.parts("t-0 t-1 t-2 t-3")
    assert bench.group.currents["a"].assigned[bench.part("t-2")] == 3


def test_the_assignment_is_told_again_to_a_member_that_says_it_has_another(bench):
    bench.beat("a")
    bench.beat("a", owned="t-0 t-1")
    bench.lose("b", owned="")
    assert bench.beat("b", owned="t-2").assignment == bench.parts("t-2 t-3")
    assert bench.beat("b", owned="t-2 t-3").assignment is None
    assert bench.beat("b").assignment is None


def test_the_assignment_is_told_again_while_there_is_something_to_give_up(bench):
    bench.lose("a")
    assert bench.beat("a").assignment == bench.parts("t-0 t-1")


def test_wake_names_whose_target_changed_and_who_waits_for_what_is_free_now(bench):
    assert bench.wake == ("a",)
    bench.beat("a")
    assert bench.wake == ()
    bench.beat("a", owned="t-0 t-1 t-2")
    assert bench.wake == ("b",)
    bench.beat("b")
    bench.beat("a", owned="t-0 t-1")
    assert bench.wake == ("b",)
    bench.beat("b")
    assert bench.wake == ()


def test_nobody_is_woken_for_a_partition_that_is_not_its():
    bench = Bench(t=2, u=2)
    for member_id, topic in (("a", "t"), ("b", "u"), ("c", "t"), ("d", "u")):
        bench.join(member_id, topic)
    bench.beat("a")
    bench.beat("b")
    bench.beat("c")
    bench.beat("d")
    bench.beat("a", owned="t-0")
    assert bench.wake == ("c",)


def test_members_that_lose_only_waste_no_time_of_the_others():
    # No barrier: `c` gets what is free although `b` has not come.
    bench = Bench(t=6)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.settle()
    bench.join("c", "t")
    bench.beat("a")
    bench.beat("a", owned=bench.has("a"))
    assert len(bench.beat("c").assignment) == 1
    bench.beat("b")
    bench.beat("b", owned=bench.has("b"))
    assert len(bench.beat("c").assignment) == 2
