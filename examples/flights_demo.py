"""The demo: real data, three brokers, the busiest leader killed half-way, and proof that nothing was lost.

All departures from New York City in 2013 go as JSON, keyed by carrier, into a topic of 6 partitions with 3 replicas.
When half are sent, the broker that leads most partitions is killed (kill -9); sending goes on. The broker is started
again, every in-sync replica set gets full, everything is read back and compared with the source: count, content,
order per key. Exit code 0 only if nothing was lost, doubled, changed or out of order.

    scripts/demo                              # or, with everything installed: python -m examples.flights_demo
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.flights_check import ReadBack
from examples.flights_data import Row, read_flights
from logcluster.client.client import Client
from logcluster.client.futures import RecordFuture
from logcluster.client.producer import Producer
from logcluster.model.errors import BufferFull, LogClusterError
from logcluster.testing import Cluster

TOPIC = "flights"
PARTITIONS = 6
REPLICAS = 3
TURN_RECORDS = 500
FULL_ISR_TIMEOUT_S = 30.0

Advance = Callable[[int], None]


@dataclass(slots=True)
class Sending:
    """Records on their way and what became of them.

    A key's records are acknowledged in order, so only the oldest of each key is looked at.
    """

    sent: int = 0
    acked: int = 0
    failed: int = 0
    pending: dict[bytes, deque[RecordFuture]] = field(default_factory=lambda: defaultdict(deque))
    last_ack_s: dict[int, float] = field(default_factory=dict)
    """By partition."""
    watched: frozenset[int] = frozenset()
    """Partitions that the killed broker led."""
    write_gap_s: float = 0.0
    """Longest time between two acknowledgements of one of these partitions, from the kill on."""

    def collect(self) -> None:
        """Take the outcomes that are known."""
        now_s = time.perf_counter()
        for futures in self.pending.values():
            partition = -1
            while futures and futures[0].done():
                future = futures.popleft()
                if future.exception() is not None:
                    self.failed += 1
                    continue
                self.acked += 1
                partition = future.result().partition
            if partition in self.watched:
                self.write_gap_s = max(self.write_gap_s, now_s - self.last_ack_s.get(partition, now_s))
            if partition >= 0:
                self.last_ack_s[partition] = now_s

    @property
    def is_settled(self) -> bool:
        """Every record has its outcome."""
        return not any(self.pending.values())


async def send_rows(producer: Producer, rows: Sequence[Row], sending: Sending, advance: Advance) -> None:
    """Send in the order of the source; waits while the producer's buffer is full."""
    for row in rows:
        while True:
            try:
                sending.pending[row.key].append(producer.send_nowait(TOPIC, row.value, row.key))
                break
            except BufferFull:
                await asyncio.sleep(0.002)
                sending.collect()
                advance(sending.acked)
        sending.sent += 1
        if sending.sent % TURN_RECORDS == 0:
            await asyncio.sleep(0)
            sending.collect()
            advance(sending.acked)


async def settle(sending: Sending, advance: Advance) -> None:
    """Wait until every record has its outcome."""
    while not sending.is_settled:
        await asyncio.sleep(0.005)
        sending.collect()
        advance(sending.acked)


async def kill_busiest(cluster: Cluster, client: Client, sending: Sending) -> int:
    """Kill -9 the broker that leads most partitions; its id is returned."""
    topic = await client.admin.describe_topic(TOPIC)
    leaders = {partition.partition: partition.leader_id for partition in topic.partitions}
    counts = Counter(leader for leader in leaders.values() if leader is not None)
    victim = max(sorted(counts), key=lambda broker_id: counts[broker_id])
    sending.collect()
    sending.watched = frozenset(partition for partition, leader in leaders.items() if leader == victim)
    await cluster.kill(victim)
    return victim


async def wait_full_isr(client: Client) -> float:
    """Wait until every replica of every partition is in sync; returns the seconds it took."""
    start_s = time.perf_counter()
    while True:
        topic = await client.admin.describe_topic(TOPIC)
        if all(len(partition.in_sync_replicas) == REPLICAS for partition in topic.partitions):
            return time.perf_counter() - start_s
        if time.perf_counter() - start_s > FULL_ISR_TIMEOUT_S:
            raise SystemExit(f"not every replica is back in sync after {FULL_ISR_TIMEOUT_S:g} s")
        await asyncio.sleep(0.05)


