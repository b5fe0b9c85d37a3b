"""stale-list-offsets, unavailability, lag: what was known before the question, who waited for how long."""

from __future__ import annotations

from hand_made import KEY, HandMade


def test_stale_list_offsets_against_acknowledged_writes() -> None:
    assert HandMade().sends("a", "b").do("list_offsets", {KEY: 2}).names() == []
    report = HandMade().sends("a", "b").do("list_offsets", {KEY: 1}).report()
    assert report.counts == {"stale-list-offsets": 1}
    assert HandMade().sends("a", "b", acks=1).do("list_offsets", {KEY: 1}).names() == []


def test_stale_list_offsets_against_reads() -> None:
    made = HandMade().send("a", None, outcome="info").poll((0, "a"))
    assert made.do("list_offsets", {KEY: 0}).names() == ["stale-list-offsets"]


def test_only_what_was_known_before_the_question_counts() -> None:
    made = HandMade().send("a", 0)
    asking = made.invoke("admin", "list_offsets", [KEY])
    made.send("b", 1).end(asking, "ok", {KEY: 1})
    assert made.names() == []


def test_other_questions_about_offsets_are_not_judged() -> None:
    made = HandMade().sends("a", "b")
    assert made.do("list_offsets", {KEY: 0}, spec="earliest").names() == []
    assert made.do("list_offsets", {KEY: 0}, isolation="read_committed").names() == []
    assert made.do("list_offsets", {KEY: 0}, outcome="fail").names() == []


def unavailable_ms(made: HandMade) -> int:
    measured = made.report().metrics["unavailability_max_ms"]
    assert set(measured) == {KEY}
    return int(measured[KEY])


def test_unavailability_is_time_in_which_somebody_tried() -> None:
    made = HandMade().send("a", 0).wait_ms(5000).send("b", 1)
    assert unavailable_ms(made) == 1
    made = HandMade().send("a", 0).send("x", None, outcome="fail").wait_ms(5000).send("b", 1)
    assert unavailable_ms(made) == 5003
    assert made.names() == []
    assert made.names(unavailability_max_ms=6000) == []
    assert made.names(unavailability_max_ms=5000) == ["unavailable"]


def test_a_send_that_hangs_until_the_end_is_unavailability() -> None:
    made = HandMade().send("a", 0)
    made.invoke("p", "send", [KEY, None, "b"])
    made.wait_ms(700).poll((0, "a"))
    assert unavailable_ms(made) == 702


def test_one_hanging_send_among_others_that_succeed_is_not() -> None:
    made = HandMade()
    made.invoke("stuck", "send", [KEY, None, "x"])
    for number in range(10):
        made.wait_ms(10).send(f"v{number}", number)
    assert unavailable_ms(made) < 15


def lag_ms(made: HandMade) -> int:
    return int(made.report().metrics["realtime_lag_max_ms"][KEY])


def test_lag_counts_from_when_the_position_stopped_being_the_newest() -> None:
    made = HandMade().send("a", 0).poll((0, "a")).send("b", 1).wait_ms(2000).poll((1, "b"))
    assert lag_ms(made) == 2001
    assert made.names() == []
    assert made.names(realtime_lag_max_ms=2500) == []
    assert made.names(realtime_lag_max_ms=2000) == ["lagging"]
    made = HandMade().send("a", 0).poll((0, "a")).wait_ms(2000).send("b", 1).poll((1, "b"))
    assert lag_ms(made) == 1


def test_a_reader_that_gets_nothing_more_lags_until_its_last_poll() -> None:
    made = HandMade().send("a", 0).poll((0, "a")).send("b", 1).wait_ms(3000).poll()
    assert lag_ms(made) == 3001


def test_a_new_reader_and_a_drain_are_not_late() -> None:
    made = HandMade().sends("a", "b").wait_ms(9000).assign({KEY: 0}).poll((0, "a"), (1, "b"))
    assert lag_ms(made) == 1
    made = HandMade().sends("a", "b").wait_ms(9000).drain((0, "a")).wait_ms(100)
    assert lag_ms(made.poll((1, "b"), process="d", drain=True)) == 0
