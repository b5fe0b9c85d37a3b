"""Hosts made of namespaces: what the kernel cuts is cut, in one direction if asked, and nothing is left afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos.interfaces import CLIENTS, ClusterOptions
from chaos.network import why_no_namespaces
from chaos.targets.namespaces import NamespaceTarget
from logcluster.client.client import Client, connect

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(why_no_namespaces()), reason=f"network namespaces: {why_no_namespaces()}"),
]


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[NamespaceTarget]:
    made = NamespaceTarget()
    await made.start(ClusterOptions(), tmp_path)
    try:
        yield made
    finally:
        await made.stop()


async def leader_of(client: Client) -> int | None:
    return (await client.admin.describe_topic("orders")).partitions[0].leader_id


def reaches(target: NamespaceTarget, source: int | str, destination: int) -> bool:
    """Whether a connection to the lane of a broker comes about from a host."""
    processes = target._running
    port = processes.plans[destination].ports.grpc
    code = f"import socket; socket.create_connection(('{processes.address(destination)}', {port}), timeout=0.5)"
    command = target._hosts.command(source, ["python3", "-c", code])
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


async def test_a_leader_that_is_cut_off_is_replaced_and_loses_nothing(target: NamespaceTarget) -> None:
    async with connect(target.bootstrap()) as client:
        await client.admin.create_topic("orders", partitions=1, replication_factor=3)
        async with client.producer() as producer:
            sent = [await producer.send("orders", b"%d" % number) for number in range(20)]
            leader = await leader_of(client)
            assert leader is not None
            others = [broker_id for broker_id in target.broker_ids if broker_id != leader]
            for other in others:
                await target.cut(leader, other)
                await target.cut(other, leader)
            assert not reaches(target, leader, others[0]) and not reaches(target, others[0], leader)
            assert reaches(target, CLIENTS, leader), "clients reach it still"
            sent += [await producer.send("orders", b"%d" % number) for number in range(20, 40)]
            assert await leader_of(client) in others
            await target.heal_links()
            assert reaches(target, others[0], leader)
        assert [ack.offset for ack in sent] == list(range(40))


async def test_a_cut_has_a_direction(target: NamespaceTarget) -> None:
    await target.cut(0, 1)
    await target.cut(0, 1)
    assert not reaches(target, 0, 1), "it hears no answer"
    assert reaches(target, 0, 2) and reaches(target, 2, 1)
    await target.heal_link(0, 1)
    assert reaches(target, 0, 1)
    await target.reset(CLIENTS, 2)
    assert reaches(target, CLIENTS, 2)


async def test_nothing_is_left(tmp_path: Path) -> None:
    target = NamespaceTarget()
    await target.start(ClusterOptions(brokers=1), tmp_path)
    name = target._hosts.namespace(0)
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert name in listed
    before = Path("/proc/thread-self/ns/net").readlink()
    await target.stop()
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert name not in listed
    assert Path("/proc/thread-self/ns/net").readlink() != before, "this thread is back on the machine's own network"
