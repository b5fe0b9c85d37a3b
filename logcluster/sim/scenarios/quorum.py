"""Stories of metadata quorums: forgotten votes, leaders that go on in their old term, hasty answers (P1, P2)."""

from __future__ import annotations

from typing import Final

from logcluster.client.client import Client
from logcluster.model.errors import TopicAlreadyExists
from logcluster.sim.invariants.view import raft_state
from logcluster.sim.process import Process
from logcluster.sim.scenarios.scenario import Scenario
from logcluster.sim.scenarios.stage import ADMIN, OffScript, Stage, StageOptions


def _raft_end(stage: Stage, node: int) -> int:
    """Index of the last entry in a running node's quorum log."""
    running = stage.machine(node).node
    state = None if running is None else raft_state(running)
    if state is None:
        raise OffScript(f"node-{node} takes no part in the quorum")
    return state.log.last_index


def _knows_no_leader(stage: Stage, node: int) -> bool:
    running = stage.machine(node).node
    state = None if running is None else raft_state(running)
    return state is not None and state.leader_id is None


async def _metadata_loses_power(stage: Stage) -> None:
    away, failing, last = stage.others()
    await stage.create_topic("orders", [last, failing, away])
    stage.isolate(away)
    stage.cut(away, ADMIN)
    stage.write_back(*stage.others())
    await stage.wait_until(lambda: away not in stage.in_sync("orders"), "a majority without the one that is away")
    await stage.create_topic("invoices", [last, failing])
    writer = await stage.writer()
    await stage.send(writer, "invoices", 5)
    stage.power_off(failing)
    stage.isolate(last)
    stage.join(failing, away)
    await stage.running(failing)
    await stage.sleep(500)


async def _vote_forgotten(stage: Stage) -> None:
    before = stage.controller()
    away = stage.others(before)[0]
    stage.write_back(*stage.others())
    stage.isolate(away)
    stage.crash(before)
    await stage.sleep(50)
    await stage.running(before)
    elected = stage.controller()
    voter = stage.others(away, elected)[0]
    stage.power_off(voter)
    stage.cut(elected, voter)
    stage.join(away, voter)
    await stage.running(voter)
    await stage.sleep(500)


async def _leader_goes_on_in_its_term(stage: Stage) -> None:
    leader = stage.controller()
    follower, away = stage.others(leader)
    stage.isolate(away)
    await stage.wait_until(lambda: _knows_no_leader(stage, away), "the one that is away misses the leader")
    stage.hold(follower, leader)
    stage.slow_disk(leader, 5_000)
    end = _raft_end(stage, follower)
    process = _create_in_haste(stage, "invoices", [follower, away])
    await stage.wait_until(lambda: _raft_end(stage, follower) > end, "the follower has the entry")
    process.kill()
    stage.power_off(leader)
    stage.slow_disk(leader, 0.2)
    stage.isolate(follower)
    stage.join(leader, away)
    await stage.running(leader)
    await stage.sleep(1_500)


async def _elected_but_not_caught_up(stage: Stage) -> None:
    leader = stage.controller()
    one, other = stage.others(leader)
    for follower in (one, other):
        # The entry arrives, and is acknowledged at once; that it is committed is not known before the leader is dead.
        stage.slow_link(leader, follower, 60)
    first = _create_in_haste(stage, "orders", [one, other])
    await stage.wait_until(lambda: _has_committed_topic(stage, leader, "orders"), "the topic is committed")
    stage.crash(leader)
    first.kill()
    stage.slow_link(one, other, 150)
    stage.slow_link(other, one, 150)
    await stage.wait_until(lambda: _has_controller(stage), "another controller")

    async def create_again(client: Client) -> None:
        await client.admin.create_topic("orders", assignments=[[one, other]])

    try:
        await stage.ask(create_again)
    except TopicAlreadyExists as error:
        stage.world.timeline.note("refused", error=str(error))
    else:
        stage.expect(False, "script-created-twice", "a topic was created under a name that was taken")
    await stage.sleep(500)


def _has_committed_topic(stage: Stage, node: int, name: str) -> bool:
    running = stage.machine(node).node
    controller = None if running is None else running.controller
    return controller is not None and controller.committed.topic_by_name(name) is not None


def _has_controller(stage: Stage) -> bool:
    try:
        stage.controller()
    except OffScript:
        return False
    return True


def _create_in_haste(stage: Stage, name: str, replicas: list[int]) -> Process:
    """Let a client ask for a topic, without waiting for it; returns its process."""
    process = stage.world.process("client-hasty")

    async def create() -> None:
        async with stage.world.connect(process) as client:
            await client.admin.create_topic(name, assignments=[replicas])

    process.spawn(create(), name="create")
    return process


async def _answered_before_committed(stage: Stage) -> None:
    controller = stage.controller()
    follower, third = stage.others(controller)
    await stage.create_topic("orders", [controller, follower, third], min_insync_replicas=1)
    writer = await stage.writer(delivery_timeout_ms=2_000)
    await stage.send(writer, "orders")
    stage.isolate(controller)
    for node in (follower, third):
        stage.cut(node, writer.host)
    doubtful = writer.send_many("orders", 5)
    await stage.wait_until(lambda: stage.leader_of("orders") == follower, "another leader")
    await stage.wait_until(lambda: all(record.is_done for record in doubtful), "their outcome")


SCENARIOS: Final = (
    Scenario(
        name="metadata-loses-power",
        title="One power failure and a partition, against the metadata: the topic that was just created is gone",
        source="Jepsen on NATS 2.12.1 (#7567): entries of Raft in the page cache",
        safeguard="entries of the quorum are synced before anybody is told",
        ablation="quorum-store-sync",
        expected=frozenset({"metadata-divergence"}),
        play=_metadata_loses_power,
    ),
    Scenario(
        name="forgotten-vote",
        title="A voter loses its power, forgets for whom it voted, and votes in the same term again",
        source="Raft paper §5.1, figure 2; NATS #7567",
        safeguard="term and vote are synced before the vote leaves",
        ablation="quorum-store-sync",
        expected=frozenset({"split-brain"}),
        play=_vote_forgotten,
    ),
    Scenario(
        name="same-term-again",
        title="A leader of the quorum restarts, has forgotten what it sent, and goes on in its old term",
        source="Raft paper §5.2; KAFKA-15021 (the discussion of epochs)",
        safeguard="a leader that restarted resigns: it leads again only in a new term",
        ablation="resigned-restart",
        expected=frozenset({"raft-log-matching", "metadata-divergence"}),
        play=_leader_goes_on_in_its_term,
    ),
    Scenario(
        name="elected-not-caught-up",
        title="A leader serves as soon as it is elected, before it knows what its predecessor committed",
        source="Redpanda #5090; Raft paper §8",
        safeguard="a controller serves when it has applied an entry of its own term",
        ablation="own-entry-before-serving",
        expected=frozenset({"core-check"}),
        play=_elected_but_not_caught_up,
    ),
    Scenario(
        name="answered-before-committed",
        title="A controller that is cut off answers what it will never commit, and a leader believes it",
        source="Raft paper §8; Kafka's QuorumController",
        safeguard="the controller answers when what it decided is committed",
        ablation="commit-before-answer",
        expected=frozenset({"lost-write"}),
        play=_answered_before_committed,
        options=StageOptions(settings={"broker.replica_lag_time_max_ms": 200}),
    ),
)
