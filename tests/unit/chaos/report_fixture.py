"""A run as the suite leaves it behind, made up so that every figure is known beforehand.

Sixty seconds, three brokers, six partitions whose leaders are in `LEADERS`. Two producers write
to each partition every 100 ms, one at a time; each write takes 5 ms. While a partition is down, whatever is under way
waits until it is up again. A prober writes once a second to each partition, and gives up after a second with an
unknown outcome, going on in the next second. A consumer reads all of it twice a second.

    at 5 s, 25 s, 45 s  kill -9 of brokers 1, 2, 3 for 4 s: their two partitions are down for 600, 700 and 800 ms
    at 15 s             broker 1 pauses for 3 s: its partitions are down for 2500 ms
    at 35 s             broker 3 is cut off for 5 s: its partitions are down for 1800 and 3200 ms
    at 50 s             a bandwidth fault that the target cannot do
    at 20 s             in-sync replicas of orders-4 shrink to one, until 30 s, for no reason on record
    at 30 s             a write to orders-2 is acknowledged, and never seen again
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from chaos.interfaces import RunFiles
from logcluster.check.history import Event, write_history

MS = 1_000_000
SECOND = 1_000_000_000
BEGIN_NS = 7_000_000 * MS
WALL_NS = 1_790_000_000 * SECOND + 250 * MS
WRITE_NS = 5 * MS
KEYS = tuple(f"orders-{number}" for number in range(6))
LEADERS = {key: number % 3 + 1 for number, key in enumerate(KEYS)}
LOST = ("orders-2", 30 * SECOND)
"""The partition, and after when its next write of producer-1 is lost."""

DOWN: dict[str, list[tuple[int, int]]] = {
    # milliseconds: from, to
    "orders-0": [(5000, 5600), (15000, 17500)],
    "orders-3": [(5000, 5600), (15000, 17500)],
    "orders-1": [(25000, 25700)],
    "orders-4": [(25000, 25700)],
    "orders-2": [(35000, 36800), (45000, 45800)],
    "orders-5": [(35000, 38200), (45000, 45800)],
}


@dataclass
class Fixture:
    """The run, and what must come of it."""

    seconds: int = 60
    producers: int = 2
    every_ms: int = 100
    events: list[Event] = field(default_factory=list)
    lost_offset: int = -1
    lost_value: str = ""
    lost_acked_ns: int = 0

    def write(self, directory: Path) -> RunFiles:
        """All files of the run."""
        files = RunFiles(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with files.history.open("w", encoding="utf-8") as file:
            write_history(self.events, file)
        files.run.write_text(json.dumps(run_facts(self.seconds)), encoding="utf-8")
        write_lines(files.faults, fault_lines())
        write_lines(files.states, state_lines(self.seconds))
        write_logs(files.nodes)
        return files


@dataclass
class Draft:
    """An operation that has no index yet."""

    begin_ns: int
    end_ns: int | None
    client: str
    process: str
    type: str
    f: str
    asked: Any
    told: Any
    error: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def make_fixture(*, seconds: int = 60, producers: int = 2, every_ms: int = 100) -> Fixture:
    """The run; more producers or a shorter pause make it larger."""
    fixture = Fixture(seconds, producers, every_ms)
    writes = [*_probes(seconds)]
    for producer in range(1, producers + 1):
        for number, key in enumerate(KEYS):
            writes += _writes(f"producer-{producer}", key, seconds, every_ms, shift_ms=number + 7 * producer)
    logs = _give_offsets(writes)
    _lose(fixture, writes, logs)
    fixture.events = _number([*writes, *_polls(logs, seconds, fixture)])
    return fixture


def up_again(key: str, t_ns: int) -> int:
    """When the partition answers what it was asked at t_ns (since the beginning), before the write itself."""
    for begin_ms, end_ms in DOWN[key]:
        if begin_ms * MS <= t_ns < end_ms * MS:
            return end_ms * MS
    return t_ns


def _writes(client: str, key: str, seconds: int, every_ms: int, *, shift_ms: int) -> Iterator[Draft]:
    """One after the other; who waited goes on with the next beat."""
    t_ns = shift_ms * MS
    number = 0
    while t_ns < seconds * SECOND:
        number += 1
        end_ns = up_again(key, t_ns) + WRITE_NS
        value = f"{client}-{key}-{number}"
        asked = [key, None, value]
        yield Draft(t_ns, end_ns, client, f"{client}.{key}/0", "ok", "send", asked, None, meta={"acks": "all"})
        while t_ns < end_ns:
            t_ns += every_ms * MS


def _probes(seconds: int) -> Iterator[Draft]:
    for key_number, key in enumerate(KEYS):
        life = 0
        for second in range(seconds):
            t_ns = second * SECOND + (500 + key_number) * MS
            end_ns = up_again(key, t_ns) + WRITE_NS
            outcome = "ok" if end_ns - t_ns <= SECOND else "info"
            yield Draft(
                t_ns,
                end_ns if outcome == "ok" else t_ns + SECOND - MS,
                "probe-1",
                f"probe-1.{key}/{life}",
                outcome,
                "send",
                [key, None, f"probe-{key}-{second}"],
                None,
                None if outcome == "ok" else "DeadlineExceeded: no answer within 999 ms",
                {"acks": "all"},
            )
            life += outcome == "info"


def _give_offsets(writes: list[Draft]) -> dict[str, list[tuple[int, str]]]:
    """Offsets in order of acknowledgement; what has an unknown outcome was not written. Returns each log with times."""
    logs: dict[str, list[tuple[int, str]]] = {key: [] for key in KEYS}
    for write in sorted(writes, key=lambda draft: (draft.end_ns or 0, draft.client)):
        key, _, value = write.asked
        write.told = write.asked
        if write.type == "ok":
            write.told = [key, len(logs[key]), value]
            logs[key].append((write.end_ns or 0, value))
    return logs


def _lose(fixture: Fixture, writes: list[Draft], logs: dict[str, list[tuple[int, str]]]) -> None:
    key, after_ns = LOST
    if after_ns > fixture.seconds * SECOND:
        return
    lost = min(
        (
            write
            for write in writes
            if write.client == "producer-1" and write.asked[0] == key and write.begin_ns > after_ns
        ),
        key=lambda write: write.begin_ns,
    )
    fixture.lost_offset, fixture.lost_value = lost.told[1], lost.told[2]
    fixture.lost_acked_ns = BEGIN_NS + (lost.end_ns or 0)
    logs[key][fixture.lost_offset] = (lost.end_ns or 0, "")


def _polls(logs: dict[str, list[tuple[int, str]]], seconds: int, fixture: Fixture) -> Iterator[Draft]:
    """A consumer that reads what was acknowledged by then, and the drain at the end."""
    position = dict.fromkeys(KEYS, 0)
    start = dict.fromkeys(KEYS, 0)
    yield Draft(0, 0, "consumer-1", "consumer-1/0", "ok", "assign", start, start)
    for t_ns in range(500 * MS, (seconds + 1) * SECOND, 500 * MS):
        told: dict[str, list[tuple[int, str]]] = {}
        for key, log in logs.items():
            records = []
            while position[key] < len(log) and log[position[key]][0] < t_ns:
                if log[position[key]][1]:
                    records.append((position[key], log[position[key]][1]))
                position[key] += 1
            if records:
                told[key] = records
        yield Draft(t_ns, t_ns + 2 * MS, "consumer-1", "consumer-1/0", "ok", "poll", None, told)
    end_ns = (seconds + 2) * SECOND
    yield Draft(end_ns, end_ns, "drain-1", "drain-1/0", "ok", "assign", start, start)
    rest = {key: [(offset, value) for offset, (_, value) in enumerate(log) if value] for key, log in logs.items()}
    yield Draft(end_ns + MS, end_ns + 9 * MS, "drain-1", "drain-1/0", "ok", "poll", None, rest, meta={"drain": True})


def _number(drafts: list[Draft]) -> list[Event]:
    """Events in order of time, ends before beginnings."""
    moments: list[tuple[int, int, int, Draft]] = []
    for position, draft in enumerate(drafts):
        moments.append((draft.begin_ns, 1, position, draft))
        if draft.end_ns is not None:
            moments.append((draft.end_ns, 0 if draft.end_ns > draft.begin_ns else 2, position, draft))
    moments.sort(key=lambda moment: moment[:3])
    events: list[Event] = []
    invoked: dict[int, int] = {}
    for t_ns, order, position, draft in moments:
        is_begin = order == 1
        meta = dict(draft.meta)
        if is_begin:
            invoked[position] = len(events)
        else:
            meta["invoked"] = invoked[position]
        events.append(
            Event(
                len(events),
                BEGIN_NS + t_ns,
                draft.process,
                draft.client,
                "invoke" if is_begin else draft.type,  # type: ignore[arg-type]
                draft.f,
                draft.asked if is_begin else draft.told,
                None if is_begin else draft.error,
                meta,
            )
        )
    return events


def run_facts(seconds: int = 60) -> dict[str, Any]:
    """run.json."""
    return {
        "scenario": "leader-kill-mixed",
        "description": "Leaders are killed every 20 s, one is paused, one is cut off, under two producers.",
        "seed": 42,
        "target": "processes",
        "brokers": [1, 2, 3],
        "duration_s": seconds,
        "version": "0.1.0",
        "python": "3.11.7",
        "machine": "Linux 6.1.0, 2 processors",
        "ablations": [],
        "skipped": {"bandwidth": "links between processes have no limit; use --target netns as root"},
        "began": {"monotonic_ns": BEGIN_NS, "wall_ns": WALL_NS},
        "ended": {"monotonic_ns": BEGIN_NS + (seconds + 3) * SECOND, "wall_ns": WALL_NS + (seconds + 3) * SECOND},
        "command": "python -m chaos run leader-kill-mixed --target processes --seed 42",
        "bounds": {"gap_s_max": 4.0, "gap_s_max_of": {"kill": 2.0}, "availability_percent_min": 99.9},
    }


def fault_lines() -> list[dict[str, Any]]:
    """faults.jsonl."""
    lines: list[dict[str, Any]] = []

    def add(number: int, kind: str, begin_ms: int, end_ms: int, node: int, detail: str) -> None:
        common = {"number": number, "kind": kind, "nodes": [node], "role": "leader"}
        lines.append({"t_ns": BEGIN_NS + begin_ms * MS, **common, "phase": "begin", "detail": ""})
        lines.append({"t_ns": BEGIN_NS + end_ms * MS, **common, "phase": "end", "detail": detail})

    add(1, "kill", 5000, 9000, 1, "kill -9")
    add(2, "pause", 15000, 18000, 1, "SIGSTOP")
    add(3, "kill", 25000, 29000, 2, "kill -9")
    add(4, "isolate", 35000, 40000, 3, "isolated (both) from the other brokers, clients reach it")
    add(5, "kill", 45000, 49000, 3, "kill -9")
    lines.append(
        {
            "t_ns": BEGIN_NS + 50_000 * MS,
            "number": 6,
            "kind": "bandwidth",
            "nodes": [],
            "role": "leader",
            "phase": "skipped",
            "detail": "links between processes have no limit; use --target netns as root",
        }
    )
    return sorted(lines, key=lambda line: line["t_ns"])


def state_lines(seconds: int = 60) -> Iterator[dict[str, Any]]:
    """states.jsonl, four times a second."""
    away = [(1, 5000, 9500), (1, 15500, 18500), (2, 25000, 29500), (3, 35500, 40500), (3, 45000, 49500)]
    for t_ms in range(0, seconds * 1000, 250):
        gone = {broker for broker, begin_ms, end_ms in away if begin_ms <= t_ms < end_ms}
        partitions: dict[str, Any] = {}
        for key, preferred in LEADERS.items():
            moves = [span for span in away if span[0] == preferred and span[1] <= t_ms]
            is_back = not moves or t_ms >= moves[-1][2]
            leader: int | None = preferred if is_back else preferred % 3 + 1
            if any(begin_ms <= t_ms < end_ms for begin_ms, end_ms in DOWN[key]):
                leader = None
            replicas = [broker for broker in (1, 2, 3) if broker not in gone]
            if key == "orders-4" and 20_000 <= t_ms < 30_000:
                replicas = [leader or 2]
            epoch = 1 + sum(1 + (t_ms >= span[2]) for span in moves)
            partitions[key] = {"leader": leader, "epoch": epoch, "isr": replicas}
        yield {"t_ns": BEGIN_NS + t_ms * MS, "controller": 1 if t_ms < 5500 else 2, "partitions": partitions}


def write_lines(path: Path, lines: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def log_line(t_ms: int, node: int, level: str, event: str, **facts: Any) -> str:
    """A line as brokers write it, `t_ms` after the run's beginning."""
    wall = datetime.fromtimestamp(WALL_NS // SECOND, UTC) + timedelta(milliseconds=250 + t_ms)
    return json.dumps(
        {"node": node, **facts, "event": event, "level": level, "timestamp": wall.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    )


def write_logs(nodes: Path) -> None:
    """node.log of three brokers: something each 150 ms, and a traceback near the lost write."""
    for node in (1, 2, 3):
        lines = [
            log_line(
                t_ms, node, "info", "high_watermark_moved", partition=f"orders-{t_ms // 150 % 6}", offset=t_ms // 50
            )
            for t_ms in range(node * 10, 62_000, 150)
        ]
        if node == 3:
            lines += [
                log_line(30_100, node, "error", "append_failed", partition="orders-2", leader_epoch=1),
                "Traceback (most recent call last):",
                '  File "log.py", line 12, in append',
                "OSError: [Errno 5] Input/output error",
            ]
        folder = nodes / f"node-{node}"
        folder.mkdir(parents=True, exist_ok=True)
        folder.joinpath("node.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
