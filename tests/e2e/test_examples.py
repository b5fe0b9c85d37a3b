"""The examples run as they are printed, and a client in another language needs nothing but proto/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_support import ROOT

from logcluster.testing import SyncCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
GO_CLIENT = ROOT / "examples" / "go"


def run(command: list[str], directory: Path, *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_python_example_writes_and_reads(cluster: SyncCluster) -> None:
    finished = run([sys.executable, "-m", "examples.produce_consume", cluster.bootstrap], ROOT, timeout_s=50)

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("wrote example-orders-") == 10
    assert finished.stdout.count('{"id": ') == 10


def test_traces_example_has_one_trace_per_order(cluster: SyncCluster) -> None:
    finished = run([sys.executable, "-m", "examples.traces", cluster.bootstrap], ROOT, timeout_s=50)

    assert finished.returncode == 0, finished.stderr
    lines = [line for line in finished.stdout.splitlines() if "  parent " in line]
    traces = [line.split()[0] for line in lines]
    assert len(traces) == 12 and {traces.count(trace) for trace in traces} == {4}
    assert sum("process example-traced-orders" in line for line in lines) == 3


def test_testing_example_survives_its_kill() -> None:
    finished = run([sys.executable, "-m", "examples.survive_a_kill"], ROOT, timeout_s=50)

    assert finished.returncode == 0, finished.stderr
    assert "after the kill" in finished.stdout


def test_demo_with_few_rows_loses_nothing() -> None:
    finished = run([sys.executable, "-m", "examples.flights_demo", "--rows", "20000"], ROOT, timeout_s=100)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "lost=0 duplicated=0 out_of_order=0" in finished.stdout
    assert "rows sent 20,000   acked 20,000" in finished.stdout


def test_group_of_three_processes_survives_the_kill_of_a_member_and_of_its_coordinator() -> None:
    finished = run([sys.executable, "-m", "examples.flights_group", "--rows", "8000"], ROOT, timeout_s=200)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    told = finished.stdout
    assert "lost=0" in told
    assert "offsets_that_went_back=0" in told
    assert "not_committed=0" in told
    assert "group delays: stable, 2 members" in told
    assert told.count(" joined ") >= 3
    assert "lost its connection and said nothing for 500 ms" in told


def go_binary(tmp_path: Path) -> Path:
    """The Go client, built; skips when that is not possible here."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go toolchain is installed")
    binary = tmp_path / "client"
    built = subprocess.run(
        [go, "build", "-o", str(binary), "."],
        cwd=GO_CLIENT,
        env={**os.environ, "GOFLAGS": "-buildvcs=false -mod=readonly"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if built.returncode != 0 and any(word in built.stderr for word in ("dial tcp", "no such host", "toolchain not")):
        pytest.skip(f"the Go modules cannot be fetched here: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    return binary


def test_go_client_writes_typed_records_and_reads_them_back(cluster: SyncCluster, tmp_path: Path) -> None:
    binary = go_binary(tmp_path)

    finished = run([str(binary), cluster.bootstrap.split(",")[1], "from-go"], tmp_path, timeout_s=60)

    assert finished.returncode == 0, finished.stderr
    assert "wrote 10 records" in finished.stdout
    assert "read 10 records" in finished.stdout
