"""How long writes stop when a leader is killed with -9, and whether anything acknowledged gets lost.

One partition, a fixed rate of acknowledged writes. For each kill: the longest time between two acknowledgements from
just before the kill until writes flow again. At the end everything is read back: each acknowledged value must be
there, once, in order.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from logcluster.cli.bench_report import Figures, Target
from logcluster.cli.bench_work import TopicShape, bench_topic
from logcluster.cli.command import CommandFailed
from logcluster.runtime.clock import SystemClock, perf_counter_ns
from logcluster.runtime.scope import TaskScope

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.testing import Cluster

SETTLE_MS: Final = 1_000
"""Quiet time with full replica sets before each kill."""
RECOVERY_MS_MAX: Final = 30_000


class _Writer:
    """Sends numbers at a fixed rate; remembers what was acknowledged, and when."""

    def __init__(self, producer: Any, topic: str, rate: int) -> None:
        self._producer = producer
        self._topic = topic
        self._interval_ns = 1_000_000_000 // rate
        self._clock = SystemClock()
        self.acked: list[int] = []
        self.ack_times_ns: list[int] = []
        self.is_stopping = False
        self.sent = 0

    async def run(self, scope: TaskScope) -> None:
        """Send until told to stop; every record is awaited by a task of its own."""
        start_ns = perf_counter_ns()
        while not self.is_stopping:
            due_ns = start_ns + self.sent * self._interval_ns
            while (now_ns := perf_counter_ns()) < due_ns:
                await self._clock.sleep_ms(max(0, (due_ns - now_ns) // 1_000_000))
            number, self.sent = self.sent, self.sent + 1
            future = self._producer.send_nowait(self._topic, b"%d" % number)
            scope.spawn(self._outcome(number, future), name="ack")

    async def _outcome(self, number: int, future: Any) -> None:
        await future
        self.acked.append(number)
        self.ack_times_ns.append(perf_counter_ns())

    def longest_gap_ms(self, from_index: int) -> float:
        """Longest time between two acknowledgements from the given one on."""
        times = self.ack_times_ns[max(0, from_index) :]
        return max((later - earlier for earlier, later in pairwise(times)), default=0) / 1e6


async def failover_once(target: Target, *, kills: int, rate: int) -> Figures:
    """Kill the leader `kills` times.

    Raises:
        CommandFailed: an acknowledged record was lost, doubled or out of order; or writes did not resume.
    """
    if target.cluster is None:
        raise CommandFailed("this benchmark kills brokers, so it needs a cluster of its own: leave out --bootstrap")
    gaps: list[float] = []
    async with target.client() as client, bench_topic(client, TopicShape(partitions=1)) as topic:
        async with client.producer() as producer, TaskScope("failover") as scope:
            writer = _Writer(producer, topic, rate)
            writing = scope.spawn(writer.run(scope), name="write")
            for _ in range(kills):
                gaps.append(await _kill_once(target.cluster, client, topic, writer))
            writer.is_stopping = True
            await writing
            await producer.flush()
            while scope.task_count:
                await SystemClock().sleep_ms(5)
        values = await _read_back(client, topic)
    lost, duplicated, out_of_order = _compare(writer.acked, values)
    if lost or duplicated or out_of_order:
        raise CommandFailed(f"lost={lost} duplicated={duplicated} out_of_order={out_of_order}")
    ordered = sorted(gaps)
    return {
        "kills": kills,
        "rate_per_s": rate,
        "acked": len(writer.acked),
        "gap_median_ms": round(ordered[len(ordered) // 2], 1),
        "gap_worst_ms": round(ordered[-1], 1),
        "gaps_ms": [round(gap, 1) for gap in gaps],
        "lost": lost,
        "duplicated": duplicated,
        "out_of_order": out_of_order,
    }


async def _kill_once(cluster: Cluster, client: Client, topic: str, writer: _Writer) -> float:
    """Kill the leader, wait until writes flow again, restart it; returns the gap in milliseconds."""
    clock = SystemClock()
    await _wait_full(client, topic)
    await clock.sleep_ms(SETTLE_MS)
    leader = await cluster.leader_of(topic, 0)
    first, sent_before = len(writer.ack_times_ns) - 1, writer.sent
    await cluster.kill(leader)
    deadline_ms = clock.monotonic_ms() + RECOVERY_MS_MAX
    while not writer.acked or max(writer.acked[first:], default=0) < sent_before:
        if clock.monotonic_ms() > deadline_ms:
            raise CommandFailed(f"no write was acknowledged for {RECOVERY_MS_MAX} ms after the kill")
        await clock.sleep_ms(5)
    await clock.sleep_ms(200)
    gap_ms = writer.longest_gap_ms(first)
    await cluster.start(leader)
    return gap_ms


async def _wait_full(client: Client, topic: str) -> None:
    clock = SystemClock()
    deadline_ms = clock.monotonic_ms() + RECOVERY_MS_MAX
    while True:
        partition = (await client.admin.describe_topic(topic)).partitions[0]
        if len(partition.in_sync_replicas) == len(partition.replicas):
            return
        if clock.monotonic_ms() > deadline_ms:
            raise CommandFailed(f"replicas are not back in sync after {RECOVERY_MS_MAX} ms")
        await clock.sleep_ms(20)


async def _read_back(client: Client, topic: str) -> list[int]:
    async with client.consumer(topic, start="earliest", until="latest") as consumer:
        return [int(record.value or b"-1") async for record in consumer]


def _compare(acked: list[int], values: list[int]) -> tuple[int, int, int]:
    """How many acknowledged numbers are missing, how many stand twice, how many stand behind a larger one."""
    counts = Counter(values)
    lost = sum(1 for number in acked if number not in counts)
    duplicated = sum(count - 1 for count in counts.values())
    out_of_order = sum(1 for earlier, later in pairwise(values) if later < earlier)
    return lost, duplicated, out_of_order
