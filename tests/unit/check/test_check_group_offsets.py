"""Committed offsets of groups: they last, nobody invents them, members go on from them."""

from __future__ import annotations

import pytest
from hand_made import KEY, HandMadeGroup


def begun(*, records: int = 10) -> HandMadeGroup:
    """Member "a" owns the partition from its beginning."""
    return HandMadeGroup().log(records).assigned("a", 1).resume("a", 0, "policy")


def test_a_group_that_hands_over_is_in_order() -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3).revoked("a").commit("a", 3)
    made.assigned("b", 2).resume("b", 3).handed("b", 3, 4).commit("b", 5).fetch(5).of_member("b", "leave", None)
    assert made.names() == []
    assert made.report().metrics["groups"]["g"] == {
        "members": 2,
        "records_handed": 5,
        "records_redelivered": 0,
        "commits": {"ok": 3, "fail": 0, "info": 0},
        "commits_recovered": 0,
    }


# -- commit-lost


@pytest.mark.parametrize("told", [0, 2, None])
def test_commit_lost(told: int | None) -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 0).commit("a", 2).commit("a", 4)
    assert made.fetch(told).names() == ["commit-lost"]


def test_commit_lost_shows_in_a_start() -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 2).commit("a", 4).assigned("b", 2).resume("b", 2)
    report = made.report()
    assert report.names == ["commit-lost"]
    assert "group g: 2 was said to be committed, but a had 4 acknowledged since" in report.render()


@pytest.mark.parametrize("told", [2, 4])
def test_commits_that_overlap_excuse_each_other(told: int) -> None:
    made = begun().handed("a", 0, 1, 2, 3)
    late = made.begin("a", "commit", {KEY: 2})
    made.commit("a", 4)
    made.end(late, "ok", {KEY: 2})
    assert made.fetch(told).names() == []


def test_a_fetch_that_overlaps_a_commit_may_miss_it() -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 2)
    fetch = made.begin(None, "fetch_offsets", [KEY])
    made.commit("a", 4)
    made.end(fetch, "ok", {KEY: 2})
    assert made.names() == []


def test_a_commit_of_unknown_outcome_happened_or_not() -> None:
    def unknown() -> HandMadeGroup:
        return begun().handed("a", 0, 1, 2, 3).commit("a", 2).commit("a", 4, outcome="info")

    assert unknown().fetch(2).names() == []
    assert unknown().fetch(4).names() == []
    assert unknown().fetch(2).fetch(4).names() == []
    assert unknown().fetch(4).report().metrics["groups"]["g"]["commits_recovered"] == 1
    assert unknown().fetch(4).fetch(2).names() == ["commit-lost"]


def test_a_commit_that_never_ended_is_unknown_too() -> None:
    made = begun().handed("a", 0, 1).commit("a", 1)
    made.begin("a", "commit", {KEY: 2})
    assert made.fetch(1).fetch(2).names() == []


def test_outcomes_per_partition() -> None:
    def mixed(outcome: str) -> HandMadeGroup:
        made = begun().handed("a", 0, 1).commit("a", 1)
        return made.of_member("a", "commit", {KEY: 2, "t-1": 5}, outcomes={KEY: outcome})

    assert mixed("fail").fetch(1).names() == []
    assert mixed("fail").fetch(2).names() == ["commit-phantom"]
    assert mixed("ok").fetch(1).names() == ["commit-lost"]
    assert mixed("info").fetch(1).names() == []
    assert mixed("perhaps").names() == ["malformed-history"]


@pytest.mark.parametrize("outcome", ["ok", "info"])
def test_a_reset_or_removal_explains_what_is_read(outcome: str) -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3).of_member("a", "leave", None)
    assert made.reset(1, outcome=outcome).fetch(1).names() == []
    assert made.reset(None, outcome=outcome).fetch(None).names() == []
    assert made.of_member(None, "reset_offsets", None, outcome=outcome).fetch(None).names() == []


def test_a_reset_lasts_as_a_commit_does() -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3)
    assert made.reset(1).fetch(3).names() == ["commit-lost"]
    made = begun().handed("a", 0, 1, 2).commit("a", 3)
    assert made.reset(None).fetch(3).names() == ["commit-lost"]
    made = begun().handed("a", 0, 1, 2).commit("a", 3)
    assert made.reset(1, outcome="fail").fetch(1).names() == ["commit-phantom"]


def test_a_reset_to_an_offset_nobody_knows_excuses_what_is_read() -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3).reset("latest")
    assert made.fetch(10).names() == []


def test_retention_removed_it_at_an_unknown_moment() -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3).fetch(None)
    assert made.of_member(None, "reset_offsets", None, expired=True).names() == []
    made = begun().handed("a", 0, 1, 2).commit("a", 3).fetch(None)
    assert made.reset(None, expired=True).names() == []


def test_offsets_go_with_their_topic() -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3)
    made.do("delete_topic", "t")
    assert made.fetch(3).fetch(None).names() == []


# -- commit-phantom


def test_commit_phantom() -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 3)
    assert made.fetch(4).names() == ["commit-phantom"]
    assert begun().fetch(0).names() == ["commit-phantom"]
    assert begun().assigned("b", 2).resume("b", 0).names() == ["commit-phantom"]


def test_an_offset_of_before_the_history_is_given_as_a_reset() -> None:
    made = HandMadeGroup().reset(5).log(10).assigned("a", 1).resume("a", 5).handed("a", 5, 6).commit("a", 7)
    assert made.names() == []


def test_a_commit_read_before_it_began_is_a_phantom() -> None:
    made = begun().handed("a", 0, 1)
    made.fetch(2)
    assert made.commit("a", 2).names() == ["commit-phantom"]


