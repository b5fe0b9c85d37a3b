"""The client processes of a run: started where clients live, killed, paused, brought back, ended at last."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.interfaces import FaultFailed, Target

ROOT: Final = Path(__file__).parent.parent
STOP_TIMEOUT_S: Final = 25.0
OUTSIDE: Final = frozenset({"probe", "drain"})
"""Workloads whose processes measure, and are not struck by faults."""


@dataclass(slots=True)
class ClientProcess:
    """One client, and the process it has now; each life has a history of its own."""

    name: str
    workload: str
    options: Mapping[str, Any]
    seed: int
    lives: int = 0
    process: asyncio.subprocess.Process | None = None
    is_paused: bool = False
    was_killed: bool = False
    histories: list[Path] = field(default_factory=list)


class ClientProcesses:
    """All clients of a run.

    Args:
        directory: for their histories and logs.
    """

    def __init__(self, target: Target, directory: Path) -> None:
        self._target = target
        self._directory = directory
        self.clients: dict[str, ClientProcess] = {}
        self.crashes: list[str] = []
        """What clients that ended by themselves said last."""
        directory.mkdir(parents=True, exist_ok=True)

    async def add(self, name: str, workload: str, options: Mapping[str, Any], seed: int) -> ClientProcess:
        """Start a client."""
        client = self.clients[name] = ClientProcess(name, workload, options, seed)
        await self._start(client)
        return client

    async def _start(self, client: ClientProcess) -> None:
        client.lives += 1
        client.was_killed = False
        history = self._directory / f"{client.name}-{client.lives}.jsonl"
        client.histories.append(history)
        command = [
            sys.executable,
            "-m",
            "chaos.client",
            client.workload,
            "--bootstrap",
            self._target.bootstrap(),
            "--history",
            str(history),
            "--name",
            f"{client.name}-{client.lives}",
            "--seed",
            str(client.seed * 1_000 + client.lives),
            "--options",
            json.dumps(dict(client.options)),
            "--parent",
            str(os.getpid()),
        ]
        with open(history.with_suffix(".log"), "wb") as log:
            client.process = await asyncio.create_subprocess_exec(
                *self._target.client_command(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def _struck(self) -> list[ClientProcess]:
        return [
            client
            for _, client in sorted(self.clients.items())
            if client.workload not in OUTSIDE and client.process is not None and client.process.returncode is None
        ]

    async def kill(self, rng: random.Random, count: int) -> list[str]:
        """Kill some with -9 and start them again; returns their names.

        Raises:
            FaultFailed: none runs.
        """
        chosen = self._choose(rng, count)
        for client in chosen:
            assert client.process is not None
            client.was_killed = True
            client.process.kill()
            await client.process.wait()
            client.is_paused = False
            await self._start(client)
        return [client.name for client in chosen]

    def pause(self, rng: random.Random, count: int) -> list[str]:
        """Let some stand still; returns their names.

        Raises:
            FaultFailed: none runs.
        """
        chosen = self._choose(rng, count)
        for client in chosen:
            assert client.process is not None
            client.process.send_signal(signal.SIGSTOP)
            client.is_paused = True
        return [client.name for client in chosen]

    async def resume(self, names: Sequence[str]) -> None:
        """Let paused ones go on."""
        for name in names:
            client = self.clients[name]
            if client.is_paused and client.process is not None and client.process.returncode is None:
                client.process.send_signal(signal.SIGCONT)
            client.is_paused = False

    def _choose(self, rng: random.Random, count: int) -> list[ClientProcess]:
        running = self._struck()
        if not running:
            raise FaultFailed("no client runs")
        return rng.sample(running, min(count, len(running)))

    def not_started(self) -> list[str]:
        """Clients that have written nothing yet."""
        return [
            name
            for name, client in sorted(self.clients.items())
            if not client.histories[-1].exists() or client.histories[-1].stat().st_size == 0
        ]

    def note_crashes(self) -> None:
        """Look for clients that ended by themselves: a bug of the client, or of the suite."""
        for client in self.clients.values():
            process = client.process
            if process is not None and process.returncode is not None and not client.was_killed:
                client.was_killed = True  # told once
                self.crashes.append(f"{client.name} ended with {process.returncode}: {self._last_words(client)}")

    def _last_words(self, client: ClientProcess) -> str:
        path = client.histories[-1].with_suffix(".log")
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
        return " | ".join(lines[-3:]) or "it said nothing"

    async def stop(self, workloads: Sequence[str] | None = None) -> None:
        """End them with SIGTERM and wait; who does not end is killed. None: all."""
        self.note_crashes()
        chosen = [client for client in self.clients.values() if workloads is None or client.workload in workloads]
        await self.resume([client.name for client in chosen])
        running = [client for client in chosen if client.process is not None and client.process.returncode is None]
        for client in running:
            assert client.process is not None
            client.process.terminate()
        await asyncio.gather(*(self._end(client) for client in running))

    async def _end(self, client: ClientProcess) -> None:
        process = client.process
        assert process is not None
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            if process.returncode:
                self.crashes.append(f"{client.name} ended with {process.returncode}: {self._last_words(client)}")
        except TimeoutError:
            self.crashes.append(f"{client.name} did not end within {STOP_TIMEOUT_S:.0f} s of SIGTERM")
            process.kill()
            await process.wait()
        client.was_killed = True

    async def run_to_end(
        self, name: str, workload: str, options: Mapping[str, Any], seed: int, timeout_s: float
    ) -> bool:
        """Start a client that ends by itself; returns whether it did, with success."""
        client = await self.add(name, workload, options, seed)
        assert client.process is not None
        try:
            returncode = await asyncio.wait_for(client.process.wait(), timeout_s)
        except TimeoutError:
            client.process.kill()
            await client.process.wait()
            returncode = -9
        client.was_killed = True
        if returncode:
            self.crashes.append(f"{name} ended with {returncode}: {self._last_words(client)}")
        return returncode == 0

    async def kill_all(self) -> None:
        """Leave nothing behind."""
        for client in self.clients.values():
            if client.process is not None and client.process.returncode is None:
                client.process.kill()
                await client.process.wait()
