"""Consumer groups under load: commits, takeover by another coordinator, a killed member, a large rebalance.

python -m bench.groups [commits] [failover] [kill] [rebalance]

Real broker processes on this machine, the client in this one. Prints one JSON object per part.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import psutil

import logcluster
from logcluster.client.client import Client
from logcluster.client.connections import call
from logcluster.client.group.coordinator import CoordinatorCalls
from logcluster.model.errors import LogClusterError
from logcluster.testing import Cluster
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb

COMMIT_SECONDS = 8
GROUPS = 10_000
PARTITIONS_PER_GROUP = 10


def rss_mb(cluster: Cluster) -> list[float]:
    """Resident memory of each broker, in MB."""
    pids = [cluster.pid(broker_id) for broker_id in cluster.broker_ids]
    return [round(psutil.Process(pid).memory_info().rss / 1e6, 1) for pid in pids if pid is not None]


def report(part: str, **figures: object) -> None:
    """Print what was measured."""
    print(json.dumps({"part": part, **figures}), flush=True)


async def commits() -> None:
    """Offset commits per second on one broker, each of one partition, from 100 members of as many groups."""
    async with Cluster(brokers=1) as cluster, cluster.client() as client:
        await client.admin.create_topic("t", partitions=1, replication_factor=1)
        calls = CoordinatorCalls(client._open())
        epochs: dict[str, int] = {}
        for number in range(100):
            group = f"group-{number}"
            request = pb.HeartbeatRequest(
                group=group, member_id="m", subscription=pb.Subscription(topics=["t"]), owned=pb.Assignment()
            )
            epochs[group] = (await calls.call(group, lambda stub: stub.Heartbeat, request)).member_epoch
        done = 0
        end = time.perf_counter() + COMMIT_SECONDS

        async def work(group: str) -> None:
            nonlocal done
            stub = await calls.stub(group, timeout_ms=5_000)
            request = pb.CommitOffsetsRequest(group=group, member_id="m", member_epoch=epochs[group])
            request.offsets.add(topic="t", partition=0, offset=0)
            while time.perf_counter() < end:
                answer = await call(stub.CommitOffsets, request, timeout_ms=5_000)
                assert not answer.results[0].error.code, answer.results[0].error
                done += 1

        await asyncio.gather(*(work(group) for group in epochs))
        report("commits", per_s=round(done / COMMIT_SECONDS), members=100, brokers=1, rss_mb=rss_mb(cluster))


async def failover() -> None:
    """10,000 groups with ten offsets each; the busiest coordinator is killed, and every group commits again."""
    async with Cluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic("t", partitions=PARTITIONS_PER_GROUP, replication_factor=3)
        await client.admin.groups.alter_offsets("first", {("t", 0): 0})
        calls = CoordinatorCalls(client._open())
        before_mb = rss_mb(cluster)

        async def commit(group: str, timeout_ms: int = 30_000) -> None:
            request = pb.CommitOffsetsRequest(group=group, member_epoch=-1)
            for partition in range(PARTITIONS_PER_GROUP):
                request.offsets.add(topic="t", partition=partition, offset=0)
            await calls.call(group, lambda stub: stub.CommitOffsets, request, timeout_ms=timeout_ms)

        names = [f"group-{number}" for number in range(GROUPS)]
        started = time.perf_counter()
        for index in range(0, GROUPS, 200):
            await asyncio.gather(*(commit(group) for group in names[index : index + 200]))
        filled_s = time.perf_counter() - started
        await asyncio.sleep(3)
        after_mb = rss_mb(cluster)
        hosts: dict[int, list[str]] = {}
        for group in names[:600]:
            await calls.stub(group, timeout_ms=5_000)
            hosts.setdefault(calls._broker_ids[group], []).append(group)
        victim = max(hosts, key=lambda broker_id: len(hosts[broker_id]))
        await cluster.kill(victim)
        killed = time.perf_counter()
        took: list[float] = []

        async def until_accepted(group: str) -> None:
            calls.forget(group)
            await commit(group)
            took.append(time.perf_counter() - killed)

        await asyncio.gather(*(until_accepted(group) for group in hosts[victim][:100]))
        report(
            "failover",
            groups=GROUPS,
            partitions=PARTITIONS_PER_GROUP,
            filled_s=round(filled_s, 1),
            growth_mb=[round(after - before, 1) for before, after in zip(before_mb, after_mb, strict=True)],
            first_commit_s=round(min(took), 3),
            last_of_100_groups_s=round(max(took), 3),
        )


async def be_member(bootstrap: str) -> None:
    """Read for ever, and say what is read."""
    async with logcluster.connect(bootstrap) as client, client.consumer("t", group="g") as consumer:
        async for record in consumer:
            print(record.partition, flush=True)


async def kill() -> None:
    """A member is killed with -9: how long until another one reads its partitions."""
    async with Cluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic("t", partitions=6, replication_factor=3)
        gaps: list[float] = []
        for _ in range(5):
            gaps.append(await _kill_once(cluster, client))
        report("kill", gaps_s=[round(gap, 2) for gap in gaps], worst_s=round(max(gaps), 2))


async def _kill_once(cluster: Cluster, client: Client) -> float:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.groups", "--member", cluster.bootstrap, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    while True:
        try:
            (facts,) = await client.admin.groups.describe("g")
            if len(facts.members) == 2 and facts.state == "stable":
                break
        except LogClusterError:
            pass
        await asyncio.sleep(0.05)
    async with client.producer(linger_ms=0) as producer:
        seen: dict[int, float] = {}

        async def listen(process: asyncio.subprocess.Process) -> None:
            assert process.stdout is not None
            async for line in process.stdout:
                if line.endswith(b"\n"):
                    seen[int(line)] = time.perf_counter()

        async def write() -> None:
            while True:
                for partition in range(6):
                    producer.send_nowait("t", b"x", partition=partition)
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as tasks:
            jobs = [tasks.create_task(write()), *(tasks.create_task(listen(process)) for process in processes)]
            await asyncio.sleep(1)
            os.kill(processes[0].pid, signal.SIGKILL)
            killed = time.perf_counter()
            await asyncio.sleep(0.2)
            stale = {partition for partition, at in seen.items() if at < killed + 0.1}
            while any(seen[partition] < killed + 0.15 for partition in stale) and time.perf_counter() < killed + 20:
                await asyncio.sleep(0.01)
            gap = max((seen[partition] for partition in stale), default=killed) - killed
            for job in jobs:
                job.cancel()
    processes[1].terminate()
    await asyncio.gather(*(process.wait() for process in processes))
    await asyncio.sleep(1)
    return gap


async def rebalance() -> None:
    """A hundred members share 1,000 partitions; one more joins."""
    async with Cluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic("t", partitions=1_000, replication_factor=1)
        clients: list[Any] = []

        async def join() -> None:
            one = await cluster.client().__aenter__()
            consumer = await one.consumer("t", group="g").__aenter__()
            clients.append((one, consumer))

        async def settle() -> float:
            started = time.perf_counter()
            while True:
                (facts,) = await client.admin.groups.describe("g")
                if facts.state == "stable" and len(facts.members) == len(clients):
                    return time.perf_counter() - started
                await asyncio.sleep(0.05)

        started = time.perf_counter()
        for _ in range(100):
            await join()
        await asyncio.sleep(0.5)
        await settle()
        all_s = time.perf_counter() - started
        started = time.perf_counter()
        await join()
        await asyncio.sleep(0.05)
        await settle()
        one_s = time.perf_counter() - started
        events = await client.admin.groups.events("g")
        moved = next(event.moved for event in reversed(events) if event.kind == "rebalanced")
        report(
            "rebalance",
            members=101,
            partitions=1_000,
            hundred_joined_s=round(all_s, 2),
            one_more_s=round(one_s, 2),
            moved=moved,
        )
        for one, consumer in clients:
            await consumer.__aexit__(None, None, None)
            await one.__aexit__(None, None, None)


PARTS = {"commits": commits, "failover": failover, "kill": kill, "rebalance": rebalance}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        asyncio.run(be_member(sys.argv[2]))
    else:
        for name in sys.argv[1:] or PARTS:
            asyncio.run(PARTS[name]())
