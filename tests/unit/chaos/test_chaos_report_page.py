"""The page: what belongs to an anomaly, everything escaped, nothing from elsewhere, gaps in the files named."""

from __future__ import annotations

import json
import re
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_fixture import BEGIN_NS, MS, SECOND, WALL_NS, Fixture, log_line, make_fixture, write_lines

from chaos.interfaces import RunFiles
from chaos.report import write_report
from chaos.report.excerpts import AROUND_NS, Windows, find_logs, make_excerpts, read_log, time_of
from chaos.report.timeline import PARTITIONS_SHOWN_MAX
from logcluster.check.checker import check
from logcluster.check.history import Event, write_history
from logcluster.check.registry import Anomaly


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return make_fixture()


@pytest.fixture(scope="module")
def short() -> Fixture:
    return make_fixture(seconds=10)


@pytest.fixture(autouse=True)
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is slow to import, and has its own tests."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


class Elements(HTMLParser):
    """Names of elements and attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_what_was_done_what_was_lost_and_how_long_writes_stopped(
    fixture: Fixture, tmp_path: Path
) -> None:
    files = fixture.write(tmp_path)
    write_report(files, check(fixture.events))
    page = Elements(files.report.read_text(encoding="utf-8"))
    assert not page.open, "every element is closed"
    for said in (
        "Failed: anomalies",
        "leader-kill-mixed",
        "3 × kill",
        "Yes: 1",
        "3.19 s",
        "96.666 %",
        "1 skipped",
        "links between processes have no limit",
        "Linux 6.1.0, 2 processors",
        "python -m chaos run leader-kill-mixed --target processes --seed 42",
        "broker 3",
        "no leader",
        "matplotlib is not installed",
    ):
        assert said in page.text, said


def test_an_excerpt_holds_exactly_its_events_and_the_lines_around(fixture: Fixture, tmp_path: Path) -> None:
    files = fixture.write(tmp_path)
    found = check(fixture.events).anomalies
    events = {event.index: event for event in fixture.events}
    (excerpt,) = make_excerpts(found, events, [], find_logs(files.nodes), wall_ahead_ns=WALL_NS - BEGIN_NS)
    assert tuple(event.index for event in excerpt.events) == found[0].events
    assert [event.value for event in excerpt.events if event.type == "ok" and event.f == "send"] == [
        ["orders-2", fixture.lost_offset, fixture.lost_value]
    ]
    moments_ms = [(event.t_ns - BEGIN_NS) / MS for event in excerpt.events]
    written = [(node, t_ms) for node in (1, 2, 3) for t_ms in range(node * 10, 62_000, 150)] + [(3, 30_100)]
    expected = {
        (f"node-{node}", BEGIN_NS + t_ms * MS)
        for node, t_ms in written
        if any(abs(t_ms - moment_ms) <= 200 for moment_ms in moments_ms)
    }
    assert {(line.broker, line.t_ns) for line in excerpt.lines} == expected
    assert len(excerpt.lines) == len(expected)
    (trouble,) = [line for line in excerpt.lines if "append_failed" in line.text]
    assert trouble.text.splitlines()[1:] == [
        "Traceback (most recent call last):",
        '  File "log.py", line 12, in append',
        "OSError: [Errno 5] Input/output error",
    ]


def test_the_page_shows_both_clocks(fixture: Fixture, tmp_path: Path) -> None:
    files = fixture.write(tmp_path)
    write_report(files, check(fixture.events))
    text = Elements(files.report.read_text(encoding="utf-8")).text
    assert re.search(r"14:13:50\.264 +\+30\.014 s +#7410 +producer-1\.orders-2/0 +ok +send", text)
    assert re.search(r"14:13:50\.350 +\+30\.100 s +node-3 +error +append_failed", text)


def test_windows_include_their_ends_and_merge() -> None:
    windows = Windows([SECOND, 10 * SECOND, SECOND + AROUND_NS])
    assert windows.spans == [
        (SECOND - AROUND_NS, SECOND + 2 * AROUND_NS),
        (10 * SECOND - AROUND_NS, 10 * SECOND + AROUND_NS),
    ]
    assert SECOND - AROUND_NS in windows
    assert 10 * SECOND + AROUND_NS in windows
    assert 10 * SECOND + AROUND_NS + 1 not in windows
    assert 0 not in windows


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ('{"event":"x","timestamp":"2026-09-21T14:13:20.5Z"}', 1_790_000_000.5),
        ("2026-09-21T14:13:20.500000Z [info     ] started", 1_790_000_000.5),
        ("2026-09-21 16:13:20.500+02:00 started", 1_790_000_000.5),
        ("Traceback (most recent call last):", None),
        ('{"event": "2026-09-21T14:13:20Z"}', None),
        ("2026-99-99T99:99:99Z", None),
        ("", None),
    ],
)
def test_lines_tell_their_time(line: str, seconds: float | None) -> None:
    assert time_of(line) == (None if seconds is None else int(seconds * 1e9))


def test_endless_tracebacks_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    path.write_text("lost beginning\n" + log_line(0, 1, "error", "failed") + "\n" + "x" * 5000 + "\n" + "y\n" * 500)
    (line,) = read_log("node-1", path, WALL_NS - BEGIN_NS)
    assert line.t_ns == BEGIN_NS
    assert len(line.text.splitlines()) <= 30
    assert max(map(len, line.text.splitlines())) <= 600


HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\x00&lt;]]>--></style></title>\ud800"


def hostile_run(directory: Path) -> tuple[RunFiles, list[Event]]:
    """A run in which everything that can be text is hostile."""
    files = RunFiles(directory)
    key = f"{HOSTILE}-0"
    events = [
        Event(0, BEGIN_NS, HOSTILE, HOSTILE, "invoke", "send", [key, None, HOSTILE], None, {"acks": "all"}),
        Event(1, BEGIN_NS + SECOND, HOSTILE, HOSTILE, "ok", "send", [key, 0, HOSTILE], HOSTILE, {"invoked": 0}),
        Event(2, BEGIN_NS + SECOND, "probe", f"probe{HOSTILE}", "invoke", HOSTILE, HOSTILE),
    ]
    with files.history.open("w", encoding="utf-8", errors="surrogatepass") as file:
        write_history(events, file)
    names = ("scenario", "description", "target", "machine", "command", "version", "python")
    run: dict[str, Any] = dict.fromkeys(names, HOSTILE)
    run |= {
        "seed": HOSTILE,
        "brokers": [HOSTILE],
        "skipped": {HOSTILE: HOSTILE},
        "ablations": [HOSTILE],
        "versions": {HOSTILE: HOSTILE},
        "began": {"monotonic_ns": BEGIN_NS, "wall_ns": WALL_NS},
    }
    files.run.write_text(json.dumps(run))
    common = {"kind": HOSTILE, "nodes": [HOSTILE], "role": HOSTILE, "detail": HOSTILE}
    write_lines(
        files.faults,
        [
            {"t_ns": BEGIN_NS, "number": 1, "phase": "begin", **common},
            {"t_ns": BEGIN_NS, "number": 2, "phase": "failed", **common},
        ],
    )
    write_lines(
        files.states, [{"t_ns": BEGIN_NS, "controller": HOSTILE, "partitions": {key: {"leader": 1, "isr": [1]}}}]
    )
    folder = files.nodes / "<b>1"
    folder.mkdir(parents=True)
    (folder / "node.log").write_text(log_line(10, 1, "info", HOSTILE, **{HOSTILE: HOSTILE}) + "\n")
    return files, events


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    files, _ = hostile_run(tmp_path)
    write_report(files, [Anomaly(HOSTILE, f"{HOSTILE}-0", HOSTILE, (0, 1))], problems=[HOSTILE])
    page = files.report.read_text(encoding="utf-8")
    elements = Elements(page)
    assert not elements.open
    assert not elements.names & {"script", "img", "iframe", "object", "link", "base", "form", "a"}
    assert not {name for name in elements.attributes if name.startswith("on") or name in {"src", "href"}}
    assert "alert(1)" in elements.text
    assert "\x00" not in page
    assert page.count("</style>") == 1


def test_the_page_loads_nothing_from_elsewhere(fixture: Fixture, tmp_path: Path) -> None:
    files = fixture.write(tmp_path)
    write_report(files, check(fixture.events))
    page = files.report.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w|url\(|@import|\bsrc=|\bhref=|<link|<script", page)
    assert "default-src &#x27;none&#x27;" in page


# -- files that are missing or torn ----------------------------------------------------------------------------------


def text_of(files: RunFiles) -> str:
    return Elements(files.report.read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    ("name", "said", "status"),
    [
        ("states", "states.jsonl is missing: leaders and in-sync replicas are unknown", 0),
        ("faults", "faults.jsonl is missing: no fault is on record", 0),
        ("run", "run.json is missing", 2),
        ("history", "history.jsonl is missing", 2),
    ],
)
def test_a_missing_file_is_named(short: Fixture, tmp_path: Path, name: str, said: str, status: int) -> None:
    files = short.write(tmp_path)
    getattr(files, name).unlink()
    result = write_report(files, [], bounds={})
    assert said in text_of(files)
    assert result.status == status


def test_an_empty_directory_has_a_page(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    assert write_report(files, []).status == 2
    assert "No verdict" in text_of(files)


@pytest.mark.parametrize("name", ["history", "faults", "states"])
def test_a_torn_last_line_is_left_out_and_named(short: Fixture, tmp_path: Path, name: str) -> None:
    files = short.write(tmp_path)
    with getattr(files, name).open("a", encoding="utf-8") as file:
        file.write('{"t_ns": 12, "i')
    result = write_report(files, [], bounds={})
    assert f"{name}.jsonl: the last line is torn and was left out" in text_of(files)
    assert result.status == 0
    assert result.facts["operations"]["events"] == len(short.events)


@pytest.mark.parametrize("name", ["history", "faults", "states"])
@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"t_ns": "x", "i": 1}', "null"])
def test_bad_lines_before_the_end_give_no_verdict(short: Fixture, tmp_path: Path, name: str, line: str) -> None:
    files = short.write(tmp_path)
    path: Path = getattr(files, name)
    path.write_text(line + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert write_report(files, [], bounds={}).status == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"began": 5, "brokers": 7, "bounds": [], "skipped": "x"}'])
def test_a_run_file_that_says_little_gives_a_page(short: Fixture, tmp_path: Path, text: str) -> None:
    files = short.write(tmp_path)
    files.run.write_text(text)
    write_report(files, check(short.events))
    assert "holds no pair of clocks" in text_of(files) or "run.json" in text_of(files)


def test_anomalies_whose_events_are_not_there_are_still_named(short: Fixture, tmp_path: Path) -> None:
    files = short.write(tmp_path)
    write_report(files, [Anomaly("lost-write", "orders-9", "gone", (10**9,))])
    assert "its events are not in the history" in text_of(files)


# -- size ------------------------------------------------------------------------------------------------------------


def test_many_events_are_judged_in_time_and_give_a_page_of_bounded_size(tmp_path: Path) -> None:
    fixture = make_fixture(producers=15, every_ms=50)
    assert len(fixture.events) >= 200_000
    files = fixture.write(tmp_path)
    began_s = time.perf_counter()
    write_report(files, [])
    assert time.perf_counter() - began_s <= 10
    assert files.report.stat().st_size < 400_000


def test_many_partitions_are_cut_to_the_worst(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    events: list[Event] = []
    for number in range(100):
        outcome = "info" if number == 77 else "ok"
        key = f"t-{number}"
        events.append(Event(len(events), number, f"p{number}", "probe", "invoke", "send", [key, None, key]))
        told = {"invoked": len(events) - 1}
        events.append(Event(len(events), number, f"p{number}", "probe", outcome, "send", [key, 0, key], None, told))
    with files.history.open("w", encoding="utf-8") as file:
        write_history(events, file)
    write_report(files, [])
    text = text_of(files)
    assert f"the {PARTITIONS_SHOWN_MAX} worst of 100" in text
    drawn = text[text.index("Writable?") : text.index("Throughput")]
    assert "t-77" in drawn
    assert len(re.findall(r"t-\d+", drawn)) == PARTITIONS_SHOWN_MAX
