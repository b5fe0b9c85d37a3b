"""The runner's timetable: what strikes when, on a target that takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chaos.interfaces import Target
from chaos.processes import ClientProcesses
from chaos.roles import ClusterState
from chaos.runner import Run
from chaos.scenario import Clients, Fault, Scenario, Topic
from chaos.targets.base import capabilities
from chaos.watching import ClusterWatch


class SlowTarget:
    """Brokers take longer to come back than the scenario leaves them."""

    name = "slow"
    broker_ids = (0, 1, 2)

    def __init__(self, *, is_slow: bool = False) -> None:
        self.is_slow = is_slow
        self.down: set[int] = set()
        self.calls: list[tuple[str, int]] = []

    def preflight(self) -> Any:
        return capabilities({})

    def is_running(self, broker_id: int) -> bool:
        return broker_id not in self.down

    async def kill(self, broker_id: int) -> None:
        self.calls.append(("kill", broker_id))
        self.down.add(broker_id)

    async def start_broker(self, broker_id: int, *, wait: bool = True) -> None:
        await asyncio.sleep(0.15)
        self.calls.append(("start", broker_id))
        self.down.discard(broker_id)

    async def wait_ready(self, broker_ids: Sequence[int]) -> None:
        await asyncio.sleep(0.15)
        self.calls += [("ready", broker_id) for broker_id in broker_ids]


class NoClients:
    crashes: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.added: list[tuple[str, int]] = []

    async def add(self, name: str, workload: str, options: Any, seed: int) -> None:
        self.added.append((name, seed))

    def not_started(self) -> list[str]:
        return []

    def note_crashes(self) -> None: ...


@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_fault_that_repeats_waits_until_it_was_undone(tmp_path: Path, is_slow: bool) -> None:
    scenario = Scenario(
        name="restless",
        description="all are killed again before all are back",
        duration_s=0.5,
        topics={"orders": Topic()},
        clients=[Clients(workload="append")],
        faults=[Fault(kind="kill", role="all", at_s=0.0, every_s=0.2, lasts_s=0.01)],
    )
    target = SlowTarget(is_slow=is_slow)
    run = Run(scenario, cast("Target", target), tmp_path, seed=1)
    watch = SimpleNamespace(state=ClusterState(broker_ids=[0, 1, 2], running=[0, 1, 2]))
    await run._load(cast("ClusterWatch", watch), cast("ClientProcesses", NoClients()))
    assert run._problems == []
    steps = ("kill", "start", "ready") if is_slow else ("kill", "start")
    once = [(step, broker_id) for step in steps for broker_id in range(3)]
    assert target.calls == once * 3


async def test_clients_of_one_workload_have_names_and_seeds_of_their_own(tmp_path: Path) -> None:
    appends = [Clients(workload="append", count=2, options={"rate": rate}) for rate in (10, 20)]
    scenario = Scenario(
        name="many", description="two kinds of writers", duration_s=0.0, topics={"orders": Topic()}, clients=appends
    )
    run = Run(scenario, cast("Target", SlowTarget()), tmp_path, seed=1)
    clients = NoClients()
    await run._load(cast("ClusterWatch", SimpleNamespace()), cast("ClientProcesses", clients))
    names, seeds = zip(*clients.added[1:], strict=True)
    assert names == ("append-0", "append-1", "append-2", "append-3")
    assert len(set(seeds)) == 4
