"""`python -m logcluster.check HISTORY.jsonl`: judges a recorded history.

Exit codes: 0 nothing illegal, 1 an anomaly, 2 the file is no history.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from logcluster.check.checker import check, rules
from logcluster.check.history import HistoryFormatError, read_history
from logcluster.check.registry import CheckOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checker over a file and prints its report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m logcluster.check", description="Judge a client history.")
    parser.add_argument("history", help="a JSONL file, or - for standard input")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--drain-required", action="store_true", help="fail partitions that no final drain covered")
    parser.add_argument("--tolerate", action="append", default=[], metavar="ANOMALY", choices=sorted(rules()))
    parser.add_argument("--compacted", action="append", default=[], metavar="TOPIC")
    parser.add_argument("--unavailability-max-ms", type=int, metavar="MS")
    parser.add_argument("--realtime-lag-max-ms", type=int, metavar="MS")
    chosen = parser.parse_args(arguments)
    options = CheckOptions(
        drain_required=chosen.drain_required,
        tolerated=frozenset(chosen.tolerate),
        compacted_topics=frozenset(chosen.compacted),
        unavailability_max_ms=chosen.unavailability_max_ms,
        realtime_lag_max_ms=chosen.realtime_lag_max_ms,
    )
    try:
        events = read_history(sys.stdin if chosen.history == "-" else chosen.history)
    except (OSError, HistoryFormatError) as error:
        print(f"{chosen.history}: {error}", file=sys.stderr)
        return 2
    report = check(events, options)
    if chosen.output == "json":
        print(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        print(report.render(), end="")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
