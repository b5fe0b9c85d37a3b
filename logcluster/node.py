"""A node: builds every component from its configuration and wires them; read it like a wiring diagram.

Start order: log directory, quorum, controller, broker, listeners. What is built later is stopped earlier. The first
component that cannot go on ends the node with its reason, so that a half-dead node never lingers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import grpc
import grpc.aio

from logcluster.api.admin_service import AdminServicer
from logcluster.api.controller_service import ControllerServicer
from logcluster.api.data_service import DataServicer
from logcluster.api.group_service import GroupServicer
from logcluster.api.http_endpoint import HttpEndpoint
from logcluster.api.metadata_service import MetadataServicer
from logcluster.api.node_health import HealthWatch
from logcluster.api.node_observer import NodeObserver
from logcluster.api.node_service import ControllerView, NodeServicer
from logcluster.api.node_status import NodeStatus
from logcluster.api.raft_service import RaftService
from logcluster.api.replica_directory import HostedReplicas
from logcluster.api.replication_service import ReplicationServicer
from logcluster.broker.controller_client import ControllerClient
from logcluster.broker.controller_driver import ControllerDriver
from logcluster.broker.fetch import FetchHandler
from logcluster.broker.lifecycle import BrokerIdentity, BrokerLifecycle
from logcluster.broker.metadata_loader import MetadataLoader
from logcluster.broker.probing import LaneProber
from logcluster.broker.produce import ProduceHandler
from logcluster.broker.producer_ids import ProducerIds
from logcluster.broker.raft_driver import RaftDriver
from logcluster.broker.raft_peer import RaftStub, StubRaftPeer
from logcluster.broker.replica_manager import ReplicaManager, ReplicaSettings
from logcluster.broker.replica_upkeep import UpkeepSettings
from logcluster.config import NodeConfig
from logcluster.core.controller.controller import ControllerConfig
from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.messages import Voter
from logcluster.model.errors import Disconnected, InvalidConfig, LogClusterError, StorageFailure
from logcluster.model.ids import Endpoint
from logcluster.node_groups import NodeGroups
from logcluster.node_metrics import NodeMetrics
from logcluster.observability import logs
from logcluster.rpc.channels import ChannelPool
from logcluster.rpc.grpc_carrier import GrpcServer, build_grpc_server
from logcluster.rpc.interceptors import Boundary
from logcluster.rpc.lane.network import LaneNetwork
from logcluster.rpc.lane.server import LaneServer
from logcluster.rpc.node_tls import NodeTls
from logcluster.runtime import failpoints, process
from logcluster.runtime.clock import Clock, SystemClock, block_ms
from logcluster.runtime.disk import DiskExecutor, ThreadedDisk
from logcluster.runtime.entropy import Entropy, SystemEntropy
from logcluster.storage.filesystem import Filesystem
from logcluster.storage.kv_store import KeyValueStore, RocksKeyValueStore
from logcluster.storage.log_manager import LogManager
from logcluster.storage.posix_filesystem import PosixFilesystem
from logcluster.storage.raft_store import RaftStore
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2_grpc, raft_pb2_grpc, replication_pb2_grpc
from logcluster.wire.gen.logcluster.v1 import (
    admin_pb2_grpc,
    data_pb2_grpc,
    groups_pb2_grpc,
    metadata_pb2,
    metadata_pb2_grpc,
)
from logcluster.wire.status import error_from_rpc

SHUTDOWN_TIMEOUT_MS: Final = 10_000
RESIGN_TIMEOUT_MS: Final = 2_000
DRAIN_GRACE_MS: Final = 1_000
PUBLIC_SERVICES: Final = tuple(f"logcluster.v1.{name}Service" for name in ("Data", "Metadata", "Admin", "Group"))

log = logs.get_logger("node")


class Node:
    """One node of a cluster; `async with` runs it, leaving the block stops it without a controlled shutdown.

    Args:
        config: what it is told.
        clock, entropy, disk, filesystem, open_store, network: the outside; the simulator hands in its own.
        lane_only: leave out the gRPC and HTTP listeners, which need real sockets.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        disk: DiskExecutor | None = None,
        filesystem: Filesystem | None = None,
        open_store: Callable[[str], KeyValueStore] | None = None,
        network: LaneNetwork | None = None,
        lane_only: bool = False,
    ) -> None:
        self.config = config
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._disk = disk or ThreadedDisk(threads_max=config.data.flush_threads + 2, name=f"disk-{config.node.id}")
        self._filesystem = filesystem or PosixFilesystem()
        self._open_store = open_store or (lambda path: RocksKeyValueStore(Path(path)))
        self._network = network
        self._is_lane_only = lane_only
        self._stack = AsyncExitStack()
        self._incarnation_id = self._entropy.random_id()
        self._fatal: BaseException | None = None
        self._ended = asyncio.Event()
        self._is_stopping_cleanly = False
        self.is_shutting_down = False
        self.is_started = False

    # -- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Node:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_details: object) -> None:
        await self._stack.aclose()

    async def wait_ended(self) -> None:
        """Wait until the node cannot go on.

        Raises:
            LogClusterError, InvariantViolation: why it cannot.
        """
        await self._ended.wait()
        if self._fatal is not None:
            raise self._fatal

    @property
    def fatal(self) -> BaseException | None:
        """Why the node cannot go on; None while it can."""
        return self._fatal

    def end(self, error: BaseException | None = None) -> None:
        """Make `wait_ended` return, or raise `error`; the first call decides."""
        if not self._ended.is_set():
            self._fatal = error
            self._ended.set()

    async def shut_down(self) -> None:
        """Hand over leaderships, then stop taking calls, so that the log directory closes cleanly.

        Cancellation: what was handed over stays so; leaving the block stops the rest.
        """
        self.is_shutting_down = True
        if self.config.is_broker:
            await self.lifecycle.shut_down(timeout_ms=SHUTDOWN_TIMEOUT_MS)
        await self._resign()
        self._is_stopping_cleanly = self._fatal is None

    async def _resign(self) -> None:
        """Let another voter lead the quorum at once, instead of after an election timeout."""
        if self.raft is None or not self.raft.is_leader or len(self.raft.voters) == 1:
            return
        try:
            async with asyncio.timeout(RESIGN_TIMEOUT_MS / 1000):
                await self.raft.transfer_leadership()
        except (LogClusterError, TimeoutError) as error:
            log.warning("leadership_not_transferred", error=str(error))

    async def _start(self) -> None:
        """Build and start everything, in this order; the exit stack stops it in the reverse one."""
        self._stack.callback(self._disk.close)
        self.tls: NodeTls | None = None
        if self.config.tls.is_on:
            self.tls = NodeTls(self.config.tls, clock=self._clock, disk=self._disk)
            await self._stack.enter_async_context(self.tls)
        self.channels = ChannelPool(
            clock=self._clock,
            ssl=self.tls.client_context if self.tls else None,
            on_disconnect=self._on_disconnect,
            network=self._network,
        )
        self._stack.push_async_callback(self.channels.close)
        self._open_logs()
        self._build_broker()
        self._build_controller()
        self._build_servers()
        await self._start_servers()
        if self.raft is not None and self.controller is not None:
            await self._stack.enter_async_context(self.controller)
            await self._stack.enter_async_context(self.raft)
        if self.config.is_broker:
            await self.replicas.start()
            if self.groups is not None:
                self.groups.start()
            await self._stack.enter_async_context(self.lifecycle)
        self.is_started = True
        log.info("node_started", roles=list(self.config.node.roles), lane=str(self.lane_endpoint))

    def _fault(self, name: str, error: BaseException) -> None:
        # An expected refusal says all in its message; only a bug needs its traceback.
        traceback = None if isinstance(error, LogClusterError) else error
        log.error("component_failed", component=name, error=repr(error), exc_info=traceback)
        self.end(error)

    # -- log directory -------------------------------------------------------------------------------------------

    def _open_logs(self) -> None:
        config = self.config
        self.logs = LogManager.open(
            self._filesystem,
            config.data.dir,
            cluster_id=config.cluster.id,
            node_id=config.node.id,
            new_directory_id=self._entropy.random_id,
            on_directory_failure=lambda error: self.replicas.on_directory_failure(error),  # noqa: PLW0108 - bound later
            on_quarantine=lambda key, error: self.replicas.on_quarantine(key, error),  # noqa: PLW0108 - bound later
            progress=lambda opened, total: log.info("logs_opened", opened=opened, total=total),
        )
        self._stack.push_async_callback(self._close_replicas)

    async def _close_replicas(self) -> None:
        """Ends every replica and closes the log directory; until the replica manager exists, only the latter."""
        if hasattr(self, "replicas"):
            await self.replicas.close(clean=self._is_stopping_cleanly)
        else:
            self.logs.close(clean=False)

    def _on_directory_failure(self, _error: LogClusterError) -> None:
        self.lifecycle.report_log_directory_failure()

    # -- quorum and controller -----------------------------------------------------------------------------------

    def _build_controller(self) -> None:
        self.controller: ControllerDriver | None = None
        self.raft: RaftDriver | None = None
        config = self.config
        if not config.is_controller:
            return
        store = self._open_store(f"{config.data.dir}/quorum")
        self._stack.callback(store.close)
        self.controller = ControllerDriver(
            node_id=config.node.id,
            config=ControllerConfig(
                cluster_id=config.cluster.id,
                session_timeout_ms=config.broker.session_timeout_ms,
                disconnect_grace_ms=config.broker.disconnect_grace_ms,
                leader_rebalance_interval_ms=config.broker.leader_rebalance_interval_ms,
            ),
            clock=self._clock,
            prober=LaneProber(self.channels, cluster_id=config.cluster.id),
            random=self._entropy.stream("controller"),
            snapshot_interval_entries=config.quorum.snapshot_interval_entries,
            on_fault=self._fault,
        )
        self.raft = RaftDriver(
            self._raft_config(),
            store=RaftStore(store),
            disk=self._disk,
            clock=self._clock,
            entropy=self._entropy,
            peers=self._raft_peer,
            listener=self.controller,
            on_fault=self._fault,
        )
        self.controller.attach(self.raft)

    def _raft_config(self) -> RaftConfig:
        config = self.config
        timeout_ms = config.quorum.election_timeout_ms
        heartbeat_ms = config.quorum.heartbeat_interval_ms
        return RaftConfig(
            node_id=config.node.id,
            directory_id=self.logs.identity.directory_id,
            bootstrap_voters=tuple(
                Voter(node_id=node_id, host=endpoint.host, port=endpoint.port)
                for node_id, endpoint in config.voter_endpoints().items()
            ),
            heartbeat_ms=heartbeat_ms,
            election_timeout_ms_min=timeout_ms,
            election_timeout_ms_max=2 * timeout_ms,
            stickiness_ms=min(timeout_ms, max(200, 2 * heartbeat_ms)),
            check_quorum_ms=timeout_ms * 3 // 2,
            trailing_entries=config.quorum.trailing_entries,
        )

    def _raft_peer(self, node_id: int) -> StubRaftPeer:
        return StubRaftPeer(partial(self._raft_stub, node_id), cluster_id=self.config.cluster.id, translate=_translate)

    def _raft_stub(self, node_id: int) -> RaftStub:
        endpoint = self.config.voter_endpoints()[node_id]
        return cast("RaftStub", raft_pb2_grpc.RaftServiceStub(self.channels.channel(endpoint)))

    def _on_disconnect(self, endpoint: Endpoint, _reason: Exception | None) -> None:
        """A lost connection to a voter is a hint that shortens the election timeout."""
        raft = getattr(self, "raft", None)
        if raft is None:
            return
        for node_id, voter in self.config.voter_endpoints().items():
            if voter == endpoint and node_id != self.config.node.id:
                raft.peer_connection_lost(node_id)

    # -- broker --------------------------------------------------------------------------------------------------

    def _build_broker(self) -> None:
        config = self.config
        listeners = config.listeners
        self.loader = MetadataLoader()
        self.client = ControllerClient(
            cluster_id=config.cluster.id,
            voters=config.voter_endpoints(),
            channels=self.channels,
            clock=self._clock,
            random=self._entropy.stream("controller-client"),
            broker_id=config.node.id,
        )
        self._stack.push_async_callback(self.client.close)
        self.lifecycle = BrokerLifecycle(
            identity=BrokerIdentity(
                cluster_id=config.cluster.id,
                broker_id=config.node.id,
                incarnation_id=self._incarnation_id,
                directory_id=self.logs.identity.directory_id,
                host=listeners.public_host,
                grpc_port=listeners.grpc_port,
                lane_port=listeners.lane_port,
                http_port=listeners.http_port,
                rack=config.node.rack,
            ),
            previous_broker_epoch=self.logs.previous_broker_epoch,
            client=self.client,
            loader=self.loader,
            clock=self._clock,
            on_fatal=partial(self._fault, "lifecycle"),
            heartbeat_interval_ms=config.broker.heartbeat_interval_ms,
            session_timeout_ms=config.broker.session_timeout_ms,
            failed_replicas=lambda: self.replicas.failed_replicas,
        )
        self.replicas = ReplicaManager(
            ReplicaSettings(
                broker_id=config.node.id,
                cluster_id=config.cluster.id,
                replica_lag_time_ms_max=config.broker.replica_lag_time_max_ms,
                flush_workers_max=config.data.flush_threads,
                segment_bytes_max=config.data.segment_bytes_max,
                tail_cache_bytes_max=config.data.tail_cache_bytes_max,
                upkeep=UpkeepSettings(
                    checkpoint_interval_ms=config.data.checkpoint_interval_ms,
                    retention_check_interval_ms=config.broker.retention_check_interval_ms,
                    producer_expiration_ms=config.broker.producer_id_expiration_ms,
                ),
            ),
            log_manager=self.logs,
            clock=self._clock,
            disk=self._disk,
            channels=self.channels,
            controller=self.client,
            broker_epoch=lambda: self.lifecycle.broker_epoch,
            on_failure=self._on_directory_failure,
            on_fault=self._fault,
            on_failed_replicas=self.lifecycle.heartbeat_soon,
        )
        self.hosted = HostedReplicas(self.replicas, self._clock)
        self.loader.subscribe(self.replicas)
        self.groups = self._build_groups() if config.is_broker else None

    def _build_groups(self) -> NodeGroups:
        groups = NodeGroups(
            self.config,
            store=self._open_derived_store(f"{self.config.data.dir}/coordinators"),
            replicas=self.replicas,
            controller=self.client,
            loader=self.loader,
            channels=self.channels,
            clock=self._clock,
            disk=self._disk,
            on_fault=self._fault,
        )
        self.loader.subscribe(groups.runtime)
        self._stack.push_async_callback(groups.close)
        return groups

    def _open_derived_store(self, path: str) -> KeyValueStore:
        """Open what can be read again from the logs; one that is damaged is begun anew."""
        try:
            return self._open_store(path)
        except StorageFailure as error:
            log.warning("coordinator_store_begun_anew", error=error.message)
            shutil.rmtree(path, ignore_errors=True)
            return self._open_store(path)

    # -- listeners -----------------------------------------------------------------------------------------------

    def _build_servers(self) -> None:
        config = self.config
        self.observer = NodeObserver(self)
        self.status = NodeStatus(
            node_id=config.node.id, cluster_id=config.cluster.id, clock=self._clock, facts=self.observer.facts
        )
        self.metrics = NodeMetrics(config, clock=self._clock, disk=self._disk)
        self.lane_endpoint = Endpoint(config.listeners.host, config.listeners.lane_port)
        self.lane = LaneServer(
            clock=self._clock,
            boundary=Boundary(),
            ssl=self.tls.server_context if self.tls else None,
            name=f"lane-{config.node.id}",
            network=self._network,
        )
        self.grpc: GrpcServer | None = None
        if not self._is_lane_only:
            self.grpc = build_grpc_server(
                clock=self._clock,
                interceptors=self.metrics.grpc_interceptors(),
                credentials=self.tls.grpc_credentials() if self.tls else None,
                reflected_services=PUBLIC_SERVICES,
            )
        self.http = HttpEndpoint(
            {
                **self.observer.pages(self.status.readiness),
                "/metrics": self.metrics.page,
            }
        )
        self._add_servicers()

    def _add_servicers(self) -> None:
        config = self.config
        produce = ProduceHandler(self.replicas, clock=self._clock, deep_check=config.broker.validate_records)
        fetch = FetchHandler(self.replicas, clock=self._clock, disk=self._disk)
        self.metrics.watch(self, {"Produce": produce.errors, "Fetch": fetch.errors})
        data = DataServicer(
            self.replicas,
            produce=produce,
            fetch=fetch,
            producer_ids=ProducerIds(self.client),
            disk=self._disk,
        )
        metadata = MetadataServicer(
            loader=self.loader,
            client=self.client,
            describe_quorum=self._describe_quorum,
            node_status=self.status.response,
        )
        admin = AdminServicer(
            broker_id=config.node.id,
            driver=self.controller,
            client=self.client,
            loader=self.loader,
            replicas=self.hosted,
        )
        for server in filter(None, (self.lane, self.grpc)):
            target: Any = server
            data_pb2_grpc.add_DataServiceServicer_to_server(data, target)
            metadata_pb2_grpc.add_MetadataServiceServicer_to_server(metadata, target)
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, target)
            if self.groups is not None:
                groups = GroupServicer(self.groups.host, coordinator_id=config.node.id)
                groups_pb2_grpc.add_GroupServiceServicer_to_server(groups, target)
        # What brokers say among themselves is only on the lane.
        lane: Any = self.lane
        node = NodeServicer(
            node_id=config.node.id,
            cluster_id=config.cluster.id,
            incarnation_id=self._incarnation_id,
            directory_id=self.logs.identity.directory_id,
            controller=self.controller_view,
        )
        controller_pb2_grpc.add_NodeServiceServicer_to_server(node, lane)
        replication_pb2_grpc.add_ReplicationServiceServicer_to_server(ReplicationServicer(self.replicas), lane)
        if self.controller is not None and self.raft is not None:
            controller_pb2_grpc.add_ControllerServiceServicer_to_server(ControllerServicer(self.controller), lane)
            raft_pb2_grpc.add_RaftServiceServicer_to_server(RaftService(self.raft, cluster_id=config.cluster.id), lane)

    async def _start_servers(self) -> None:
        listeners = self.config.listeners
        servers: list[tuple[str, int, Callable[[str, int], Awaitable[object]], Callable[[], Awaitable[None]]]] = []
        if self.grpc is not None:
            servers.append(("http_port", listeners.http_port, self.http.start, self.http.stop))
            stop_grpc = partial(self.grpc.stop, DRAIN_GRACE_MS)
            servers.append(("grpc_port", listeners.grpc_port, self.grpc.start, stop_grpc))
            self.observer.watch = self._watch_health(self.grpc)
            await self._stack.enter_async_context(self.metrics)
        stop_lane = partial(self.lane.stop, DRAIN_GRACE_MS)
        servers.append(("lane_port", listeners.lane_port, self.lane.start, stop_lane))
        for key, port, start, stop in servers:
            try:
                await start(listeners.host, port)
                self._stack.push_async_callback(stop)
            except (OSError, RuntimeError) as error:
                raise InvalidConfig(
                    f"cannot listen on {listeners.host}:{port} (listeners.{key}): {error}",
                    hint="stop the process that uses the port, or choose another",
                    port=port,
                ) from error

    # -- what the node says of itself ----------------------------------------------------------------------------

    def controller_view(self) -> ControllerView:
        """Who is the active controller, and in which term, as this node knows."""
        if self.raft is None:
            return ControllerView(self.client.controller_id, 0)
        leader_id = self.raft.leader_id
        if leader_id == self.config.node.id and not (self.controller is not None and self.controller.is_active):
            # Elected, but its state is not complete yet: nobody should ask it.
            leader_id = None
        return ControllerView(leader_id, self.raft.term)

    def _watch_health(self, grpc_server: GrpcServer) -> HealthWatch:
        watch = HealthWatch(
            clock=self._clock,
            observe=self.observer.observe,
            set_serving=grpc_server.set_serving,
            standstill_ms_min=self.config.broker.session_timeout_ms,
        )
        watch.start()
        grpc_server.refresh_health_by(watch.refresh)
        self._stack.push_async_callback(watch.stop)
        return watch

    def _describe_quorum(self) -> metadata_pb2.DescribeQuorumResponse | None:
        raft = self.raft
        if raft is None or not raft.is_leader:
            return None
        matched, silences_ms = raft.peer_match_indexes(), raft.peer_silences_ms()
        return metadata_pb2.DescribeQuorumResponse(
            leader_id=raft.leader_id,
            term=raft.term,
            commit_index=raft.commit_index,
            voters=[
                metadata_pb2.QuorumVoter(
                    node_id=voter.node_id,
                    directory_id=voter.directory_id,
                    host=voter.host,
                    port=voter.port,
                    match_index=matched.get(voter.node_id, raft.last_log_index),
                    last_contact_ms=silences_ms.get(voter.node_id),
                )
                for voter in raft.voters
            ],
        )


