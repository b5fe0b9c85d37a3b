"""Stories of retries: written twice, written in the wrong order, or refused although they were written (P4, P9).

Idempotence has two halves, what every replica remembers of a producer and what a producer may conclude from an error;
each of the bugs is one half that believed too much of the other.
"""

from __future__ import annotations

from typing import Final

from logcluster.client.accumulator import PartitionQueue
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.sim.ablations.editing import Edit, Patch
from logcluster.sim.scenarios.scenario import Scenario
from logcluster.sim.scenarios.stage import Stage, StageOptions


async def _retry_after_failover(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower, stage.controller()])
    writer = await stage.writer()
    await stage.send(writer, "orders")
    stage.hold(leader, writer.host)
    sent = writer.send_many("orders", 3)
    await stage.wait_until(lambda: stage.replica(leader, "orders").high_watermark == 4, "they are committed")
    stage.crash(leader)
    await stage.wait_until(lambda: stage.leader_of("orders") == follower, "the follower leads")
    await stage.acked(sent)


async def _retry_after_restart(stage: Stage) -> None:
    replicas = stage.others()
    await stage.create_topic("orders", replicas)
    writer = await stage.writer()
    await stage.send(writer, "orders")
    for node in replicas:
        stage.hold(node, writer.host)
    sent = writer.send_many("orders", 3)
    await stage.wait_until(lambda: stage.replica(replicas[0], "orders").high_watermark == 4, "they are committed")
    stage.crash(*replicas)
    for node in replicas:
        stage.release(node, writer.host)
    await stage.running(*replicas)
    await stage.acked(sent)


async def _reset_while_in_doubt(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower, stage.controller()])
    writer = await stage.writer(delivery_timeout_ms=1_000)
    await stage.send(writer, "orders")
    stage.hold(leader, writer.host)
    first = writer.send("orders")
    await stage.sleep(300)
    second = writer.send("orders")
    await stage.wait_until(lambda: stage.replica(leader, "orders").high_watermark == 3, "both are committed")
    stage.cut(follower, writer.host)
    stage.crash(leader)
    await stage.wait_until(lambda: first.is_done, "the first record's time is up")
    stage.join(follower, writer.host)
    stage.release(leader, writer.host)
    await stage.wait_until(lambda: second.is_done, "the second record's outcome")


async def _behind_a_failed_one(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower])
    writer = await stage.writer()
    await stage.send(writer, "orders")
    stage.crash(follower)
    await stage.wait_until(lambda: stage.in_sync("orders") == (leader,), "too few are in sync")
    stage.hold(leader, writer.host)
    first = writer.send("orders")
    await stage.sleep(20)  # by now it was refused, which the client does not know
    await stage.running(follower)
    await stage.wait_until(lambda: len(stage.in_sync("orders")) == 2, "enough are in sync")
    second = writer.send("orders")
    await stage.sleep(20)
    stage.release(leader, writer.host)
    await stage.acked([first, second])


async def _producer_forgotten(stage: Stage) -> None:
    await stage.create_topic("orders", stage.others())
    writer = await stage.writer()
    await stage.send(writer, "orders", 3)
    leader = stage.leader_of("orders")
    assert leader is not None
    await stage.wait_until(
        lambda: len(stage.replica(leader, "orders").producers) == 0, "the producer is forgotten", timeout_ms=30_000
    )
    late = writer.send("orders")
    await stage.wait_until(lambda: late.is_done, "its outcome")
    stage.expect(late.is_acked, "script-refused", f"a record was refused for no reason: {late.error!r}")


async def _doubt_forgotten(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower])
    writer = await stage.writer(idempotent=False, delivery_timeout_ms=1_500)
    await stage.send(writer, "orders")
    stage.hold(leader, writer.host)
    sent = writer.send("orders")
    await stage.wait_until(lambda: stage.replica(leader, "orders").high_watermark == 2, "it is committed")
    stage.crash(leader)
    await stage.wait_until(lambda: stage.leader_of("orders") == follower, "the follower leads, alone")
    await stage.wait_until(lambda: sent.is_done, "its outcome")


SCENARIOS: Final = (
    Scenario(
        name="retry-after-failover",
        title="An acknowledgement is lost with its leader, the new one does not know the producer: written twice",
        source="Redpanda #3039; KIP-98",
        safeguard="every replica remembers the producers of what it appends, so that a new leader knows a retry",
        ablation="producer-state-on-followers",
        expected=frozenset({"duplicate"}),
        play=_retry_after_failover,
    ),
    Scenario(
        name="retry-after-restart",
        title="All brokers restart between a write and its retry, and have forgotten who wrote",
        source="Redpanda #3039; KIP-98",
        safeguard="after a start the producers are read back from snapshot and log",
        ablation="producer-state-at-recovery",
        expected=frozenset({"duplicate"}),
        play=_retry_after_restart,
    ),
    Scenario(
        name="reset-while-in-doubt",
        title="A producer gives one batch up, begins anew under another identity, and sends what is in doubt again",
        source="KAFKA-14034; Redpanda #5355",
        safeguard="a producer begins a new epoch only when every batch it sent is known to be written or not",
        ablation="no-new-epoch-while-in-doubt",
        expected=frozenset({"duplicate"}),
        play=_reset_while_in_doubt,
    ),
    Scenario(
        name="behind-a-failed-batch",
        title="A batch is refused, the next one arrives: it must be refused as well, and both be sent again in order",
        source="librdkafka #4953; KIP-98",
        safeguard="a batch is refused while one before it is missing, and waits for its turn in the client",
        ablation="sequence-check",
        expected=frozenset({"int-nonmonotonic-send", "nonmonotonic-send"}),
        play=_behind_a_failed_one,
    ),
    Scenario(
        name="producer-forgotten",
        title="A broker forgets an idle producer, and refuses its next record as out of order",
        source="Redpanda #22670; KIP-360",
        safeguard="who is not known may go on, and after a refusal a client begins anew where nothing is in doubt",
        ablation="unknown-producer-goes-on",
        expected=frozenset({"script-refused"}),
        play=_producer_forgotten,
        options=StageOptions(
            settings={"broker.producer_id_expiration_ms": 1_000, "broker.retention_check_interval_ms": 300}
        ),
        patch=Patch(
            Edit(
                ProducerStates.check_append,
                '            probe("producer.unknown_in_mid_sequence")\n',
                "            raise OutOfOrderSequenceNumber(producer_id=producer_id, base_sequence=base_sequence)\n",
            ),
            Edit(PartitionQueue._keep_after_refusal, "batch.reset_count += 1", "return False"),
        ),
    ),
    Scenario(
        name="doubt-forgotten",
        title="A write was applied, its answer lost, its retry refused: the client reports that it was not applied",
        source="Jepsen on Redpanda 21.10.1; Redpanda #5355",
        safeguard="a refusal after an attempt that may have been applied is reported as an unknown outcome",
        ablation="doubt-is-remembered",
        expected=frozenset({"G1a"}),
        play=_doubt_forgotten,
    ),
)
