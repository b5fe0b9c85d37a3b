"""How a client process writes its history, and how readers know what was sent."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.histories import merge
from chaos.workloads.doubts import DoubtfulCalls
from chaos.workloads.recording import HistoryWriter, Voice
from chaos.workloads.records import RecordMaker, companions_of, names_of, polled, read_value
from logcluster.check.history import Event, read_history
from logcluster.check.payload import is_corrupt
from logcluster.client.records import ConsumerRecord
from logcluster.model.errors import InvalidRecord, LogClusterError, RequestTimedOut, UnknownServerError
from logcluster.runtime.clock import SystemClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "client.jsonl"


@pytest.fixture
def writer(path: Path) -> Iterator[HistoryWriter]:
    writer = HistoryWriter(path, "append-0")
    yield writer
    writer.close()


def written(path: Path) -> list[Event]:
    return read_history(path)


def test_an_operation_that_may_be_in_doubt_is_with_the_kernel_before_it_begins(
    writer: HistoryWriter, path: Path
) -> None:
    voice = Voice(writer)
    voice.invoke("poll", {})
    assert written(path) == []

    voice.invoke("commit", {"orders-0": 3})

    assert [event.f for event in written(path)] == ["poll", "commit"]


def test_a_burst_is_flushed_by_whoever_made_it(writer: HistoryWriter, path: Path) -> None:
    voice = Voice(writer)
    for number in range(3):
        voice.invoke("send", ["orders-0", None, f"v{number}"], is_flushed=False)
    assert written(path) == []

    writer.flush()

    assert len(written(path)) == 3


def test_certain_errors_are_failures_and_all_others_doubts(writer: HistoryWriter, path: Path) -> None:
    voice = Voice(writer)
    voice.failed(voice.invoke("send", ["t-0", None, "a"]), InvalidRecord("no"))
    voice.failed(voice.invoke("send", ["t-0", None, "b"]), RequestTimedOut("late"))
    voice.failed(voice.invoke("send", ["t-0", None, "c"]), InvalidRecord("no"), is_doubtful=True)
    writer.flush()

    ends = [event for event in written(path) if event.type != "invoke"]

    assert [event.type for event in ends] == ["fail", "info", "info"]
    assert ends[0].error == "InvalidRecord: no"


def test_after_a_doubt_the_voice_goes_on_as_another_process(writer: HistoryWriter, path: Path) -> None:
    voice = Voice(writer)
    pipelined = voice.invoke("send", ["t-0", None, "a"])
    voice.failed(voice.invoke("send", ["t-0", None, "b"]), RequestTimedOut("late"))
    voice.ok(pipelined, ["t-0", 0, "a"])
    voice.invoke("send", ["t-0", None, "c"])

    processes = [event.process for event in written(path)]

    assert processes == ["append-0/0"] * 4 + ["append-0/1"]


def test_abandoned_operations_have_their_outcome_whatever_comes_later(writer: HistoryWriter, path: Path) -> None:
    voice = Voice(writer)
    send = voice.invoke("send", ["t-0", None, "a"])

    assert voice.abandon("over") == 1
    voice.ok(send, ["t-0", 0, "a"])
    writer.flush()

    assert [event.type for event in written(path)] == ["invoke", "info"]
    assert voice.open_count == 0


def test_an_internal_error_is_an_event_of_its_own(writer: HistoryWriter, path: Path) -> None:
    voice = Voice(writer)
    voice.failed(voice.invoke("send", ["t-0", None, "a"]), UnknownServerError("incident 7"))
    writer.flush()

    assert [(event.f, event.type) for event in written(path)] == [
        ("send", "invoke"),
        ("internal_error", "info"),
        ("send", "info"),
    ]
    assert len(merge([path])) == 3


def test_two_lives_do_not_share_a_file(path: Path, writer: HistoryWriter) -> None:
    with pytest.raises(FileExistsError):
        HistoryWriter(path, "append-0")


# -- records -------------------------------------------------------------------------------------------------------


def maker(life: str = "append-0.1f") -> RecordMaker:
    return RecordMaker(life, random.Random(1), SystemClock())


def as_read(payload: bytes, *, key: bytes | None, timestamp_ms: int, headers: tuple[tuple[str, bytes], ...]) -> str:
    return read_value(ConsumerRecord("t", 0, 3, timestamp_ms, key, payload, headers))


def test_values_are_unique_and_say_what_their_record_carries() -> None:
    records = maker()
    made = [records.make(size_bytes=200, keyed_probability=0.5, header_probability=0.5) for _ in range(200)]

    assert len({record.value for record in made}) == 200
    assert {record.key is None for record in made} == {True, False}
    assert {record.headers == () for record in made} == {True, False}
    for record in made:
        assert companions_of(record.value) == (record.key, record.headers, record.timestamp_ms)
        assert len(record.payload) == 200
        read = as_read(record.payload, key=record.key, timestamp_ms=record.timestamp_ms, headers=record.headers)
        assert read == record.value


def test_a_change_of_any_part_is_corruption() -> None:
    record = maker().make(size_bytes=50, keyed_probability=1, header_probability=1)
    good = {"key": record.key, "timestamp_ms": record.timestamp_ms, "headers": record.headers}
    damaged = bytearray(record.payload)
    damaged[-1] ^= 1

    for change in ({"key": b"other"}, {"key": None}, {"timestamp_ms": 5}, {"headers": ()}):
        assert is_corrupt(as_read(record.payload, **{**good, **change}))  # type: ignore[arg-type]
    assert is_corrupt(as_read(bytes(damaged), **good))  # type: ignore[arg-type]
    assert is_corrupt(as_read(record.payload[:-1], **good))  # type: ignore[arg-type]


def test_plain_values_promise_nothing_beside_themselves() -> None:
    value, payload = maker().make_plain(80)

    assert companions_of(value) is None
    assert as_read(payload, key=b"any", timestamp_ms=1, headers=()) == value


def test_polls_are_by_partition_in_the_order_they_came() -> None:
    records = maker()
    read = []
    for topic, partition, offset in (("a-b", 0, 7), ("a-b", 1, 3), ("a-b", 0, 8)):
        value, payload = records.make_plain()
        read.append((value, ConsumerRecord(topic, partition, offset, 0, None, payload, ())))

    found = polled(record for _, record in read)

    assert found == {"a-b-0": [[7, read[0][0]], [8, read[2][0]]], "a-b-1": [[3, read[1][0]]]}
    assert names_of(["a-b-0", "c-12"]) == [("a-b", 0), ("c", 12)]


# -- doubts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "is_in_doubt"),
    [([InvalidRecord("no")], False), ([RequestTimedOut("late"), InvalidRecord("no")], True)],
)
async def test_a_definite_refusal_after_an_attempt_without_an_answer_leaves_a_doubt(
    monkeypatch: pytest.MonkeyPatch, failures: list[LogClusterError], is_in_doubt: bool
) -> None:
    async def call(self: object, *_: object, on_failure: Callable[[LogClusterError], None], **__: object) -> None:
        for error in failures:
            on_failure(error)
        raise failures[-1]

    monkeypatch.setattr("logcluster.client.group.coordinator.CoordinatorCalls.call", call)
    calls = DoubtfulCalls.__new__(DoubtfulCalls)
    heard: list[LogClusterError] = []
    calls.begin()

    with pytest.raises(InvalidRecord):
        await calls.call("g", lambda stub: stub, None, on_failure=heard.append)

    assert calls.has_doubt is is_in_doubt
    assert heard == failures
