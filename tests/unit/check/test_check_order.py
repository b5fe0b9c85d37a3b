"""Order of polls and of sends, and what rebalancing, deletion, pipelining and weak acks excuse."""

from __future__ import annotations

import pytest
from hand_made import KEY, HandMade


def read_log(size: int = 6) -> HandMade:
    """A log of which one consumer has read everything."""
    values = [f"v{number}" for number in range(size)]
    return HandMade().sends(*values).poll(*enumerate(values), process="witness")


def test_int_poll_skip() -> None:
    assert read_log().poll((0, "v0"), (1, "v1"), (2, "v2")).names() == []
    report = read_log().poll((0, "v0"), (3, "v3"), (4, "v4")).report()
    assert report.counts == {"int-poll-skip": 1}
    assert "passed over 2 records, among them 'v1' at offset 1" in report.anomalies[0].detail


def test_a_skipped_copy_counts_if_the_copy_is_legal() -> None:
    for idempotent, expected in ((False, ["int-poll-skip"]), (True, ["duplicate"])):
        made = HandMade().send("a", 0, idempotent=idempotent).send("b", 2).send("c", 3)
        made.poll((0, "a"), (1, "a"), (2, "b"), (3, "c"), process="witness")
        assert made.poll((0, "a"), (2, "b")).names() == expected


def test_poll_skip() -> None:
    assert read_log().poll((0, "v0")).poll((1, "v1")).names() == []
    assert read_log().poll((0, "v0")).poll((2, "v2")).report().counts == {"poll-skip": 1}


def test_head_skip() -> None:
    assert read_log().assign({KEY: 0}).poll((0, "v0")).names() == []
    assert read_log().assign({KEY: 0}).poll((2, "v2")).report().counts == {"head-skip": 1}
    assert read_log().assign({KEY: "beginning"}).poll((2, "v2")).names() == ["head-skip"]
    assert read_log().assign({KEY: 2}).poll((2, "v2")).names() == []
    assert read_log().assign({KEY: 2}).poll((4, "v4")).names() == ["head-skip"]
    for unknown in ("end", None, -1):
        assert read_log().assign({KEY: unknown}).poll((3, "v3")).names() == []


def test_head_skip_knows_the_log_start() -> None:
    made = read_log().do("delete_records", {KEY: 2}).assign({KEY: 0})
    assert made.poll((2, "v2")).names() == []
    made = read_log().do("delete_records", {KEY: 2}).assign({KEY: 0})
    assert made.poll((3, "v3")).names() == ["head-skip"]


def test_nonmonotonic_poll() -> None:
    assert read_log().poll((0, "v0"), (1, "v1")).poll((1, "v1"), (2, "v2")).report().counts == {"nonmonotonic-poll": 1}
    assert read_log().poll((3, "v3")).poll((1, "v1")).names() == ["nonmonotonic-poll"]
    assert read_log().assign({KEY: 3}).poll((2, "v2")).names() == ["nonmonotonic-poll"]
    assert read_log().poll((3, "v3"), process="c1").poll((1, "v1"), process="c2").names() == []


def test_int_nonmonotonic_poll() -> None:
    report = read_log().poll((1, "v1"), (2, "v2"), (1, "v1"), (2, "v2"), (3, "v3")).report()
    assert report.counts == {"int-nonmonotonic-poll": 2}
    assert read_log().poll((2, "v2"), (2, "v2")).names() == ["int-nonmonotonic-poll"]


def test_order_in_poll_when_values_cannot_say() -> None:
    made = HandMade().send("a", 0, idempotent=False).send("b", 1).poll((1, "b"), (0, "a"), (2, "a"))
    assert made.names() == ["order-in-poll"]
    made = HandMade().send("a", 0, idempotent=False).send("b", 1).poll((0, "a"), (1, "b"), (2, "a"))
    assert made.names() == []


def test_rebalancing_excuses_the_keys_that_moved() -> None:
    for moved in ([KEY], {"assigned": [KEY]}, {"revoked": [KEY], "assigned": []}):
        assert read_log().poll((0, "v0")).poll((2, "v2"), (5, "v5"), rebalance=moved).names() == []
    names = read_log().poll((0, "v0")).poll((2, "v2"), (5, "v5"), rebalance=["t-9"]).names()
    assert names == ["int-poll-skip", "poll-skip"]


def test_after_a_rebalanced_poll_the_position_counts_again() -> None:
    assert read_log().poll((2, "v2"), rebalance=[KEY]).poll((4, "v4")).names() == ["poll-skip"]


def test_under_subscribe_only_the_inside_of_a_poll_counts() -> None:
    made = read_log().do("subscribe", ["t"], process="c").poll((3, "v3")).poll((0, "v0")).poll((5, "v5"))
    assert made.names() == []
    assert made.poll((0, "v0"), (2, "v2")).names() == ["int-poll-skip"]


