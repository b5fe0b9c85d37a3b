"""Measures the checker on a made-up history without anomalies.

    python bench/checker.py [--records 1000000] [--keys 16]

A quarter of the records are sends, the rest come back from three consumers per partition. Prints one JSON object:
seconds to check (index and all checks), to read the same history from JSON lines, and what it held.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from logcluster.check.checker import check
from logcluster.check.history import Recorder, read_history, write_history
from logcluster.check.registry import CheckOptions

CONSUMERS = 3
BATCH = 40


def make_history(records: int, keys: int) -> Recorder:
    """`records` observations: sends plus polled records, half of the offsets moved by a control record each 100."""
    now_ns = 0

    def clock_ns() -> int:
        nonlocal now_ns
        now_ns += 20_000
        return now_ns

    recorder = Recorder(clock_ns)
    names = [f"topic-{number}" for number in range(keys)]
    logs: list[list[tuple[int, str]]] = [[] for _ in names]
    for name in names:
        for consumer in range(CONSUMERS):
            process = f"consumer-{consumer}/{name}"
            begun = recorder.invoke(process, process, "assign", {name: 0})
            recorder.complete(begun, "ok", {name: 0})
    read = [0] * keys
    for number in range(records // (CONSUMERS + 1)):
        place = number % keys
        log, name = logs[place], names[place]
        value = f"producer-{place}-{number}"
        offset = (log[-1][0] + (2 if len(log) % 100 == 99 else 1)) if log else 0
        begun = recorder.invoke(f"producer-{place}", f"producer-{place}", "send", [name, None, value], acks="all")
        log.append((offset, value))
        recorder.complete(begun, "ok", [name, offset, value])
        if len(log) - read[place] == BATCH:
            poll_all(recorder, name, log[read[place] :], drain=False)
            read[place] = len(log)
    for name, log, position in zip(names, logs, read, strict=True):
        poll_all(recorder, name, log[position:], drain=True)
    return recorder


def poll_all(recorder: Recorder, name: str, records: list[tuple[int, str]], *, drain: bool) -> None:
    """Every consumer of the partition polls these records."""
    meta = {"drain": True} if drain else {}
    for consumer in range(CONSUMERS):
        process = f"consumer-{consumer}/{name}"
        begun = recorder.invoke(process, process, "poll", None)
        recorder.complete(begun, "ok", {name: records}, **meta)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=16)
    chosen = parser.parse_args()
    events = make_history(chosen.records, chosen.keys).events
    text = io.StringIO()
    write_history(events, text)
    lines = text.getvalue().splitlines(keepends=True)
    began = time.perf_counter()
    events = read_history(lines)
    read_s = time.perf_counter() - began
    began, began_cpu = time.perf_counter(), time.process_time()
    report = check(events, CheckOptions(drain_required=True))
    check_s, check_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    print(
        json.dumps(
            {
                "python": platform.python_version(),
                "observations": report.metrics["records_polled"] + report.metrics["sends"]["ok"],
                "events": len(events),
                "keys": report.metrics["keys"],
                "passed": report.passed,
                "check_s": round(check_s, 2),
                "check_cpu_s": round(check_cpu_s, 2),
                "read_json_s": round(read_s, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
