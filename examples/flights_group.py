"""A consumer group at work: three processes share the flights, one is killed, and then the group's coordinator.

python -m examples.flights_group [--rows 20000]

Every row is handled at least once, committed offsets never go back, and the group tells what happened to it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import logcluster
from examples.flights_data import read_flights
from logcluster.client.client import Client
from logcluster.testing import Cluster

TOPIC = "flights"
GROUP = "delays"
PARTITIONS = 6
MEMBERS = 3


async def be_member(bootstrap: str) -> None:
    """What one of the processes does: print each row it handles, until it is told to stop."""
    async with (
        logcluster.connect(bootstrap) as client,
        client.consumer(TOPIC, group=GROUP) as consumer,
    ):
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async for record in consumer:
            print(record.partition, record.offset, flush=True)
            await asyncio.sleep(0.0005)


class Members:
    """The processes, and what they have handled."""

    def __init__(self, bootstrap: str) -> None:
        self.handled: Counter[tuple[int, int]] = Counter()
        self.by_member: Counter[int] = Counter()
        self.processes: list[asyncio.subprocess.Process] = []
        self._bootstrap = bootstrap

    async def start(self, readers: asyncio.TaskGroup) -> None:
        """Start one more."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "examples.flights_group", "--member", self._bootstrap, stdout=subprocess.PIPE
        )
        self.processes.append(process)
        readers.create_task(self._read(process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.endswith(b"\n"):  # the last line of a killed process may be torn
                partition, offset = map(int, line.split())
                self.handled[partition, offset] += 1
                self.by_member[process.pid] += 1

    async def stop(self) -> None:
        """End them all, and wait."""
        for process in self.processes:
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for process in self.processes))


async def watch_offsets(client: Client, stop: asyncio.Event) -> list[str]:
    """Look at the committed offsets again and again; returns each that went back."""
    seen: dict[object, int] = {}
    backwards: list[str] = []
    while not stop.is_set():
        for partition, committed in (await client.admin.groups.offsets(GROUP)).items():
            if committed.offset < seen.get(partition, 0):
                backwards.append(f"{partition}: from {seen[partition]} to {committed.offset}")
            seen[partition] = committed.offset
        await asyncio.sleep(0.1)
    return backwards


async def until(count: int, members: Members, what: str) -> None:
    """Wait until so many rows were handled."""
    async with asyncio.timeout(120):
        while len(members.handled) < count:
            await asyncio.sleep(0.02)
    print(f"{len(members.handled):,} rows handled: {what}")


@asynccontextmanager
async def flights(rows: int) -> AsyncIterator[tuple[Cluster, Client, int]]:
    """Three brokers with the topic, and how many rows are in it."""
    async with Cluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=3)
        count = 0
        async with client.producer() as producer:
            for row in read_flights(rows):
                producer.send_nowait(TOPIC, row.value, key=b"%d" % count)
                count += 1
                if count % 1_000 == 0:
                    await producer.flush()
        yield cluster, client, count


async def main(rows: int) -> bool:
    """Tell the story; returns whether nothing was lost and nothing went back."""
    async with flights(rows) as (cluster, client, count):
        print(f"{count:,} flights in {PARTITIONS} partitions on 3 brokers; {MEMBERS} processes in group {GROUP!r}")
        members = Members(cluster.bootstrap)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(MEMBERS):
                await members.start(tasks)
            await until(count // 4, members, "kill -9 one member")
            watching = tasks.create_task(watch_offsets(client, stop))
            os.kill(members.processes[0].pid, signal.SIGKILL)
            await until(count // 2, members, "kill -9 the group's coordinator")
            coordinator = (await client.admin.groups.describe(GROUP))[0].coordinator_id
            await cluster.kill(coordinator)
            await until(count, members, "all of them")
            await asyncio.sleep(2)  # for the last commits
            lags = await client.admin.groups.lag(GROUP)
            (facts,) = await client.admin.groups.describe(GROUP)
            events = await client.admin.groups.events(GROUP)
            stop.set()
            await members.stop()
        backwards = await watching
        lost = count - len(members.handled)
        print(f"group {GROUP}: {facts.state}, {len(facts.members)} members, coordinator {facts.coordinator_id}")
        for event in events:
            print(f"  {event.sequence:3} {event.kind:11} {event.reason}")
        again = sum(members.handled.values()) - len(members.handled)
        behind = sum(lag.records or 0 for lag in lags)
        print(f"lost={lost} handled_again={again} offsets_that_went_back={len(backwards)} not_committed={behind}")
        return lost == 0 and not backwards and behind == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="how many flights to read (default: 20000)")
    parser.add_argument("--member", metavar="BOOTSTRAP", help="be one of the members; used by the example itself")
    options = parser.parse_args()
    if options.member is not None:
        try:
            asyncio.run(be_member(options.member))
        except asyncio.CancelledError:
            sys.exit(0)
    else:
        sys.exit(0 if asyncio.run(main(options.rows)) else 1)
