"""phantom, resurrection, corrupt-value, G1a, G1c-realtime, duplicate, inconsistent-offsets, offset-reassigned."""

from __future__ import annotations

from hand_made import HandMade

from logcluster.check.payload import corrupt_value


def test_a_plain_history_passes() -> None:
    report = HandMade().sends("a", "b", "c").poll((0, "a"), (1, "b")).poll((2, "c")).report()
    assert report.passed
    assert report.counts == {}


def test_phantom() -> None:
    assert HandMade().poll((0, "ghost")).names() == ["phantom"]
    assert HandMade().send("a", 0, key="t-1").poll((0, "a"), key="t-0").names() == ["phantom"]
    assert HandMade().send("a", 0, key="t-1").poll((0, "a"), key="t-1").names() == []


def test_resurrection() -> None:
    made = HandMade().send("a", 0, topic_id="old")
    assert made.poll((0, "a"), topic_id="old").names() == []
    assert made.poll((0, "a"), process="c2", topic_id={"t": "new"}).names() == ["resurrection"]


def test_incarnations_do_not_share_offsets() -> None:
    made = HandMade().send("a", 0, topic_id="old").do("delete_topic", "t", topic_id="old").send("b", 0, topic_id="new")
    assert made.poll((0, "b"), topic_id="new").names() == []


def test_corrupt_value() -> None:
    made = HandMade().sends("a", "b").poll((0, "a"), (1, corrupt_value("checksum differs")))
    report = made.report()
    assert report.names == ["corrupt-value"]
    assert "checksum differs" in report.anomalies[0].detail
    assert "inconsistent-offsets" not in made.poll((1, "b"), process="c2").names()


def test_g1a() -> None:
    assert HandMade().send("a", None, outcome="fail").poll((0, "a")).names() == ["G1a"]
    assert HandMade().send("a", None, outcome="info").poll((0, "a")).names() == []
    report = (
        HandMade().send("a", None, outcome="info").send("b", None, outcome="info", process="p2").poll((0, "a")).report()
    )
    assert report.metrics["recovered"] == 1


def test_g1a_of_an_aborted_transaction_depends_on_isolation() -> None:
    made = HandMade().txn(("send", ["t-0", 0, "a"]), outcome="fail")
    assert made.poll((0, "a"), isolation="read_uncommitted").names() == []
    made = HandMade().txn(("send", ["t-0", 0, "a"]), outcome="fail")
    assert made.poll((0, "a"), isolation="read_committed").names() == ["G1a"]


def test_read_before_it_was_sent() -> None:
    assert HandMade().poll((0, "a")).send("a", 0).names() == ["G1c-realtime"]
    made = HandMade()
    sending = made.invoke("p", "send", ["t-0", None, "a"])
    assert made.poll((0, "a")).end(sending, "ok", ["t-0", 0, "a"]).names() == []


def test_duplicate_by_two_reads() -> None:
    made = HandMade().sends("a", "b").poll((0, "a"), (1, "b"), (2, "a"))
    report = made.report()
    assert report.counts == {"duplicate": 1}
    assert report.anomalies[0].offsets == (0, 2)


def test_duplicate_by_acknowledgement_and_read() -> None:
    made = HandMade().send("a", 0).poll((3, "a"))
    assert made.report().counts == {"duplicate": 1}


def test_a_duplicate_is_one_finding_and_not_a_shower() -> None:
    """Jepsen's value-to-index map keeps the last place, so everything between looks skipped or backwards."""
    values = [f"v{number}" for number in range(50)]
    records = list(enumerate(values))
    made = HandMade().sends(*values)
    made.assign({"t-0": 0})
    for number in range(0, 50, 5):
        made.poll(*records[number : number + 5])
    made.poll((50, "v3"))
    made.drain(*records, (50, "v3"))
    assert made.report(drain_required=True).counts == {"duplicate": 1}


def test_duplicates_are_legal_without_idempotence_or_with_weak_acks() -> None:
    for meta in ({"idempotent": False}, {"acks": 1}, {"acks": "0"}, {"acks": 1, "idempotent": True}):
        made = HandMade().send("a", 0, **meta).poll((0, "a"), (1, "a"))
        assert made.names() == [], meta
        assert made.report().metrics["duplicates_without_idempotence"] == 1
    for meta in ({}, {"acks": -1}, {"acks": "all", "idempotent": True}):
        assert HandMade().send("a", 0, **meta).poll((0, "a"), (1, "a")).names() == ["duplicate"], meta


def test_inconsistent_offsets_by_two_readers() -> None:
    made = HandMade().send("a", None, outcome="info").send("b", None, outcome="info", process="p2")
    made.poll((0, "a"), process="c1")
    assert made.names() == []
    report = made.poll((0, "b"), process="c2").report()
    assert report.counts == {"inconsistent-offsets": 1}
    assert set(report.anomalies[0].events) >= {5, 7}


def test_inconsistent_offsets_by_two_acknowledgements() -> None:
    assert HandMade().send("a", 0).send("b", 0, process="p2").names() == ["inconsistent-offsets"]
    assert HandMade().send("a", 0, acks=1).send("b", 0, process="p2").names() == []


def test_offset_reassigned() -> None:
    made = HandMade().send("a", 0).send("b", None, outcome="info", process="p2").poll((0, "b"))
    assert "offset-reassigned" in made.names()
    assert "inconsistent-offsets" not in made.names()
    # The other way round the reader came first: the acknowledgement is wrong, nothing was reassigned.
    made = HandMade()
    sending = made.invoke("p", "send", ["t-0", None, "a"])
    made.send("b", None, outcome="info", process="p2").poll((0, "b")).end(sending, "ok", ["t-0", 0, "a"])
    assert "inconsistent-offsets" in made.names()
    assert "offset-reassigned" not in made.names()


def test_weak_acknowledgements_promise_no_place() -> None:
    for acks in (0, 1):
        made = HandMade().send("a", 0, acks=acks).send("b", 0, process="p2").poll((0, "b"))
        assert made.names() == []
