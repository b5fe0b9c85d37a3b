"""Dashboards: up to date, made of metrics that exist, and of expressions that Prometheus can parse."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from queries import ROOT, labels_in, metrics_in

from logcluster.metrics.catalogue import CATALOGUE, series_names
from logcluster.metrics.dashboard_panels import COLUMNS, Dashboard
from logcluster.metrics.dashboards import DASHBOARDS

PLACES = {"job", "instance", "le"}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_grafana", ROOT / "deploy" / "grafana" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_up_to_date() -> None:
    assert generator().stale() == [], "run python deploy/grafana/generate.py"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.name)
def test_queries_read_metrics_and_labels_that_exist(dashboard: Dashboard) -> None:
    assert dashboard.queries
    for query in dashboard.queries:
        names = metrics_in(query.rendered)
        assert names and names <= series_names(), query.expression
        legend = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        known: set[str] = set()
        for name in names:
            definition = CATALOGUE.get(name) or CATALOGUE[re.sub(r"_(bucket|sum|count)$", "", name)]
            known |= set(definition.labels)
            assert labels_in(query.rendered).get(name, set()) <= set(definition.labels) | PLACES, query.expression
            assert "$nodes" in query.expression, f"{query.expression} is not limited to the chosen nodes"
        assert legend <= known | PLACES, query.legend


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.name)
def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    rendered = dashboard.render()
    for panel in rendered["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in rendered["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_metric_of_our_own_is_on_a_dashboard_or_in_an_alert() -> None:
    from queries import alerts

    shown = {name for dashboard in DASHBOARDS for query in dashboard.queries for name in metrics_in(query.rendered)}
    shown |= {name for alert in alerts() for name in metrics_in(alert.expression)}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    left_out = {name for name in CATALOGUE if name.startswith("logcluster_")} - shown
    assert left_out == {
        "logcluster_identity_info",  # to be joined
        "logcluster_raft_voters",
        "logcluster_replication_uncommitted_records",
        "logcluster_replication_follower_lag_records",
        "logcluster_partitions",
        "logcluster_partitions_at_min_in_sync",
        "logcluster_partition_leader_epoch",
        "logcluster_producers_evicted_total",
        "logcluster_producers_expired_total",
    }


def test_prometheus_can_parse_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    expressions = [query.rendered for dashboard in DASHBOARDS for query in dashboard.queries]
    rules = [{"record": f"test:number_{index}", "expr": one} for index, one in enumerate(expressions)]
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))  # JSON is YAML
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
