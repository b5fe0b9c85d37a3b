"""At-least-once: a group is never past a record that none of its members was handed."""

from __future__ import annotations

from hand_made import KEY, HandMadeGroup


def begun(*, records: int = 10) -> HandMadeGroup:
    return HandMadeGroup().log(records).assigned("a", 1).resume("a", 0, "policy")


def test_group_gap_below_a_commit() -> None:
    report = begun().handed("a", 0, 1).commit("a", 4).report()
    assert report.names == ["group-gap"]
    assert "group g: committed up to 4, but no member was handed 2, 3" in report.render()


def test_group_gap_between_what_was_handed_out() -> None:
    report = begun().handed("a", 0, 1).handed("a", 4, 5).report()
    assert report.names == ["group-gap"]
    assert "handed out up to 6, but no member was handed 2, 3" in report.render()


def test_group_gap_before_the_first_record() -> None:
    assert "group-gap" in begun().handed("a", 2, 3).commit("a", 4).names()


def test_what_was_handed_out_only_after_the_commit_does_not_count() -> None:
    made = begun().handed("a", 0, 1).commit("a", 3).of_member("a", "seek", {KEY: 2})
    assert made.handed("a", 2).names() == ["group-gap"]


def test_a_gap_is_reported_once() -> None:
    made = begun().handed("a", 0, 1).commit("a", 3).handed("a", 3, 4).commit("a", 5)
    assert made.report().counts == {"group-gap": 1}


def test_an_acknowledged_record_that_nobody_read_is_owed_too() -> None:
    made = HandMadeGroup().sends("v0", "v1", "v2")
    assert isinstance(made, HandMadeGroup)
    made.assigned("a", 1).resume("a", 0, "policy").handed("a", 0).commit("a", 3)
    assert made.names() == ["group-gap"]


def test_any_member_will_do() -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 2).assigned("b", 2).resume("b", 2).handed("b", 2, 3)
    assert made.commit("b", 4).names() == []
    made = begun().handed("a", 0, 1).commit("a", 2, outcome="info").revoked("a").assigned("b", 2).resume("b", 2)
    assert made.handed("b", 2).commit("b", 3).names() == []


def test_what_a_former_owner_had_in_hand_is_not_left_out() -> None:
    def handed_over() -> HandMadeGroup:
        made = begun().handed("a", 0, 1, 2, 3, 4, 5).commit("a", 1)
        return made.assigned("b", 2).resume("b", 1).handed("b", 1, 2)

    report = handed_over().handed("b", 5, 6).commit("b", 7).report()
    assert report.names == ["group-gap"]
    assert "a member went from 3 to 5, past 3, 4" in report.render()
    assert handed_over().of_member("b", "seek", {KEY: 5}).handed("b", 5, 6).commit("b", 7).names() == []
    assert handed_over().revoked("b").assigned("b", 3).handed("b", 5, 6).names() == []


def test_a_start_from_an_unknown_commit_says_that_all_below_is_done() -> None:
    made = begun().handed("a", 0).commit("a", 3, outcome="info").revoked("a").assigned("b", 2).resume("b", 3)
    assert made.names() == ["group-gap"]


def test_what_may_be_left_out_on_purpose() -> None:
    made = HandMadeGroup().log(10).assigned("a", 1).resume("a", 6, "policy").handed("a", 6, 7).commit("a", 8)
    assert made.names() == []
    assert begun().handed("a", 0).of_member("a", "seek", {KEY: 5}).handed("a", 5).commit("a", 6).names() == []
    assert begun().handed("a", 0).commit("a", 5, deliberate=True).names() == []
    made = begun().handed("a", 0).commit("a", 1).of_member("a", "leave", None).reset(5)
    assert made.assigned("b", 2).resume("b", 5).handed("b", 5).commit("b", 6).names() == []
    made = begun().handed("a", 0).commit("a", 1).revoked("a").reset("latest").assigned("b", 2)
    assert made.resume("b", 9).handed("b", 9).commit("b", 10).names() == []


def test_a_group_whose_start_is_not_on_record_began_with_its_first_record() -> None:
    made = HandMadeGroup().log(10).handed("a", 4, 5).commit("a", 6)
    assert made.names() == []
    assert HandMadeGroup().log(10).handed("a", 4, 6).commit("a", 7).names() == ["group-gap", "int-poll-skip"]


def test_deleted_and_compacted_records_are_not_owed() -> None:
    made = begun().handed("a", 0).do("delete_records", {KEY: 5})
    assert isinstance(made, HandMadeGroup)
    assert made.handed("a", 5).commit("a", 6).names() == []
    made = begun().handed("a", 0).commit("a", 6)
    assert made.do("delete_records", {KEY: 6}).names() == ["group-gap"]
    assert begun().handed("a", 0).commit("a", 6).names(compacted_topics=frozenset({"t"})) == []


def test_a_deleted_topic_owes_nothing() -> None:
    made = begun().handed("a", 0)
    made.do("delete_topic", "t")
    assert made.commit("a", 6).names() == []


def transaction(outcome: str) -> HandMadeGroup:
    made = HandMadeGroup().sends("v0")
    assert isinstance(made, HandMadeGroup)
    made.txn(("send", [KEY, 1, "v1"]), outcome=outcome)
    made.send("v3", 3).poll((0, "v0"), (1, "v1"), (3, "v3"), process="witness", isolation="read_uncommitted")
    return made.assigned("a", 1).resume("a", 0, "policy").handed("a", 0, 3, isolation="read_committed", rebalance=[KEY])


def test_records_of_transactions_are_owed_only_when_committed() -> None:
    assert transaction("ok").commit("a", 4).names() == ["group-gap"]
    assert "group-gap" not in transaction("fail").commit("a", 4).names()
    assert transaction("info").commit("a", 4).names() == []


def test_a_transaction_of_a_member_hands_records_out() -> None:
    made = HandMadeGroup().log(4).assigned("a", 1).resume("a", 0, "policy")
    steps = [["poll", {KEY: [[0, "v0"], [1, "v1"]]}], ["send", ["out-0", 0, "w"]]]
    made.of_member("a", "txn", steps).commit("a", 2)
    assert made.names() == []


def test_polls_of_members_are_not_those_of_an_assigned_reader() -> None:
    made = begun().handed("a", 0, 1, 2, 3).commit("a", 1).revoked("a").assigned("b", 2).resume("b", 1)
    made.handed("b", 1, 2, 3, 4).revoked("b").assigned("a", 3).resume("a", 1).handed("a", 1, 2).handed("a", 7)
    assert made.names() == ["group-gap"]
