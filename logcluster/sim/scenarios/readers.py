"""Stories of what readers were shown, and of leaders that did not know that they were none any more (P3).

A read is a promise as an acknowledgement is one: what was seen stays.
"""

from __future__ import annotations

from typing import Final

from logcluster.sim.scenarios.scenario import Scenario
from logcluster.sim.scenarios.stage import Stage, StageOptions


async def _seen_before_replicated(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower])
    hasty = await stage.writer("hasty", acks=1)
    writer = await stage.writer("writer", acks=1)
    early = await stage.reader("early", "orders")
    stage.cut(leader, follower)
    await stage.send(hasty, "orders", 3)
    await early.poll(timeout_ms=100)
    early.kill()
    stage.crash(leader)
    await stage.wait_until(lambda: stage.leader_of("orders") == follower, "the follower leads")
    await stage.send(writer, "orders", 3)
    stage.join(leader, follower)
    await stage.running(leader)


async def _end_forgotten(stage: Stage) -> None:
    first, second, third = stage.others(stage.controller())
    await stage.create_topic("orders", [first, second, third])
    writer = await stage.writer()
    reader = await stage.reader("reader", "orders")
    await stage.send(writer, "orders")
    for follower in (second, third):
        stage.slow_link(first, follower, 60)
    await stage.acked(writer.send_many("orders", 10))
    stage.cut(second, third)
    stage.crash(first)
    await stage.wait_until(lambda: stage.leader_of("orders") == second, "the second leads")
    question = stage.world.driver.spawn(reader.latest(), name="question")
    await stage.sleep(200)
    stage.join(second, third)
    await question


async def _leader_wakes_up(stage: Stage) -> None:
    controller = stage.controller()
    leader, follower = stage.others(controller)
    await stage.create_topic("orders", [leader, follower, controller])
    writer = await stage.writer("writer", delivery_timeout_ms=6_000)
    other = await stage.writer("other")
    await stage.send(writer, "orders")
    for node in (controller, follower):
        stage.cut(node, writer.host)
    stage.machine(leader).pause()
    stage.hold(controller, leader)  # it finds the request in its socket before it finds the news
    doubtful = writer.send("orders")
    await stage.wait_until(lambda: stage.leader_of("orders") == follower, "another one leads")
    await stage.acked(other.send_many("orders", 3), timeout_ms=20_000)
    stage.machine(leader).resume()
    await stage.wait_until(lambda: stage.log_end(leader, "orders") == 2, "it has found the request")
    await stage.sleep(100)
    stage.release(controller, leader)
    await stage.wait_until(lambda: doubtful.is_done, "the outcome", timeout_ms=20_000)


SCENARIOS: Final = (
    Scenario(
        name="seen-before-replicated",
        title="With acks=1 a reader is shown records that no follower has; their leader dies, and others stand there",
        source="Redpanda #14794, #15330",
        safeguard="readers are given what lies below the high watermark, whatever the producer asked for",
        ablation="reads-below-high-watermark",
        expected=frozenset({"inconsistent-offsets"}),
        play=_seen_before_replicated,
    ),
    Scenario(
        name="end-forgotten",
        title="A new leader names an end of its log that lies before records which were acknowledged, and read",
        source="KIP-207; Redpanda #5090",
        safeguard="a new leader names its end only once it knows all that was committed before its epoch",
        ablation="latest-offset-of-own-epoch",
        expected=frozenset({"stale-list-offsets"}),
        play=_end_forgotten,
        options=StageOptions(brokers=4),
    ),
    Scenario(
        name="leader-wakes-up",
        title="A leader is paused, another is elected, and the first wakes up with a request in its hands",
        source="etcd #20418 (a pause outlives the assumption of leadership)",
        safeguard="a leader acknowledges what its whole in-sync set has reported in its epoch, not what it believes",
        ablation="high-watermark-covers-isr",
        expected=frozenset({"lost-write"}),
        play=_leader_wakes_up,
    ),
)
