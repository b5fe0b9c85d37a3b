"""Raw calls to brokers and the command line in a process of its own, for the end-to-end tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc

from logcluster.wire.gen.logcluster.v1 import admin_pb2, data_pb2, metadata_pb2
from logcluster.wire.gen.logcluster.v1.admin_pb2_grpc import AdminServiceStub
from logcluster.wire.gen.logcluster.v1.data_pb2_grpc import DataServiceStub
from logcluster.wire.gen.logcluster.v1.metadata_pb2_grpc import MetadataServiceStub

ROOT = Path(__file__).resolve().parents[2]


class Raw:
    """Calls as any gRPC client makes them: no retries, no codec, no cache."""

    def __init__(self, bootstrap: str) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self.first_address = bootstrap.split(",")[0]

    def channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address)
        return self._channels[address]

    @property
    def admin(self) -> AdminServiceStub:
        return AdminServiceStub(self.channel(self.first_address))

    async def create_topic(self, name: str, *, partitions: int = 1, replicas: int = 3, **config: str) -> None:
        """Create a topic and wait until each partition has a leader."""
        request = admin_pb2.CreateTopicsRequest(
            topics=[
                admin_pb2.NewTopic(
                    name=name,
                    partitions=partitions,
                    replication_factor=replicas,
                    config={key.replace("_", "."): value for key, value in config.items()},
                )
            ]
        )
        response = await self.admin.CreateTopics(request, timeout=10)
        assert not response.topics[0].error.code, response.topics[0].error

    async def leader(self, topic: str, partition: int = 0) -> tuple[str, int]:
        """gRPC address of the partition's leader and its leader epoch."""
        while True:
            response = await MetadataServiceStub(self.channel(self.first_address)).GetMetadata(
                metadata_pb2.GetMetadataRequest(topics=[topic]), timeout=10
            )
            addresses = {broker.broker_id: f"{broker.host}:{broker.grpc_port}" for broker in response.brokers}
            for found in response.topics[0].partitions:
                if found.partition == partition and found.HasField("leader_id"):
                    return addresses[found.leader_id], found.leader_epoch

    async def data(self, topic: str, partition: int = 0) -> DataServiceStub:
        """The data service of the partition's leader."""
        address, _ = await self.leader(topic, partition)
        return DataServiceStub(self.channel(address))

    async def produce_batch(
        self, topic: str, batch: bytes, *, partition: int = 0, leader_epoch: int | None = None
    ) -> data_pb2.PartitionAck:
        """Send bytes as a batch to the topic's leader; the leader of partition 0 when `partition` does not exist."""
        part = data_pb2.PartitionProduce(topic=topic, partition=partition, batch=batch, leader_epoch=leader_epoch)
        request = data_pb2.ProduceRequest(acks=data_pb2.ACKS_ALL, timeout_ms=10_000, partitions=[part])
        stub = await self.data(topic)
        while True:
            response = await stub.Produce(request, timeout=15)
            ack: data_pb2.PartitionAck = response.partitions[0]
            if not (ack.error.retriable and ack.error.name in {"NotLeaderOrFollower", "LeaderNotAvailable"}):
                return ack

    async def fetch_values(self, topic: str, partition: int = 0) -> list[bytes]:
        """Values of all committed records, unpacked by the broker."""
        part = data_pb2.FetchPartition(topic=topic, partition=partition, fetch_offset=0)
        request = data_pb2.FetchRequest(max_wait_ms=100, format=data_pb2.FETCH_FORMAT_RECORDS, partitions=[part])
        response = await (await self.data(topic, partition)).Fetch(request, timeout=15)
        return [record.value for found in response.partitions for record in found.records]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


def run_cli(
    *arguments: str, bootstrap: str | None = None, standard_input: bytes = b"", timeout_s: float = 50
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    environment = {**os.environ, "NO_COLOR": "1"}
    environment.pop("LOGCLUSTER_BOOTSTRAP", None)
    if bootstrap is not None:
        environment["LOGCLUSTER_BOOTSTRAP"] = bootstrap
    finished = subprocess.run(
        [sys.executable, "-m", "logcluster", *arguments],
        cwd=ROOT,
        env=environment,
        input=standard_input,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    return subprocess.CompletedProcess(
        finished.args,
        finished.returncode,
        finished.stdout.decode(errors="replace"),
        finished.stderr.decode(errors="replace"),
    )
