"""Random histories of a correct log pass; the same histories with one planted lie do not."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hand_made import KEY, HandMade

from logcluster.check.checker import check
from logcluster.check.history import Event
from logcluster.check.payload import corrupt_value
from logcluster.check.registry import CheckOptions
from logcluster.check.report import Report

OPTIONS = CheckOptions(drain_required=True)


class CorrectLog:
    """Producers of every kind and readers of every kind on one log that does what it promises."""

    def __init__(self, seed: int) -> None:
        self.stream = random.Random(seed)
        self.made = HandMade()
        self.log: list[tuple[int, str]] = []
        self.end = 0
        self.log_start = 0
        self.open: list[tuple[int, str, dict[str, object]]] = []
        self.positions = {"c0": 0, "c1": 0}

    def run(self, steps: int = 120) -> list[Event]:
        for reader in self.positions:
            self.made.assign({KEY: 0}, process=reader)
        choices = [self.begin, self.begin, self.finish, self.finish, self.read, self.read, self.rare]
        for _ in range(steps):
            self.stream.choice(choices)()
        while self.open:
            self.finish()
        self.made.drain(*[record for record in self.log if record[0] >= self.log_start])
        return self.made.recorder.events

    def begin(self) -> None:
        number = self.stream.randrange(3)
        meta: dict[str, object] = [{}, {"idempotent": False}, {"acks": 1}][number]
        value = f"v{len(self.made.recorder.events)}"
        process = self.made.recorder.new_process(f"p{number}")
        self.open.append((self.made.invoke(process, "send", [KEY, None, value], **meta), value, meta))

    def append(self, value: str) -> int:
        self.end += self.stream.choice([0, 0, 0, 1])  # A control record.
        self.log.append((self.end, value))
        self.end += 1
        return self.end - 1

    def finish(self) -> None:
        if not self.open:
            return
        invoked, value, meta = self.open.pop(self.stream.randrange(len(self.open)))
        outcome = self.stream.choice(["ok", "ok", "ok", "ok", "fail", "info"])
        if outcome == "fail":
            self.made.end(invoked, "fail", None)
        elif outcome == "info":
            if self.stream.random() < 0.5:
                self.append(value)
            self.made.end(invoked, "info", None)
        elif meta and self.stream.random() < 0.3:
            if "acks" in meta:  # Acknowledged by a leader that lost it.
                self.made.end(invoked, "ok", [KEY, self.end + self.stream.randrange(3), value])
            else:
                self.append(value)
                self.made.end(invoked, "ok", [KEY, self.append(value), value])
        else:
            self.made.end(invoked, "ok", [KEY, self.append(value), value])

    def read(self) -> None:
        reader = self.stream.choice(sorted(self.positions))
        position = max(self.positions[reader], self.log_start)
        records = [record for record in self.log if record[0] >= position][: self.stream.randrange(1, 8)]
        if records:
            self.positions[reader] = records[-1][0] + 1
        self.made.poll(*records, process=reader, node=self.stream.randrange(3))

    def rare(self) -> None:
        kind = self.stream.randrange(3)
        if kind == 0:
            self.made.do("list_offsets", {KEY: self.end})
        elif kind == 1 and self.end:
            self.log_start = max(self.log_start, self.stream.randrange(self.end))
            self.made.do("delete_records", {KEY: self.log_start})
        elif self.end:
            reader = self.stream.choice(sorted(self.positions))
            self.positions[reader] = self.stream.randrange(self.end)
            self.made.assign({KEY: self.positions[reader]}, process=reader)


@pytest.mark.parametrize("block", range(8))
def test_a_correct_log_passes(block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        report = check(CorrectLog(seed).run(), OPTIONS)
        assert report.passed, f"seed {seed}\n{report.render()}"


Records = list[list[object]]


def with_lie(events: list[Event], change: Callable[[Records, int], object]) -> Report:
    """Changes what the drain returned, at an inner record that some other poll returned too."""
    polls = [event for event in events if event.f == "poll" and event.type == "ok"]
    drain = polls[-1]
    known = {tuple(record) for event in polls[:-1] for record in event.value[KEY]}
    records = [list(record) for record in drain.value[KEY]]
    place = next(number for number in range(2, len(records) - 2) if tuple(records[number]) in known)
    change(records, place)
    changed = replace(drain, value={KEY: records})
    return check([changed if event is drain else event for event in events], OPTIONS)


LIES: dict[str, tuple[str, Callable[[Records, int], object]]] = {
    "a record left out": ("int-poll-skip", lambda records, place: records.pop(place)),
    "two swapped": ("int-nonmonotonic-poll", lambda records, place: records.insert(place, records.pop(place + 1))),
    "one invented": ("phantom", lambda records, place: records.append([10_000 + place, "ghost"])),
    "one damaged": ("corrupt-value", lambda records, place: records[place].__setitem__(1, corrupt_value("crc"))),
    "another value": ("inconsistent-offsets", lambda records, place: records[place].__setitem__(1, records[0][1])),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_planted_lie_is_found(lie: str) -> None:
    expected, change = LIES[lie]
    found = 0
    for seed in range(20):
        events = CorrectLog(seed).run(steps=300)
        try:
            report = with_lie(events, change)
        except StopIteration:
            continue  # Almost everything was deleted before the drain.
        names = {name.replace("offset-reassigned", "inconsistent-offsets") for name in report.names}
        # A value that may stand in several places, or one swapped with it, is judged by offsets alone.
        names |= {"int-nonmonotonic-poll"} if "order-in-poll" in names else set()
        assert expected in names, f"seed {seed}: {report.names}\n{report.render()}"
        found += 1
    assert found >= 10


def looked_at(size: int) -> int:
    """Calls made to judge a reader that jumps to and fro over a log of which half is lost; no clock, so no flicker."""
    values = [f"v{number}" for number in range(size)]
    made = HandMade().sends(*values).do("delete_records", {KEY: 1})
    made.poll(*[(number, values[number]) for number in range(0, size, 2)], process="witness")
    for _ in range(size // 4):
        made.poll((2, values[2])).poll((size - 2, values[size - 2]))
    made.drain((0, values[0]), (size - 2, values[size - 2]))
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        check(made.recorder.events, OPTIONS)
    finally:
        sys.setprofile(None)
    return calls


def test_a_broken_run_is_judged_in_linear_time_too() -> None:
    assert looked_at(800) < 3 * looked_at(400)
