"""The image is built and run where a Docker engine answers: three containers, a killed leader, nothing lost.

`LOGCLUSTER_TEST_BASE_IMAGE` names another base image, for engines that cannot reach the default one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGE = f"logcluster-test:{os.getpid()}"
NETWORK = f"logcluster-test-{os.getpid()}"
NAMES = [f"{NETWORK}-{number}" for number in range(3)]
VOTERS = ",".join(f"{number}@{name}:7071" for number, name in enumerate(NAMES))
RECORDS = 2_000

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def docker(*words: str, data: str = "", check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        ["docker", *words], input=data, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    assert not check or finished.returncode == 0, f"docker {' '.join(words)}\n{finished.stdout}{finished.stderr}"
    return finished


def why_not() -> str | None:
    """Why containers cannot be run here."""
    if shutil.which("docker") is None:
        return "docker is not installed: the image is not built"
    if docker("info", check=False, timeout_s=20).returncode:
        return "no Docker engine answers: the image is not built"
    return None


@pytest.fixture(scope="module")
def containers() -> Iterator[list[str]]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    base = os.environ.get("LOGCLUSTER_TEST_BASE_IMAGE")
    arguments = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    docker("build", "-f", "deploy/Dockerfile", "-t", IMAGE, *arguments, str(ROOT), timeout_s=600)
    docker("network", "create", "--internal", NETWORK)
    try:
        for name in NAMES:
            docker(
                "run", "--detach", "--name", name, "--hostname", name, "--network", NETWORK,
                "--read-only", "--tmpfs", "/tmp:size=64m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
                "--env", "LOGCLUSTER_CLUSTER_ID=containers", "--env", f"LOGCLUSTER_QUORUM_VOTERS={VOTERS}",
                "--env", f"LOGCLUSTER_LISTENERS_ADVERTISED_HOST={name}", IMAGE,
            )  # fmt: skip
        yield NAMES
    finally:
        for name in NAMES:
            print(docker("logs", "--tail", "20", name, check=False).stderr)
        docker("rm", "--force", "--volumes", *NAMES, check=False)
        docker("network", "rm", NETWORK, check=False)
        docker("image", "rm", "--force", IMAGE, check=False)


def cli(name: str, *words: str, data: str = "") -> str:
    """The command line in that container."""
    return docker("exec", "--interactive", name, "logcluster", *words, data=data).stdout


def test_a_killed_leader_of_three_containers_loses_nothing(containers: list[str]) -> None:
    first = containers[0]
    deadline = time.monotonic() + 60
    while docker("exec", first, "logcluster", "cluster", "wait", "--brokers", "3", check=False).returncode:
        assert time.monotonic() < deadline
    assert docker("exec", first, "id", "-u").stdout.strip() == "10001"
    assert docker("exec", first, "touch", "/opt/x", check=False).returncode, "the root file system is read-only"
    cli(first, "topic", "create", "orders", "-p", "1", "-r", "3")
    leader = json.loads(cli(first, "partition", "ls", "orders", "-o", "json"))[0]["leader"]
    other = containers[(leader + 1) % 3]
    sent = [f"record-{number}" for number in range(RECORDS)]
    cli(other, "produce", "orders", data="".join(f"{line}\n" for line in sent[: RECORDS // 2]))

    docker("kill", containers[leader])
    cli(other, "produce", "orders", data="".join(f"{line}\n" for line in sent[RECORDS // 2 :]))

    assert cli(other, "consume", "orders", "--from", "beginning", "--until", "end").splitlines() == sent
    docker("start", containers[leader])
    cli(other, "cluster", "wait", "--brokers", "3", "--timeout", "60s")


def test_a_stopped_container_hands_over_and_ends_by_itself(containers: list[str]) -> None:
    cli(containers[0], "cluster", "wait", "--brokers", "3", "--timeout", "60s")
    docker("exec", containers[2], "logcluster", "broker", "drain", "--self", "--wait", "--timeout", "30s")
    docker("stop", "--time", "30", containers[2])
    state = json.loads(docker("inspect", containers[2]).stdout)[0]["State"]
    assert state["ExitCode"] == 0
