"""Reports: readable, bounded, exact in their counts; the command's exit codes; checks that declare what they say."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hand_made import KEY, HandMade

from logcluster.check.__main__ import main
from logcluster.check.checker import rules
from logcluster.check.history import write_history
from logcluster.check.registry import CheckOptions, Findings


def losing() -> HandMade:
    return HandMade().sends("a", "b", "c").poll((0, "a"), (2, "c"))


def test_text_names_why_what_and_the_events() -> None:
    text = losing().report().render()
    assert text.startswith("FAILED: lost-write 1 in ")
    assert f"lost-write  {KEY}\n  why:  {rules()['lost-write']}\n  what: value 'b'" in text
    assert 'ok     send         ["t-0", 1, "b"]' in text
    assert "t-0 [0:a 2:c] of 2" in text
    assert HandMade().sends("a").report().render() == "passed: no anomaly in 2 events, 0 records polled\n"


def test_a_long_poll_is_cut_down_to_the_records_in_question() -> None:
    values = [f"v{number}" for number in range(200)]
    made = HandMade().sends(*values)
    made.poll(*[(offset, value) for offset, value in enumerate(values) if offset != 77])
    assert "t-0 [… 75:v75 76:v76 78:v78 79:v79 …] of 199" in made.report().render()


def test_many_of_a_kind_are_counted_and_few_are_kept() -> None:
    values = [f"v{number}" for number in range(50)]
    made = HandMade().sends(*values).poll((0, "v0"), (49, "v49"))
    report = made.report(examples_max=3)
    assert report.counts == {"lost-write": 48}
    assert len(report.anomalies) == 3


def test_tolerated_names_are_shown_and_do_not_fail() -> None:
    report = losing().report(tolerated=frozenset({"lost-write"}))
    assert report.passed
    assert [anomaly.name for anomaly in report.tolerated] == ["lost-write"]
    assert "tolerated: lost-write" in report.render()
    assert not losing().report(tolerated=frozenset({"duplicate"})).passed


def test_metrics_tell_how_much_was_done() -> None:
    made = losing().send("x", None, outcome="info").send("y", None, outcome="fail", process="q")
    metrics = made.report().metrics
    assert metrics["sends"] == {"ok": 3, "fail": 1, "info": 1}
    assert (metrics["polls"], metrics["records_polled"], metrics["values_read"], metrics["keys"]) == (1, 2, 2, 1)
    assert metrics["drained"] is False
    json.dumps(metrics)


def test_an_undeclared_name_cannot_be_reported() -> None:
    findings = Findings(CheckOptions(), rules())
    with pytest.raises(KeyError):
        findings.add("made-up", KEY, "", [])


def test_every_rule_says_why_in_one_sentence() -> None:
    for name, why in rules().items():
        assert why.endswith("."), name
        assert "\n" not in why


def test_the_document_lists_every_anomaly() -> None:
    document = (Path(__file__).resolve().parents[3] / "docs" / "checking.md").read_text(encoding="utf-8")
    missing = [name for name in rules() if f"| **{name}** |" not in document]
    assert not missing


def write(made: HandMade, path: Path) -> str:
    text = io.StringIO()
    write_history(made.recorder.events, text)
    path.write_text(text.getvalue(), encoding="utf-8")
    return str(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(HandMade().sends("a").drain((0, "a")), tmp_path / "good.jsonl")
    bad = write(losing(), tmp_path / "bad.jsonl")
    assert main([good, "--drain-required"]) == 0
    assert main([bad]) == 1
    assert "lost-write" in capsys.readouterr().out
    assert main([bad, "--tolerate", "lost-write"]) == 0
    capsys.readouterr()
    assert main([bad, "-o", "json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["passed"] is False
    assert shown["counts"] == {"lost-write": 1}
    assert shown["anomalies"][0]["why"]


def test_the_command_on_what_is_no_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text("hello\n", encoding="utf-8")
    assert main([str(tmp_path / "x.jsonl")]) == 2
    assert main([str(tmp_path / "absent.jsonl")]) == 2
    assert "line 1" in capsys.readouterr().err
