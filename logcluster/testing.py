"""`Cluster`: real brokers for anybody's tests, in processes of their own, on free ports and temporary directories.

    async with Cluster(brokers=3) as cluster:
        async with cluster.client() as client:
            await client.admin.create_topic("orders", partitions=6, replication_factor=3)
        await cluster.kill(await cluster.leader_of("orders", 0))

Everything is gone when the block is left: processes, directories, ports. The brokers also end when the thread that
started them does, so an aborted test run leaves nothing behind. `Cluster.sync` is the same with blocking methods.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from logcluster.devcluster.cluster import READY_TIMEOUT_MS, NodeProcesses
from logcluster.devcluster.layout import NodePlan, Settings, free_ports, plan_nodes
from logcluster.devcluster.processes import ProcessState
from logcluster.model.errors import LeaderNotAvailable
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.entropy import SystemEntropy

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.model.tls import Tls

Result = TypeVar("Result")
STOP_TIMEOUT_MS: Final = 5_000


class Cluster:
    """A cluster of real broker processes; `async with`.

    Args:
        brokers: how many; the first three are controllers too.
        settings: additions to every node.toml, section -> key -> value.
        tls: how its clients connect, where `settings` have a section `tls`; as of `logcluster.connect`.
        directory: where to keep the files; they are then not deleted. Default: a temporary directory.
        ready_timeout_ms: how long the start may take.
    """

    def __init__(
        self,
        brokers: int = 3,
        *,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        tls: Tls | bool = False,
        directory: Path | str | None = None,
        ready_timeout_ms: int = READY_TIMEOUT_MS,
    ) -> None:
        if brokers < 1:
            raise ValueError(f"a cluster has at least one broker, not {brokers}")
        self._brokers = brokers
        self._settings: Settings = settings or {}
        self._tls = tls
        self._is_temporary = directory is None
        self._directory = Path(directory) if directory is not None else None
        self._ready_timeout_ms = ready_timeout_ms
        self._clock = SystemClock()
        self._processes: NodeProcesses | None = None
        self.cluster_id = SystemEntropy().random_id().hex()

    async def __aenter__(self) -> Self:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="logcluster-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            ports = free_ports(self._brokers, SystemEntropy().stream("ports"))
            self._processes = NodeProcesses(plan_nodes(self._directory, ports), dies_with_parent=True)
            self._processes.write_configs(cluster_id=self.cluster_id, settings=self._settings)
            for node_id in self._processes.plans:
                self._processes.spawn(node_id)
            await self.wait_ready()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._processes is not None:
            await self._processes.stop(timeout_ms=STOP_TIMEOUT_MS)
        if self._is_temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def processes(self) -> NodeProcesses:
        """The processes, for what the methods here do not offer.

        Raises:
            RuntimeError: the block was not entered.
        """
        if self._processes is None:
            raise RuntimeError("the cluster is not started; use `async with Cluster() as cluster`")
        return self._processes

    @property
    def directory(self) -> Path:
        """Where the nodes keep their files."""
        if self._directory is None:
            raise RuntimeError("the cluster is not started; use `async with Cluster() as cluster`")
        return self._directory

    @property
    def bootstrap(self) -> str:
        """gRPC addresses of all brokers, separated by commas."""
        return ",".join(plan.grpc_endpoint for plan in self.processes.plans.values())

    @property
    def broker_ids(self) -> list[int]:
        """Every broker, running or not."""
        return list(self.processes.plans)

    def node(self, broker_id: int) -> NodePlan:
        """Addresses and files of one broker."""
        return self.processes.plan(broker_id)

    def pid(self, broker_id: int) -> int | None:
        """Process id; None when it does not run."""
        return self.processes.pid(broker_id)

    def state(self, broker_id: int) -> ProcessState:
        """Running, paused or stopped."""
        return self.processes.state(broker_id)

    def client(self, **options: Any) -> Client:
        """A client of this cluster, not yet connected; `options` go to `logcluster.connect`."""
        import logcluster

        return logcluster.connect(self.bootstrap, **{"tls": self._tls, **options})

    async def kill(self, broker_id: int) -> None:
        """kill -9."""
        await self.processes.kill(broker_id)

    async def pause(self, broker_id: int) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        await self.processes.pause(broker_id)

    async def resume(self, broker_id: int) -> None:
        """SIGCONT."""
        await self.processes.resume(broker_id)

    async def stop(self, broker_id: int) -> None:
        """SIGTERM, a clean shutdown, and wait until it is gone."""
        self.processes.plan(broker_id)
        await self.processes.stop([broker_id])

    async def start(self, broker_id: int, *, wait: bool = True) -> None:
        """Start a broker that was killed or stopped, on its old data.

        Args:
            wait: until it is ready.
        """
        self.processes.spawn(broker_id)
        if wait:
            await self.wait_ready([broker_id])

    async def wait_ready(self, broker_ids: list[int] | None = None) -> None:
        """Wait until the brokers (default: all) say that they are ready.

        Raises:
            NotReady: one ended; the message holds the end of its log.
            RequestTimedOut: not in time.
        """
        await self.processes.wait_ready(broker_ids, timeout_ms=self._ready_timeout_ms)

    async def leader_of(self, topic: str, partition: int, *, timeout_ms: int = 10_000) -> int:
        """Id of the broker that leads the partition now; waits while there is none.

        Raises:
            UnknownTopicOrPartition: there is no such partition.
            LeaderNotAvailable: still none after the timeout.
        """
        async with self.client() as client:
            deadline_ms = self._clock.monotonic_ms() + timeout_ms
            while True:
                description = await client.admin.describe_topic(topic)
                leader_id = description.partitions[partition].leader_id
                if leader_id is not None and self.state(leader_id) is ProcessState.RUNNING:
                    return leader_id
                if self._clock.monotonic_ms() > deadline_ms:
                    raise LeaderNotAvailable(f"{topic}-{partition} has no leader after {timeout_ms} ms")
                await self._clock.sleep_ms(20)

    def logs(self, broker_id: int) -> str:
        """Everything the broker has written to its log."""
        return self.processes.plan(broker_id).log_path.read_text(errors="replace")

    @classmethod
    def sync(cls, brokers: int = 3, **options: Any) -> SyncCluster:
        """The same with blocking methods: `with Cluster.sync(brokers=3) as cluster`."""
        return SyncCluster(cls(brokers, **options))


class SyncCluster:
    """A `Cluster` whose methods block; `with`. Not for use inside a running event loop."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # A loop factory of its own keeps the runner from replacing the thread's current event loop.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def __enter__(self) -> Self:
        self._run(self._cluster.__aenter__())
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._run(self._cluster.__aexit__(error_type, error, traceback))
        finally:
            self._runner.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(work)

    @property
    def bootstrap(self) -> str:
        """gRPC addresses of all brokers, separated by commas."""
        return self._cluster.bootstrap

    @property
    def broker_ids(self) -> list[int]:
        """Every broker, running or not."""
        return self._cluster.broker_ids

    def node(self, broker_id: int) -> NodePlan:
        """Addresses and files of one broker."""
        return self._cluster.node(broker_id)

    def pid(self, broker_id: int) -> int | None:
        """Process id; None when it does not run."""
        return self._cluster.pid(broker_id)

    def kill(self, broker_id: int) -> None:
        """kill -9."""
        self._run(self._cluster.kill(broker_id))

    def pause(self, broker_id: int) -> None:
        """SIGSTOP."""
        self._run(self._cluster.pause(broker_id))

    def resume(self, broker_id: int) -> None:
        """SIGCONT."""
        self._run(self._cluster.resume(broker_id))

    def stop(self, broker_id: int) -> None:
        """SIGTERM, and wait until it is gone."""
        self._run(self._cluster.stop(broker_id))

    def start(self, broker_id: int, *, wait: bool = True) -> None:
        """Start a broker that was killed or stopped."""
        self._run(self._cluster.start(broker_id, wait=wait))

    def leader_of(self, topic: str, partition: int) -> int:
        """Id of the broker that leads the partition now."""
        return self._run(self._cluster.leader_of(topic, partition))

    def logs(self, broker_id: int) -> str:
        """Everything the broker has written to its log."""
        return self._cluster.logs(broker_id)
