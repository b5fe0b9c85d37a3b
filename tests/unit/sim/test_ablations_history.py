"""Each safeguard of one history, of elections and of the quorum holds, and is gone when its ablation is applied."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ablations_support import (
    ControllerBench,
    make_log,
    make_partition,
    proves,
    proves_async,
    registration,
    stamped,
)

from logcluster.broker.controller_driver import ControllerDriver
from logcluster.broker.raft_ports import Leadership
from logcluster.broker.replica_manager import ReplicaManager
from logcluster.broker.replica_stream import ReplicaStream
from logcluster.core.controller.controller import ControllerConfig
from logcluster.core.controller.partitions import LiveBrokers, PartitionRules, change_partition, elect
from logcluster.core.controller.requests import RegisterBroker
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import Persist
from logcluster.core.raft.inputs import Persisted, RequestReceived, Started, Tick
from logcluster.core.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    HardState,
    PersistedState,
    Snapshot,
    Voter,
    VoterId,
)
from logcluster.core.raft.node import RaftNode
from logcluster.model.epochs import LeaderEpochHistory
from logcluster.node import Node
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.scope import TaskScope
from logcluster.sim import ablations
from logcluster.storage.raft_store import RaftStore
from logcluster.wire.gen.logcluster.internal.v1 import replication_pb2

DISK = b"d" * 16


# -- truncation ------------------------------------------------------------------------------------------------------


def test_truncation_by_epoch() -> None:
    def is_kept() -> bool:
        log = make_log()
        for offset in range(3):
            log.append(stamped(offset))
        log.flush()
        partition = make_partition(log)
        partition.high_watermark = 1
        partition.follow(registration(2, leader_epoch=1))
        return log.log_end_offset == 3

    proves("truncation-by-epoch", is_kept)


def test_epoch_in_lookup_reply() -> None:
    """KIP-279: the follower wrote offsets 10 to 19 in epoch 3, where its leader has records of epochs 2 and 4."""

    def is_kept() -> bool:
        leader = LeaderEpochHistory([(1, 0), (2, 10), (4, 15)])
        follower = LeaderEpochHistory([(1, 0), (3, 10)])
        end = 20
        for _ in range(5):
            answer = leader.divergence(last_epoch=follower.latest, position=end, log_end_offset=30)
            if answer is None:
                break
            end, _ = follower.truncation_offset(answer, end)
            follower.truncate_from_end(end)
        return end == 10

    proves("epoch-in-lookup-reply", is_kept)


async def test_deposed_leader_stream() -> None:
    async def is_kept() -> bool:
        partition = make_partition()
        partition.follow(registration(2, leader_epoch=1))
        async with TaskScope("test") as scope:
            identity: Any = SimpleNamespace(broker_id=1, broker_epoch=11, cluster_id="c")
            stream = ReplicaStream(2, identity=identity, open_channel=lambda _: None, clock=SystemClock(), scope=scope)
            stream.follow(partition)
            handle = stream._collect().subscribe[0].handle
            stream.unfollow(partition)
            partition.follow(registration(3, leader_epoch=2))
            data = replication_pb2.PartitionData(handle=handle, batches=stamped(0, leader_epoch=1))
            stream._on_response(replication_pb2.ReplicateResponse(partitions=[data]))
        return partition.log.log_end_offset == 0

    await proves_async("deposed-leader-stream", is_kept)


async def test_a_stream_goes_on_without_the_fence() -> None:
    """The ablation takes away the fence only: an answer that ends a subscription still ends it."""
    with ablations.apply("deposed-leader-stream"):
        partition = make_partition()
        partition.follow(registration(2, leader_epoch=1))
        async with TaskScope("test") as scope:
            identity: Any = SimpleNamespace(broker_id=1, broker_epoch=11, cluster_id="c")
            stream = ReplicaStream(2, identity=identity, open_channel=lambda _: None, clock=SystemClock(), scope=scope)
            stream.follow(partition)
            handle = stream._collect().subscribe[0].handle
            point = replication_pb2.DivergingEpoch(leader_epoch=0, end_offset=0)
            data = replication_pb2.PartitionData(handle=handle, diverging_epoch=point)
            stream._on_response(replication_pb2.ReplicateResponse(partitions=[data]))
            assert not stream._by_handle and not stream._to_unsubscribe


# -- changes of the in-sync set --------------------------------------------------------------------------------------


def test_stale_leader_fencing() -> None:
    def is_kept() -> bool:
        bench = ControllerBench()
        before = bench.partition
        bench.stop(0)
        bench.join(0)
        assert bench.partition.leader_id == 1
        result = bench.alter((0,), sender=0, built_on=before)
        return result.error is not None and bench.partition.leader_id == 1

    proves("stale-leader-fencing", is_kept)


def test_partition_epoch_check() -> None:
    def is_kept() -> bool:
        bench = ControllerBench()
        before = bench.partition
        assert bench.alter((0, 1), sender=0, built_on=before).error is None
        return bench.alter((0, 1, 2), sender=0, built_on=before).error is not None

    proves("partition-epoch-check", is_kept)


def test_new_epoch_after_restart() -> None:
    """The last replica goes and comes back."""

    def is_kept() -> bool:
        bench = ControllerBench()
        for broker_id in (1, 2):
            bench.stop(broker_id)
        before = bench.partition
        assert before.leader_id == 0
        bench.stop(0)
        bench.join(0, incarnation=b"b")
        assert bench.partition.leader_id == 0
        return bench.partition.leader_epoch > before.leader_epoch

    proves("new-epoch-after-restart", is_kept)


async def test_new_epoch_after_restart_is_also_asked_of_the_broker() -> None:
    async def is_kept() -> bool:
        log = make_log()
        log.append(stamped(0, leader_epoch=4))
        partition = make_partition(log)
        fake = SimpleNamespace(
            broker_id=1,
            broker_epoch=11,
            settings=SimpleNamespace(replica_lag_time_ms_max=1000),
            _active_broker_epochs={},
            _unfollow=lambda _: None,
            _isr_updates=SimpleNamespace(request=lambda _: None),
            _told=SimpleNamespace(led=lambda _: None),
        )
        ReplicaManager._lead(cast("ReplicaManager", fake), partition, registration(1, leader_epoch=4))
        return partition.leader is None

    await proves_async("new-epoch-after-restart", is_kept)


# -- elections -------------------------------------------------------------------------------------------------------

RULES = PartitionRules.of(TopicConfig.from_overrides({"min.insync.replicas": "2"}))


def live(*active: int) -> LiveBrokers:
    return LiveBrokers(frozenset(active), frozenset())


def elected(*, in_sync: tuple[int, ...], eligible: tuple[int, ...], active: tuple[int, ...]) -> int | None:
    return elect(
        registration(1, in_sync=in_sync, replicas=(1, 2, 3)),
        in_sync=in_sync,
        eligible=eligible,
        last_known=(1,),
        live=live(*active),
        rules=RULES,
    ).leader_id


def test_election_from_isr() -> None:
    proves("election-from-isr", lambda: elected(in_sync=(2,), eligible=(), active=(2, 3)) == 2)


def test_unclean_election_off() -> None:
    proves("unclean-election-off", lambda: elected(in_sync=(), eligible=(1,), active=(3,)) is None)


def test_eligible_leader_replicas() -> None:
    def is_kept() -> bool:
        record = change_partition(
            registration(1, in_sync=(1, 2), replicas=(1, 2, 3)),
            in_sync=(1,),
            live=live(1),
            rules=RULES,
            leaving=2,
            reason="test",
        )
        assert record is not None
        return record.eligible_leader_replicas == (2,)

    proves("eligible-leader-replicas", is_kept)


def test_lost_disk_detection() -> None:
    def is_kept() -> bool:
        """The last replica comes back with nothing."""
        bench = ControllerBench()
        for broker_id in (1, 2, 0):
            bench.stop(broker_id)
        bench.join(0, incarnation=b"b", directory=b"another-disk")
        return bench.partition.leader_id is None

    proves("lost-disk-detection", is_kept)


def test_unclean_restart_detection() -> None:
    def is_kept() -> bool:
        """Nobody is in sync; of two that are eligible, the one that stopped uncleanly must be the second choice."""
        bench = ControllerBench()
        for broker_id in (2, 1, 0):
            bench.stop(broker_id)
        eligible = bench.partition.eligible_leader_replicas
        first = eligible[0]
        bench.do(request_of(first))
        return bench.partition.eligible_leader_replicas[-1] == first

    proves("unclean-restart-detection", is_kept)


def request_of(broker_id: int) -> RegisterBroker:
    return RegisterBroker(
        cluster_id="cluster",
        broker_id=broker_id,
        incarnation_id=b"b",
        directory_id=b"disk%d" % broker_id,
        host="host",
        grpc_port=1,
        lane_port=2,
        http_port=3,
    )


async def test_commit_before_answer() -> None:
    async def is_kept() -> bool:
        quorum = FakeQuorum()
        async with ControllerDriver(
            node_id=1,
            config=ControllerConfig(cluster_id="cluster"),
            clock=SystemClock(),
            prober=cast("Any", None),
            random=random.Random(1),
        ) as driver:
            driver.attach(quorum)
            driver.on_leadership(Leadership(term=1, leader_id=1, is_leader=True))
            answer = driver.submit_nowait(request_of(7))
            is_answered = answer.done()
            answer.cancel()
        return not is_answered

    await proves_async("commit-before-answer", is_kept)


class FakeQuorum:
    """Takes proposals, commits nothing."""

    is_leader = True
    leader_id = 1
    term = 1
    applied_index = 0
    last_log_index = 0
    is_transferring = False

    def propose_nowait(self, payload: bytes) -> Any:
        return self.last_log_index + 1, asyncio.get_running_loop().create_future()

    def compact(self, index: int, snapshot_payload: bytes) -> None:
        raise AssertionError("nothing is committed")


# -- quorum ----------------------------------------------------------------------------------------------------------


def raft_config_of_a_node() -> RaftConfig:
    fake = SimpleNamespace(
        config=SimpleNamespace(
            node=SimpleNamespace(id=1),
            quorum=SimpleNamespace(election_timeout_ms=600, heartbeat_interval_ms=50, trailing_entries=1000),
            voter_endpoints=dict,
        ),
        logs=SimpleNamespace(identity=SimpleNamespace(directory_id=DISK)),
    )
    return Node._raft_config(cast("Node", fake))


CORE = ["vote-persistence", "log-freshness", "own-term-commit", "append-durability", "resigned-restart"]


@pytest.mark.parametrize("name", CORE)
def test_settings_of_the_core(name: str) -> None:
    """What each setting takes away is shown in the tests of the core."""

    def is_on() -> bool:
        return name not in raft_config_of_a_node().ablations

    if name == "vote-persistence":
        proves("vote-persistence", is_on)
    elif name == "log-freshness":
        proves("log-freshness", is_on)
    elif name == "own-term-commit":
        proves("own-term-commit", is_on)
    elif name == "append-durability":
        proves("append-durability", is_on)
    else:
        proves("resigned-restart", is_on)


def test_quorum_store_sync() -> None:
    class Store:
        is_synced = False

        def write(self, batch: object, *, sync: bool) -> None:
            self.is_synced = sync

    def is_kept() -> bool:
        store = Store()
        RaftStore(cast("Any", store)).save([])
        return store.is_synced

    proves("quorum-store-sync", is_kept)


def raft_node(*node_ids: int, entries: tuple[Entry, ...] = (), term: int = 1) -> RaftNode:
    """A voter of a quorum that has a snapshot of its first entry."""
    voters = tuple(Voter(node_id=node_id, host="h", port=1, directory_id=DISK) for node_id in node_ids)
    config = RaftConfig(node_id=1, directory_id=DISK, bootstrap_voters=voters)
    persisted = PersistedState(
        hard_state=HardState(term=term),
        snapshot=Snapshot(index=1, term=1, voters=voters, payload=b""),
        base_index=1,
        base_term=1,
        entries=entries,
    )
    node = RaftNode(config, persisted, rng=random.Random(1))
    node.step(Started(), 0)
    return node


def entry(index: int, term: int) -> Entry:
    return Entry(index=index, term=term, kind=EntryKind.DATA, payload=b"x")


def test_append_consistency_check() -> None:
    def is_kept() -> bool:
        node = raft_node(1, 2, 3, entries=(entry(2, 1),), term=2)
        request = AppendRequest(
            term=2,
            leader_id=2,
            voter=VoterId(1, DISK),
            prev_log_index=2,
            prev_log_term=2,
            commit_index=0,
            entries=(entry(3, 2),),
            round=1,
        )
        effects = node.step(RequestReceived(request=request, causality_id=1), 1)
        answers = [effect.message for effect in effects if hasattr(effect, "message")]
        (answer,) = [answer for answer in answers if isinstance(answer, AppendResponse)]
        return not answer.success

    proves("append-consistency-check", is_kept)


def test_own_entry_before_serving() -> None:
    def is_kept() -> bool:
        node = raft_node(1, entries=(entry(2, 1),))
        effects = node.step(Tick(), 2000)
        while node.role_name != "Leader":
            (write,) = [effect for effect in effects if isinstance(effect, Persist)]
            effects = node.step(Persisted(write_id=write.write_id), 2000)
        assert node.last_log_index == 3 and node.applied_index < 3
        return not node.is_leader

    proves("own-entry-before-serving", is_kept)
