"""Recognising and signalling processes: never a wrong one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from logcluster.devcluster.cluster import NodeProcesses
from logcluster.devcluster.layout import dev_ports, plan_nodes
from logcluster.devcluster.processes import (
    ProcessIdentity,
    ProcessState,
    identify,
    log_tail,
    send_signal,
    state_of,
)
from logcluster.devcluster.state import DevCluster, locked
from logcluster.model.errors import InvalidRequest, NotFound


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_paused_resumed_and_killed_process_is_seen_as_such(child: subprocess.Popen[bytes]) -> None:
    identity = identify(child.pid)
    assert state_of(identity) is ProcessState.RUNNING

    assert send_signal(identity, signal.SIGSTOP)
    while state_of(identity) is ProcessState.RUNNING:
        pass
    assert state_of(identity) is ProcessState.PAUSED

    send_signal(identity, signal.SIGKILL)
    child.wait()
    assert state_of(identity) is ProcessState.STOPPED


def test_process_with_a_reused_pid_is_neither_alive_nor_signalled(child: subprocess.Popen[bytes]) -> None:
    identity = identify(child.pid)
    assert identity is not None
    earlier = ProcessIdentity(identity.pid, identity.start_ticks - 1)

    assert state_of(earlier) is ProcessState.STOPPED
    assert not send_signal(earlier, signal.SIGKILL)
    assert child.poll() is None


def test_zombie_counts_as_stopped() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    identity = identify(process.pid)
    process.kill()
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        pass

    assert identify(process.pid) is None
    assert state_of(identity) is ProcessState.STOPPED
    process.communicate()


def test_state_survives_save_and_load(tmp_path: Path) -> None:
    cluster = DevCluster.create(tmp_path, cluster_id="c", host="127.0.0.1", ports=dev_ports(7070, 2))
    cluster.processes.identities[1] = ProcessIdentity(123, 456)
    cluster.save()

    loaded = DevCluster.load(tmp_path)

    assert loaded.cluster_id == "c"
    assert loaded.plans == cluster.plans
    assert loaded.processes.identities == {1: ProcessIdentity(123, 456)}


def test_missing_and_unreadable_state_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        DevCluster.load(tmp_path)
    assert "dev up" in missing.value.hint

    (tmp_path / "dev.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"cannot read .*dev\.json"):
        DevCluster.load(tmp_path)

    (tmp_path / "dev.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(InvalidRequest, match="another version"):
        DevCluster.load(tmp_path)


def test_second_command_on_one_directory_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InvalidRequest, match="another `logcluster dev`"), locked(tmp_path):
        pytest.fail("the lock was given twice")


def test_unknown_broker_names_the_known_ones(tmp_path: Path) -> None:
    processes = NodeProcesses(plan_nodes(tmp_path, dev_ports(7070, 2)))

    with pytest.raises(NotFound, match="no broker 7") as error:
        processes.plan(7)
    assert error.value.hint == "brokers: 0, 1"


def test_log_tail_gives_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    assert log_tail(path) == ""
    path.write_text("".join(f"line {number}\n" for number in range(50_000)))

    assert log_tail(path, lines_max=2) == "line 49998\nline 49999"
