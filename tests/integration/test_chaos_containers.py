"""Containers of the shipped image as a target: killed, stopped, frozen, cut off, and nothing is left afterwards.

Runs where a Docker engine answers; `LOGCLUSTER_TEST_BASE_IMAGE` names another base image.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chaos.container_links import why_no_cuts
from chaos.engine import IMAGE_VARIABLE, why_no_engine
from chaos.interfaces import CLIENTS, ClusterOptions, FaultFailed
from chaos.targets.containers import GRPC_PORT, ContainerTarget
from logcluster.client.client import Client, connect

ROOT = Path(__file__).resolve().parents[2]
NO_ENGINE = why_no_engine()
pytestmark = [pytest.mark.timeout(900), pytest.mark.skipif(bool(NO_ENGINE), reason=f"containers: {NO_ENGINE}")]


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image of this checkout; its layers stay in the engine's cache."""
    name = f"logcluster-chaos:{os.getpid()}"
    base = os.environ.get("LOGCLUSTER_TEST_BASE_IMAGE")
    arguments = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    command = ["docker", "build", "-f", "deploy/Dockerfile", "-t", name, *arguments, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)


@pytest.fixture
async def target(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ContainerTarget]:
    monkeypatch.setenv(IMAGE_VARIABLE, image)
    made = ContainerTarget()
    await made.start(ClusterOptions(), tmp_path)
    try:
        yield made
    finally:
        await made.stop()


async def leader_of(client: Client) -> int:
    leader = (await client.admin.describe_topic("orders")).partitions[0].leader_id
    assert leader is not None
    return leader


def reaches(target: ContainerTarget, source: int | str, destination: int) -> bool:
    """Whether a connection to a broker comes about from another one's container, or from here."""
    address = target._at(destination)
    if source == CLIENTS:
        try:
            socket.create_connection((address, GRPC_PORT), timeout=0.5).close()
        except OSError:
            return False
        return True
    code = f"import socket; socket.create_connection(('{address}', {GRPC_PORT}), timeout=0.5)"
    assert isinstance(source, int)
    command = ["docker", "exec", target._container(source), "/opt/logcluster/bin/python", "-c", code]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


async def test_a_leader_is_killed_frozen_and_stopped_and_nothing_is_lost(target: ContainerTarget) -> None:
    async with connect(target.bootstrap()) as client:
        await client.admin.create_topic("orders", partitions=1, replication_factor=3)
        async with client.producer() as producer:
            offsets = [(await producer.send("orders", b"first")).offset]
            killed = await leader_of(client)
            await target.kill(killed)
            assert not target.is_running(killed)
            offsets.append((await producer.send("orders", b"after the kill")).offset)
            await target.start_broker(killed)
            with pytest.raises(FaultFailed, match="runs already"):
                await target.start_broker(killed)

            frozen = await leader_of(client)
            await target.pause(frozen)
            offsets.append((await producer.send("orders", b"while one stands still")).offset)
            await target.resume(frozen)
            await target.wait_ready([frozen])

            stopped = await leader_of(client)
            await target.terminate(stopped)
            offsets.append((await producer.send("orders", b"after a clean stop")).offset)
            await target.wipe(stopped)
            await target.start_broker(stopped, wait=False)
        assert offsets == [0, 1, 2, 3]


@pytest.mark.skipif(bool(why_no_cuts()), reason=f"cuts between containers: {why_no_cuts()}")
async def test_a_cut_has_a_direction_and_outlives_the_container(target: ContainerTarget) -> None:
    assert reaches(target, 0, 1) and reaches(target, CLIENTS, 1)
    await target.cut(0, 1)
    assert not reaches(target, 0, 1)
    assert reaches(target, 0, 2) and reaches(target, 2, 1) and reaches(target, CLIENTS, 1)
    await target.kill(1)
    await target.start_broker(1)
    assert not reaches(target, 0, 1), "it belongs to the machine"
    await target.heal_link(0, 1)
    assert reaches(target, 0, 1)
    await target.cut(2, CLIENTS)
    assert not reaches(target, CLIENTS, 2) and reaches(target, 0, 2)
    await target.heal_links()
    await target.reset(CLIENTS, 2)
    assert reaches(target, CLIENTS, 2)


async def test_nothing_is_left_but_the_logs(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, image)
    target = ContainerTarget()
    await target.start(ClusterOptions(brokers=1), tmp_path)
    name = target._running_engine.name
    await target.stop()
    await target.stop()
    for kind in (["ps", "--all"], ["network", "ls"]):
        listed = subprocess.run(["docker", *kind], check=True, capture_output=True, text=True).stdout
        assert name not in listed
    assert "node_started" in target.log_path(0).read_text(encoding="utf-8")


async def test_a_missing_image_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "logcluster:no-such-version")
    with pytest.raises(FaultFailed, match="docker build -f deploy/Dockerfile -t logcluster:no-such-version"):
        await ContainerTarget().start(ClusterOptions(), tmp_path)
