"""Nodes with a control plane only: quorum, controller, broker lifecycle; real lane on loopback, state in memory."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from random import Random

from logcluster.api.admin_service import AdminServicer
from logcluster.api.controller_service import ControllerServicer
from logcluster.api.metadata_service import MetadataServicer
from logcluster.api.node_service import ControllerView, NodeServicer
from logcluster.api.raft_service import RaftService
from logcluster.broker.controller_client import ControllerClient
from logcluster.broker.controller_driver import ControllerDriver
from logcluster.broker.lifecycle import BrokerIdentity, BrokerLifecycle
from logcluster.broker.metadata_loader import MetadataLoader
from logcluster.broker.probing import LaneProber
from logcluster.broker.raft_driver import RaftDriver
from logcluster.broker.raft_peer import StubRaftPeer
from logcluster.core.controller.controller import ControllerConfig
from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.messages import Voter
from logcluster.model.errors import NotLeaderOrFollower
from logcluster.model.ids import Endpoint
from logcluster.rpc.channels import ChannelPool
from logcluster.rpc.lane.server import LaneServer
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.disk import InlineDisk
from logcluster.runtime.entropy import SystemEntropy
from logcluster.storage.kv_store import MemoryKeyValueStore
from logcluster.storage.raft_store import RaftStore
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2_grpc, raft_pb2_grpc
from logcluster.wire.gen.logcluster.v1 import admin_pb2_grpc, metadata_pb2, metadata_pb2_grpc

CLUSTER_ID = "control-plane"


class NoReplicas:
    """A broker without data."""

    def describe_replicas(self, topics):
        return []

    def stray_directories(self):
        return []

    async def delete_records(self, topic, partition, before_offset):
        raise NotLeaderOrFollower(topic=topic)


class ControlPlaneNode:
    """One node; its key-value store outlives `kill`, so that `start` may be called again."""

    def __init__(self, node_id: int, endpoints: dict[int, Endpoint], **controller_options) -> None:
        self.node_id = node_id
        self.endpoints = endpoints
        self.store = MemoryKeyValueStore()
        self.directory_id = bytes([node_id + 1]) * 16
        self.controller_options = controller_options
        self.fatal: list[BaseException] = []
        self.is_running = False

    async def start(self, *, previous_broker_epoch: int | None = None) -> None:
        endpoint = self.endpoints[self.node_id]
        clock, entropy = SystemClock(), SystemEntropy()
        by_endpoint = {peer: node_id for node_id, peer in self.endpoints.items()}
        self.pool = ChannelPool(
            clock=clock, on_disconnect=lambda peer, error: self.raft.peer_connection_lost(by_endpoint[peer])
        )
        self.loader = MetadataLoader()
        self.client = ControllerClient(
            cluster_id=CLUSTER_ID,
            voters=self.endpoints,
            channels=self.pool,
            clock=clock,
            random=Random(self.node_id),
            broker_id=self.node_id,
        )
        self.driver = ControllerDriver(
            node_id=self.node_id,
            config=ControllerConfig(cluster_id=CLUSTER_ID, **self.controller_options),
            clock=clock,
            prober=LaneProber(self.pool, cluster_id=CLUSTER_ID),
            random=entropy.stream("controller"),
        )
        self.raft = RaftDriver(
            RaftConfig(
                node_id=self.node_id,
                directory_id=self.directory_id,
                bootstrap_voters=tuple(
                    Voter(node_id, host=peer.host, port=peer.port) for node_id, peer in self.endpoints.items()
                ),
            ),
            store=RaftStore(self.store),
            disk=InlineDisk(),
            clock=clock,
            entropy=entropy,
            peers=lambda node_id: StubRaftPeer(
                lambda: raft_pb2_grpc.RaftServiceStub(self.pool.channel(self.endpoints[node_id])),
                cluster_id=CLUSTER_ID,
            ),
            listener=self.driver,
        )
        self.driver.attach(self.raft)
        identity = BrokerIdentity(
            cluster_id=CLUSTER_ID,
            broker_id=self.node_id,
            incarnation_id=entropy.random_id(),
            directory_id=self.directory_id,
            host=endpoint.host,
            grpc_port=1,
            lane_port=endpoint.port,
            http_port=2,
        )
        self.lifecycle = BrokerLifecycle(
            identity=identity,
            previous_broker_epoch=previous_broker_epoch,
            client=self.client,
            loader=self.loader,
            clock=clock,
            on_fatal=self.fatal.append,
        )
        self.server = LaneServer(clock=clock)
        raft_pb2_grpc.add_RaftServiceServicer_to_server(RaftService(self.raft, cluster_id=CLUSTER_ID), self.server)
        controller_pb2_grpc.add_ControllerServiceServicer_to_server(ControllerServicer(self.driver), self.server)
        controller_pb2_grpc.add_NodeServiceServicer_to_server(
            NodeServicer(
                node_id=self.node_id,
                cluster_id=CLUSTER_ID,
                incarnation_id=identity.incarnation_id,
                directory_id=self.directory_id,
                controller=self._view,
            ),
            self.server,
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminServicer(
                broker_id=self.node_id,
                driver=self.driver,
                client=self.client,
                loader=self.loader,
                replicas=NoReplicas(),
            ),
            self.server,
        )
        metadata_pb2_grpc.add_MetadataServiceServicer_to_server(
            MetadataServicer(
                loader=self.loader,
                client=self.client,
                describe_quorum=self._describe_quorum,
                node_status=lambda: metadata_pb2.GetNodeStatusResponse(node_id=self.node_id),
            ),
            self.server,
        )
        self.stack = AsyncExitStack()
        await self.server.start(endpoint.host, endpoint.port)
        await self.stack.enter_async_context(self.driver)
        await self.stack.enter_async_context(self.raft)
        await self.stack.enter_async_context(self.lifecycle)
        self.is_running = True

    def _view(self) -> ControllerView:
        leader_id = self.raft.leader_id
        if leader_id == self.node_id and not self.driver.is_active:
            leader_id = None
        return ControllerView(leader_id, self.raft.term)

    def _describe_quorum(self):
        if not self.driver.is_active:
            return None
        return metadata_pb2.DescribeQuorumResponse(leader_id=self.node_id, term=self.raft.term)

    async def kill(self) -> None:
        """End abruptly: the port refuses and connections are reset before anything else stops."""
        self.is_running = False
        for listener in self.server._listeners:
            listener.close()
        for connection in list(self.server._connections):
            connection._transport.abort()
        for channel in list(self.pool._channels.values()):
            self.pool._channels = {}
            await channel.close()
        await self.server.stop(0)
        await self.stack.aclose()
        await self.client.close()
        await self.pool.close()


class ControlPlane:
    """A cluster of such nodes."""

    def __init__(self, count: int, **controller_options) -> None:
        self.count = count
        self.controller_options = controller_options
        self.nodes: dict[int, ControlPlaneNode] = {}

    async def __aenter__(self) -> ControlPlane:
        endpoints = {node_id: Endpoint("127.0.0.1", await _free_port()) for node_id in range(self.count)}
        self.nodes = {node_id: ControlPlaneNode(node_id, endpoints, **self.controller_options) for node_id in endpoints}
        for node in self.nodes.values():
            await node.start()
        self.clients = ChannelPool(clock=SystemClock())
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.clients.close()
        for node in self.nodes.values():
            if node.is_running:
                await node.kill()

    def running(self) -> list[ControlPlaneNode]:
        return [node for node in self.nodes.values() if node.is_running]

    def admin(self, node_id: int):
        node = self.nodes[node_id]
        return admin_pb2_grpc.AdminServiceStub(self.clients.channel(node.endpoints[node_id]))

    def metadata(self, node_id: int):
        node = self.nodes[node_id]
        return metadata_pb2_grpc.MetadataServiceStub(self.clients.channel(node.endpoints[node_id]))

    async def until_active(self) -> None:
        for node in self.running():
            assert await node.lifecycle.wait_active(timeout_ms=10_000)
        for node in self.running():
            assert await node.loader.wait_until(
                lambda image: sum(broker.is_active for broker in image.brokers.values()) == len(self.running()),
                timeout_ms=10_000,
            )

    def controller(self) -> ControlPlaneNode:
        (active,) = [node for node in self.running() if node.driver.is_active]
        return active


async def _free_port() -> int:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
