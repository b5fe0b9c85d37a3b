"""lost-write, unseen, undrained, lost-on-node: what is lost, what is not yet read, what may be gone."""

from __future__ import annotations

from hand_made import KEY, HandMade

from logcluster.check.payload import corrupt_value


def counts(made: HandMade, **options: object) -> dict[str, int]:
    return made.report(**options).counts


def test_lost_write_passed_over_by_a_reader() -> None:
    made = HandMade().sends("a", "b", "c").poll((0, "a"), (2, "c"))
    report = made.report()
    assert report.counts == {"lost-write": 1}
    assert "'b', acknowledged at offset 1" in report.anomalies[0].detail
    assert report.metrics["lost_split"] == {"prefix": 0, "middle": 1, "postfix": 0}
    assert HandMade().sends("a", "b", "c").poll((0, "a"), (2, "c")).poll((1, "b"), process="c2").names() != [
        "lost-write"
    ]


def test_lost_write_between_two_polls_and_at_the_head() -> None:
    made = HandMade().sends("a", "b", "c").poll((0, "a")).poll((2, "c"))
    assert counts(made) == {"lost-write": 1}
    made = HandMade().sends("a", "b").assign({KEY: 0}).poll((1, "b"))
    assert counts(made) == {"lost-write": 1}


def test_what_no_reader_passed_is_not_lost_without_a_drain() -> None:
    assert HandMade().sends("a", "b", "c").assign({KEY: 2}).poll((2, "c")).names() == []
    assert HandMade().sends("a", "b", "c").poll((0, "a")).names() == []


def test_lost_write_below_what_a_drain_read() -> None:
    made = HandMade().sends("a", "b", "c").poll((0, "a"), (1, "b"), (2, "c"))
    assert HandMade().sends("a", "b").poll((1, "b")).poll((1, "b"), process="d", drain=True).report().counts == {
        "lost-write": 1
    }
    assert made.drain((0, "a"), (1, "b"), (2, "c")).names() == []


def test_only_acknowledged_writes_can_be_lost() -> None:
    for meta in ({"outcome": "info"}, {"outcome": "fail"}, {"acks": 1}, {"acks": 0}):
        made = HandMade().send("a", 0).send("b", 1, process="p2", **meta).send("c", 2)
        made.drain((0, "a"), (2, "c"))
        assert made.names() == [], meta
    made = HandMade().send("a", 0).send("b", 1, idempotent=False).send("c", 2).drain((0, "a"), (2, "c"))
    assert made.names() == ["lost-write"]


def test_a_misplaced_copy_does_not_declare_everything_before_it_lost() -> None:
    made = HandMade().sends("a", "b", "c").poll((0, "a")).poll((9, "a"), process="c2")
    assert made.names() == ["duplicate"]


def test_holes_are_legal() -> None:
    made = HandMade().send("a", 0).send("b", 5).assign({KEY: 0}).poll((0, "a"), (5, "b"))
    assert made.drain((0, "a"), (5, "b")).names(drain_required=True) == []


def test_unseen_tail_after_the_drain() -> None:
    made = HandMade().sends("a", "b").drain((0, "a"))
    report = made.report()
    assert report.counts == {"unseen": 1}
    assert "'b'" in report.anomalies[0].detail
    assert HandMade().sends("a", "b").poll((0, "a")).names() == []
    assert HandMade().sends("a", "b").drain((0, "a"), (1, "b")).names() == []


def test_a_drain_that_stuck_is_unseen_and_not_lost() -> None:
    made = HandMade().sends("a", "b", "c").assign({KEY: 2}).poll((2, "c")).drain((0, "a"))
    assert counts(made) == {"unseen": 1}


def test_a_drain_that_got_nothing_but_damage() -> None:
    made = HandMade().send("a", 0).drain((0, corrupt_value("crc")))
    assert made.names(drain_required=True) == ["corrupt-value", "unseen"]


def test_an_acknowledgement_without_offset_is_owed_too() -> None:
    assert HandMade().send("a", None).drain().names() == ["unseen"]
    assert HandMade().send("a", None).drain((0, "a")).names() == []


def test_a_partition_the_drain_left_out() -> None:
    made = HandMade().send("a", 0).send("b", 0, key="t-1").drain((0, "a"))
    assert counts(made) == {"unseen": 1}
    assert counts(made, drain_required=True) == {"undrained": 1}


def test_a_run_without_drain_fails_only_if_one_was_promised() -> None:
    made = HandMade().sends("a").poll((0, "a"))
    assert made.names() == []
    assert made.names(drain_required=True) == ["undrained"]
    assert HandMade().send("a", None, outcome="info").names(drain_required=True) == []


