"""Merging histories of client processes: order, names, open operations, torn ends; and what is asked of the checker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.histories import check_history, events_of, incidents, merge, promised_ends, without_topics
from chaos.workloads.recording import HistoryWriter, Voice
from logcluster.check.history import Event, HistoryFormatError, read_history


def send(t_ns: int, index: int, kind: str, value: str, offset: int | None = None, **more: Any) -> dict[str, Any]:
    line: dict[str, Any] = {"i": index, "t_ns": t_ns, "proc": "a/0", "client": "a", "type": kind, "f": "send"}
    return {**line, "value": ["orders-0", offset, value], **more}


def write(path: Path, *lines: dict[str, Any], torn: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn, encoding="utf-8")
    return path


def shape(events: list[Event]) -> list[tuple[int, int, str, Any]]:
    return [(event.index, event.t_ns, event.type, event.meta.get("invoked")) for event in events]


def test_events_are_ordered_by_time_and_completions_follow_their_invocations(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.jsonl",
        send(10, 0, "invoke", "x"),
        send(20, 1, "invoke", "y"),
        send(40, 2, "ok", "y", 1, meta={"invoked": 1}),
        send(60, 3, "ok", "x", 0, meta={"invoked": 0}),
    )
    second = write(
        tmp_path / "b.jsonl", send(15, 0, "invoke", "z"), send(50, 1, "ok", "z", 2, meta={"invoked": 0, "acks": "all"})
    )

    events = merge([first, second])

    assert shape(events) == [
        (0, 10, "invoke", None),
        (1, 15, "invoke", None),
        (2, 20, "invoke", None),
        (3, 40, "ok", 2),
        (4, 50, "ok", 1),
        (5, 60, "ok", 0),
    ]
    assert events[4].meta["acks"] == "all"


def test_events_of_one_moment_keep_the_order_of_their_file(tmp_path: Path) -> None:
    lines = [send(5, 0, "invoke", "x"), send(5, 1, "fail", "x", meta={"invoked": 0}), send(5, 2, "invoke", "y")]

    events = merge([write(tmp_path / "a.jsonl", *lines, send(5, 3, "fail", "y", meta={"invoked": 2}))])

    assert [event.type for event in events] == ["invoke", "fail", "invoke", "fail"]


def test_processes_of_another_file_get_names_of_their_own(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, send(at, 0, "invoke", name)) for at, name in enumerate(["a", "b", "c"])]

    events = merge(paths)

    assert [event.process for event in events if event.type == "invoke"] == ["a/0", "a/0#1", "a/0#2"]
    assert {event.client for event in events} == {"a"}


def test_what_a_killed_process_left_open_becomes_unknown_when_it_was_last_heard_of(tmp_path: Path) -> None:
    killed = write(
        tmp_path / "a.jsonl",
        send(10, 0, "invoke", "x", meta={"acks": "all"}),
        send(20, 1, "invoke", "y"),
        send(30, 2, "ok", "y", 0, meta={"invoked": 1}),
    )
    other = write(tmp_path / "b.jsonl", send(90, 0, "invoke", "z"), send(95, 1, "fail", "z", meta={"invoked": 0}))

    events = merge([killed, other])

    (closed,) = [event for event in events if event.type == "info"]
    assert (closed.t_ns, closed.index, closed.value) == (30, 3, ["orders-0", None, "x"])
    assert closed.meta == {"acks": "all", "invoked": 0}
    assert closed.error is not None


@pytest.mark.parametrize("torn", ['{"i": 1, "t_ns', '{"i":1,"t_ns":2,"proc":"a/0","client":"\\u00e4', "\n", " "])
def test_a_torn_last_line_is_no_event(tmp_path: Path, torn: str) -> None:
    path = write(tmp_path / "a.jsonl", send(1, 0, "invoke", "x"), torn=torn)

    assert [event.type for event in merge([path])] == ["invoke", "info"]


def test_a_last_line_may_end_inside_of_a_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", send(1, 0, "invoke", "x"))
    path.write_bytes(path.read_bytes() + '{"i":1,"err":"…'.encode()[:-1])

    assert len(merge([path])) == 2


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('{"i": 0\n', "line 1: not an event"),
        ('{"i": 0, "t_ns": 1\n' + json.dumps(send(2, 1, "invoke", "x")) + "\n", "line 1"),
        (json.dumps(send(2, 1, "ok", "x", 0, meta={"invoked": 0})) + "\n", "event 1 completes 0"),
    ],
)
def test_anything_else_that_is_no_history_is_refused_with_its_place(tmp_path: Path, lines: str, why: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(lines, encoding="utf-8")

    with pytest.raises(HistoryFormatError, match=f"bad.jsonl: .*{why}"):
        merge([path])


def test_files_of_clients_that_never_came_to_write_have_no_events(tmp_path: Path) -> None:
    assert merge([write(tmp_path / "empty.jsonl"), tmp_path / "missing.jsonl"]) == []


@contextmanager
def recording(path: Path) -> Iterator[tuple[HistoryWriter, Voice]]:
    ticks = iter(range(1_000))
    writer = HistoryWriter(path, path.stem, lambda: next(ticks))
    yield writer, Voice(writer)
    writer.close()


def sent(voice: Voice, key: str, offset: int, value: str) -> None:
    voice.ok(voice.invoke("send", [key, None, value], acks="all", idempotent=True), [key, offset, value])


def polled(voice: Voice, value: dict[str, list[list[Any]]], **meta: Any) -> None:
    voice.ok(voice.invoke("poll", {}, **meta), value)


@pytest.fixture
def good(tmp_path: Path) -> list[Event]:
    """Two records of two partitions, acknowledged and drained; one partition of another topic, not drained."""
    values = [("orders-0", 0, "v1"), ("orders-0", 1, "v2"), ("orders-1", 4, "v3"), ("own-0", 0, "v4")]
    with recording(tmp_path / "a.jsonl") as (_, voice):
        for key, offset, value in values:
            sent(voice, key, offset, value)
        polled(voice, {"orders-0": [[0, "v1"], [1, "v2"]], "orders-1": [[4, "v3"]], "own-0": []}, drain=True)
        voice.ok(voice.invoke("delete_topic", "own"), "own")
    return merge([tmp_path / "a.jsonl"])


def test_a_clean_history_passes_and_is_written_down(good: list[Event], tmp_path: Path) -> None:
    report = check_history(good, tmp_path / "merged.jsonl")

    assert report.passed, report.render()
    assert read_history(tmp_path / "merged.jsonl") == good


def without_second(events: list[Event]) -> list[Event]:
    """Nobody was given the record v1."""
    for event in events:
        if event.f == "poll" and event.type == "ok":
            event.value["orders-0"] = event.value["orders-0"][1:]
    return events


def test_a_loss_is_found_and_excused_only_by_name(good: list[Event]) -> None:
    doctored = without_second(good)

    assert check_history(doctored).names == ["lost-write"]
    assert check_history(doctored, is_promised=False).passed
    assert check_history(doctored, excused_topics={"orders"}).passed
    assert check_history(doctored, tolerated={"lost-write"}).passed
    assert not check_history(doctored, is_promised=False, expected={"lost-write"}).passed


def test_what_was_promised_must_have_been_drained(tmp_path: Path) -> None:
    with recording(tmp_path / "a.jsonl") as (_, voice):
        sent(voice, "orders-0", 0, "v")

    events = merge([tmp_path / "a.jsonl"])

    assert "undrained" in check_history(events).names
    assert check_history(events, is_promised=False).passed


def test_promised_ends_lie_behind_what_was_acknowledged_or_read(good: list[Event], tmp_path: Path) -> None:
    with recording(tmp_path / "b.jsonl") as (_, voice):
        voice.ok(voice.invoke("send", ["orders-2", None, "w"], acks=1), ["orders-2", 7, "w"])
        polled(voice, {"orders-1": [[5, "v5"], [9, "v6"]]})
        voice.mark("revoked", None)

    ends = promised_ends([*good, *merge([tmp_path / "b.jsonl"])])

    assert ends == {"orders-0": 2, "orders-1": 10}
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write('{"torn')
    assert promised_ends([*good, *events_of([tmp_path / "absent.jsonl", tmp_path / "b.jsonl"])]) == ends


def test_topics_are_left_out_of_every_kind_of_value(tmp_path: Path) -> None:
    with recording(tmp_path / "a.jsonl") as (_, voice):
        sent(voice, "gone-0", 0, "v1")
        polled(voice, {"gone-0": [[0, "v1"]], "kept-0": [[0, "v2"]]})
        voice.mark("assigned", ["gone-0", "kept-0"])
        voice.mark("assign", {"kept-0": 3})

    values = [event.value for event in without_topics(merge([tmp_path / "a.jsonl"]), {"gone"})]

    assert values == [{}, {"kept-0": [[0, "v2"]]}, ["kept-0"], {"kept-0": 3}]


def test_incidents_are_what_no_check_looks_at(tmp_path: Path) -> None:
    with recording(tmp_path / "a.jsonl") as (writer, voice):
        writer.note("client_start", {})
        writer.note("crash", {"what": "x"}, "ValueError()")
        sent(voice, "orders-0", 0, "v")

    (crash,) = incidents(merge([tmp_path / "a.jsonl"]))

    assert (crash.f, crash.error) == ("crash", "ValueError()")
