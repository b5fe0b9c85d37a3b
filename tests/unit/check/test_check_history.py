"""The format: what is written is read back, what is no history is refused, the recorder keeps its own rules."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hand_made import HandMade

from logcluster.check.checker import check
from logcluster.check.history import (
    Event,
    HistoryFormatError,
    Recorder,
    encode_event,
    read_history,
    write_history,
)


def some_history() -> HandMade:
    return HandMade().sends("a-1", "a-2", acks="all").poll((0, "a-1"), (1, "a-2")).do("delete_topic", "ü")


def test_events_survive_lines_and_files(tmp_path: Path) -> None:
    events = some_history().recorder.events
    text = io.StringIO()
    write_history(events, text)
    assert read_history(text.getvalue().splitlines(keepends=True)) == events
    (tmp_path / "h.jsonl").write_text(text.getvalue(), encoding="utf-8")
    assert read_history(tmp_path / "h.jsonl") == events
    assert read_history(str(tmp_path / "h.jsonl")) == events


def test_the_sink_gets_each_event_at_once() -> None:
    sink = io.StringIO()
    recorder = Recorder(lambda: 7, sink)
    recorder.invoke("p", "p", "send", ["t-0", None, "v"])
    assert sink.getvalue() == encode_event(recorder.events[0]) + "\n"
    assert "err" not in sink.getvalue()
    assert "meta" not in sink.getvalue()


def test_a_torn_last_line_is_dropped_and_a_bad_line_elsewhere_refused() -> None:
    lines = [encode_event(event) + "\n" for event in some_history().recorder.events]
    assert len(read_history([*lines, lines[0][:20]])) == len(lines)
    with pytest.raises(HistoryFormatError, match=r"line 2"):
        read_history([lines[0], lines[1][:20] + "\n", *lines[2:]])
    with pytest.raises(HistoryFormatError, match=r"line 1"):
        read_history([lines[0].replace('"invoke"', '"maybe"')])
    with pytest.raises(HistoryFormatError, match=r"line 1.*KeyError"):
        read_history(["{}\n"])
    assert len(read_history(["\n", *lines, "\n"])) == len(lines)


def test_a_torn_line_that_is_not_the_last_is_refused() -> None:
    line = encode_event(some_history().recorder.events[0])
    with pytest.raises(HistoryFormatError, match="line 1"):
        read_history([line[:9], line])


def test_completion_inherits_and_names_its_invocation() -> None:
    recorder = Recorder(lambda: 1)
    invoked = recorder.invoke("p/0", "p", "send", ["t-0", None, "v"], acks="all", node=1)
    recorder.complete(invoked, "info", None, "timeout", node=2)
    event = recorder.events[1]
    assert (event.process, event.client, event.f, event.error) == ("p/0", "p", "send", "timeout")
    assert event.meta == {"acks": "all", "node": 2, "invoked": 0}


def test_the_recorder_refuses_to_break_the_rules() -> None:
    recorder = Recorder(lambda: 1)
    process = recorder.new_process("p")
    first = recorder.invoke(process, "p", "send", None)
    pipelined = recorder.invoke(process, "p", "send", None)
    with pytest.raises(ValueError, match="completes nothing"):
        recorder.complete(first, "invoke", None)
    recorder.complete(first, "info", None)
    with pytest.raises(ValueError, match="complete"):
        recorder.complete(first, "ok", None)
    with pytest.raises(ValueError, match="unknown outcome"):
        recorder.invoke(process, "p", "send", None)
    recorder.complete(pipelined, "ok", None)
    following = recorder.new_process("p")
    assert (process, following) == ("p/0", "p/1")
    recorder.invoke(following, "p", "send", None)


def test_a_value_sent_twice_makes_the_history_worthless() -> None:
    assert HandMade().sends("a", "b").names() == []
    assert HandMade().send("a", 0).send("a", 0, process="q").names() == ["malformed-history"]


def malformed(lines: list[tuple[int, int, str, str, str]]) -> list[str]:
    """(index, time, process, type, f) lines through the checker."""
    value = {"send": ["t-0", None, "v"], "poll": None}
    return check([Event(i, t, p, p, kind, f, value[f]) for i, t, p, kind, f in lines]).names  # type: ignore[arg-type]


def test_order_of_events_is_checked() -> None:
    assert malformed([(0, 1, "p", "invoke", "poll"), (1, 2, "p", "ok", "poll")]) == []
    assert malformed([(0, 2, "p", "invoke", "poll"), (1, 1, "p", "ok", "poll")]) == ["malformed-history"]
    assert malformed([(1, 1, "p", "invoke", "poll"), (1, 2, "p", "ok", "poll")]) == ["malformed-history"]


def test_pairing_is_checked() -> None:
    assert malformed([(0, 1, "p", "ok", "poll")]) == ["malformed-history"]
    assert malformed([(0, 1, "p", "invoke", "send"), (1, 2, "p", "ok", "poll")]) == ["malformed-history"]
    assert malformed([(0, 1, "p", "invoke", "send")]) == []


def test_an_acknowledgement_must_name_what_was_sent() -> None:
    made = HandMade()
    made.end(made.invoke("p", "send", ["t-0", None, "a"]), "ok", ["t-0", 0, "a"])
    assert made.names() == []
    for answer in (["t-1", 0, "a"], ["t-0", 0, "b"], None):
        made = HandMade()
        assert made.end(made.invoke("p", "send", ["t-0", None, "a"]), "ok", answer).names() == ["malformed-history"]


def test_a_dead_process_must_not_continue() -> None:
    begin = [(0, 1, "p", "invoke", "poll"), (1, 2, "p", "info", "poll")]
    assert malformed([*begin, (2, 3, "q", "invoke", "poll"), (3, 4, "q", "ok", "poll")]) == []
    assert malformed([*begin, (2, 3, "p", "invoke", "poll"), (3, 4, "p", "ok", "poll")]) == ["malformed-history"]
