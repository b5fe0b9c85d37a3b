"""The alerts of deploy/prometheus: metrics that exist, a runbook for each, and promtool's own checks and unit tests."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from queries import ROOT, Alert, alerts, labels_in, metrics_in

from logcluster.metrics.catalogue import CATALOGUE, series_names

FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
TARGET_LABELS = {"job", "instance", "cluster", "namespace", "le"}


def run_promtool(*arguments: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    done = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_reads_metrics_that_exist(alert: Alert) -> None:
    names = metrics_in(alert.expression)
    assert names, alert.expression
    assert names - {"up"} <= series_names()
    for name, labels in labels_in(alert.expression).items():
        definition = CATALOGUE.get(re.sub(r"_(bucket|sum|count)$", "", name)) or CATALOGUE.get(name)
        known = set() if definition is None else set(definition.labels)
        assert labels <= known | TARGET_LABELS, name


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    headings = re.findall(r"^### (\w+)$", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings == [alert.name for alert in alerts()], "in the order of rules.yaml"
    for alert in alerts():
        assert alert.runbook == f"docs/runbooks.md#{alert.name.lower()}"
        assert alert.severity in {"critical", "warning"}


@pytest.mark.parametrize("name", [alert.name for alert in alerts()])
def test_a_runbook_says_what_it_means_how_to_look_and_what_to_do(name: str) -> None:
    text = RUNBOOKS.read_text(encoding="utf-8").split(f"### {name}\n")[1].split("\n### ")[0]
    assert all(f"**{word}.**" in text for word in ("Means", "Look", "Do")), name


def test_links_between_runbooks_lead_to_headings() -> None:
    text = RUNBOOKS.read_text(encoding="utf-8")
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", text, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= headings


def test_commands_of_the_runbooks_exist() -> None:
    import typer.main

    from logcluster.cli.app import app

    root = typer.main.get_command(app)
    for line in re.findall(r"`?logcluster ((?:[a-z]+ ?){1,2})", RUNBOOKS.read_text(encoding="utf-8")):
        words = line.split()
        group = getattr(root, "commands", {}).get(words[0])
        assert group is not None, line
        assert len(words) == 1 or words[1] in getattr(group, "commands", {words[1]: None}), line


def test_every_alert_is_tested_for_firing_and_for_silence() -> None:
    text = (FOLDER / "rules_test.yaml").read_text(encoding="utf-8")
    for alert in alerts():
        assert re.search(rf"alertname: {alert.name}\n\s+exp_alerts:\n", text), f"{alert.name} fires nowhere"
        assert f"alertname: {alert.name}, exp_alerts: []" in text, f"{alert.name} is silent nowhere"


def test_promtool_accepts_the_rules() -> None:
    run_promtool("check", "rules", "rules.yaml")


def test_promtool_accepts_the_example_configuration() -> None:
    run_promtool("check", "config", "prometheus.yaml")


def test_rules_fire_when_they_must_and_only_then() -> None:
    run_promtool("test", "rules", "rules_test.yaml")