# -- spurious-reset


@pytest.mark.parametrize("position", [0, 10])
def test_spurious_reset(position: int) -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3).revoked("a").assigned("b", 2)
    assert made.resume("b", position, "policy").names() == ["spurious-reset"]


def test_a_policy_start_after_being_told_of_an_offset() -> None:
    made = begun().handed("a", 0, 1, 2)
    commit = made.begin("a", "commit", {KEY: 3})
    resume = made.begin("b", "resume", [KEY])
    made.fetch(3, "b")
    made.end(resume, "ok", {KEY: 0}, why="policy")
    made.end(commit, "ok", {KEY: 3})
    assert made.names() == ["spurious-reset"]


def test_a_policy_start_is_right_while_nothing_is_committed() -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3, outcome="info").revoked("a").assigned("b", 2)
    assert made.resume("b", 0, "policy").names() == []
    made = begun().handed("a", 0, 1).commit("a", 2, outcome="fail").revoked("a").assigned("b", 2)
    assert made.resume("b", 0, "policy").names() == []
    made = begun().handed("a", 0, 1).commit("a", 2).of_member("a", "leave", None).reset(None).assigned("b", 2)
    assert made.resume("b", 10, "policy").names() == []


def test_out_of_range_though_the_record_before_was_read() -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3).revoked("a").assigned("b", 2)
    assert made.resume("b", 0, "out_of_range", **{"from": {KEY: 3}}).names() == ["spurious-reset"]


def test_out_of_range_after_deletion() -> None:
    made = begun().handed("a", 0, 1, 2).commit("a", 3).revoked("a").do("delete_records", {KEY: 5})
    assert isinstance(made, HandMadeGroup)
    made.assigned("b", 2).resume("b", 5, "out_of_range", **{"from": {KEY: 3}}).handed("b", 5, 6).commit("b", 7)
    assert made.names() == []


# -- offset-regression


def test_offset_regression() -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 4).commit("a", 2)
    assert made.names() == ["offset-regression"]


def test_an_automatic_commit_undoes_what_the_application_chose() -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 4, deliberate=True).commit("a", 2)
    assert made.names() == ["offset-regression"]


def test_commits_may_go_back_when_the_application_says_so() -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 4)
    assert made.commit("a", 2, deliberate=True).commit("a", 3).names() == []
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 4)
    assert made.of_member("a", "seek", {KEY: 1}).handed("a", 1, 2).commit("a", 3).names() == []
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 4).of_member("a", "leave", None).reset(1)
    assert made.assigned("b", 2).resume("b", 1).handed("b", 1).commit("b", 2).names() == []


def test_a_commit_under_way_when_the_group_was_moved_proves_nothing() -> None:
    made = begun().handed("a", 0, 1, 2, 3)
    commit = made.begin("a", "commit", {KEY: 4})
    made.of_member("a", "seek", {KEY: 0})
    made.end(commit, "ok", {KEY: 4})
    assert made.handed("a", 0).commit("a", 1).names() == []


@pytest.mark.parametrize("outcome", ["fail", "info"])
def test_a_refused_or_unknown_commit_undoes_nothing(outcome: str) -> None:
    assert begun().handed("a", 0, 1, 2).commit("a", 3).commit("a", 1, outcome=outcome).names() == []


# -- resumed-elsewhere


@pytest.mark.parametrize(("told", "start"), [(3, 2), (3, 4), (None, 3)])
def test_resumed_elsewhere_than_it_was_told(told: int | None, start: int) -> None:
    made = begun().handed("a", 0, 1, 2, 3)
    for offset in (2, 3, 4):
        made.commit("a", offset)
    made.revoked("a").assigned("b", 2)
    commit = made.begin(None, "reset_offsets", {KEY: told})
    resume = made.begin("b", "resume", [KEY])
    made.end(commit, "ok", {KEY: told})
    made.fetch(told, "b")
    made.end(resume, "ok", {KEY: start}, why="committed")
    assert made.names() == ["resumed-elsewhere"]


def test_the_first_record_lies_elsewhere() -> None:
    def handed_over() -> HandMadeGroup:
        made = begun().handed("a", 0, 1, 2, 3, 4, 5).commit("a", 3).revoked("a").assigned("b", 2)
        return made.resume("b", 3)

    assert handed_over().handed("b", 3, 4).names() == []
    assert handed_over().handed("b", 2, 3).names() == ["resumed-elsewhere"]
    report = handed_over().handed("b", 5, 6).report()
    assert report.names == ["resumed-elsewhere"]
    assert "a member began at 3, was handed 5 and never 3, 4" in report.render()


def test_a_start_may_pass_over_holes_and_what_was_deleted() -> None:
    made = HandMadeGroup().send("v0", 0).send("v1", 1).send("v5", 5).poll((5, "v5"), process="witness")
    assert isinstance(made, HandMadeGroup)
    made.assigned("a", 1).resume("a", 0, "policy").handed("a", 0, 1).commit("a", 2).revoked("a").assigned("b", 2)
    assert made.resume("b", 2).handed("b", 5).names() == []
    made = begun().handed("a", 0, 1).commit("a", 2).revoked("a").assigned("b", 2).resume("b", 2)
    made.do("delete_records", {KEY: 5})
    assert made.handed("b", 5).names() == []


def test_a_poll_that_spans_a_change_of_hands_is_not_judged_by_the_start() -> None:
    made = begun().handed("a", 0, 1).commit("a", 2)
    poll = made.begin("a", "poll", None)
    made.revoked("a").assigned("a", 3).resume("a", 2)
    made.end(poll, "ok", {KEY: [[4, "v4"]]}, rebalance=[KEY])
    assert "resumed-elsewhere" not in made.names()
