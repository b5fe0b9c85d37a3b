"""A Docker engine on this machine, through its SDK: one network, and a container per broker.

Containers are never replaced, only stopped and started, so that an engine's log of one holds all of its lives. Calls of
the SDK block, so they run in threads. Needs the package `docker` (extra `chaos`) and an engine that answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from chaos.interfaces import FaultFailed

IMAGE_VARIABLE: Final = "LOGCLUSTER_IMAGE"
UID: Final = 10001
"""The image's user, see deploy/Dockerfile."""
DATA: Final = "/var/lib/logcluster"
SUBNETS: Final = [f"10.231.{number}.0/24" for number in range(16, 64)]
"""Tried in this order until one is free."""
ANSWER_TIMEOUT_S: Final = 60
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerContainer:
    """What a broker's container is made of.

    Args:
        data_directory: on this machine; becomes the broker's disk.
    """

    name: str
    hostname: str
    address: str
    data_directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def default_image() -> str:
    """The image to run: `LOGCLUSTER_IMAGE`, or this version's."""
    from logcluster import __version__

    return os.environ.get(IMAGE_VARIABLE) or f"logcluster:{__version__}"


def why_no_engine() -> str:
    """Why containers cannot be run here; empty where they can."""
    if sys.platform != "linux":
        return "needs Linux: brokers are reached at the addresses of their containers"
    try:
        import docker
    except ImportError:
        return "needs the package docker: pip install 'logcluster[chaos]'"
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        return f"needs an engine on this machine; DOCKER_HOST names {host}"
    # The SDK leaves its socket open when nobody answers.
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(5)
        try:
            knock.connect(host.removeprefix("unix://"))
        except OSError as error:
            return f"no Docker engine answers at {host}: {error.strerror or error}"
    try:
        client = docker.from_env(timeout=10)
        try:
            client.ping()
        finally:
            client.close()
    except docker.errors.DockerException as error:
        return f"no Docker engine answers: {str(error).splitlines()[0][:120]}"
    return ""


class Engine:
    """The network and the containers of one cluster; `remove` takes all of it away.

    Args:
        name: short and unique on this machine; names of containers begin with it.
    """

    def __init__(self, name: str, image: str) -> None:
        import docker

        self.name = name
        self.image = image
        self._docker = docker
        self._client = docker.from_env(timeout=ANSWER_TIMEOUT_S)
        self._network: Any = None
        self._subnet: ipaddress.IPv4Network | None = None
        self._containers: dict[str, Any] = {}

    async def _call(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(work)
        except (self._docker.errors.DockerException, OSError) as error:
            raise FaultFailed(f"the Docker engine: {error}") from error

    # -- what there is ----------------------------------------------------------------------------------------------

    async def create_network(self) -> None:
        """A private network without a way out, with a range that is free here.

        Raises:
            FaultFailed: the image is missing, or no network can be made.
        """
        await self._call(self._create_network)

    def _create_network(self) -> None:
        try:
            self._client.images.get(self.image)
        except self._docker.errors.ImageNotFound:
            raise FaultFailed(
                f"there is no image {self.image}; build it: docker build -f deploy/Dockerfile -t {self.image} .  "
                f"(or name another one: {IMAGE_VARIABLE}=...)"
            ) from None
        error: Exception | None = None
        for subnet in SUBNETS:
            pool = self._docker.types.IPAMPool(subnet=subnet)
            ranges = self._docker.types.IPAMConfig(pool_configs=[pool])
            try:
                self._network = self._client.networks.create(self.name, driver="bridge", internal=True, ipam=ranges)
            except self._docker.errors.APIError as refused:  # somebody has this range
                error = refused
                continue
            self._subnet = ipaddress.IPv4Network(subnet)
            return
        raise FaultFailed(f"no network can be made: {error}")

    @property
    def gateway(self) -> str:
        """This machine's own address in the network: where clients come from."""
        return self._address(1)

    def address_of(self, number: int) -> str:
        """The address of the broker with this number."""
        return self._address(10 + number)

    def _address(self, host: int) -> str:
        assert self._subnet is not None, "create the network first"
        return str(self._subnet[host])

    async def create(self, plan: BrokerContainer) -> None:
        """Make a container, as deploy/compose.yaml would, and do not start it."""
        await self._call(lambda: self._create(plan))

    def _create(self, plan: BrokerContainer) -> None:
        plan.data_directory.mkdir(parents=True, exist_ok=True)
        user: str | None = f"{os.geteuid()}:{os.getegid()}"
        if os.geteuid() == 0:
            os.chown(plan.data_directory, UID, UID)
            user = None
        endpoint = self._client.api.create_endpoint_config(ipv4_address=plan.address)
        self._containers[plan.name] = self._client.containers.create(
            self.image,
            name=plan.name,
            hostname=plan.hostname,
            user=user,
            environment=dict(plan.environment),
            network=self.name,
            networking_config={self.name: endpoint},
            volumes={str(plan.data_directory.resolve()): {"bind": DATA, "mode": "rw"}},
            read_only=True,
            tmpfs={"/tmp": "size=64m"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )

    # -- one container ----------------------------------------------------------------------------------------------

    async def start(self, name: str) -> None:
        await self._call(self._containers[name].start)

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        container = self._containers[name]

        def kill() -> None:
            container.kill("SIGKILL")
            container.wait(timeout=ANSWER_TIMEOUT_S)

        await self._call(kill)

    async def stop(self, name: str, *, timeout_s: int) -> int:
        """SIGTERM, and SIGKILL after the time; returns the exit code, 137 when it had to be killed."""
        container = self._containers[name]

        def stop() -> int:
            container.stop(timeout=timeout_s)
            return int(container.wait(timeout=ANSWER_TIMEOUT_S)["StatusCode"])

        return await self._call(stop)

    async def pause(self, name: str) -> None:
        await self._call(self._containers[name].pause)

    async def unpause(self, name: str) -> None:
        await self._call(self._containers[name].unpause)

    async def state(self, name: str) -> Mapping[str, Any]:
        """What the engine says of it: "Status", "Pid", "Paused", "ExitCode" and more."""
        container = self._containers[name]

        def look() -> Mapping[str, Any]:
            container.reload()
            state: Mapping[str, Any] = container.attrs["State"]
            return state

        return await self._call(look)

    async def save_log(self, name: str, path: Path) -> None:
        """Write all it ever said to a file."""
        container = self._containers[name]

        def save() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for piece in container.logs(stream=True, follow=False):
                    file.write(piece)

        await self._call(save)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def remove(self) -> None:
        """Take containers and network away, running or not; never raises for what is gone already."""
        await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        gone = self._docker.errors.DockerException
        for container in self._containers.values():
            with suppress(gone):
                container.remove(force=True, v=True)
        self._containers.clear()
        if self._network is not None:
            with suppress(gone):
                self._network.remove()
            self._network = None
        self._client.close()