def test_deleted_records_are_not_lost() -> None:
    made = HandMade().sends("a", "b", "c").do("delete_records", {KEY: 2}).drain((2, "c"))
    assert made.names(drain_required=True) == []
    made = HandMade().sends("a", "b", "c").do("delete_records", {KEY: 1}).drain((2, "c"))
    assert counts(made) == {"lost-write": 1}


def test_a_deletion_counts_from_its_invocation_unless_refused() -> None:
    made = HandMade().sends("a", "b").assign({KEY: 0}).poll((1, "b")).do("delete_records", {KEY: 1})
    assert made.names() == ["lost-write"]
    made = HandMade().sends("a", "b").do("delete_records", {KEY: 1}, outcome="fail").assign({KEY: 0}).poll((1, "b"))
    assert made.names() == ["lost-write"]
    for outcome in ("ok", "info"):
        made = HandMade().sends("a", "b").do("delete_records", {KEY: 1}, outcome=outcome)
        assert made.assign({KEY: 0}).poll((1, "b")).names() == []
    made = HandMade().sends("a", "b")
    made.invoke("admin", "delete_records", {KEY: 1})
    assert made.assign({KEY: 0}).poll((1, "b")).names() == []


def test_retention_may_have_acted_before_it_was_noticed() -> None:
    made = HandMade().sends("a", "b").assign({KEY: 0}).poll((1, "b"))
    assert made.do("delete_records", {KEY: 1}, retention=True).names() == []


def test_a_deleted_topic_owes_nothing() -> None:
    made = HandMade().send("a", 0).send("b", 0, key="keep-0").drain((0, "b"), key="keep-0")
    assert made.names() == ["unseen"]
    assert made.do("delete_topic", "t").names(drain_required=True) == []
    assert HandMade().send("a", 0).do("delete_topic", "t", outcome="fail").drain(key="x-0").names() == ["unseen"]


def test_a_reader_that_passed_over_a_record_before_its_topic_was_deleted_still_shows_loss() -> None:
    made = HandMade().sends("a", "b", "c").poll((0, "a"), (2, "c")).do("delete_topic", "t")
    assert made.names() == ["lost-write"]


def test_compacted_topics_owe_nothing() -> None:
    made = HandMade().sends("a", "b", "c").drain((0, "a"), (2, "c"))
    assert made.names(compacted_topics=frozenset({"t"})) == []
    assert made.names(compacted_topics=frozenset({"u"})) == ["lost-write"]


def test_split_of_losses_among_a_producers_values() -> None:
    made = HandMade().sends("a", "b", "c", "d", "e", process="p1").send("z", 5, process="p2")
    report = made.drain((1, "b"), (3, "d"), (5, "z")).report()
    assert report.metrics["lost_split"] == {"prefix": 1, "middle": 1, "postfix": 1}
    assert report.counts == {"lost-write": 3}


def test_unseen_is_a_series_that_shrinks() -> None:
    made = HandMade().sends("a", "b").wait_ms(1000).poll((0, "a"), (1, "b"))
    series = made.report().metrics["unseen_series"]
    assert max(count for _, count in series) == 2
    assert series[-1][1] == 0


def test_lost_on_node() -> None:
    made = HandMade().sends("a", "b", "c").poll((0, "a"), (1, "b"), (2, "c"), process="c1", node=1)
    assert made.poll((0, "a"), (1, "b"), (2, "c"), process="c2", node=2).names() == []
    report = made.poll((0, "a"), (2, "c"), process="c3", node=3).report()
    assert report.counts == {"int-poll-skip": 1, "lost-on-node": 1}
    assert "node 3" in report.anomalies[-1].detail or "node 3" in report.anomalies[0].detail


def test_a_node_that_served_the_record_to_somebody_is_not_blamed() -> None:
    made = HandMade().sends("a", "b", "c").poll((0, "a"), (1, "b"), (2, "c"), process="c1", node=3)
    assert made.poll((0, "a"), (2, "c"), process="c3", node=3).names() == ["int-poll-skip"]


def test_two_polls_from_different_nodes_blame_no_node() -> None:
    made = HandMade().sends("a", "b", "c").poll((0, "a"), (1, "b"), (2, "c"), process="c1", node=1)
    made.poll((0, "a"), process="c2", node=2).poll((2, "c"), process="c2", node={KEY: 3})
    assert made.names() == ["poll-skip"]
    made.poll((0, "a"), process="c3", node={KEY: 3}).poll((2, "c"), process="c3", node=3)
    assert made.names() == ["lost-on-node", "poll-skip"]
