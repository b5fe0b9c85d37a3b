"""The client processes of the chaos suite against a real cluster: killed brokers, killed clients, one history."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.histories import check_history, incidents, merge, promised_ends
from logcluster.check.history import Event
from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
TOPIC = {"name": "orders", "partitions": 4, "replication_factor": 3}
LOAD: list[tuple[str, str, dict[str, Any]]] = [
    ("append-0", "append", {"rate": 400}),
    ("append-1", "append", {"rate": 200, "carrier": "grpc", "idempotent": False}),
    ("append-2", "append", {"rate": 100, "compression": "gzip"}),
    ("read-0", "read", {"reassign_ms": 3_000}),
    ("group-0", "group", {"membership_ms": 5_000}),
    ("group-1", "group", {}),
    ("offsets-0", "offsets", {}),
    ("probe-0", "probe", {}),
    ("admin-0", "admin", {"interval_ms": 300}),
]


class Clients:
    """Client processes that write their histories below a directory."""

    def __init__(self, directory: Path, bootstrap: str) -> None:
        self._directory = directory
        self._bootstrap = bootstrap
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, workload: str, options: dict[str, Any]) -> None:
        arguments = ["--bootstrap", self._bootstrap, "--history", str(self._directory / f"{name}.jsonl")]
        arguments += ["--name", name, "--seed", "7", "--options", json.dumps(options)]
        self._processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chaos.client", workload, *arguments, cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )

    async def end(self, name: str, number: signal.Signals | None) -> tuple[int, str]:
        """Exit code, and what it said."""
        process = self._processes.pop(name)
        if number is not None:
            process.send_signal(number)
        _, said = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def end_all(self) -> dict[str, tuple[int, str]]:
        names = list(self._processes)
        ended = await asyncio.gather(*(self.end(name, signal.SIGTERM) for name in names))
        return dict(zip(names, ended, strict=True))

    def histories(self) -> list[Path]:
        return sorted(self._directory.glob("*.jsonl"))


def outcomes(events: Iterable[Event], f: str, client: str = "") -> dict[str, int]:
    counts = dict.fromkeys(("invoke", "ok", "fail", "info"), 0)
    for event in events:
        if event.f == f and event.client.startswith(client):
            counts[event.type] += 1
    return counts


def without_value(events: list[Event], value: str, *, is_hidden_from_group: bool = False) -> list[Event]:
    """The history as if nobody had ever read this value, or no member of a group."""
    found = []
    for event in events:
        if event.f == "poll" and event.type == "ok" and (not is_hidden_from_group or "group" in event.meta):
            kept = {key: [record for record in records if record[1] != value] for key, records in event.value.items()}
            event = replace(event, value=kept)
        found.append(event)
    return found


async def test_clients_of_all_kinds_survive_kills_and_tell_one_clean_history(tmp_path: Path) -> None:
    async with Cluster(brokers=3) as cluster:
        clients = Clients(tmp_path, cluster.bootstrap)
        for name, workload, options in LOAD:
            await clients.start(name, workload, {"topics": [TOPIC], **options})
        await asyncio.sleep(6)

        assert (await clients.end("append-2", signal.SIGKILL))[0] == -signal.SIGKILL
        leader = await cluster.leader_of("orders", 0)
        await cluster.kill(leader)
        await asyncio.sleep(3)
        await cluster.start(leader)
        await asyncio.sleep(2)
        ended = await clients.end_all()
        assert {name: code for name, (code, _) in ended.items() if code} == {}, ended

        ends = promised_ends(merge(clients.histories()))
        await clients.start("drain-0", "drain", {"topics": ["orders"], "ends": ends})
        assert (await clients.end("drain-0", None))[0] == 0

    events = merge(clients.histories())
    report = check_history(events, tmp_path / "merged.json")

    assert report.passed, report.render()
    assert incidents(events) == []
    assert outcomes(events, "send")["ok"] > 2_000
    for client in ("append-0", "append-1", "append-2", "probe-0"):
        assert outcomes(events, "send", client)["ok"] > 20, client
    for name in ("assigned", "resume", "commit", "fetch_offsets", "create_topic", "list_offsets"):
        assert outcomes(events, name)["ok"], name
    for group in ("group", "chaos-offsets"):
        assert report.metrics["groups"][group]["commits"]["ok"] > 3, group
    assert report.metrics["groups"]["group"]["records_handed"] > 1_000
    assert outcomes(events, "leave", "group")["ok"] >= 2
    assert all(event.meta["invoked"] < event.index for event in events if "invoked" in event.meta)

    acked = next(
        event.value[2]
        for event in events
        if event.f == "send" and event.type == "ok" and event.meta["acks"] == "all" and event.value[0] == "orders-1"
    )
    doctored = check_history(without_value(events, acked))
    assert "lost-write" in doctored.names, doctored.render()
    assert "group-gap" in check_history(without_value(events, acked, is_hidden_from_group=True)).names


async def test_a_client_without_a_cluster_goes_on_trying_and_ends_when_told(tmp_path: Path) -> None:
    clients = Clients(tmp_path, "127.0.0.1:1")
    await clients.start("append-0", "append", {})
    path = tmp_path / "append-0.jsonl"
    deadline_s = time.monotonic() + 20
    while not (path.exists() and '"connection"' in path.read_text()):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)

    code, said = await clients.end("append-0", signal.SIGTERM)

    assert code == 0, said
    events = merge([path])
    assert [event.f for event in (events[0], events[-1])] == ["client_start", "client_stop"]
