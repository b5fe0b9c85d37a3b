"""Three data planes in one process over the loopback carrier, with a controller that is a plain object."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from logcluster.api.data_service import DataServicer
from logcluster.api.replication_service import ReplicationServicer
from logcluster.broker.fetch import FetchHandler
from logcluster.broker.partition import Partition
from logcluster.broker.produce import ProduceHandler
from logcluster.broker.producer_ids import ProducerIds
from logcluster.broker.replica_manager import ReplicaManager, ReplicaSettings
from logcluster.broker.replica_upkeep import UpkeepSettings
from logcluster.core.metadata.image import EMPTY, MetadataImage, PartitionRegistration
from logcluster.core.metadata.records import (
    BrokerChangeRecord,
    ConfigRecord,
    MetadataRecord,
    PartitionChangeRecord,
    PartitionRecord,
    RegisterBrokerRecord,
    RemoveTopicRecord,
    TopicRecord,
)
from logcluster.model.errors import (
    FencedLeaderEpoch,
    IneligibleReplica,
    InvalidUpdateVersion,
    LogClusterError,
    NotController,
)
from logcluster.model.ids import Endpoint, TopicId
from logcluster.record.builder import build_batch
from logcluster.rpc.channels import ChannelPool
from logcluster.rpc.lane.server import LaneServer
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.disk import InlineDisk
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.loopback import LoopbackNetwork
from logcluster.storage.filesystem import Filesystem
from logcluster.storage.log_manager import LogManager
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2, replication_pb2_grpc
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb, data_pb2_grpc
from logcluster.wire.status import error_detail, error_from_detail

TOPIC_ID = TopicId(b"orders-topic-id!")
CLUSTER_ID = "world"


class FakeController:
    """Committed metadata, told to every live broker at once; applies in-sync changes by the rules."""

    def __init__(self) -> None:
        self.image: MetadataImage = EMPTY
        self.brokers: dict[int, Broker] = {}
        self.alter_requests: list[controller_pb2.AlterPartitionsRequest] = []
        self.is_reachable = True

    def commit(self, *records: MetadataRecord) -> None:
        offset = self.image.offset + 1
        self.image, delta = self.image.apply(records, offset=offset, term=1)
        for broker in list(self.brokers.values()):
            if broker.is_running:
                broker.manager.on_metadata(self.image, delta)

    def create_topic(
        self, name: str = "orders", *, replicas: Sequence[int] = (1, 2, 3), partitions: int = 1, **config: str
    ) -> None:
        records: list[MetadataRecord] = [TopicRecord(name=name, topic_id=TOPIC_ID)]
        records += [ConfigRecord(topic=name, key=key.replace("_", "."), value=value) for key, value in config.items()]
        for index in range(partitions):
            placed = tuple(replicas[(index + step) % len(replicas)] for step in range(len(replicas)))
            records.append(
                PartitionRecord(
                    topic_id=TOPIC_ID, partition=index, replicas=placed, in_sync_replicas=placed, leader_id=placed[0]
                )
            )
        self.commit(*records)

    def remove_topic(self) -> None:
        self.commit(RemoveTopicRecord(topic_id=TOPIC_ID))

    def registration(self, index: int = 0) -> PartitionRegistration:
        found = self.image.partition(TOPIC_ID, index)
        assert found is not None
        return found

    def change(
        self,
        *,
        leader_id: int | None,
        in_sync_replicas: Sequence[int],
        index: int = 0,
        new_epoch: bool = True,
        eligible: Sequence[int] = (),
    ) -> None:
        before = self.registration(index)
        self.commit(
            PartitionChangeRecord(
                topic_id=TOPIC_ID,
                partition=index,
                in_sync_replicas=tuple(in_sync_replicas),
                eligible_leader_replicas=tuple(eligible),
                last_known_leaders=(),
                leader_id=leader_id,
                leader_epoch=before.leader_epoch + int(new_epoch),
                partition_epoch=before.partition_epoch + 1,
                recovering=False,
            )
        )

    def register(self, broker_id: int) -> int:
        broker_epoch = self.image.offset + 1
        self.commit(
            RegisterBrokerRecord(
                broker_id=broker_id,
                broker_epoch=broker_epoch,
                incarnation_id=b"i" * 16,
                directory_id=b"d" * 16,
                host=f"broker-{broker_id}",
                grpc_port=1,
                lane_port=9000,
                http_port=1,
                fenced=False,
            )
        )
        return broker_epoch

    def fence(self, broker_id: int) -> None:
        epoch = self.image.brokers[broker_id].broker_epoch
        self.commit(BrokerChangeRecord(broker_id=broker_id, broker_epoch=epoch, fenced=True))

    async def alter_partitions(
        self, request: controller_pb2.AlterPartitionsRequest
    ) -> controller_pb2.AlterPartitionsResponse:
        self.alter_requests.append(request)
        if not self.is_reachable:
            raise NotController("cut off")
        response = controller_pb2.AlterPartitionsResponse()
        for item in request.partitions:
            result = response.partitions.add(topic_id=item.topic_id, partition=item.partition)
            try:
                self._alter(item)
            except LogClusterError as error:
                result.error.CopyFrom(error_detail(error))
                continue
            now = self.registration(item.partition)
            assert now.leader_id is not None
            result.leader_id = now.leader_id
            result.leader_epoch = now.leader_epoch
            result.partition_epoch = now.partition_epoch
            result.in_sync_replicas.extend(now.in_sync_replicas)
        return response

    def _alter(self, item: controller_pb2.AlterPartition) -> None:
        before = self.registration(item.partition)
        if item.leader_epoch < before.leader_epoch:
            raise FencedLeaderEpoch
        if item.partition_epoch < before.partition_epoch:
            raise InvalidUpdateVersion
        for member in item.new_in_sync_replicas:
            broker = self.image.brokers.get(member.broker_id)
            if broker is None or not broker.is_active or broker.broker_epoch != member.broker_epoch:
                raise IneligibleReplica
        self.change(
            leader_id=before.leader_id,
            in_sync_replicas=[member.broker_id for member in item.new_in_sync_replicas],
            index=item.partition,
            new_epoch=False,
        )

    async def allocate_producer_ids(self) -> tuple[int, int]:
        return 1000, 10


class Broker:
    """One data plane; may be killed and started again on its disk."""

    def __init__(self, world: World, broker_id: int) -> None:
        self.world = world
        self.broker_id = broker_id
        self.disk: Filesystem = world.filesystem(broker_id)
        self.is_running = False
        self.failures: list[LogClusterError] = []

    async def start(self) -> None:
        """A new process on the old disk: registers, follows the metadata."""
        world = self.world
        clock = world.clock
        self.broker_epoch: int | None = None
        late: list[ReplicaManager] = []
        log_manager = LogManager.open(
            self.disk,
            world.directory(self.broker_id),
            cluster_id=CLUSTER_ID,
            node_id=self.broker_id,
            new_directory_id=lambda: bytes([self.broker_id]) * 16,
            on_directory_failure=lambda error: late[0].on_directory_failure(error),
            on_quarantine=lambda key, error: late[0].on_quarantine(key, error),
        )
        node = world.network.node(f"broker-{self.broker_id}") if world.network is not None else None
        self.channels = ChannelPool(clock=clock, network=node)
        executor = world.executor()
        self.manager = ReplicaManager(
            ReplicaSettings(
                broker_id=self.broker_id,
                cluster_id=CLUSTER_ID,
                replica_lag_time_ms_max=world.replica_lag_time_ms_max,
                upkeep=UpkeepSettings(in_sync_check_interval_ms=100),
            ),
            log_manager=log_manager,
            clock=clock,
            disk=executor,
            channels=self.channels,
            controller=world.controller,
            broker_epoch=lambda: self.broker_epoch,
            on_failure=self.failures.append,
        )
        late.append(self.manager)
        await self.manager.start()
        self.server = LaneServer(clock=clock, network=node)
        replication_pb2_grpc.add_ReplicationServiceServicer_to_server(ReplicationServicer(self.manager), self.server)
        data_pb2_grpc.add_DataServiceServicer_to_server(
            DataServicer(
                self.manager,
                produce=ProduceHandler(self.manager, clock=clock),
                fetch=FetchHandler(self.manager, clock=clock, disk=executor),
                producer_ids=ProducerIds(world.controller),
                disk=executor,
            ),
            self.server,
        )
        self.port = await self.server.start(f"broker-{self.broker_id}", 9000)
        self.is_running = True
        self.world.controller.brokers[self.broker_id] = self
        self.broker_epoch = self.world.controller.register(self.broker_id)
        self.manager.on_metadata(self.world.controller.image, self.world.controller.image.delta_since(EMPTY))

    async def kill(self) -> None:
        """The process dies: nothing more is said or done; the page cache survives."""
        self.is_running = False
        await self.server.stop(0)
        await self.channels.close()
        await self.manager.close(clean=False)

    async def stop(self) -> None:
        """A clean shutdown."""
        self.is_running = False
        await self.server.stop(0)
        await self.manager.close(clean=True)
        await self.channels.close()

    def partition(self, index: int = 0) -> Partition:
        return self.manager.partition("orders", index)


class World:
    """Brokers 1 to 3; `async with`."""

    def __init__(self, *, replica_lag_time_ms_max: int = 10_000) -> None:
        self.clock = SystemClock()
        self.network: LoopbackNetwork | None = LoopbackNetwork(self.clock, random.Random(1))
        self.controller = FakeController()
        self.replica_lag_time_ms_max = replica_lag_time_ms_max
        self.brokers: dict[int, Broker] = {}

    def filesystem(self, broker_id: int) -> Any:
        return SimulatedDisk()

    def directory(self, broker_id: int) -> str:
        return "/node/data"

    def executor(self) -> Any:
        return InlineDisk()

    async def __aenter__(self) -> World:
        self.brokers = {broker_id: Broker(self, broker_id) for broker_id in (1, 2, 3)}
        for broker in self.brokers.values():
            await broker.start()
        assert self.network is not None
        self.client_channels = ChannelPool(clock=self.clock, network=self.network.node("client"))
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.client_channels.close()
        for broker in self.brokers.values():
            if broker.is_running:
                await broker.kill()

    def __getitem__(self, broker_id: int) -> Broker:
        return self.brokers[broker_id]

    def stub(self, broker_id: int) -> data_pb2_grpc.DataServiceAsyncStub:
        channel = self.client_channels.channel(Endpoint(f"broker-{broker_id}", 9000))
        return data_pb2_grpc.DataServiceStub(channel)

    async def produce(
        self,
        broker_id: int,
        *values: bytes,
        index: int = 0,
        acks: pb.Acks = pb.ACKS_ALL,
        producer: tuple[int, int, int] = (-1, -1, -1),
        timeout_ms: int = 5_000,
    ) -> pb.PartitionAck:
        producer_id, producer_epoch, base_sequence = producer
        batch = build_batch(
            [(1_000, None, value, []) for value in values],
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
        )
        request = pb.ProduceRequest(acks=acks, timeout_ms=timeout_ms)
        request.partitions.add(topic="orders", partition=index, batch=batch)
        response = await self.stub(broker_id).Produce(request)
        return response.partitions[0]

    async def fetch(self, broker_id: int, offset: int, **fields: Any) -> pb.PartitionFetch:
        partition_fields = {name: fields.pop(name) for name in ("leader_epoch", "last_fetched_epoch") if name in fields}
        request = pb.FetchRequest(**fields)
        request.partitions.add(topic="orders", partition=0, fetch_offset=offset, **partition_fields)
        response = await self.stub(broker_id).Fetch(request)
        return response.partitions[0]


def raise_for(answer: Any) -> None:
    """Raise the error an answer carries."""
    if answer.HasField("error"):
        raise error_from_detail(answer.error)


async def eventually(condition: Any, *, timeout_ms: int = 5_000) -> None:
    """Let the loop run until `condition()` holds."""
    async with asyncio.timeout(timeout_ms / 1000):
        while not condition():
            await asyncio.sleep(0.002)


__all__ = ["TOPIC_ID", "Broker", "FakeController", "Mapping", "World", "eventually", "raise_for", "replace"]
