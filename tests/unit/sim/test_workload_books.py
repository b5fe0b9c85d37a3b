"""Every operation of a client gets exactly one outcome, and `fail` only when that is certain."""

from __future__ import annotations

import pytest

from logcluster.check.history import Recorder
from logcluster.check.payload import encode, is_corrupt
from logcluster.client.records import ConsumerRecord
from logcluster.model.errors import NotLeaderOrFollower, RequestTimedOut, UnknownServerError
from logcluster.sim.workload.books import Books, SentRecord, Speaker
from logcluster.sim.workload.consuming import polled, read_value
from logcluster.sim.workload.options import TopicOptions


@pytest.fixture
def books() -> Books:
    return Books(Recorder(lambda: 7), lambda: 42)


@pytest.fixture
def speaker(books: Books) -> Speaker:
    return Speaker(books, "producer-0")


def completions(books: Books) -> list[tuple[str, str]]:
    return [(event.type, event.process) for event in books.recorder.events if event.type != "invoke"]


def test_a_definite_error_is_a_failure(books: Books, speaker: Speaker) -> None:
    speaker.failed(speaker.invoke("send", ["t-0", None, "v"]), ["t-0", None, "v"], NotLeaderOrFollower())
    assert completions(books) == [("fail", "producer-0/0")]
    assert books.counts == {"send.invoke": 1, "send.fail": 1}
    assert books.findings == []


def test_any_other_error_leaves_the_outcome_open_and_ends_the_process(books: Books, speaker: Speaker) -> None:
    first, second = speaker.invoke("send", 1), speaker.invoke("send", 2)
    speaker.failed(first, 1, RequestTimedOut())
    speaker.ok(second, 2)  # began before the process died
    speaker.ok(speaker.invoke("send", 3), 3)
    assert completions(books) == [("info", "producer-0/0"), ("ok", "producer-0/0"), ("ok", "producer-0/1")]


def test_a_read_that_failed_is_a_failure_whatever_the_error(books: Books, speaker: Speaker) -> None:
    speaker.refused(speaker.invoke("poll", {}), {}, RequestTimedOut())
    assert completions(books) == [("fail", "producer-0/0")]


def test_a_bulk_error_leaves_each_record_in_doubt(books: Books, speaker: Speaker) -> None:
    speaker.doubted(speaker.invoke("send", 1), NotLeaderOrFollower())
    assert completions(books) == [("info", "producer-0/0")]


def test_what_is_open_when_a_client_dies_is_in_doubt_for_ever(books: Books, speaker: Speaker) -> None:
    operations = [speaker.invoke("send", number) for number in range(3)]
    speaker.ok(operations[0], 0)
    assert speaker.open_count == 2
    assert speaker.abandon("killed") == 2
    speaker.ok(operations[1], 1)  # a dead client's last word
    assert [kind for kind, _ in completions(books)] == ["ok", "info", "info"]
    assert [event.value for event in books.recorder.events[-2:]] == [1, 2]
    assert speaker.open_count == 0


def test_two_voices_of_a_client_are_two_processes(books: Books) -> None:
    first, second = Speaker(books, "c"), Speaker(books, "c")
    first.ok(first.invoke("poll", {}), {})
    second.ok(second.invoke("poll", {}), {})
    assert [process for _, process in completions(books)] == ["c/0", "c/1"]


def test_a_server_that_failed_inside_is_found(books: Books, speaker: Speaker) -> None:
    speaker.failed(speaker.invoke("send", 1), 1, UnknownServerError("incident"))
    (finding,) = books.findings
    assert (finding.name, finding.source, finding.at_ms) == ("internal-error", "crash", 42)


def test_offsets_seen_only_grow(books: Books) -> None:
    books.add_topic(TopicOptions(name="t", partitions=1, config={}))
    books.note_acked("t", 2, 9)
    state = books.key_state("t", 2)
    assert (state.key, state.committed_next_offset, state.has_unread) == ("t-2", 10, True)
    books.note_read("t", 2, 3)
    assert (state.read_next_offset, state.committed_next_offset, state.has_unread) == (4, 10, True)
    books.note_read("t", 2, 11)
    assert (state.read_next_offset, state.committed_next_offset, state.has_unread) == (12, 12, False)
    books.note_acked("t", 2, 1)
    assert state.committed_next_offset == 12


def test_a_topic_is_used_between_creation_and_deletion(books: Books) -> None:
    topic = books.add_topic(TopicOptions(name="t", partitions=1, config={}))
    assert books.usable_topics() == []
    topic.is_created = True
    topic.grow(2)
    assert [state.key for state in books.usable_keys()] == ["t-0", "t-1"]
    books.disk_damage = True
    assert (books.usable_topics(), books.promised_topics(), books.excused_topics()) == ([topic], [topic], [])
    single = books.add_topic(TopicOptions(name="single", partitions=1, min_isr=1, config={}))
    single.is_created = True
    assert (books.usable_topics(), books.promised_topics()) == ([topic, single], [topic])
    single.is_deleted = True
    topic.is_deleted = True
    assert books.usable_topics() == []


def record(**changes: object) -> ConsumerRecord:
    sound = ConsumerRecord("t", 0, 5, 1_000, b"key", encode("v-1", 50), [("id", b"v-1")])
    return sound._replace(**changes)


def test_a_record_is_its_value_when_nothing_differs(books: Books) -> None:
    books.sent["v-1"] = SentRecord(b"key", 1_000, (("id", b"v-1"),))
    assert read_value(books, record()) == "v-1"
    books.sent["v-1"] = SentRecord(b"key", None, (("id", b"v-1"),))  # the client chose the time
    assert read_value(books, record(timestamp_ms=77)) == "v-1"


@pytest.mark.parametrize(
    "changes",
    [
        {"key": None},
        {"timestamp_ms": 1_001},
        {"headers": []},
        {"value": encode("v-1", 50)[:-1] + b"!"},
        {"value": b""},
        {"value": None},
    ],
)
def test_a_record_that_differs_is_marked(books: Books, changes: dict[str, object]) -> None:
    books.sent["v-1"] = SentRecord(b"key", 1_000, (("id", b"v-1"),))
    assert is_corrupt(read_value(books, record(**changes)))


def test_a_value_that_nobody_sent_is_left_to_the_checker(books: Books) -> None:
    assert read_value(books, record()) == "v-1"


def test_a_poll_lists_records_by_partition(books: Books) -> None:
    books.add_topic(TopicOptions(name="t", partitions=2, config={}))
    books.sent["v-1"] = SentRecord(b"key", 1_000, (("id", b"v-1"),))
    value = polled(books, [record(), record(partition=1, offset=8), record(offset=6)])
    assert value == {"t-0": [[5, "v-1"], [6, "v-1"]], "t-1": [[8, "v-1"]]}
    assert books.read_record_count == 3
