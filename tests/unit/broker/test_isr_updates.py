"""Changes of the in-sync set on their way: what is sent again, and what is sent instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from test_partition_rim import SETTINGS, make_partition, registration

from logcluster.broker.isr_updates import IsrUpdates
from logcluster.broker.partition import Partition
from logcluster.core.replication.in_sync import ProposalKind
from logcluster.model.errors import Disconnected, IneligibleReplica
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2 as pb
from logcluster.wire.status import error_detail

Answer = Callable[[pb.AlterPartition, pb.AlterPartitionResult], None]


class LeapingClock(SystemClock):
    """Pauses take no time."""

    async def sleep_ms(self, delay_ms: int) -> None:
        del delay_ms
        await asyncio.sleep(0)


class ScriptedController:
    """Answers each request as the script says; then it is silent."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.asked: list[list[int]] = []

    async def alter_partitions(self, request: pb.AlterPartitionsRequest) -> pb.AlterPartitionsResponse:
        if not self.script:
            await asyncio.Event().wait()
        (item,) = request.partitions
        self.asked.append([member.broker_id for member in item.new_in_sync_replicas])
        result = pb.AlterPartitionResult(topic_id=item.topic_id, partition=item.partition)
        self.script.pop(0)(item, result)
        return pb.AlterPartitionsResponse(partitions=[result])


def lose(item: pb.AlterPartition, result: pb.AlterPartitionResult) -> None:
    del item, result
    raise Disconnected


def refuse(item: pb.AlterPartition, result: pb.AlterPartitionResult) -> None:
    del item
    result.error.CopyFrom(error_detail(IneligibleReplica()))


def accept(item: pb.AlterPartition, result: pb.AlterPartitionResult) -> None:
    result.leader_id = 1
    result.leader_epoch = item.leader_epoch
    result.partition_epoch = item.partition_epoch + 1
    result.in_sync_replicas.extend(member.broker_id for member in item.new_in_sync_replicas)


def newcomer() -> Partition:
    """A partition that broker 1 leads alone, and broker 2 has caught up with."""
    partition, _ = make_partition(min_insync_replicas="1")
    partition.lead(registration(in_sync=(1,)), SETTINGS)
    partition.on_replica_report(2, broker_epoch=12, reported_offset=0, log_end_offset=0, log_start_offset=0)
    return partition


async def until(controller: ScriptedController, partition: Partition) -> None:
    updates = IsrUpdates(controller, broker_id=1, broker_epoch=lambda: 11, clock=LeapingClock())
    async with TaskScope("test") as scope:
        task = scope.spawn(updates.run(), name="updates")
        updates.request(partition)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not controller.script
        task.cancel()


async def test_a_refusal_after_a_lost_answer_is_settled_before_anything_else() -> None:
    partition = newcomer()
    controller = ScriptedController(lose, refuse, accept)
    await until(controller, partition)
    assert controller.asked == [[1, 2], [1, 2], [1]]
    assert partition.leader is not None
    assert partition.leader.pending is None
    assert partition.leader.maximal_in_sync_replicas == (1,)


async def test_the_settling_proposal_is_sent_again_until_it_is_answered() -> None:
    partition = newcomer()
    controller = ScriptedController(lose, refuse, lose)
    await until(controller, partition)
    assert partition.leader is not None
    assert partition.leader.pending is not None
    assert partition.leader.pending.kind is ProposalKind.SETTLE
    assert partition.leader.maximal_in_sync_replicas == (1, 2)


async def test_a_refusal_of_the_only_copy_needs_no_settling() -> None:
    partition = newcomer()
    controller = ScriptedController(refuse)
    await until(controller, partition)
    assert partition.leader is not None
    assert partition.leader.pending is None
    assert partition.leader.maximal_in_sync_replicas == (1,)


async def test_what_became_of_a_proposal_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="logcluster")
    await until(ScriptedController(lose, accept), newcomer())
    assert caplog.messages == [
        "in_sync_expanded partition=orders-0 leader_epoch=0 in_sync_replicas=(1, 2) added=[2] reason=caught up"
    ]
    caplog.clear()
    await until(ScriptedController(refuse), newcomer())
    (refused,) = caplog.messages
    assert refused.startswith("in_sync_change_refused partition=orders-0 leader_epoch=0 proposed=[1, 2] error=")
    assert refused.endswith("reaction=rolled back")
