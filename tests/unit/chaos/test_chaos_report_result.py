"""Verdicts and exit statuses, result.json, the index over many runs, pictures with and without matplotlib."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_fixture import Fixture, fault_lines, make_fixture, run_facts, write_lines

from chaos.interfaces import RunFiles
from chaos.report import write_index, write_report
from logcluster.check.checker import check
from logcluster.check.registry import Anomaly, CheckOptions

LOST = Anomaly("lost-write", "orders-0", "value 'x' is gone", (0, 1), (0,))
LOOSE: Mapping[str, Any] = {"gap_s_max": 4, "availability_percent_min": 96}


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return make_fixture()


@pytest.fixture(scope="module")
def short() -> Fixture:
    return make_fixture(seconds=10)


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def change_run(files: RunFiles, **changes: Any) -> None:
    files.run.write_text(json.dumps({**run_facts(10), **changes}))


@pytest.mark.usefixtures("without_matplotlib")
class TestVerdict:
    def test_nothing_wrong_passes(self, fixture: Fixture, tmp_path: Path) -> None:
        result = write_report(fixture.write(tmp_path), [], bounds=LOOSE)
        assert (result.status, result.verdict, result.reasons, result.anomalies) == (0, "passed", [], {})

    def test_an_anomaly_fails_with_exact_counts(self, fixture: Fixture, tmp_path: Path) -> None:
        result = write_report(fixture.write(tmp_path), check(fixture.events), bounds=LOOSE)
        assert (result.status, result.verdict, result.anomalies) == (1, "anomalies", {"lost-write": 1})

    def test_a_tolerated_anomaly_passes(self, fixture: Fixture, tmp_path: Path) -> None:
        report = check(fixture.events, CheckOptions(tolerated=frozenset({"lost-write"})))
        result = write_report(fixture.write(tmp_path), report, bounds=LOOSE)
        assert result.status == 0
        assert result.facts["tolerated_counts"] == {"lost-write": 1}

    @pytest.mark.parametrize(
        ("bounds", "said"),
        [
            ({"gap_s_max": 3}, "writes stopped for 3.19 s (p99) with isolate, more than 3.00 s"),
            ({"gap_s_max_of": {"kill": 0.7}}, "writes stopped for 796 ms (p99) with kill, more than 700 ms"),
            (
                {"availability_percent_min": 97},
                "3 of 6 partitions were available for less than 97.000 % of seconds, worst orders-0 with 96.666 %",
            ),
        ],
    )
    def test_a_missed_bound_fails(self, fixture: Fixture, tmp_path: Path, bounds: Mapping[str, Any], said: str) -> None:
        result = write_report(fixture.write(tmp_path), [], bounds=bounds)
        assert (result.status, result.verdict, result.reasons) == (1, "bounds", [said])

    def test_bounds_may_be_an_object_or_stand_in_the_run(self, fixture: Fixture, tmp_path: Path) -> None:
        files = fixture.write(tmp_path)
        bounds = SimpleNamespace(gap_s_max=3.0, availability_percent_min=0.0, acked_records_min=1)
        assert write_report(files, [], bounds=bounds).verdict == "bounds"
        assert write_report(files, []).verdict == "bounds", "run.json asks for 99.9 %"

    def test_too_few_acknowledged_writes_show_nothing(self, short: Fixture, tmp_path: Path) -> None:
        result = write_report(short.write(tmp_path), [], bounds={"acked_records_min": 10**6})
        assert (result.status, result.verdict) == (2, "invalid")

    def test_problems_of_the_runner_give_no_verdict(self, short: Fixture, tmp_path: Path) -> None:
        result = write_report(short.write(tmp_path), [], problems=["not everything could be read"], bounds={})
        assert (result.status, result.reasons) == (2, ["not everything could be read"])

    def test_a_failed_fault_gives_no_verdict(self, short: Fixture, tmp_path: Path) -> None:
        files = short.write(tmp_path)
        line = {**fault_lines()[0], "number": 9, "phase": "failed", "detail": "no such process"}
        write_lines(files.faults, [*fault_lines(), line])
        told = write_report(files, [], bounds={})
        again = write_report(files, [], bounds={}, problems=["fault 9 (kill) failed: gone"])
        assert (told.status, told.reasons) == (2, ["fault 9 (kill) failed: no such process"])
        assert again.reasons == ["fault 9 (kill) failed: gone"], "it is told once"

    def test_a_run_whose_faults_were_all_skipped_gives_no_verdict(self, short: Fixture, tmp_path: Path) -> None:
        files = short.write(tmp_path)
        write_lines(files.faults, [line for line in fault_lines() if line["phase"] == "skipped"])
        result = write_report(files, [], bounds={})
        assert (result.status, result.reasons) == (2, ["none of 1 fault was done"])

    def test_a_run_that_nobody_read_out_gives_no_verdict(self, short: Fixture, tmp_path: Path) -> None:
        files = short.write(tmp_path)
        lines = files.history.read_text(encoding="utf-8").splitlines(keepends=True)
        files.history.write_text("".join(line for line in lines if '"drain":true' not in line), encoding="utf-8")
        result = write_report(files, [], bounds={})
        assert result.status == 2
        assert "could not be seen" in result.reasons[0]

    def test_anomalies_outweigh_doubts(self, short: Fixture, tmp_path: Path) -> None:
        result = write_report(short.write(tmp_path), [LOST], problems=["a client failed"])
        assert (result.status, result.verdict) == (1, "anomalies")
        assert "a client failed" in result.reasons

    @pytest.mark.parametrize(("found", "status", "verdict"), [([LOST], 0, "caught"), ([], 1, "missed")])
    def test_a_missing_safeguard_must_be_found(
        self, short: Fixture, tmp_path: Path, found: list[Anomaly], status: int, verdict: str
    ) -> None:
        files = short.write(tmp_path)
        result = write_report(files, found, expected_anomalies=["lost-write", "unseen"])
        assert (result.status, result.verdict) == (status, verdict)
        change_run(files, expected_anomalies=["lost-write"])
        assert write_report(files, found).verdict == verdict

    def test_result_json_holds_the_facts_of_the_page(self, fixture: Fixture, tmp_path: Path) -> None:
        files = fixture.write(tmp_path)
        result = write_report(files, check(fixture.events))
        facts = json.loads(files.result.read_text(encoding="utf-8"))
        assert facts == result.facts
        assert result.figures == {
            "faults": 5,
            "acked_writes": facts["operations"]["writes_ok"],
            "availability": "96.666 %",
            "longest_gap_ms": 3193,
            "gap_p99_ms_isolate": 3193,
            "gap_p99_ms_kill": 796,
            "gap_p99_ms_pause": 2498,
        }
        assert facts["format"] == 1
        assert (facts["verdict"], facts["status"], facts["anomaly_counts"]) == ("anomalies", 1, {"lost-write": 1})
        assert facts["faults"]["done"] == {"isolate": 1, "kill": 3, "pause": 1}
        assert [fault["number"] for fault in facts["faults"]["skipped"]] == [6]
        assert (facts["longest_gap_ms"], len(facts["gaps"]), facts["leader_changes"]) == (3193, 10, 20)
        assert facts["availability"] == {
            "worst": 58 / 60,
            "mean": pytest.approx(353 / 360),
            "probe_ms_max": 1000,
            "bound": 0.999,
        }
        assert facts["operations"]["writes_unknown"] == 7
        assert facts["anomalies"][0]["why"].startswith("A write acknowledged")
        assert facts["missing"] == [note for note in facts["missing"] if "matplotlib" in note]

    def test_keys_of_result_json_are_documented(self, short: Fixture, tmp_path: Path) -> None:
        from chaos.report import result as module

        facts = write_report(short.write(tmp_path), []).facts
        documented = set(re.findall(r"\w+", module.__doc__ or ""))
        assert not facts.keys() - documented
        for name in ("clients", "partitions", "gaps", "gaps_by_kind"):
            assert not facts[name][0].keys() - documented, name


@pytest.mark.usefixtures("without_matplotlib")
class TestIndex:
    def test_runs_are_listed_worst_first(self, fixture: Fixture, short: Fixture, tmp_path: Path) -> None:
        change_run(files := short.write(tmp_path / "a run #1"), scenario="quiet", bounds={})
        write_report(files, [])
        change_run(files := short.write(tmp_path / "deep" / "er"), scenario="<b>doubtful")
        write_report(files, [], problems=["broken"])
        write_report(fixture.write(tmp_path / "zlast"), check(fixture.events))
        (tmp_path / "torn").mkdir()
        (tmp_path / "torn" / "result.json").write_text("{")
        page = write_index(tmp_path).read_text(encoding="utf-8")
        order = [page.index(text) for text in ("leader-kill-mixed<", "doubtful<", ">torn<", ">quiet<")]
        assert order == sorted(order)
        assert "4 runs: 1 with anomalies, 1 without verdict, 1 unreadable, 1 passed" in page
        assert re.findall(r'href="([^"]*)"', page) == [
            "./zlast/report.html",
            "./deep/er/report.html",
            "./torn/report.html",
            "./a%20run%20%231/report.html",
        ]
        assert "<b>" not in page
        assert "isolate 3.19 s" in page

    def test_gaps_are_put_together_over_all_runs(self, short: Fixture, tmp_path: Path) -> None:
        for name in ("one", "two"):
            write_report(short.write(tmp_path / name), [])
        page = write_index(tmp_path).read_text(encoding="utf-8")
        row = re.search(r"</span>kill</td>(.*?)</tr>", page)
        assert row is not None
        cells = re.findall(r">([^<]+)</td>", row.group(1))
        assert cells == ["2", "4", "595 ms", "598 ms", "598 ms", "598 ms", "598 ms"]

    def test_no_run_is_no_failure(self, tmp_path: Path) -> None:
        assert "0 runs" in write_index(tmp_path).read_text(encoding="utf-8")

    def test_results_of_any_shape_are_listed(self, tmp_path: Path) -> None:
        for number, text in enumerate(
            ['{"verdict": []}', "[]", '{"gaps": [1, {}], "gaps_by_kind": [3]}', '{"faults": 1}']
        ):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / "result.json").write_text(text)
        assert "4 unreadable" in write_index(tmp_path).read_text(encoding="utf-8")


def test_pictures_are_files(fixture: Fixture, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = fixture.write(tmp_path)
    result = write_report(files, [])
    assert result.facts["plots"] == ["plots/timeline.png", "plots/gaps.png"]
    for name in result.facts["plots"]:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_pictures_of_nothing_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert write_report(RunFiles(tmp_path), []).facts["plots"] == ["plots/timeline.png"]


@pytest.mark.usefixtures("without_matplotlib")
def test_without_matplotlib_the_page_says_so(short: Fixture, tmp_path: Path) -> None:
    result = write_report(short.write(tmp_path), [])
    assert result.facts["plots"] == []
    assert any("matplotlib" in note for note in result.facts["missing"])
    assert not (tmp_path / "plots").exists()
