"""A cluster of containers: the image of deploy/Dockerfile as users run it, killed, stopped, frozen and cut off.

Each broker is a container on a private network, with a directory of this machine as its disk. The product is what is
in the image, so no fault reaches inside of it: no slow disks, no failing calls, no jumping clocks, no safeguard that is
off. Clients are processes of this machine, which has an address in the network.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from chaos.container_links import ContainerLinks, why_no_cuts
from chaos.engine import BrokerContainer, Engine, default_image, why_no_engine
from chaos.interfaces import CAPABILITIES, CLIENTS, Capability, ClusterOptions, DiskOperation, FaultFailed, RunFiles
from chaos.node_link_table import End
from chaos.targets.base import capabilities, empty, flip_bit
from logcluster.config import environment_variables
from logcluster.devcluster.probe import readiness_at
from logcluster.runtime.entropy import SystemEntropy

GRPC_PORT: Final = 7070
LANE_PORT: Final = 7071
HTTP_PORT: Final = 7072
READY_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 30
RESET_S: Final = 0.2
VOTERS_MAX: Final = 3
_numbers = count(1)
_INSIDE: Final = "the image is the product as it is: nothing reaches inside; use processes or netns"
_NETEM: Final = "containers have no proxy between them; use processes or netns"


class ContainerTarget:
    """Implements `chaos.interfaces.Target`."""

    name = "containers"
    is_slow = True

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._links: ContainerLinks | None = None
        self._directory = Path()
        self._brokers: list[int] = []
        self._running: set[int] = set()
        self._paused: set[int] = set()

    def preflight(self) -> Sequence[Capability]:
        """What this host allows; nothing without an engine."""
        if why := why_no_engine():
            return capabilities(dict.fromkeys(CAPABILITIES, why))
        inside = ("power-loss", "slow-disk", "io-error", "clock-jump", "disk-full", "ablation")
        unsupported = {**dict.fromkeys(inside, _INSIDE), **dict.fromkeys(("delay", "bandwidth"), _NETEM)}
        if why := why_no_cuts():
            unsupported |= dict.fromkeys(("cut", "cut-one-way", "reset"), why)
        if os.geteuid() != 0:
            unsupported["bit-flip"] = "needs root: the disk belongs to the image's user"
        return capabilities(unsupported, {"pause": "by the engine: the cgroup freezer"})

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, options: ClusterOptions, directory: Path) -> None:
        """As `Target.start`.

        Raises:
            FaultFailed: the image is missing, the options cannot be had, or a broker is not ready in time.
        """
        if why := why_no_engine():
            raise FaultFailed(why)
        if options.is_disk_lazy or options.ablations or options.disk_bytes_max is not None:
            raise FaultFailed(_INSIDE)
        self._directory = RunFiles(directory).nodes.resolve()
        self._brokers = list(range(options.brokers))
        engine = self._engine = Engine(f"chaos-{os.getpid()}-{next(_numbers)}", default_image())
        try:
            await engine.create_network()
            addresses: dict[End, str] = {broker_id: engine.address_of(broker_id) for broker_id in self._brokers}
            self._links = ContainerLinks({**addresses, CLIENTS: engine.gateway})
            cluster_id = SystemEntropy().random_id().hex()
            for broker_id in self._brokers:
                await engine.create(self._plan(broker_id, cluster_id, options))
            for broker_id in self._brokers:
                await self.start_broker(broker_id, wait=False)
            await self.wait_ready(self._brokers)
        except BaseException:
            await self.stop()
            raise

    def _plan(self, broker_id: int, cluster_id: str, options: ClusterOptions) -> BrokerContainer:
        address = self._at(broker_id)
        voters = [f"{voter}@{self._at(voter)}:{LANE_PORT}" for voter in self._brokers[:VOTERS_MAX]]
        return BrokerContainer(
            name=self._container(broker_id),
            hostname=f"broker-{broker_id}",
            address=address,
            data_directory=self._data(broker_id),
            environment={
                "LOGCLUSTER_CLUSTER_ID": cluster_id,
                "LOGCLUSTER_QUORUM_VOTERS": ",".join(voters),
                "LOGCLUSTER_LISTENERS_ADVERTISED_HOST": address,
                **variables(options.settings),
            },
        )

    async def stop(self) -> None:
        """As `Target.stop`; the logs of the containers are saved first."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        for broker_id in self._brokers:
            try:
                await engine.save_log(self._container_of(engine, broker_id), self.log_path(broker_id))
            except (FaultFailed, KeyError):
                continue  # it was never made
        await engine.remove()
        self._running.clear()
        self._paused.clear()

    # -- what there is ----------------------------------------------------------------------------------------------

    @property
    def broker_ids(self) -> Sequence[int]:
        return list(self._brokers)

    def bootstrap(self) -> str:
        return ",".join(f"{self._at(broker_id)}:{GRPC_PORT}" for broker_id in self._brokers)

    def client_command(self, command: Sequence[str]) -> Sequence[str]:
        return command

    def is_running(self, broker_id: int) -> bool:
        return broker_id in self._running

    def log_path(self, broker_id: int) -> Path:
        """As `Target.log_path`; written when the cluster is stopped."""
        return self._directory / f"node-{broker_id}" / "node.log"

    @property
    def _running_engine(self) -> Engine:
        if self._engine is None:
            raise FaultFailed("the cluster is not started")
        return self._engine

    @property
    def _running_links(self) -> ContainerLinks:
        if self._links is None:
            raise FaultFailed("the cluster is not started")
        return self._links

    @staticmethod
    def _container_of(engine: Engine, broker_id: int) -> str:
        return f"{engine.name}-{broker_id}"

    def _container(self, broker_id: int) -> str:
        if broker_id not in self._brokers:
            raise FaultFailed(f"there is no broker {broker_id}")
        return self._container_of(self._running_engine, broker_id)

    def _at(self, broker_id: int) -> str:
        return self._running_engine.address_of(broker_id)

    def _data(self, broker_id: int) -> Path:
        return self._directory / f"node-{broker_id}" / "data"

    # -- containers -------------------------------------------------------------------------------------------------

    def _check_running(self, broker_id: int) -> None:
        if broker_id not in self._running:
            raise FaultFailed(f"broker {broker_id} does not run")

    def _gone(self, broker_id: int) -> None:
        self._running.discard(broker_id)
        self._paused.discard(broker_id)
        self._running_links.forget(broker_id)

    async def kill(self, broker_id: int) -> None:
        self._check_running(broker_id)
        name = self._container(broker_id)
        self._gone(broker_id)
        await self._running_engine.kill(name)

    async def terminate(self, broker_id: int) -> None:
        self._check_running(broker_id)
        await self.resume(broker_id)
        code = await self._running_engine.stop(self._container(broker_id), timeout_s=STOP_TIMEOUT_S)
        self._gone(broker_id)
        if code:
            raise FaultFailed(f"broker {broker_id} ended with status {code} after SIGTERM")

    async def start_broker(self, broker_id: int, *, wait: bool = True) -> None:
        name = self._container(broker_id)
        if broker_id in self._running:
            raise FaultFailed(f"broker {broker_id} runs already")
        await self._running_engine.start(name)
        self._running.add(broker_id)
        state = await self._running_engine.state(name)
        if not why_no_cuts() and state["Pid"]:
            await self._running_links.install(broker_id, int(state["Pid"]))
        if wait:
            await self.wait_ready([broker_id])

    async def wait_ready(self, broker_ids: Sequence[int]) -> None:
        """As `Target.wait_ready`.

        Raises:
            FaultFailed: one has ended, or is not ready in time.
        """
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        for broker_id in broker_ids:
            while not (seen := await readiness_at(self._at(broker_id), HTTP_PORT)).is_ready:
                state = await self._running_engine.state(self._container(broker_id))
                if state["Status"] not in ("running", "restarting"):
                    raise FaultFailed(f"broker {broker_id} ended with status {state['ExitCode']}")
                if time.monotonic() > deadline_s:
                    said = "; ".join(seen.reasons) or "it does not answer"
                    raise FaultFailed(f"broker {broker_id} is not ready after {READY_TIMEOUT_S:.0f} s: {said}")
                await asyncio.sleep(0.1)

    async def pause(self, broker_id: int) -> None:
        self._check_running(broker_id)
        await self._running_engine.pause(self._container(broker_id))
        self._paused.add(broker_id)

    async def resume(self, broker_id: int) -> None:
        """As `Target.resume`; nothing happens to one that does not run or is not paused."""
        if broker_id in self._paused:
            self._paused.discard(broker_id)
            await self._running_engine.unpause(self._container(broker_id))

    async def power_loss(self, broker_ids: Sequence[int]) -> None:
        raise FaultFailed(_INSIDE)

    async def wipe(self, broker_id: int) -> None:
        """As `Target.wipe`; see `ProcessTarget.wipe` on voters."""
        if self.is_running(broker_id):
            raise FaultFailed(f"broker {broker_id} runs: its disk cannot be replaced")
        await empty(self._data(broker_id))

    # -- links ------------------------------------------------------------------------------------------------------

    async def cut(self, source: End, destination: End) -> None:
        await self._running_links.cut(source, destination)

    async def reset(self, source: End, destination: End) -> None:
        await self._running_links.reset(source, destination, during_s=RESET_S)

    async def heal_link(self, source: End, destination: End) -> None:
        await self._running_links.heal(source, destination)

    async def heal_links(self) -> None:
        await self._running_links.heal_all()

    async def delay(self, source: End, destination: End, *, delay_ms: int, jitter_ms: int) -> None:
        raise FaultFailed(_NETEM)

    async def limit(self, source: End, destination: End, *, bytes_per_s: int) -> None:
        raise FaultFailed(_NETEM)

    # -- inside of a broker -----------------------------------------------------------------------------------------

    async def slow_disk(self, broker_id: int, *, delay_ms: int) -> None:
        raise FaultFailed(_INSIDE)

    async def fail_disk(self, broker_id: int, *, operation: DiskOperation, error: str, count: int) -> None:
        raise FaultFailed(_INSIDE)

    async def jump_clock(self, broker_id: int, *, by_ms: int) -> None:
        raise FaultFailed(_INSIDE)

    async def damage(self, broker_id: int, *, seed: int) -> str:
        return await flip_bit(self._data(broker_id), broker_id=broker_id, seed=seed)


def variables(settings: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Settings of node.toml as environment variables.

    Raises:
        FaultFailed: there is no such setting.
    """
    names = environment_variables()
    found: dict[str, str] = {}
    for section, keys in settings.items():
        for key, value in keys.items():
            name = names.get(f"{section}.{key}")
            if name is None:
                raise FaultFailed(f"there is no setting {section}.{key}")
            found[name] = _text(value)
    return found


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(_text(item) for item in value)
    return str(value)
