"""Broker processes under chaos: as `logcluster.devcluster` runs them, but each is a `chaos.node`.

A broker ends with the thread that started it, by SIGKILL, so that one that is stopped (SIGSTOP) ends too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import logcluster
from chaos.control import ControlClient
from chaos.node_faults import FaultsAtStart
from chaos.node_links import address_of
from logcluster.devcluster.cluster import POLL_INTERVAL_MS, NodeProcesses, check_ports
from logcluster.devcluster.layout import NodePlan, Settings, render_toml
from logcluster.devcluster.probe import readiness
from logcluster.devcluster.processes import ProcessState, identify, log_tail
from logcluster.model.errors import InvalidRequest, NotReady


class ChaosProcesses(NodeProcesses):
    """The processes of a cluster.

    Args:
        plans: their host is where gRPC and HTTP listen, 127.0.0.1; clients and peers are told `address_of` the broker.
        control_directory: for the sockets of the control channels; its path is short.
        faults_at_start: what holds for a broker when it starts.
    """

    def __init__(
        self,
        plans: Sequence[NodePlan],
        *,
        control_directory: Path,
        is_disk_lazy: bool,
        ablations: Sequence[str],
        faults_at_start: Callable[[int], FaultsAtStart],
    ) -> None:
        super().__init__(plans, dies_with_parent=True)
        self._control_directory = control_directory
        self._is_disk_lazy = is_disk_lazy
        self._ablations = tuple(ablations)
        self._faults_at_start = faults_at_start
        self.controls: dict[int, ControlClient] = {}

    def address(self, node_id: int) -> str:
        """Where clients and peers find a broker."""
        return address_of(node_id)

    def command(self, node_id: int, command: Sequence[str]) -> Sequence[str]:
        """How to run a broker's command where the broker lives."""
        return command

    def environment(self) -> Mapping[str, str]:
        """What brokers find in their environment, beside this process's."""
        return {}

    def check_addresses(self, plan: NodePlan) -> None:
        """Raises:
        InvalidRequest: one of the broker's ports is taken.
        """
        check_ports([plan, replace(plan, host=self.address(plan.node_id))])

    def write_configs(self, *, cluster_id: str, settings: Settings | None = None) -> None:
        """Write every node.toml anew; listeners are not for `settings` to change."""
        public = [replace(plan, host=self.address(plan.node_id)) for plan in self.plans.values()]
        for plan in public:
            listeners = {"host": self.plans[plan.node_id].host, "advertised_host": plan.host}
            merged = {**(settings or {}), "listeners": {**(settings or {}).get("listeners", {}), **listeners}}
            plan.directory.mkdir(parents=True, exist_ok=True)
            plan.config_path.write_text(render_toml(plan, public, cluster_id=cluster_id, settings=merged))

    def spawn(self, node_id: int, *, overrides: Sequence[str] = ()) -> None:
        """As `NodeProcesses.spawn`; a control channel goes with the process. There are no overrides."""
        plan = self.plan(node_id)
        if overrides:
            raise InvalidRequest("a broker under chaos takes its settings from node.toml only")
        if self.state(node_id) is not ProcessState.STOPPED:
            raise InvalidRequest(f"broker {node_id} already runs (pid {self.pid(node_id)})")
        self.check_addresses(plan)
        self.drop_control(node_id)
        socket_path = self._control_directory / f"{node_id}.sock"
        socket_path.unlink(missing_ok=True)
        child = self._start(plan, socket_path)
        self._children[node_id] = child
        identity = identify(child.pid)
        if identity is None:
            raise NotReady(f"broker {node_id} ended at once\n{log_tail(plan.log_path)}")
        self.identities[node_id] = identity
        self.controls[node_id] = ControlClient(socket_path)

    async def wait_active(self, node_id: int, *, timeout_ms: int) -> None:
        """Wait until a node serves as a broker, ready or not: a voter whose disk was replaced has no quorum any more.

        Raises:
            NotReady: it ended, or is not active in time.
        """
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        plan = self.plan(node_id)
        while (await readiness(plan)).facts.get("state") != "active":
            if self.state(node_id) is ProcessState.STOPPED or self._clock.monotonic_ms() > deadline_ms:
                raise NotReady(f"broker {node_id} is not active\n{log_tail(plan.log_path)}")
            await self._clock.sleep_ms(POLL_INTERVAL_MS)

    def drop_control(self, node_id: int) -> None:
        """Close the channel to a broker that ends; idempotent."""
        control = self.controls.pop(node_id, None)
        if control is not None:
            control.close()

    def _start(self, plan: NodePlan, socket_path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "chaos.node", "--config", str(plan.config_path)]
        command += ["--control", str(socket_path), "--parent", str(os.getpid())]
        command += ["--faults", self._faults_at_start(plan.node_id).to_text()]
        if self._is_disk_lazy:
            command.append("--lazy-disk")
        for name in self._ablations:
            command += ["--ablation", name]
        package_root = str(Path(logcluster.__file__).resolve().parent.parent)
        chaos_root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [chaos_root, package_root, os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self.environment()}
        with plan.log_path.open("ab") as log_file:
            return subprocess.Popen(
                self.command(plan.node_id, command),
                cwd=plan.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
