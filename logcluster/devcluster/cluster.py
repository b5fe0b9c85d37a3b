"""The nodes of a local cluster as processes: start, kill, pause, resume, stop, wait until ready.

One object owns the processes of one directory. It keeps only what it cannot see in the operating system: plans and
identities. Nothing here talks to the cluster but the readiness probe.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from logcluster.devcluster.layout import NodePlan, Settings, port_is_free, write_configs
from logcluster.devcluster.probe import Readiness, readiness
from logcluster.devcluster.processes import (
    ProcessIdentity,
    ProcessState,
    identify,
    log_tail,
    send_signal,
    spawn_node,
    state_of,
)
from logcluster.model.errors import InvalidRequest, NotFound, NotReady, RequestTimedOut
from logcluster.runtime.clock import Clock, SystemClock

POLL_INTERVAL_MS: Final = 25
STOP_TIMEOUT_MS: Final = 15_000
READY_TIMEOUT_MS: Final = 30_000


class NodeProcesses:
    """Processes of a local cluster.

    Args:
        plans: every node; ids are unique.
        identities: processes that already run, by node id (from a state file).
        dies_with_parent: brokers end with the thread that starts them.
    """

    def __init__(
        self,
        plans: Sequence[NodePlan],
        *,
        identities: dict[int, ProcessIdentity] | None = None,
        dies_with_parent: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.plans = {plan.node_id: plan for plan in plans}
        self.identities: dict[int, ProcessIdentity] = dict(identities or {})
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._dies_with_parent = dies_with_parent
        self._clock: Clock = clock or SystemClock()

    def plan(self, node_id: int) -> NodePlan:
        """Raises:
        NotFound: there is no such node.
        """
        plan = self.plans.get(node_id)
        if plan is None:
            known = ", ".join(str(known_id) for known_id in self.plans)
            raise NotFound(f"there is no broker {node_id} in this cluster", hint=f"brokers: {known}")
        return plan

    def state(self, node_id: int) -> ProcessState:
        """What the operating system says of the node's process."""
        state = state_of(self.identities.get(node_id))
        if state is ProcessState.STOPPED and node_id in self._children:
            # It is a zombie of ours, so this does not block.
            self._children.pop(node_id).wait()
        return state

    def pid(self, node_id: int) -> int | None:
        """Process id; None when it does not run."""
        return self.identities[node_id].pid if self.state(node_id) is not ProcessState.STOPPED else None

    def write_configs(self, *, cluster_id: str, settings: Settings | None = None) -> None:
        """Write every node.toml anew."""
        write_configs(list(self.plans.values()), cluster_id=cluster_id, settings=settings)

    def spawn(self, node_id: int, *, overrides: Sequence[str] = ()) -> None:
        """Start a node that does not run.

        Raises:
            NotFound: there is no such node.
            InvalidRequest: it runs already, or one of its ports is taken.
        """
        plan = self.plan(node_id)
        if self.state(node_id) is not ProcessState.STOPPED:
            raise InvalidRequest(f"broker {node_id} already runs (pid {self.pid(node_id)})")
        check_ports([plan])
        child = spawn_node(plan, overrides=overrides, dies_with_parent=self._dies_with_parent)
        self._children[node_id] = child
        identity = identify(child.pid)
        if identity is None:
            raise NotReady(f"broker {node_id} ended at once\n{log_tail(plan.log_path)}")
        self.identities[node_id] = identity

    def signal(self, node_id: int, number: signal.Signals) -> None:
        """Send a signal to a node.

        Raises:
            NotFound: there is no such node.
            InvalidRequest: it does not run.
        """
        self.plan(node_id)
        if not send_signal(self.identities.get(node_id), number):
            raise InvalidRequest(
                f"broker {node_id} does not run", hint=f"start it with `logcluster dev start {node_id}`"
            )

    async def kill(self, node_id: int) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(node_id, signal.SIGKILL)
        await self._wait_gone([node_id], timeout_ms=STOP_TIMEOUT_MS)

    async def pause(self, node_id: int) -> None:
        """SIGSTOP, and wait until it stands still: it keeps its connections and answers nothing."""
        self.signal(node_id, signal.SIGSTOP)
        while self.state(node_id) is ProcessState.RUNNING:
            await self._clock.sleep_ms(1)

    async def resume(self, node_id: int) -> None:
        """SIGCONT, and wait until it runs again."""
        self.signal(node_id, signal.SIGCONT)
        while self.state(node_id) is ProcessState.PAUSED:
            await self._clock.sleep_ms(1)

    async def stop(self, node_ids: Iterable[int] | None = None, *, timeout_ms: int = STOP_TIMEOUT_MS) -> list[int]:
        """SIGTERM to the named nodes (default: all), kill -9 to those that are still there after the timeout.

        Returns:
            The ids of the nodes that had to be killed.
        """
        chosen = list(self.plans if node_ids is None else node_ids)
        for node_id in chosen:
            identity = self.identities.get(node_id)
            send_signal(identity, signal.SIGTERM)
            send_signal(identity, signal.SIGCONT)
        late = await self._wait_gone(chosen, timeout_ms=timeout_ms)
        for node_id in late:
            send_signal(self.identities.get(node_id), signal.SIGKILL)
        await self._wait_gone(late, timeout_ms=STOP_TIMEOUT_MS)
        return late

    async def probe(self, node_id: int) -> Readiness:
        """Ask a node once whether it is ready. Cancellation: atomic."""
        return await readiness(self.plans[node_id])

    async def wait_ready(
        self,
        node_ids: Iterable[int] | None = None,
        *,
        timeout_ms: int = READY_TIMEOUT_MS,
        on_ready: Callable[[int], None] | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> dict[int, Readiness]:
        """Wait until each node says that it is ready.

        Args:
            on_ready: told each node once.
            is_stopping: the wait ends early, with NotReady, when it says so.

        Raises:
            NotReady: a node ended; the message holds the end of its log.
            RequestTimedOut: not ready in time; the message holds the nodes' reasons.
        """
        ready: dict[int, Readiness] = {}
        last: dict[int, Readiness] = {}
        waiting = list(self.plans if node_ids is None else node_ids)
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        while True:
            for node_id in [waiting_id for waiting_id in waiting if waiting_id not in ready]:
                self._check_alive(node_id)
                last[node_id] = await self.probe(node_id)
                if last[node_id].is_ready:
                    ready[node_id] = last[node_id]
                    if on_ready is not None:
                        on_ready(node_id)
            if len(ready) == len(waiting):
                return ready
            if is_stopping():
                raise NotReady("interrupted before the brokers were ready")
            if self._clock.monotonic_ms() > deadline_ms:
                raise self._late(waiting, ready, last, timeout_ms)
            await self._clock.sleep_ms(POLL_INTERVAL_MS)

    def remove_files(self) -> None:
        """Delete every node's directory; the processes must be gone."""
        for plan in self.plans.values():
            shutil.rmtree(plan.directory, ignore_errors=True)

    def _check_alive(self, node_id: int) -> None:
        if self.state(node_id) is ProcessState.STOPPED:
            plan = self.plans[node_id]
            raise NotReady(
                f"broker {node_id} ended while it started; the end of its log:\n{log_tail(plan.log_path)}",
                hint=f"the whole log is {plan.log_path}",
            )

    def _late(
        self, waiting: list[int], ready: dict[int, Readiness], last: dict[int, Readiness], timeout_ms: int
    ) -> RequestTimedOut:
        parts = []
        for node_id in waiting:
            if node_id not in ready:
                reasons = ", ".join(last[node_id].reasons) or "no answer on its HTTP port"
                parts.append(f"broker {node_id}: {reasons} (log: {self.plans[node_id].log_path})")
        return RequestTimedOut(f"not ready after {timeout_ms / 1000:g} s\n" + "\n".join(parts))

    async def _wait_gone(self, node_ids: list[int], *, timeout_ms: int) -> list[int]:
        """Wait until the processes are gone; returns those that are not."""
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        while True:
            left = [node_id for node_id in node_ids if self.state(node_id) is not ProcessState.STOPPED]
            if not left or self._clock.monotonic_ms() > deadline_ms:
                return left
            await self._clock.sleep_ms(10)


def check_ports(plans: Sequence[NodePlan]) -> None:
    """Raises:
    InvalidRequest: somebody listens on one of the ports.
    """
    taken = [port for plan in plans for port in plan.ports if not port_is_free(plan.host, port)]
    if taken:
        names = ", ".join(str(port) for port in taken)
        raise InvalidRequest(
            f"port {names} of {plans[0].host} is in use by another process",
            hint="choose other ports with --port, or stop what listens there",
            ports=names,
        )
