"""Results as JSON, statistics added up, replay files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from logcluster.sim.faults.plan import Plan
from logcluster.sim.findings import Finding
from logcluster.sim.report import (
    TimelineLine,
    add_statistics,
    crashed,
    jsonable,
    read_replay,
    result_from_json,
    result_to_json,
    summarise,
    write_replay,
)


def result(*findings: Finding) -> Any:
    return SimpleNamespace(
        seed=7,
        findings=findings,
        trace_hash="abc",
        virtual_ms=9_000,
        wall_ms=300,
        event_count=5,
        probes={"b": 2, "a": 0},
        statistics={"faults": {"crash": 2}},
        plan=Plan(),
        timeline=(SimpleNamespace(at_ms=5, kind="crash", facts={"node": (0, 1)}),),
        derived=("link delay 1 ms",),
        log=("node-0 started",),
    )


def test_result_survives_the_way_through_json() -> None:
    finding = Finding("lost-write", "a-1 is gone", 12, "history")
    document = json.loads(json.dumps(result_to_json(result(finding), options={"brokers": 3}, with_timeline=False)))

    report = result_from_json(document)

    assert (report.seed, report.virtual_ms, report.wall_ms, report.event_count) == (7, 9_000, 300, 5)
    assert report.findings[0].detail == "a-1 is gone"
    assert report.timeline == (TimelineLine(5, "crash", {"node": [0, 1]}),)
    assert report.probes == {"b": 2}
    assert (report.derived, report.log) == (("link delay 1 ms",), ("node-0 started",))
    assert report.options == {"brokers": 3}
    assert Plan.from_json(report.plan) == Plan()
    assert not report.passed


@pytest.mark.parametrize(("with_timeline", "expected"), [(False, 0), (True, 1)])
def test_timeline_of_a_pass_is_kept_only_when_asked_for(with_timeline: bool, expected: int) -> None:
    document = result_to_json(result(), options={}, with_timeline=with_timeline)

    assert len(result_from_json(document).timeline) == expected


def test_values_that_json_does_not_know_become_text_in_a_fixed_order() -> None:
    assert jsonable({1: {"b", "a"}, "x": (1, None, True), "y": Path("p")}) == {
        "1": ["a", "b"],
        "x": [1, None, True],
        "y": "p",
    }


def test_statistics_are_added_key_by_key_and_texts_left_out() -> None:
    total: dict[str, Any] = {}
    add_statistics(total, {"acked": 3, "faults": {"crash": 1}, "note": "x", "is_odd": True})
    add_statistics(total, {"acked": 4, "faults": {"crash": 2, "pause": 1}})
    add_statistics(total, {"acked": {"odd": 1}, "faults": 5})

    assert total == {"acked": 7, "faults": {"crash": 3, "pause": 1}}


def test_summary_counts_each_finding_once_per_seed() -> None:
    failed = crashed(kind="cluster", seed=3, detail="d", wall_ms=10)
    passed = result_from_json(result_to_json(result(), options={}, with_timeline=False))

    summary = summarise([passed, failed], seeds_asked=5, elapsed_ms=1_000)

    assert summary.failed_seeds == (3,)
    assert summary.findings == {"crash": (3,)}
    assert summary.seeds_per_s == 2.0
    assert summary.never_hit(["a", "b"]) == ["a"]
    assert summarise([], seeds_asked=5, elapsed_ms=0).speed == 0.0


def test_replay_file_of_a_run_without_result_can_be_written_and_read(tmp_path: Path) -> None:
    report = crashed(kind="cluster", seed=3, detail="d", wall_ms=10, options={"ablation": "fsync"})

    replay = read_replay(write_replay(tmp_path / "new", report))

    assert (tmp_path / "new" / "seed-3-fsync.json").exists()
    assert (replay.seed, replay.plan, replay.trace_hash, replay.findings) == (3, None, None, ("crash",))
    assert replay.options == {"ablation": "fsync"}