async def read_back(client: Client, check: ReadBack, advance: Advance) -> None:
    """Read the topic from its beginning to its present end."""
    async with client.consumer(TOPIC, start="earliest", until="latest") as consumer:
        async for record in consumer:
            check.add(record.key, record.value)
            if check.read % TURN_RECORDS == 0:
                advance(check.read)
    advance(check.read)


@dataclass(slots=True)
class Figures:
    """What the summary tells beside the counts."""

    send_s: float = 0.0
    read_s: float = 0.0
    isr_s: float = 0.0
    victim: int = -1


async def run_job(rows: Sequence[Row], display: Progress) -> tuple[Sending, ReadBack, Figures]:
    """Send, kill, restart, read back."""
    sending, check, figures = Sending(), ReadBack(rows), Figures()
    send_task = display.add_task("sending", total=len(rows))
    read_task = display.add_task("reading back", total=len(rows), start=False)

    def acked(count: int) -> None:
        display.update(send_task, completed=count)

    def read(count: int) -> None:
        display.update(read_task, completed=count)

    async with Cluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=REPLICAS)
        half, three_quarters = len(rows) // 2, len(rows) * 3 // 4
        start_s = time.perf_counter()
        async with client.producer() as producer:
            await send_rows(producer, rows[:half], sending, acked)
            figures.victim = await kill_busiest(cluster, client, sending)
            display.update(send_task, description=f"sending (broker {figures.victim} killed)")
            await send_rows(producer, rows[half:three_quarters], sending, acked)
            await cluster.start(figures.victim, wait=False)
            display.update(send_task, description=f"sending (broker {figures.victim} restarted)")
            await send_rows(producer, rows[three_quarters:], sending, acked)
            await producer.flush()
            await settle(sending, acked)
        figures.send_s = time.perf_counter() - start_s
        display.update(send_task, description="sent, waiting for full replica sets")
        await cluster.wait_ready()
        figures.isr_s = await wait_full_isr(client)
        display.update(send_task, description="sent")
        display.start_task(read_task)
        start_s = time.perf_counter()
        await read_back(client, check, read)
        figures.read_s = time.perf_counter() - start_s
    return sending, check, figures


def summary(rows: Sequence[Row], sending: Sending, check: ReadBack, figures: Figures) -> str:
    """The one text that the demo ends with."""
    worst = ", ".join(f"{carrier} {minutes:.1f} min" for carrier, minutes in check.worst_carriers())
    return "\n".join(
        [
            f"rows sent {sending.sent:,}   acked {sending.acked:,}   failed {sending.failed:,}   read {check.read:,}",
            f"lost={check.lost} duplicated={check.duplicated} out_of_order={check.out_of_order}"
            f"   changed={check.changed}",
            f"broker {figures.victim} killed with kill -9 at half; longest write gap of its partitions: "
            f"{sending.write_gap_s * 1000:,.0f} ms; all replicas back in sync {figures.isr_s:.1f} s after the end",
            f"written {len(rows) / figures.send_s:,.0f} records/s (acks=all, fsync on every replica, kill included), "
            f"read {check.read / figures.read_s:,.0f} records/s",
            f"worst mean arrival delay, from what was read: {worst}",
        ]
    )


def main() -> int:
    """Run the demo; 0 only if everything came back exactly once, in order and unchanged."""
    parser = argparse.ArgumentParser(description="Send real data through a cluster, kill a leader, lose nothing.")
    parser.add_argument("--rows", type=int, default=None, help="use only the first ROWS rows")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as display:
        load_task = display.add_task("loading the data", total=None)
        rows = list(read_flights(arguments.rows))
        display.update(load_task, total=len(rows), completed=len(rows))
        try:
            sending, check, figures = asyncio.run(run_job(rows, display))
        except LogClusterError as error:
            console.print(f"failed: {error.message}")
            return 1
    print(summary(rows, sending, check, figures))
    is_good = check.is_perfect and not sending.failed and sending.acked == len(rows)
    print("everything came back exactly once, in order" if is_good else "THIS IS NOT WHAT WAS PROMISED")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