def _translate(error: grpc.RpcError) -> LogClusterError:
    if isinstance(error, grpc.aio.AioRpcError):
        return error_from_rpc(error)
    return Disconnected(str(error))


async def serve(config: NodeConfig) -> None:
    """Run one node until SIGTERM or SIGINT, then hand over and stop cleanly.

    Raises:
        LogClusterError: the node could not start, or had to stop; the message says why.
    """
    loop = asyncio.get_running_loop()
    async with Node(config) as node:
        process.tune_garbage_collector()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.end)
        await node.wait_ended()
        log.info("shutting_down")
        await node.shut_down()
    log.info("stopped")


def run(config: NodeConfig) -> int:
    """Run one node in this process; returns the exit code: 0 after a signal.

    `LOGCLUSTER_FAILPOINTS` arms failpoints, for tests (docs/failpoints.md).

    Raises:
        LogClusterError: as `serve`; or the failpoints are not understood.
    """
    logs.configure(level=config.log.level, format_name=config.log.format, node_id=config.node.id)
    process.tune_memory()
    process.raise_open_files_limit()
    failpoints.install_from_text(os.environ.get(failpoints.ENVIRONMENT_VARIABLE, ""), block_ms=block_ms)

    async def main() -> int:
        await serve(config)
        return 0

    return process.run_event_loop(main, kind=config.node.event_loop)
