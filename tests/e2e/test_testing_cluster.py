"""`logcluster.testing.Cluster`: what it promises to other people's tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_support import ROOT

from logcluster.devcluster.layout import port_is_free
from logcluster.devcluster.processes import ProcessState
from logcluster.model.errors import InvalidRequest, NotFound, NotReady
from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_leaving_the_block_removes_processes_directory_and_ports() -> None:
    async with Cluster(brokers=2) as cluster:
        pids = [cluster.pid(broker_id) for broker_id in cluster.broker_ids]
        plans = [cluster.node(broker_id) for broker_id in cluster.broker_ids]
        directory = cluster.directory
        assert all(pid is not None and is_alive(pid) for pid in pids)
        assert len(cluster.bootstrap.split(",")) == 2

    assert not any(is_alive(pid) for pid in pids if pid is not None)
    assert not directory.exists()
    assert all(port_is_free(plan.host, port) for plan in plans for port in plan.ports)


async def test_failing_block_cleans_up_as_well() -> None:
    with pytest.raises(RuntimeError, match="as planned"):
        async with Cluster(brokers=1) as cluster:
            directory, pid = cluster.directory, cluster.pid(0)
            raise RuntimeError("as planned")

    assert pid is not None
    assert not is_alive(pid)
    assert not directory.exists()


async def test_kill_stop_pause_resume_and_start_of_one_broker() -> None:
    async with Cluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic("t", partitions=1, replication_factor=3)
        first = await cluster.leader_of("t", 0)

        await cluster.kill(first)
        assert cluster.state(first) is ProcessState.STOPPED
        assert cluster.pid(first) is None
        second = await cluster.leader_of("t", 0)
        assert second != first
        await cluster.start(first)
        assert cluster.state(first) is ProcessState.RUNNING

        await cluster.pause(first)
        assert cluster.state(first) is ProcessState.PAUSED
        await cluster.resume(first)
        await cluster.wait_ready([first])

        await cluster.stop(first)
        assert cluster.state(first) is ProcessState.STOPPED
        with pytest.raises(InvalidRequest, match="does not run"):
            await cluster.kill(first)
        with pytest.raises(NotFound):
            await cluster.kill(9)
        assert cluster.logs(first)


async def test_clients_and_options_reach_the_cluster() -> None:
    async with Cluster(brokers=1) as cluster:
        for transport in ("lane", "grpc"):
            async with cluster.client(transport=transport) as client:
                assert client.cluster_id == cluster.cluster_id


async def test_given_directory_is_kept_and_used_again(tmp_path: Path) -> None:
    async with Cluster(brokers=1, directory=tmp_path) as cluster, cluster.client() as client:
        await client.admin.create_topic("t", partitions=1, replication_factor=1)
        data_directory = cluster.node(0).data_directory

    assert data_directory.is_dir()


async def test_broker_that_cannot_start_shows_its_log() -> None:
    with pytest.raises(NotReady, match="no_such_key"):
        async with Cluster(brokers=1, settings={"broker": {"no_such_key": 1}}):
            pytest.fail("it started")


def test_blocking_variant_has_the_same_names() -> None:
    with Cluster.sync(brokers=1) as cluster:
        assert cluster.broker_ids == [0]
        cluster.stop(0)
        assert cluster.pid(0) is None
        cluster.start(0)
        assert cluster.pid(0) is not None
        assert cluster.logs(0)


async def test_brokers_end_with_a_test_run_that_is_killed() -> None:
    source = (
        "import asyncio, sys\n"
        "from logcluster.testing import Cluster\n"
        "async def main():\n"
        "    async with Cluster(brokers=1) as cluster:\n"
        "        print(cluster.pid(0), cluster.directory, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid_text, directory = run.stdout.readline().split()
        os.kill(run.pid, signal.SIGKILL)

    for _ in range(1000):
        if not is_alive(int(pid_text)):
            break
        await asyncio.sleep(0.01)
    assert not is_alive(int(pid_text))
    subprocess.run(["rm", "-rf", directory], check=True)