def test_assign_after_subscribe_counts_again() -> None:
    made = read_log().do("subscribe", ["t"], process="c").poll((3, "v3")).assign({KEY: 0}).poll((1, "v1"))
    assert made.names() == ["head-skip"]


def test_assign_drops_what_it_does_not_name_and_keeps_what_it_names_with_none() -> None:
    assert read_log().poll((0, "v0")).assign({"t-1": 0}).poll((3, "v3")).names() == []
    assert read_log().poll((0, "v0")).assign({KEY: None}).poll((3, "v3")).names() == ["poll-skip"]


def test_seek_moves_one_key() -> None:
    assert read_log().poll((3, "v3")).assign({KEY: 1}, f="seek").poll((1, "v1")).names() == []
    assert read_log().poll((3, "v3")).assign({"t-1": 0}, f="seek").poll((1, "v1")).names() == ["nonmonotonic-poll"]


def test_records_deleted_while_the_consumer_was_away_are_not_skipped() -> None:
    made = read_log().poll((0, "v0")).do("delete_records", {KEY: 4})
    assert made.poll((4, "v4")).names() == []
    made = read_log().poll((0, "v0")).do("delete_records", {KEY: 4})
    assert made.poll((5, "v5")).names() == ["poll-skip"]


def test_offsets_that_hold_no_record_are_not_skipped() -> None:
    made = HandMade().send("a", 0).send("b", 4).poll((0, "a"), (4, "b"), process="witness")
    assert made.poll((0, "a")).poll((4, "b")).names() == []


def test_a_compacted_topic_may_have_holes() -> None:
    made = read_log().poll((0, "v0"), (3, "v3"))
    assert made.names(compacted_topics=frozenset({"t"})) == []


def test_realtime_offset_regression() -> None:
    report = HandMade().send("a", 5, process="p1").send("b", 3, process="p2").report()
    assert report.counts == {"realtime-offset-regression": 1}
    assert report.anomalies[0].events == (0, 1, 2, 3)
    assert HandMade().send("a", 5, process="p1").send("b", 6, process="p2").names() == []


def test_concurrent_sends_may_take_any_order() -> None:
    made = HandMade()
    first = made.invoke("p1", "send", [KEY, None, "a"])
    second = made.invoke("p2", "send", [KEY, None, "b"])
    made.end(first, "ok", [KEY, 1, "a"]).end(second, "ok", [KEY, 0, "b"])
    assert made.names() == []


@pytest.mark.parametrize("weak", ["a", "b"])
def test_weak_acks_may_regress(weak: str) -> None:
    made = HandMade()
    for value, offset in (("a", 5), ("b", 3)):
        made.send(value, offset, acks=1 if value == weak else "all")
    assert made.names() == []


def pipelined(**meta: object) -> HandMade:
    """One process begins two sends; the later one gets the lower offset."""
    made = HandMade()
    first = made.invoke("p", "send", [KEY, None, "a"], **meta)
    second = made.invoke("p", "send", [KEY, None, "b"], **meta)
    return made.end(second, "ok", [KEY, 0, "b"]).end(first, "ok", [KEY, 1, "a"])


def test_nonmonotonic_send() -> None:
    assert pipelined().report().counts == {"nonmonotonic-send": 1}
    assert pipelined(idempotent=False).names() == []
    assert pipelined(acks=1).names() == []


def test_after_an_unknown_outcome_a_producer_may_begin_anew() -> None:
    made = HandMade()
    first = made.invoke("p", "send", [KEY, None, "a"])
    second = made.invoke("p", "send", [KEY, None, "b"])
    made.end(second, "ok", [KEY, 0, "b"]).end(first, "info", None).poll((0, "b"), (1, "a"))
    assert made.names() == []


def test_order_of_sends_known_only_from_reads() -> None:
    made = HandMade()
    first = made.invoke("p", "send", [KEY, None, "a"])
    second = made.invoke("p", "send", [KEY, None, "b"])
    made.end(first, "ok", [KEY, None, "a"]).end(second, "ok", [KEY, None, "b"])
    assert made.poll((0, "b"), (1, "a")).names() == ["nonmonotonic-send"]


def test_sends_of_one_operation() -> None:
    assert HandMade().send_many(("a", 0), ("b", 1)).report().metrics["int_send_skips"] == 0
    made = HandMade().send_many(("a", 0), ("b", 3))
    assert made.names() == []
    assert made.report().metrics["int_send_skips"] == 1
    assert HandMade().send_many(("a", 1), ("b", 0)).names() == ["int-nonmonotonic-send"]
    assert HandMade().send_many(("a", 1), ("b", 0), idempotent=False).names() == []
