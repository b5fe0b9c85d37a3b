"""The share of the chaos suite that every test run takes: a real cluster under real faults, from the command line.

All of it is in docs/chaos.md; a longer run is `python -m chaos matrix`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chaos.engine import IMAGE_VARIABLE, why_no_engine
from chaos.network import why_no_namespaces

pytestmark = pytest.mark.timeout(240)
NO_NAMESPACES = why_no_namespaces()
NO_ENGINE = why_no_engine()


def run(tmp_path: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run scenarios; returns the exit status, what it said of each, and what it said meanwhile."""
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "run", *arguments, "--out", str(tmp_path), "--json"],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONHASHSEED": "random"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("scenario", ["leader-kill", "one-power-failure"])
def test_leaders_are_killed_and_nothing_acknowledged_is_lost(tmp_path: Path, scenario: str) -> None:
    status, outcomes, said = run(tmp_path, scenario, "--duration-s", "14", "--seed", "3")
    assert status == 0, f"{outcomes}\n{said}"
    (outcome,) = outcomes
    assert outcome["anomalies"] == {} and outcome["status"] == 0
    assert outcome["figures"]["acked_writes"] > 500 and outcome["figures"]["faults"] >= 2
    page = Path(outcome["report"]).read_text(encoding="utf-8")
    assert scenario in page and "PASSED" in page.upper()


@pytest.mark.skipif(bool(NO_NAMESPACES), reason=f"network namespaces: {NO_NAMESPACES}")
def test_hosts_are_cut_off_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    status, outcomes, said = run(tmp_path, "append.isolate-leader", "--target", "netns", "--seed", "3")
    assert status == 0, f"{outcomes}\n{said}"
    assert outcomes[0]["figures"]["faults"] >= 2


@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(NO_ENGINE), reason=f"containers: {NO_ENGINE}")
def test_containers_are_killed_and_nothing_acknowledged_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, base = f"logcluster-chaos-suite:{os.getpid()}", os.environ.get("LOGCLUSTER_TEST_BASE_IMAGE")
    arguments = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    root = Path(__file__).resolve().parents[2]
    subprocess.run(["docker", "build", "-f", "deploy/Dockerfile", "-t", image, *arguments, "."], check=True, cwd=root)
    monkeypatch.setenv(IMAGE_VARIABLE, image)
    try:
        status, outcomes, said = run(tmp_path, "append.kill-leader", "--target", "containers", "--seed", "3")
    finally:
        subprocess.run(["docker", "image", "rm", "--force", image], check=False)
    assert status == 0, f"{outcomes}\n{said}"
    assert outcomes[0]["figures"]["faults"] >= 2 and outcomes[0]["anomalies"] == {}


def test_a_safeguard_that_is_off_is_found(tmp_path: Path) -> None:
    status, outcomes, said = run(tmp_path, "ablation-fsync-before-ack", "--duration-s", "10", "--seed", "3")
    assert status == 0, f"{outcomes}\n{said}"
    assert outcomes[0]["anomalies"], "the run passed because it found the loss"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_run_that_is_ended_leaves_no_process(tmp_path: Path, number: signal.Signals, status: int) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "chaos", "run", "leader-kill", "--out", str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stderr is not None
        assert any("kill leader" in line for line in running.stderr), "it ended before the first fault"
        running.send_signal(number)
        running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == status
    deadline_s = time.monotonic() + 20
    while left := commands_naming(str(tmp_path)):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.1)


def commands_naming(text: str) -> list[str]:
    """Command lines of living processes with `text` in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [command] if text in command else []
    return found


def test_a_mistake_is_named(tmp_path: Path) -> None:
    status, outcomes, said = run(tmp_path, "no-such-scenario")
    assert status == 2 and outcomes == []
    assert "no-such-scenario" in said and "Traceback" not in said
