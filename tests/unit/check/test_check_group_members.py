"""Members of groups: one owner of a partition, no effects of former ones; and events that break the format."""

from __future__ import annotations

from typing import Any

import pytest
from hand_made import KEY, HandMadeGroup

from logcluster.check.checker import check
from logcluster.check.history import Event


def owned() -> HandMadeGroup:
    return HandMadeGroup().log(10).assigned("a", 1).resume("a", 0, "policy").handed("a", 0, 1, 2).commit("a", 2)


def taken_over() -> HandMadeGroup:
    """ "a" was thought dead, and does not know; "b" goes on from its commit."""
    return owned().assigned("b", 2).resume("b", 2).handed("b", 2, 3, 4)


# -- zombie-commit


def test_zombie_commit() -> None:
    report = taken_over().commit("a", 3).report()
    assert report.names == ["zombie-commit"]
    assert "a had the partition in epoch 1 and b since epoch 2" in report.render()


@pytest.mark.parametrize("mark", ["revoked", "lost"])
def test_a_commit_after_the_partition_was_given_away(mark: str) -> None:
    assert owned().revoked("a", f=mark).assigned("b", 2).commit("a", 3).names() == ["zombie-commit"]


def test_a_commit_after_leaving() -> None:
    assert owned().of_member("a", "leave", None).commit("a", 3).names() == ["zombie-commit"]


def test_a_member_without_marks_is_judged_by_the_epoch_of_its_commit() -> None:
    def other() -> HandMadeGroup:
        return HandMadeGroup().log(10).assigned("b", 4).handed("b", 0, 1)

    assert other().commit("a", 1, member_epoch=3).names() == ["zombie-commit"]
    assert other().commit("a", 1, member_epoch=4).names() == []
    assert other().commit("a", 1).names() == []


@pytest.mark.parametrize("outcome", ["fail", "info"])
def test_a_zombie_may_try(outcome: str) -> None:
    assert taken_over().commit("a", 3, outcome=outcome).names() == []


def test_a_commit_that_began_as_owner_is_no_zombies() -> None:
    made = owned()
    commit = made.begin("a", "commit", {KEY: 3})
    made.revoked("a").assigned("b", 2).end(commit, "ok", {KEY: 3})
    assert made.resume("b", 3).handed("b", 3).commit("b", 4).names() == []


def test_a_commit_while_giving_up_is_in_order() -> None:
    assert owned().revoked("a").commit("a", 3).assigned("b", 2).resume("b", 3).handed("b", 3).names() == []


def test_a_partition_may_come_back() -> None:
    made = owned().revoked("a").assigned("b", 2).resume("b", 2).revoked("b").assigned("a", 3).resume("a", 2)
    assert made.handed("a", 2, 3).commit("a", 4).names() == []


def test_a_mark_that_comes_late_proves_nothing() -> None:
    """ "b" hears of what it was given before "a" was when it is "a"'s already."""
    made = HandMadeGroup().log(10).assigned("a", 5).assigned("b", 3).resume("a", 0, "policy").handed("a", 0, 1)
    assert made.commit("a", 2).names() == []


def test_epochs_begin_anew_with_the_group() -> None:
    made = owned().of_member("a", "leave", None).of_member(None, "reset_offsets", None)
    made.assigned("b", 1).resume("b", 0, "policy").revoked("b").assigned("c", 2).resume("c", 0, "policy")
    assert made.handed("c", 0).commit("c", 1).names() == []


def test_retention_deleted_the_group_before_anybody_noticed() -> None:
    made = owned().revoked("a", f="lost").assigned("b", 1).resume("b", 0, "policy").handed("b", 0).commit("b", 1)
    assert made.of_member(None, "reset_offsets", None, expired=True).names() == []


# -- double-ownership


@pytest.mark.parametrize("mark", ["revoked", "lost"])
def test_double_ownership(mark: str) -> None:
    made = owned().revoked("a", f=mark).assigned("b", 2).resume("b", 2).handed("b", 2, 3)
    report = made.handed("a", 3, 4).report()
    assert report.names == ["double-ownership"]
    assert "a had given the partition up, asked again and was handed 3; b owned it" in report.render()


def test_an_owner_that_was_thought_dead_may_read_on() -> None:
    assert taken_over().handed("a", 3, 4).names() == []
    assert taken_over().handed("a", 3, 4).revoked("a", f="lost").names() == []


