"""Stories of acknowledged records that were gone: acks before fsync, failed syncs, one power failure too many (P1, P8).

NATS JetStream synced its streams every two minutes; Kafka leaves syncing to its replicas; Rebello and others found that
databases take a failed fsync for a delayed one.
"""

from __future__ import annotations

import errno
from typing import Final

from logcluster.sim.scenarios.scenario import Scenario
from logcluster.sim.scenarios.stage import Stage


async def _all_lose_power(stage: Stage) -> None:
    replicas = stage.others()
    await stage.create_topic("orders", replicas)
    writer = await stage.writer()
    await stage.send(writer, "orders")
    for node in replicas:
        stage.slow_disk(node, 100)
    await stage.acked(writer.send_many("orders", 20))
    stage.power_off(*replicas)
    await stage.sleep(1_000)


async def _one_power_failure(stage: Stage) -> None:
    away, failing, last = stage.others()
    await stage.create_topic("orders", [last, failing, away])
    writer = await stage.writer()
    await stage.send(writer, "orders")
    stage.isolate(away)
    await stage.wait_until(lambda: away not in stage.in_sync("orders"), "two are in sync")
    stage.slow_disk(failing, 100)
    await stage.acked(writer.send_many("orders", 20))
    stage.power_off(failing)
    stage.isolate(last)
    stage.join(failing, away)
    await stage.running(failing)
    await stage.wait_until(lambda: stage.leader_of("orders") == failing, "who lost its power leads")
    await stage.send(writer, "orders")


async def _sync_fails(stage: Stage) -> None:
    leader, follower, absent = stage.others()
    await stage.create_topic("orders", [leader, follower, absent])
    writer = await stage.writer(delivery_timeout_ms=1_000)
    await stage.send(writer, "orders")
    stage.crash(absent)
    await stage.wait_until(lambda: absent not in stage.in_sync("orders"), "two are in sync")
    for node in (leader, follower):
        stage.machine(node).disk.fail_next("sync", errno.EIO, path_contains="orders")
    doubtful = writer.send_many("orders", 5)
    await stage.wait_until(lambda: all(record.is_done for record in doubtful), "their outcome")
    stage.power_off(leader, follower)
    await stage.sleep(200)


async def _power_lost_while_eligible(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower], flush_mode="async")
    writer = await stage.writer()
    await stage.send(writer, "orders")
    stage.slow_disk(follower, 200)
    await stage.acked(writer.send_many("orders", 20))
    stage.cut(leader, follower)
    stage.power_off(follower)
    await stage.wait_until(lambda: stage.in_sync("orders") == (leader,), "the leader is alone")
    await stage.running(follower)
    stage.crash(leader)
    await stage.sleep(1_000)


SCENARIOS: Final = (
    Scenario(
        name="all-lose-power",
        title="A data centre loses its power right after acknowledgements; JetStream synced every two minutes",
        source="NATS #7564; Jepsen on NATS 2.12.1",
        safeguard="a replica reports what is on its disk, so that an acknowledgement waits for fdatasync in sync",
        ablation="fsync-before-ack",
        expected=frozenset({"lost-write"}),
        play=_all_lose_power,
    ),
    Scenario(
        name="one-power-failure",
        title="A minority is away, one of the others loses its power, and both outvote the one that has everything",
        source="Jepsen on NATS 2.12.1 (#7567): one power failure and a partition lose acknowledged records",
        safeguard="what a replica reported is on its disk, so that every member of the in-sync set may lead",
        ablation="fsync-before-ack",
        expected=frozenset({"lost-write"}),
        play=_one_power_failure,
    ),
    Scenario(
        name="failed-fsync",
        title="fsync fails once, is tried again, succeeds and has written nothing",
        source="Rebello et al., ATC 2020; PostgreSQL's fsync errors of 2018",
        safeguard="after a failed fsync the data counts as lost, and the log directory stops",
        ablation="failed-fsync-stops",
        expected=frozenset({"lost-write"}),
        play=_sync_fails,
    ),
    Scenario(
        name="unclean-restart",
        title="A follower loses its page cache with its power, comes back as if nothing were, and is elected",
        source="KIP-966 and KAFKA-18635 (unclean shutdown detection); Redpanda on fsync in Kafka",
        safeguard="a process that did not stop cleanly leads only behind everybody who did, if it synced at all",
        ablation="unclean-restart-detection",
        expected=frozenset({"lost-write"}),
        play=_power_lost_while_eligible,
    ),
)
