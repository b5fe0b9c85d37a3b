"""A cluster on Kubernetes, deployed with deploy/k8s already: its pods are deleted, killed and given empty disks.

Clients, and the suite, connect to pods by their names, so it runs where these resolve and are reached: in a pod of the
cluster (deploy/k8s/chaos), or on a machine that uses the cluster's DNS and network. Whom it may strike says the
namespace, see `chaos.kubectl`. Topics that are there are deleted at the start: the cluster is the suite's.

A pod that is struck comes back by itself; `start_broker` only waits for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from chaos.interfaces import CAPABILITIES, Capability, ClusterOptions, DiskOperation, FaultFailed, RunFiles
from chaos.kubectl import Pods, is_ready, namespace, statefulset, why_no_pods
from chaos.node_link_table import End
from chaos.targets.base import capabilities

READY_TIMEOUT_S: Final = 300.0
POLL_S: Final = 0.5
GRPC_PORT: Final = 7070
POSSIBLE: Final = ("kill", "terminate", "wipe", "client-kill", "client-pause")
_INSIDE: Final = "nothing reaches inside of a pod; use processes or netns"
_LINKS: Final = "network plugins differ in what a policy does to connections that exist; use netns or containers"
_PAUSE: Final = "a container's first process cannot be stopped from inside; use containers"


class PodTarget:
    """Implements `chaos.interfaces.Target`."""

    name = "pods"
    is_slow = True

    def __init__(self) -> None:
        self._pods = Pods(namespace(), statefulset())
        self._service = ""
        self._brokers: list[int] = []
        self._struck: dict[int, str | None] = {}
        """Brokers that were struck, and the uid of the pod that they were."""
        self._directory = Path()
        self._followers: dict[int, asyncio.subprocess.Process] = {}

    def preflight(self) -> Sequence[Capability]:
        """What can be done from here; nothing without a cluster that allows it."""
        if why := why_no_pods():
            return capabilities(dict.fromkeys(CAPABILITIES, why))
        links = ("cut", "cut-one-way", "delay", "bandwidth", "reset")
        unsupported = {name: _LINKS if name in links else _INSIDE for name in CAPABILITIES if name not in POSSIBLE}
        return capabilities({**unsupported, "pause": _PAUSE}, {"kill": "the pod is deleted without grace"})

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, options: ClusterOptions, directory: Path) -> None:
        """As `Target.start`: waits for the pods that are deployed, and deletes topics of earlier runs.

        Raises:
            FaultFailed: chaos is not allowed, the deployment is another one than asked for, or is not ready in time.
        """
        if why := await asyncio.to_thread(why_no_pods):
            raise FaultFailed(why)
        if options.is_disk_lazy or options.ablations or options.disk_bytes_max is not None or options.settings:
            raise FaultFailed(f"{_INSIDE}; settings are those of the deployment")
        self._directory = RunFiles(directory).nodes.resolve()
        described = await self._pods.describe_set()
        replicas, self._service = int(described["spec"]["replicas"]), described["spec"]["serviceName"]
        if replicas != options.brokers:
            raise FaultFailed(f"the scenario needs {options.brokers} brokers, {self._pods.statefulset} has {replicas}")
        self._brokers = list(range(replicas))
        try:
            for broker_id in self._brokers:
                await self.wait_ready([broker_id])
                await self._follow(broker_id)
            await self._delete_topics()
        except BaseException:
            await self.stop()
            raise

    async def _delete_topics(self) -> None:
        for topic in json.loads(await self._pods.execute(0, "logcluster", "topic", "ls", "-o", "json")):
            await self._pods.execute(0, "logcluster", "topic", "delete", topic["name"], "--yes")

    async def stop(self) -> None:
        """As `Target.stop`: the deployment stays."""
        for follower in self._followers.values():
            with suppress(ProcessLookupError):
                follower.terminate()
            await follower.wait()
        self._followers.clear()

    async def _follow(self, broker_id: int) -> None:
        before = self._followers.pop(broker_id, None)
        if before is not None:
            with suppress(ProcessLookupError):
                before.terminate()
            await before.wait()
        self._followers[broker_id] = await self._pods.follow_log(broker_id, self.log_path(broker_id))

    # -- what there is ----------------------------------------------------------------------------------------------

    @property
    def broker_ids(self) -> Sequence[int]:
        return list(self._brokers)

    def bootstrap(self) -> str:
        return ",".join(
            f"{self._pods.name(broker_id)}.{self._service}.{self._pods.namespace}:{GRPC_PORT}"
            for broker_id in self._brokers
        )

    def client_command(self, command: Sequence[str]) -> Sequence[str]:
        return command

    def is_running(self, broker_id: int) -> bool:
        """False from when it was struck until somebody waited for its return."""
        return broker_id in self._brokers and broker_id not in self._struck

    def log_path(self, broker_id: int) -> Path:
        return self._directory / f"node-{broker_id}" / "node.log"

    # -- pods -------------------------------------------------------------------------------------------------------

    async def _strike(self, broker_id: int, *, is_killed: bool) -> None:
        if not self.is_running(broker_id):
            raise FaultFailed(f"broker {broker_id} does not run")
        pod = await self._pods.find(broker_id)
        self._struck[broker_id] = None if pod is None else pod["metadata"]["uid"]
        await self._pods.delete(broker_id, is_killed=is_killed)

    async def kill(self, broker_id: int) -> None:
        await self._strike(broker_id, is_killed=True)

    async def terminate(self, broker_id: int) -> None:
        await self._strike(broker_id, is_killed=False)

    async def start_broker(self, broker_id: int, *, wait: bool = True) -> None:
        """Wait until another pod is there in place of the one that was struck; with `wait`, until it is ready."""
        if self.is_running(broker_id):
            raise FaultFailed(f"broker {broker_id} runs already")
        await self._wait(broker_id, lambda pod: True)
        if wait:
            await self.wait_ready([broker_id])
        self._struck.pop(broker_id, None)
        await self._follow(broker_id)

    async def wait_ready(self, broker_ids: Sequence[int]) -> None:
        """As `Target.wait_ready`.

        Raises:
            FaultFailed: one is not ready in time.
        """
        for broker_id in broker_ids:
            await self._wait(broker_id, is_ready)

    async def _wait(self, broker_id: int, is_enough: Callable[[Mapping[str, Any]], bool]) -> None:
        old_uid = self._struck.get(broker_id)
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while True:
            pod = await self._pods.find(broker_id)
            is_new = pod is not None and pod["metadata"]["uid"] != old_uid
            if pod is not None and is_new and is_enough(pod):
                return
            if time.monotonic() > deadline_s:
                phase = "there is no such pod" if pod is None else pod.get("status", {}).get("phase", "unknown")
                raise FaultFailed(
                    f"pod {self._pods.name(broker_id)} is not ready after {READY_TIMEOUT_S:.0f} s ({phase}); "
                    f"kubectl --namespace {self._pods.namespace} describe pod {self._pods.name(broker_id)}"
                )
            await asyncio.sleep(POLL_S)

    async def wipe(self, broker_id: int) -> None:
        """As `Target.wipe`, of a broker that was struck: its claims are deleted, and the pod that came back again."""
        if self.is_running(broker_id):
            raise FaultFailed(f"broker {broker_id} runs: its disk cannot be replaced")
        await self._pods.delete_claims(broker_id)
        pod = await self._pods.find(broker_id)
        if pod is not None:
            self._struck[broker_id] = pod["metadata"]["uid"]
            await self._pods.delete(broker_id, is_killed=True)

    async def pause(self, broker_id: int) -> None:
        raise FaultFailed(_PAUSE)

    async def resume(self, broker_id: int) -> None:
        """Nobody is paused."""

    async def power_loss(self, broker_ids: Sequence[int]) -> None:
        raise FaultFailed(_INSIDE)

    # -- links ------------------------------------------------------------------------------------------------------

    async def cut(self, source: End, destination: End) -> None:
        raise FaultFailed(_LINKS)

    async def delay(self, source: End, destination: End, *, delay_ms: int, jitter_ms: int) -> None:
        raise FaultFailed(_LINKS)

    async def limit(self, source: End, destination: End, *, bytes_per_s: int) -> None:
        raise FaultFailed(_LINKS)

    async def reset(self, source: End, destination: End) -> None:
        raise FaultFailed(_LINKS)

    async def heal_link(self, source: End, destination: End) -> None:
        """No link is ever cut."""

    async def heal_links(self) -> None:
        """No link is ever cut."""

    # -- inside of a broker -----------------------------------------------------------------------------------------

    async def slow_disk(self, broker_id: int, *, delay_ms: int) -> None:
        raise FaultFailed(_INSIDE)

    async def fail_disk(self, broker_id: int, *, operation: DiskOperation, error: str, count: int) -> None:
        raise FaultFailed(_INSIDE)

    async def jump_clock(self, broker_id: int, *, by_ms: int) -> None:
        raise FaultFailed(_INSIDE)

    async def damage(self, broker_id: int, *, seed: int) -> str:
        raise FaultFailed(_INSIDE)
