"""What a new user does by hand, on real processes: the first screen of the README."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_support import ROOT, run_cli

from logcluster.devcluster.layout import port_is_free

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def free_base_port() -> int:
    """A port from which three nodes find all their ports free."""
    generator = random.Random()
    while True:
        port = generator.randrange(10_000, 30_000, 10)
        if all(port_is_free("127.0.0.1", port + 10 * node + part) for node in range(3) for part in range(3)):
            return port


class Dev:
    """`logcluster dev` on a directory and ports of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_base_port()
        self.bootstrap = f"127.0.0.1:{self.port}"

    def dev(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_cli("dev", *arguments, "--data", str(self.directory))

    def run(self, *arguments: str, standard_input: bytes = b"") -> subprocess.CompletedProcess[str]:
        return run_cli(*arguments, bootstrap=self.bootstrap, standard_input=standard_input)

    def pids(self) -> list[int]:
        state = json.loads((self.directory / "dev.json").read_text())
        return [node["pid"] for node in state["nodes"] if node["pid"] is not None]


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    cluster = Dev(tmp_path / "dev")
    yield cluster
    cluster.dev("down", "--purge")


def must(finished: subprocess.CompletedProcess[str]) -> str:
    assert finished.returncode == 0, f"{finished.args}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def test_first_screen_by_hand(dev: Dev) -> None:
    up = json.loads(must(dev.dev("up", "-n", "3", "--port", str(dev.port), "--detach", "-o", "json")))
    assert [row["ready"] for row in up["brokers"]] == [True, True, True]
    assert up["bootstrap"] == dev.bootstrap

    assert "created orders" in must(dev.run("topic", "create", "orders", "-p", "6", "-r", "3"))
    lines = b"".join(b'%d:{"id": %d}\n' % (number, number) for number in range(1000))
    produced = json.loads(
        must(dev.run("produce", "orders", "--key-separator", ":", "-o", "json", standard_input=lines))
    )
    assert (produced["sent"], produced["acked"], produced["failed"]) == (1000, 1000, 0)
    three = must(dev.run("consume", "orders", "--from", "beginning", "-n", "3", "-f", r"%p/%o %k %v\n")).splitlines()
    assert len(three) == 3
    place, key, value = three[0].split(" ", 2)
    assert place.partition("/")[1] == "/"
    assert json.loads(value) == {"id": int(key)}

    assert "killed broker 1" in must(dev.dev("kill", "1"))
    after = must(dev.run("consume", "orders", "--from", "beginning", "--until", "end", "-o", "json")).splitlines()
    ids = sorted(json.loads(json.loads(line)["value"])["id"] for line in after)
    assert ids == list(range(1000)), "nothing lost, nothing twice"

    status = dev.dev("status", "-o", "json")
    assert status.returncode == 5
    assert [row["process"] for row in json.loads(status.stdout)] == ["running", "stopped", "running"]
    must(dev.dev("start", "1"))
    must(dev.run("cluster", "wait", "--brokers", "3", "--timeout", "20s"))
    must(dev.run("cluster", "health"))

    pids = dev.pids()
    must(dev.dev("down"))
    assert not [pid for pid in pids if is_broker(pid)], "nothing is left running"
    assert dev.dev("status").returncode == 5


def is_broker(pid: int) -> bool:
    try:
        return b"logcluster" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def test_every_listing_speaks_json_with_stable_names(dev: Dev) -> None:
    must(dev.dev("up", "-n", "1", "--port", str(dev.port), "--detach"))
    must(dev.run("topic", "create", "t", "-p", "2", "-r", "1", "-c", "retention.ms=3600000"))

    assert json.loads(must(dev.run("-o", "json", "topic", "ls")))[0]["name"] == "t"
    described = json.loads(must(dev.run("topic", "describe", "t", "-o", "json")))
    assert [row["partition"] for row in described["partitions"]] == [0, 1]
    assert {row["leader"] for row in described["partitions"]} == {0}
    config = {entry["key"]: entry for entry in described["config"]}
    assert (config["retention.ms"]["value"], config["retention.ms"]["is_default"]) == ("3600000", False)
    assert json.loads(must(dev.run("broker", "ls", "-o", "json")))[0]["state"] == "active"
    assert json.loads(must(dev.run("broker", "describe", "0", "-o", "json")))["ready"] is True
    assert len(json.loads(must(dev.run("partition", "ls", "t", "-o", "json")))) == 2
    assert json.loads(must(dev.run("cluster", "info", "-o", "json")))["brokers_active"] == 1
    assert json.loads(must(dev.run("cluster", "health", "-o", "json")))["healthy"] is True

    must(dev.run("topic", "alter", "t", "-c", "retention.ms=7200000", "-p", "4"))
    described = json.loads(must(dev.run("topic", "describe", "t", "-o", "json")))
    assert len(described["partitions"]) == 4
    config = {entry["key"]: entry["value"] for entry in described["config"]}
    assert config["retention.ms"] == "7200000"
    must(dev.run("topic", "delete", "t", "--yes"))
    assert json.loads(must(dev.run("topic", "ls", "-o", "json"))) == []


def test_missing_things_end_with_exit_code_3(dev: Dev) -> None:
    must(dev.dev("up", "-n", "1", "--port", str(dev.port), "--detach"))

    for arguments in (
        ["topic", "describe", "nope"],
        ["topic", "delete", "nope", "--yes"],
        ["consume", "nope"],
        ["produce", "nope"],
        ["partition", "ls", "nope"],
        ["broker", "describe", "9"],
    ):
        finished = dev.run(*arguments)
        assert finished.returncode == 3, (arguments, finished.stderr)
        assert "next:" in finished.stderr
    assert dev.dev("kill", "7").returncode == 3


def test_second_up_and_ports_in_use_are_clear_errors(dev: Dev, tmp_path: Path) -> None:
    must(dev.dev("up", "-n", "1", "--port", str(dev.port), "--detach"))

    again = dev.dev("up", "-n", "1", "--port", str(dev.port), "--detach")
    assert again.returncode == 1
    assert "already runs" in again.stderr
    assert "dev down" in again.stderr

    other = run_cli("dev", "up", "-n", "1", "--port", str(dev.port), "--detach", "--data", str(tmp_path / "other"))
    assert other.returncode == 1
    assert str(dev.port) in other.stderr
    assert "in use" in other.stderr
    must(dev.run("cluster", "health"))


def test_records_survive_down_and_up(dev: Dev) -> None:
    must(dev.dev("up", "-n", "3", "--port", str(dev.port), "--detach"))
    must(dev.run("topic", "create", "kept", "-p", "2"))
    must(dev.run("produce", "kept", standard_input=b"one\ntwo\nthree"))
    must(dev.dev("down"))

    must(dev.dev("up", "-n", "3", "--port", str(dev.port), "--detach"))

    values = must(dev.run("consume", "kept", "--from", "beginning", "--until", "end")).splitlines()
    assert sorted(values) == ["one", "three", "two"]
    fewer = dev.dev("up", "-n", "1", "--port", str(dev.port), "--detach")
    assert fewer.returncode == 1


def test_killed_dev_cluster_comes_up_again_from_stale_state(dev: Dev) -> None:
    must(dev.dev("up", "-n", "1", "--port", str(dev.port), "--detach"))
    must(dev.run("topic", "create", "t", "-p", "1", "-r", "1"))
    for pid in dev.pids():
        os.kill(pid, signal.SIGKILL)

    must(dev.dev("up", "-n", "1", "--port", str(dev.port), "--detach"))

    assert "t" in must(dev.run("topic", "ls"))


def test_pause_and_resume_are_seen_in_the_status(dev: Dev) -> None:
    must(dev.dev("up", "-n", "1", "--port", str(dev.port), "--detach"))

    must(dev.dev("pause", "0"))
    paused = json.loads(dev.dev("status", "-o", "json").stdout)[0]
    assert (paused["process"], paused["ready"]) == ("paused", False)
    must(dev.dev("resume", "0"))
    must(dev.run("cluster", "wait", "--timeout", "20s"))
    assert json.loads(must(dev.dev("status", "-o", "json")))[0]["process"] == "running"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_cluster_stops_its_brokers_with_it(dev: Dev, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "logcluster", "dev", "up", "-n", "1", "--port", str(dev.port)]
    with subprocess.Popen(
        [*command, "--data", str(dev.directory)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        while b"stop: Ctrl-C" not in process.stdout.readline():
            assert process.poll() is None
        pids = dev.pids()
        process.send_signal(number)
        assert process.wait(timeout=30) == 0

    assert not [pid for pid in pids if is_broker(pid)]
