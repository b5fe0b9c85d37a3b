"""A leader is killed, and the logs of those who survive tell how the partition got its next one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def lines_of(cluster: Cluster, broker_ids: list[int]) -> list[dict[str, Any]]:
    """What these brokers told so far, in the order of time; one clock is behind all of it."""
    lines = [
        json.loads(text)
        for broker_id in broker_ids
        for text in cluster.node(broker_id).log_path.read_text(encoding="utf-8").splitlines()
        if text.startswith("{") and text.endswith("}")  # the last line may not be complete yet
    ]
    return sorted(lines, key=lambda line: line["timestamp"])


def only(lines: list[dict[str, Any]], event: str, **facts: Any) -> dict[str, Any]:
    """The one line of an event with these facts."""
    (found,) = [line for line in lines if line["event"] == event and facts.items() <= line.items()]
    return found


async def test_the_survivors_logs_tell_the_failover_of_a_killed_leader() -> None:
    async with Cluster(brokers=3) as cluster:
        async with cluster.client() as client:
            await client.admin.create_topic("orders", partitions=1, replication_factor=3)
            async with client.producer() as producer:
                await producer.send_many("orders", [b"%d" % number for number in range(10)])
        dead = await cluster.leader_of("orders", 0)
        first = [line for line in lines_of(cluster, [dead]) if line["event"] == "partition_led"][-1]
        survivors = [broker_id for broker_id in cluster.broker_ids if broker_id != dead]
        before = lines_of(cluster, survivors)
        await cluster.kill(dead)
        lines: list[dict[str, Any]] = []
        async with asyncio.timeout(30):
            while not {"in_sync_shrunk", "partition_followed"} <= {line["event"] for line in lines}:
                await asyncio.sleep(0.05)
                lines = [line for line in lines_of(cluster, survivors) if line not in before]
        fenced = only(lines, "broker_fenced", broker_id=dead)
        elected = only(lines, "leader_elected", partition="orders-0")
        leader_id, leader_epoch = elected["leader_id"], elected["leader_epoch"]
        led = only(lines, "partition_led", partition="orders-0", leader_epoch=leader_epoch)
        shrunk = only(lines, "in_sync_shrunk", partition="orders-0")
        followed = only(lines, "partition_followed", partition="orders-0", leader_epoch=leader_epoch)

        places = [lines.index(line) for line in (fenced, elected, led, shrunk)]
        assert places == sorted(places), "fenced, elected, led, in-sync set shrunk"
        assert leader_epoch == first["leader_epoch"] + 1
        assert elected["previous_leader_id"] == dead
        assert (led["node"], led["start_offset"]) == (leader_id, 10)
        assert leader_id in survivors
        assert (followed["node"], followed["leader_id"]) == (sum(survivors) - leader_id, leader_id)
        assert (shrunk["node"], shrunk["leader_epoch"]) == (leader_id, leader_epoch)
        assert (shrunk["removed"], shrunk["reason"]) == ([dead], "fenced")
        assert sorted(shrunk["in_sync_replicas"]) == sorted(elected["in_sync_replicas"]) == survivors
        assert fenced["broker_epoch"] == only(lines_of(cluster, [dead]), "registered")["broker_epoch"]
        assert fenced["reason"]
        assert fenced["node"] == elected["node"], "both are the active controller's"
        reigns = [line for line in before + lines[: places[0]] if line["event"] == "controller_elected"]
        assert reigns[-1]["node"] == fenced["node"]