def test_a_poll_that_began_before_the_revocation_may_return_records() -> None:
    made = owned()
    poll = made.begin("a", "poll", None)
    made.revoked("a").assigned("b", 2).resume("b", 2)
    assert made.end(poll, "ok", {KEY: [[3, "v3"]]}, rebalance=[KEY]).names() == []


def test_nobody_else_owned_it() -> None:
    assert owned().revoked("a").handed("a", 3).names() == []
    assert owned().revoked("a").handed("a", 3).assigned("b", 2).names() == []


def test_an_owner_that_never_let_go() -> None:
    """ "a" lives on, in the epoch in which its partition is "b"'s."""
    made = taken_over().assigned("a", 2, "t-1")
    assert made.names() == ["double-ownership"]
    assert owned().revoked("a").assigned("b", 2).assigned("a", 2, "t-1").names() == []
    assert owned().assigned("a", 2, "t-1").assigned("b", 3).names() == []


# -- the format


def names_after(**changed: Any) -> list[str]:
    """A commit of two events whose fields are changed."""
    fields: dict[str, Any] = {"f": "commit", "value": {KEY: 1}, "meta": {"group": "g", "member": "a"}, **changed}
    begun = Event(0, 0, "a", "a", "invoke", **fields)
    ended = Event(1, 1, "a", "a", "ok", **fields)
    return check([begun, ended]).names


MEMBER = {"group": "g", "member": "a"}
BROKEN: dict[str, dict[str, Any]] = {
    "no group": {"meta": {"member": "a"}},
    "a group without a name": {"meta": {"group": "", "member": "a"}},
    "a member without a name": {"meta": {"group": "g", "member": 7}},
    "commit without offsets": {"value": None},
    "commit of what is no offset": {"value": {KEY: "beginning"}},
    "an outcome there is not": {"meta": {**MEMBER, "outcomes": {KEY: "maybe"}}},
    "assigned without an epoch": {"f": "assigned", "value": [KEY]},
    "assigned without keys": {"f": "assigned", "value": None, "meta": {**MEMBER, "member_epoch": 1}},
    "assigned without a member": {"f": "assigned", "value": [KEY], "meta": {"group": "g", "member_epoch": 1}},
    "revoked of what is no list": {"f": "revoked", "value": KEY},
    "resume without a reason": {"f": "resume", "value": {KEY: 0}},
    "resume without a position": {"f": "resume", "value": {KEY: None}, "meta": {**MEMBER, "why": "policy"}},
    "fetch of what is no offset": {"f": "fetch_offsets", "value": {KEY: "end"}},
    "reset of nothing": {"f": "reset_offsets", "value": [KEY], "meta": {"group": "g"}},
    "poll without a member": {"f": "poll", "value": {KEY: []}, "meta": {"group": "g"}},
    "transaction without a member": {"f": "txn", "value": [], "meta": {"group": "g"}},
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_what_breaks_the_format(case: str) -> None:
    assert names_after(**BROKEN[case]) == ["malformed-history"]


def test_what_does_not_break_the_format() -> None:
    assert names_after() == []
    assert names_after(f="seek", value={KEY: 1}, meta={}) == []
    assert names_after(f="revoked", value=None) == []


def test_names_of_members_are_of_one_life() -> None:
    assert owned().of_member("a", "leave", None).assigned("a", 3).names() == ["malformed-history"]
    made = owned()
    invoked = made.recorder.invoke("x/0", "x", "commit", {KEY: 2}, group="g", member="a")
    assert made.end(invoked, "ok", {KEY: 2}).names() == ["malformed-history"]


def test_a_mark_may_be_one_event() -> None:
    mark = Event(1, 1, "a", "a", "ok", "assigned", [KEY], meta={**MEMBER, "member_epoch": 1})
    poll = Event(0, 0, "a", "a", "invoke", "poll", None, meta=MEMBER)
    answer = Event(2, 2, "a", "a", "ok", "poll", {KEY: []}, meta=MEMBER)
    assert check([poll, mark, answer]).names == []


def test_an_answer_completes_something() -> None:
    assert check([Event(0, 0, "a", "a", "ok", "commit", {KEY: 1}, meta=MEMBER)]).names == ["malformed-history"]
