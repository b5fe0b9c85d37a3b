"""A cluster of processes on this machine, each a `chaos.node`: works for any user, on Linux.

Links are ruled inside of the brokers (`chaos.node_links`): cutting i -> j holds what broker i sends on connections that
it opened and on those that it accepted from j. What clients send is held by the broker that receives it. A fault of a
link, of the disk's speed or of the clock belongs to the machine, so it outlives the broker's process and holds for the
next one from its first byte; injected disk errors end with the process.

A paused broker cannot take a fault in, so asking it to is a `FaultFailed`; what ends a fault is done when it resumes.
Everything is in `directory`; only where its path is too long for a socket's, the control sockets are elsewhere.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from chaos.control import ControlError
from chaos.interfaces import CAPABILITIES, Capability, ClusterOptions, DiskOperation, FaultFailed, RunFiles
from chaos.node_hurt_disk import Area
from chaos.node_link_table import End
from chaos.node_process import ChaosProcesses
from chaos.node_remote import RemoteFaults, ruler_of
from chaos.targets.base import SmallFilesystems, capabilities, empty, flip_bit, why_no_mounts
from logcluster.devcluster.layout import NodePlan, free_ports, plan_nodes
from logcluster.devcluster.processes import ProcessState, log_tail, send_signal
from logcluster.model.errors import LogClusterError
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.entropy import SystemEntropy

READY_TIMEOUT_MS: Final = 90_000
CONTROL_UP_TIMEOUT_MS: Final = 60_000
STOP_TIMEOUT_MS: Final = 15_000
SOCKET_DIRECTORY_BYTES_MAX: Final = 90

_NOTES: Final = {
    "power-loss": "of everything unsynced in logs and coordinators; a journal stands in for RocksDB",
    "cut": "inside of the brokers: a broker that is killed still closes its connections for all to see",
    "cut-one-way": "inside of the brokers: the kernel still acknowledges what it receives",
    "io-error": "of logs, or at the calls of the key-value stores; not in RocksDB's own files",
    "slow-disk": "at the filesystem port and at the calls of RocksDB, not in RocksDB's own files",
    "reset": "lane and gRPC; not the HTTP port, which no fault touches",
}


class ProcessTarget:
    """Implements `chaos.interfaces.Target`."""

    name = "processes"
    is_slow = False

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._options = ClusterOptions()
        self._processes: ChaosProcesses | None = None
        self._faults = RemoteFaults(())
        self._wiped: set[int] = set()
        self._control_directory: Path | None = None
        self._small_filesystems = SmallFilesystems()

    def preflight(self) -> Sequence[Capability]:
        """What this host allows.

        The small filesystem of "disk-full" needs root; ENOSPC by `fail_disk` works for everybody.
        """
        if sys.platform != "linux":
            why = "needs Linux: every address of 127.0.0.0/8, /proc, and processes that die with their parent"
            return capabilities(dict.fromkeys(CAPABILITIES, why))
        no_mounts = why_no_mounts()
        return capabilities({"disk-full": no_mounts} if no_mounts else {}, _NOTES)

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, options: ClusterOptions, directory: Path) -> None:
        """As `Target.start`.

        Raises:
            FaultFailed: the options cannot be had on this host.
            LogClusterError: a broker ended or was not ready in time; the message holds the end of its log.
        """
        self._options = options
        self._control_directory = _control_directory(directory)
        plans = plan_nodes(
            RunFiles(directory).nodes.resolve(), free_ports(options.brokers, SystemEntropy().stream("ports"))
        )
        self._faults = RemoteFaults(plan.node_id for plan in plans)
        self._wiped.clear()
        self._processes = self._make_processes(plans)
        self._faults.attach(self._processes)
        try:
            self._processes.write_configs(cluster_id=SystemEntropy().random_id().hex(), settings=options.settings)
            for plan in plans:
                if options.disk_bytes_max is not None:
                    self._small_filesystems.mount(plan.data_directory, size_bytes=options.disk_bytes_max)
                self._processes.spawn(plan.node_id)
            await self._wait_up(self.broker_ids)
            await self._processes.wait_ready(timeout_ms=READY_TIMEOUT_MS)
        except BaseException:
            await self.stop()
            raise

    def _make_processes(self, plans: Sequence[NodePlan]) -> ChaosProcesses:
        assert self._control_directory is not None
        return ChaosProcesses(
            plans,
            control_directory=self._control_directory,
            is_disk_lazy=self._options.is_disk_lazy,
            ablations=self._options.ablations,
            faults_at_start=self._faults.at_start,
        )

    async def stop(self) -> None:
        """As `Target.stop`. Cancellation: brokers are told to end; call again for the rest."""
        if self._processes is not None:
            for broker_id in self.broker_ids:
                self._processes.drop_control(broker_id)
                send_signal(self._processes.identities.get(broker_id), signal.SIGKILL)
            await self._processes.stop()
        self._small_filesystems.unmount_all()
        if self._control_directory is not None:
            shutil.rmtree(self._control_directory, ignore_errors=True)

    async def _wait_up(self, broker_ids: Iterable[int]) -> None:
        """Wait until the control channels answer."""
        for broker_id in broker_ids:
            control = self._running.controls[broker_id]
            try:
                await control.wait_up(timeout_ms=CONTROL_UP_TIMEOUT_MS, is_alive=partial(self.is_running, broker_id))
            except ControlError as error:
                tail = log_tail(self.log_path(broker_id))
                raise FaultFailed(f"broker {broker_id} does not come up: {error}\n{tail}") from error

    # -- what there is ----------------------------------------------------------------------------------------------

    @property
    def broker_ids(self) -> Sequence[int]:
        return list(self._running.plans)

    def bootstrap(self) -> str:
        return ",".join(
            f"{self._running.address(node_id)}:{plan.ports.grpc}" for node_id, plan in self._running.plans.items()
        )

    def observer_endpoints(self) -> dict[int, str]:
        """Each broker's gRPC address that no rule of a link touches; its answers name the others."""
        return {plan.node_id: plan.grpc_endpoint for plan in self._running.plans.values()}

    def client_command(self, command: Sequence[str]) -> Sequence[str]:
        return command

    def is_running(self, broker_id: int) -> bool:
        """Whether its process exists; a paused one does."""
        return self._running.state(broker_id) is not ProcessState.STOPPED

    def log_path(self, broker_id: int) -> Path:
        return self._plan(broker_id).log_path

    def pid(self, broker_id: int) -> int | None:
        """Process id; None when it does not run."""
        return self._running.pid(broker_id)

    async def status(self, broker_id: int) -> dict[str, Any]:
        """What the broker says of its faults: wall clock, links, disk; see `chaos.node_faults`.

        Raises:
            FaultFailed: it does not answer.
        """
        return await self._faults.ask(broker_id, "status")

    @property
    def _running(self) -> ChaosProcesses:
        if self._processes is None:
            raise FaultFailed("the cluster is not started")
        return self._processes

    def _plan(self, broker_id: int) -> NodePlan:
        plan = self._running.plans.get(broker_id)
        if plan is None:
            raise FaultFailed(f"there is no broker {broker_id}")
        return plan

    # -- processes --------------------------------------------------------------------------------------------------

    async def kill(self, broker_id: int) -> None:
        await self._kill([broker_id])

    async def terminate(self, broker_id: int) -> None:
        self._check_running(broker_id)
        late = await self._running.stop([broker_id], timeout_ms=STOP_TIMEOUT_MS)
        self._running.drop_control(broker_id)
        if late:
            raise FaultFailed(f"broker {broker_id} has not ended {STOP_TIMEOUT_MS} ms after SIGTERM, and was killed")

    async def start_broker(self, broker_id: int, *, wait: bool = True) -> None:
        self._plan(broker_id)
        try:
            self._running.spawn(broker_id)
        except LogClusterError as error:
            raise FaultFailed(f"broker {broker_id} does not start: {error}") from error
        await self._wait_up([broker_id])
        if wait:
            await self.wait_ready([broker_id])

    async def wait_ready(self, broker_ids: Iterable[int] | None = None, *, timeout_ms: int = READY_TIMEOUT_MS) -> None:
        """Wait until brokers (default: all) are ready; see `wipe` for one that never will be.

        Raises:
            FaultFailed: one ended, or is not ready in time.
        """
        chosen = set(self.broker_ids if broker_ids is None else broker_ids)
        try:
            await self._running.wait_ready(chosen - self._wiped, timeout_ms=timeout_ms)
            for broker_id in chosen & self._wiped:
                await self._running.wait_active(broker_id, timeout_ms=timeout_ms)
        except LogClusterError as error:
            raise FaultFailed(str(error)) from error

    async def pause(self, broker_id: int) -> None:
        self._check_running(broker_id)
        await self._running.pause(broker_id)

    async def resume(self, broker_id: int) -> None:
        """As `Target.resume`; nothing happens to one that does not run or is not paused."""
        self._plan(broker_id)
        if self._running.state(broker_id) is not ProcessState.PAUSED:
            return
        await self._running.resume(broker_id)
        await self._faults.bring_up_to_date(broker_id)

    async def power_loss(self, broker_ids: Sequence[int]) -> None:
        if not self._options.is_disk_lazy:
            raise FaultFailed("a power loss needs a lazy disk: ClusterOptions(is_disk_lazy=True)")
        await self._kill(broker_ids)

    async def wipe(self, broker_id: int) -> None:
        """As `Target.wipe`.

        The first three brokers are voters of the quorum too, and a voter with another disk has no vote any more (it
        says "not ready" for good, but serves as a broker): whoever wipes one should not stop another voter afterwards.
        """
        data = self._plan(broker_id).data_directory
        if self.is_running(broker_id):
            raise FaultFailed(f"broker {broker_id} runs: its disk cannot be replaced")
        await empty(data)
        self._wiped.add(broker_id)

    async def _kill(self, broker_ids: Sequence[int]) -> None:
        """All at the same moment, then wait until they are gone."""
        for broker_id in broker_ids:
            self._check_running(broker_id)
        for broker_id in broker_ids:
            send_signal(self._running.identities.get(broker_id), signal.SIGKILL)
        for broker_id in broker_ids:
            self._running.drop_control(broker_id)
        await self._running.stop(broker_ids)

    def _check_running(self, broker_id: int) -> None:
        self._plan(broker_id)
        if not self.is_running(broker_id):
            raise FaultFailed(f"broker {broker_id} does not run")

    # -- links ------------------------------------------------------------------------------------------------------

    async def cut(self, source: End, destination: End) -> None:
        await self._faults.change_link(source, destination, is_cut=True)

    async def delay(self, source: End, destination: End, *, delay_ms: int, jitter_ms: int) -> None:
        await self._faults.change_link(source, destination, delay_ms=delay_ms, jitter_ms=jitter_ms)

    async def limit(self, source: End, destination: End, *, bytes_per_s: int) -> None:
        await self._faults.change_link(source, destination, bytes_per_s=bytes_per_s)

    async def reset(self, source: End, destination: End) -> None:
        self._faults.links.check(source, destination)
        broker_id, peer, _ = ruler_of(source, destination)
        await self._faults.ask(broker_id, "reset-link", peer=peer)

    async def heal_link(self, source: End, destination: End) -> None:
        await self._faults.heal_link(source, destination)

    async def heal_links(self) -> None:
        await self._faults.heal_links()

    # -- inside of a broker -----------------------------------------------------------------------------------------

    async def slow_disk(self, broker_id: int, *, delay_ms: int) -> None:
        await self._faults.slow_disk(broker_id, delay_ms)

    async def fail_disk(
        self, broker_id: int, *, operation: DiskOperation, error: str, count: int, area: Area = "logs"
    ) -> None:
        """As `Target.fail_disk`; a count of 0 forgets the failures that are due.

        A broker whose log directory has failed stays fenced until it is started anew.

        Args:
            area: whose operations fail; a node ends when its "stores" do, the quorum's and the coordinators'.
        """
        await self._faults.ask(broker_id, "fail-disk", operation=operation, error=error, count=count, area=area)

    async def jump_clock(self, broker_id: int, *, by_ms: int) -> None:
        """As `Target.jump_clock`; jumps add up, and jumping back undoes one."""
        await self._faults.jump_clock(broker_id, by_ms)

    async def damage(self, broker_id: int, *, seed: int) -> str:
        return await flip_bit(self._plan(broker_id).data_directory, broker_id=broker_id, seed=seed)


def _control_directory(directory: Path) -> Path:
    """Where the control sockets are until the cluster stops: a socket's path has about a hundred bytes."""
    path = directory.resolve() / "control"
    if len(os.fsencode(path)) > SOCKET_DIRECTORY_BYTES_MAX:
        return Path(tempfile.mkdtemp(prefix="chaos-"))
    path.mkdir(parents=True, exist_ok=True)
    return path
