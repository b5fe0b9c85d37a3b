"""A kubelet of the poor: pods of a rendered StatefulSet as processes on loopback addresses.

Taken from the manifest, not from here: command, environment, files, mounts, probes with their periods and thresholds,
preStop hook, grace period, and how long a pod must be ready before the next is taken. Not there: images, users,
cgroups, network policies. A pod's address is one of 127.0.0.0/8, its mounts are directories, and names of pods are
replaced by addresses, because nobody serves DNS.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pod_support import Pod, command_of

TICK_S = 0.02


def addresses(count: int) -> list[str]:
    """Loopback addresses on which nobody listens on the ports of nodes."""
    while True:
        first, second = random.randrange(1, 250), random.randrange(1, 250)
        found = [f"127.{first}.{second}.{number + 1}" for number in range(count)]
        if all(_is_free(address, port) for address in found for port in (7070, 7071, 7072)):
            return found


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


@dataclass
class Probing:
    """Results of one probe of one container."""

    is_good: bool = False
    good_since: float = 0.0
    failures: int = 0
    asked: int = 0


@dataclass
class PodProcess:
    """One pod: its directory, its process, and what its probes say."""

    pod: Pod
    address: str
    directory: Path
    names: dict[str, str]
    """Names that pods use -> addresses."""
    min_ready_s: float
    process: subprocess.Popen[bytes] | None = None
    is_terminating: bool = False
    probes: dict[str, Probing] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    _watching: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        mounts = [*self.pod.files, *self.pod.claims, *self.pod.scratch]
        self._paths = {mount: str(self.directory / mount.strip("/").replace("/", "-")) for mount in mounts}
        for path in self._paths.values():
            Path(path).mkdir()
        for mount, files in self.pod.files.items():
            for name, text in files.items():
                (Path(self._paths[mount]) / name).write_text(self.local(text))

    def local(self, text: str) -> str:
        """`text` with paths, names and addresses of the pod replaced by those it has here."""
        known = {**self._paths, **self.names, "0.0.0.0": self.address}
        longest_first = sorted(known, key=len, reverse=True)
        pattern = rf"(?<![\w/.-])({'|'.join(map(re.escape, longest_first))})(?![\w.-])"
        return re.sub(pattern, lambda match: known[match.group(1)], text)

    @property
    def environment(self) -> dict[str, str]:
        own = {name: self.local(value) for name, value in self.pod.environment.items()}
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": tools, "HOME": self._paths["/tmp"], "TMPDIR": self._paths["/tmp"], **own}

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    @property
    def is_ready(self) -> bool:
        """Is it an endpoint of its Services?"""
        return self.process is not None and not self.is_terminating and self.probes["readiness"].is_good

    @property
    def is_available(self) -> bool:
        """Ready for long enough that the next pod may be taken."""
        return self.is_ready and time.monotonic() - self.probes["readiness"].good_since >= self.min_ready_s

    def start(self) -> None:
        """Start the container and its probes."""
        words = [self.local(word) for word in command_of(self.pod)]
        self.is_terminating = False
        self.probes = {"startup": Probing(), "readiness": Probing(), "liveness": Probing()}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                words, env=self.environment, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._watching = asyncio.ensure_future(self._watch())

    async def stop(self) -> float:
        """preStop, SIGTERM, and SIGKILL when the grace period is over; returns how long it took."""
        assert self.process is not None
        started = time.monotonic()
        self.is_terminating = True
        if self._watching is not None:
            self._watching.cancel()
        grace_s = self.pod.spec["terminationGracePeriodSeconds"]
        words = [self.local(word) for word in self.pod.container["lifecycle"]["preStop"]["exec"]["command"]]
        hook = await asyncio.create_subprocess_exec(
            *words, env=self.environment, cwd=self.directory, stdout=asyncio.subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(hook.communicate(), grace_s)
        if hook.returncode:
            self.complaints.append(f"{self.pod.name}: preStop failed ({hook.returncode}): {output.decode()}")
        self.process.send_signal(signal.SIGTERM)
        while self.process.poll() is None:
            if time.monotonic() - started > grace_s:
                self.complaints.append(f"{self.pod.name}: killed after the grace period")
                self.process.kill()
            await asyncio.sleep(TICK_S)
        if self.process.returncode:
            self.complaints.append(f"{self.pod.name}: ended with {self.process.returncode}: {self.tail()}")
        self.process = None
        return time.monotonic() - started

    def kill(self) -> None:
        """End it whatever it does; for the end of a test."""
        if self._watching is not None:
            self._watching.cancel()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-2000:]

    async def _watch(self) -> None:
        """Startup first; then liveness and readiness, each by its own period."""
        await self._probe("startup", until_good=True)
        await asyncio.gather(self._probe("readiness"), self._probe("liveness"))

    async def _probe(self, kind: str, *, until_good: bool = False) -> None:
        settings, state = self.pod.container[f"{kind}Probe"], self.probes[kind]
        while not (until_good and state.is_good):
            is_good = await self._ask(settings)
            state.asked += 1
            state.failures = 0 if is_good else state.failures + 1
            if is_good and not state.is_good:
                state.is_good, state.good_since = True, time.monotonic()
            elif state.failures >= settings.get("failureThreshold", 3):
                state.is_good = False
                if kind != "readiness":
                    self.complaints.append(f"{self.pod.name}: a kubelet would have restarted it for its {kind} probe")
            if not (until_good and state.is_good):
                await asyncio.sleep(settings["periodSeconds"])

    async def _ask(self, settings: dict[str, Any]) -> bool:
        get = settings["httpGet"]
        try:
            async with asyncio.timeout(settings.get("timeoutSeconds", 1)):
                reader, writer = await asyncio.open_connection(self.address, self.pod.port(get["port"]))
                try:
                    writer.write(f"GET {get['path']} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                    head = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return head.split()[1:2] == [b"200"]


class Machine:
    """The pods of some StatefulSets; `async with`."""

    def __init__(self, directory: Path, pods: list[Pod], *, min_ready_s: float) -> None:
        found = addresses(len(pods))
        names: dict[str, str] = {}
        for pod, address in zip(pods, found, strict=True):
            names[f"{pod.name}.{pod.service_name}"] = address
            names[f"{pod.name}.{pod.service_name}.{pod.namespace}.svc"] = address
        self.pods = [
            PodProcess(pod, address, directory / pod.name, names, min_ready_s)
            for pod, address in zip(pods, found, strict=True)
        ]

    async def __aenter__(self) -> Machine:
        for found in self.pods:  # podManagementPolicy: Parallel
            found.start()
        return self

    async def __aexit__(self, *_details: object) -> None:
        for found in self.pods:
            found.kill()

    @property
    def complaints(self) -> list[str]:
        return [text for found in self.pods for text in found.complaints]

    def bootstrap(self, component: str = "broker") -> str:
        """The endpoints of the client Service."""
        ready = [
            found for found in self.pods
            if found.is_ready and found.pod.labels["app.kubernetes.io/component"] == component
        ]  # fmt: skip
        return ",".join(f"{found.address}:{found.pod.port('grpc')}" for found in ready)

    async def until_available(self, seconds: float) -> None:
        """Wait until every pod is available."""
        deadline = time.monotonic() + seconds
        while not all(found.is_available for found in self.pods):
            for found in self.pods:
                assert found.process is None or found.process.poll() is None, found.tail()
            late = [found for found in self.pods if not found.is_available]
            assert time.monotonic() < deadline, [(found.pod.name, found.probes, found.tail()) for found in late]
            await asyncio.sleep(TICK_S)

    async def rolling_restart(self, seconds: float) -> list[float]:
        """As a StatefulSet updates: from the last pod to the first, each only when all are available; stop times."""
        took = []
        for found in reversed(self.pods):
            took.append(await found.stop())
            found.start()
            await self.until_available(seconds)
        return took
