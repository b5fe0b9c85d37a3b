"""Nodes that cannot start say why, name what is wrong and how to go on, and end with a failure."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logcluster.devcluster.layout import NodePlan, free_ports, plan_nodes, render_toml
from logcluster.testing import Cluster

pytestmark = pytest.mark.cluster
START_TIMEOUT_S = 20


def write_node(directory: Path, *, cluster_id: str = "alone", **overrides: object) -> NodePlan:
    """A one-node cluster on free ports; `overrides` go to the section that their name begins with (`data_dir`)."""
    plan = plan_nodes(directory, free_ports(1, random.Random()))[0]
    settings: dict[str, dict[str, object]] = {}
    for name, value in overrides.items():
        section, _, key = name.partition("_")
        settings.setdefault(section, {})[key] = value
    plan.directory.mkdir(parents=True)
    plan.config_path.write_text(render_toml(plan, [plan], cluster_id=cluster_id, settings=settings))
    return plan


def serve_and_fail(plan: NodePlan) -> str:
    """What the node says before it gives up."""
    finished = subprocess.run(
        [sys.executable, "-m", "logcluster", "serve", "--config", str(plan.config_path)],
        capture_output=True,
        timeout=START_TIMEOUT_S,
        check=False,
        text=True,
    )
    said = finished.stdout + finished.stderr
    assert finished.returncode != 0, said
    assert not any(line.startswith("Traceback") for line in said.splitlines()), said
    assert "error: " in said
    return said


def test_port_in_use_is_named(tmp_path: Path) -> None:
    plan = write_node(tmp_path)
    with socket.socket() as listener:
        listener.bind((plan.host, plan.ports.grpc))
        listener.listen()

        said = serve_and_fail(plan)

    assert str(plan.ports.grpc) in said
    assert "in use" in said


@pytest.mark.parametrize("listener_name", ["lane", "http"])
def test_other_listeners_in_use_are_named(tmp_path: Path, listener_name: str) -> None:
    plan = write_node(tmp_path)
    port = getattr(plan.ports, listener_name)
    with socket.socket() as listener:
        listener.bind((plan.host, port))
        listener.listen()

        said = serve_and_fail(plan)

    assert str(port) in said
    assert "in use" in said


async def test_data_directory_of_another_cluster_is_refused(tmp_path: Path) -> None:
    async with Cluster(brokers=1, directory=tmp_path / "first") as first:
        data_directory = first.node(0).data_directory
    plan = write_node(tmp_path / "second", cluster_id="another", data_dir=str(data_directory))

    said = serve_and_fail(plan)

    assert "another" in said
    assert first.cluster_id in said
    assert any(path.is_file() for path in data_directory.rglob("*")), "the other cluster's data is untouched"


async def test_data_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    async with Cluster(brokers=1, directory=tmp_path / "first") as first:
        data_directory = first.node(0).data_directory
    plan = write_node(tmp_path / "second", cluster_id=first.cluster_id, data_dir=str(data_directory))
    text = plan.config_path.read_text().replace("id = 0", "id = 5").replace('"0@', '"5@')
    plan.config_path.write_text(text)

    said = serve_and_fail(plan)

    assert "5" in said
    assert "0" in said
    assert "node" in said


async def test_data_directory_in_use_by_a_running_node_is_refused(tmp_path: Path) -> None:
    async with Cluster(brokers=1) as cluster:
        plan = write_node(tmp_path, cluster_id=cluster.cluster_id, data_dir=str(cluster.node(0).data_directory))

        said = serve_and_fail(plan)

        assert str(cluster.node(0).data_directory) in said
        assert cluster.pid(0) is not None


async def test_second_broker_with_the_same_id_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with Cluster(brokers=1) as cluster:
        plan = write_node(
            tmp_path,
            cluster_id=cluster.cluster_id,
            node_roles=["broker"],
            quorum_voters=[f"0@{cluster.node(0).lane_endpoint}"],
        )

        said = serve_and_fail(plan)

        assert "broker id" in said or "DuplicateBrokerRegistration" in said or "node.id" in said
        async with cluster.client() as client, client.producer() as producer:
            await client.admin.create_topic("still-there", partitions=1, replication_factor=1)
            assert (await producer.send("still-there", b"x")).offset == 0


def test_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    plan = write_node(tmp_path / "node", data_dir=str(tmp_path / "file"))

    assert str(tmp_path / "file") in serve_and_fail(plan)


Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts small tmpfs file systems; needs root."""
    mounted: list[Path] = []

    def mount_tmpfs(options: str) -> Path:
        where = tmp_path / f"mount-{len(mounted)}"
        where.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
        mounted.append(where)
        return where

    yield mount_tmpfs
    for where in mounted:
        subprocess.run(["umount", str(where)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_data_directory_is_refused(tmp_path: Path, mount: Mount) -> None:
    where = mount("size=64k")
    (where / "filler").write_bytes(bytes(56 * 1024))
    plan = write_node(tmp_path / "node", data_dir=str(where))

    said = serve_and_fail(plan)

    assert str(where) in said
    assert "space" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_read_only_data_directory_is_refused(tmp_path: Path, mount: Mount) -> None:
    where = mount("ro,size=1m")
    plan = write_node(tmp_path / "node", data_dir=str(where))

    said = serve_and_fail(plan)

    assert str(where) in said
    assert "read-only" in said.lower()


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_data_directory_without_permission_is_refused(tmp_path: Path) -> None:
    where = tmp_path / "closed"
    where.mkdir(mode=0o500)
    plan = write_node(tmp_path / "node", data_dir=str(where))

    assert str(where) in serve_and_fail(plan)


def test_config_that_is_missing_or_has_an_unknown_key_is_refused(tmp_path: Path) -> None:
    plan = write_node(tmp_path, broker_sesion_timeout_ms=1)
    assert "sesion_timeout_ms" in serve_and_fail(plan)

    plan.config_path.unlink()
    assert str(plan.config_path) in serve_and_fail(plan)
