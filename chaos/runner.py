"""One run: a cluster, clients, faults; then everything heals, is read out, and is judged.

    preflight   faults that the target cannot do here are named and left out
    load        clients at work while faults strike
    settle      every fault undone; all replicas in sync within a bound, or the run fails
    drain       a fresh client reads everything
    verdict     histories merged, checked, reported

Files are written as the run goes on, so a run that is cut short still says what happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from chaos.histories import check_history, events_of, incidents, merge, promised_ends
from chaos.interfaces import ClusterOptions, FaultFailed, RunFiles, Target
from chaos.kinds import KINDS, Strike
from chaos.processes import ClientProcesses
from chaos.report import write_report
from chaos.roles import ROLES
from chaos.scenario import Fault, Scenario
from chaos.watching import ClusterWatch
from chaos.workloads import WORKLOADS
from logcluster import __version__
from logcluster.client.client import Client, connect
from logcluster.model.errors import LogClusterError

DRAIN_TIMEOUT_S: Final = 120.0
ABLATED_DRAIN_MS: Final = 15_000
"""Without a safeguard, what was acknowledged may be gone for good, and is not waited for as long."""
UNDO_TIMEOUT_S: Final = 60.0
CLIENTS_START_TIMEOUT_S: Final = 60.0
Progress = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """How a run ended.

    Args:
        status: 0 passed, 1 anomalies or missed bounds, 2 the run did not do what it says.
    """

    scenario: str
    status: int
    reasons: list[str] = field(default_factory=list)
    anomalies: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    files: RunFiles | None = None


class Run:
    """One run of one scenario; `execute` it once.

    Args:
        progress: told in a line what happens.
    """

    def __init__(
        self, scenario: Scenario, target: Target, directory: Path, *, seed: int, progress: Progress = lambda line: None
    ) -> None:
        self.scenario = scenario
        self.target = target
        self.seed = seed
        self.files = RunFiles(directory)
        self._progress = progress
        self._problems: list[str] = []
        self._fault_number = 0
        self._skipped: dict[str, str] = {}
        self._began_ns = 0

    async def execute(self) -> Outcome:
        """Do all of it; leaves nothing running, whatever happens. Cancellation: everything is ended, no verdict."""
        self.files.directory.mkdir(parents=True, exist_ok=True)
        self.files.histories.mkdir(exist_ok=True)
        self._look_ahead()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.target.stop)
            self._progress("starting the cluster")
            await self.target.start(self._cluster_options(), self.files.nodes)
            self._write_run()
            client = await stack.enter_async_context(connect(self.target.bootstrap()))
            await self._create_topics(client)
            watch = ClusterWatch(self.target, client, groups=self._groups(), path=self.files.states)
            await watch.look()
            clients = ClientProcesses(self.target, self.files.histories)
            stack.push_async_callback(clients.kill_all)
            watching = asyncio.create_task(watch.run())
            stack.callback(watching.cancel)
            await self._load(watch, clients)
            await self._settle(watch)
            self._progress("ending the clients")
            await clients.stop()
            self._progress("reading everything")
            ends = promised_ends(events_of(self._histories()))
            options: dict[str, Any] = {"topics": sorted(self.scenario.topics), "ends": ends}
            if self.scenario.ablations:
                options["timeout_ms"] = ABLATED_DRAIN_MS
            drained = await clients.run_to_end("drain", "drain", options, self.seed, DRAIN_TIMEOUT_S)
            if not drained:
                self._problems.append("not everything could be read at the end")
            self._problems += [f"a client failed: {crash}" for crash in clients.crashes]
        return self._judge()

    # -- before --------------------------------------------------------------------------------------------------

    def _look_ahead(self) -> None:
        supported = {item.name: item for item in self.target.preflight()}
        for name in self.scenario.capabilities():
            item = supported.get(name)
            if item is None or not item.is_supported:
                self._skipped[name] = "unknown to this target" if item is None else item.reason
        if "ablation" in self._skipped or (self.scenario.lazy_disk and "power-loss" in self._skipped):
            raise FaultFailed(f"{self.target.name} cannot run {self.scenario.name}: {self._skipped}")

    def _cluster_options(self) -> ClusterOptions:
        scenario = self.scenario
        return ClusterOptions(
            brokers=scenario.brokers,
            settings=scenario.settings,
            is_disk_lazy=scenario.lazy_disk,
            ablations=tuple(scenario.ablations),
            disk_bytes_max=scenario.disk_mib_max << 20 or None,
        )

    def _write_run(self) -> None:
        self._began_ns = time.monotonic_ns()
        facts = {
            "scenario": self.scenario.name,
            "description": self.scenario.description,
            "seed": self.seed,
            "target": self.target.name,
            "brokers": list(self.target.broker_ids),
            "duration_s": self.scenario.duration_s,
            "version": __version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.release()}, {os.cpu_count()} processors",
            "ablations": self.scenario.ablations,
            "skipped": self._skipped,
            "fault_count": len(self.scenario.strikes(self.seed)),
            "bounds": msgspec.to_builtins(self.scenario.bounds),
            "expected_anomalies": self.scenario.expected_anomalies,
            "excused_topics": self._excused_topics(),
            "began": {"monotonic_ns": self._began_ns, "wall_ns": time.time_ns()},
            "command": f"python -m chaos run {self.scenario.name} --target {self.target.name} --seed {self.seed}",
        }
        self.files.run.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def _groups(self) -> Sequence[str]:
        found: set[str] = set()
        for clients in self.scenario.clients:
            options = msgspec.convert(clients.options, WORKLOADS[clients.workload].options_type)
            found.update(options.coordinated_groups())
        return sorted(found)

    async def _create_topics(self, client: Client) -> None:
        for name, topic in self.scenario.topics.items():
            await client.admin.create_topic(
                name,
                partitions=topic.partitions,
                replication_factor=min(topic.replication_factor, self.scenario.brokers),
                config=topic.config,
            )

    # -- load ----------------------------------------------------------------------------------------------------

    async def _load(self, watch: ClusterWatch, clients: ClientProcesses) -> None:
        scenario = self.scenario
        await clients.add("probe", "probe", {"topics": sorted(scenario.topics)}, self.seed)
        names: Counter[str] = Counter()
        for kind in scenario.clients:
            for _ in range(kind.count):
                name = f"{kind.workload}-{names[kind.workload]}"
                names[kind.workload] += 1
                options = {"topics": sorted(scenario.topics), **kind.options}
                await clients.add(name, kind.workload, options, self.seed * 100 + names.total())
        await self._wait_for_clients(clients)
        began_s = time.monotonic()
        turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        async with asyncio.TaskGroup() as strikes:  # whatever ends it, every fault is undone before it is left
            for at_s, fault in scenario.strikes(self.seed):
                await self._wait_until(began_s + at_s, clients)
                strikes.create_task(self._strike_in_turn(turns[id(fault)], fault, watch, clients))
            await self._wait_until(began_s + scenario.duration_s, clients)

    async def _wait_for_clients(self, clients: ClientProcesses) -> None:
        """A dozen interpreters take some seconds to start, and a fault that meets nobody proves nothing."""
        deadline_s = time.monotonic() + CLIENTS_START_TIMEOUT_S
        while waiting := clients.not_started():
            clients.note_crashes()
            if clients.crashes or time.monotonic() > deadline_s:
                self._problems.append(f"clients did not start: {', '.join(waiting)}")
                return
            await asyncio.sleep(0.1)

    async def _wait_until(self, at_s: float, clients: ClientProcesses) -> None:
        while (left_s := at_s - time.monotonic()) > 0:
            clients.note_crashes()
            await asyncio.sleep(min(1.0, left_s))

    async def _strike_in_turn(
        self, turn: asyncio.Lock, fault: Fault, watch: ClusterWatch, clients: ClientProcesses
    ) -> None:
        """A fault that repeats waits for its own undoing: on a slow machine, brokers may still be coming back."""
        async with turn:
            struck = await self._strike(fault, watch, clients)
            if self.target.is_slow:
                try:
                    await self.target.wait_ready(struck)
                except FaultFailed as error:
                    self._problems.append(str(error))

    async def _strike(self, fault: Fault, watch: ClusterWatch, clients: ClientProcesses) -> Sequence[int]:
        """Do it and undo it; returns the brokers that it struck."""
        self._fault_number += 1
        number = self._fault_number
        kind = KINDS[fault.kind]
        rng = Random(f"{self.seed}/{self.scenario.name}/strike/{number}")
        if kind.capability in self._skipped:
            self._note(number, fault, "skipped", [], self._skipped[kind.capability])
            return ()
        brokers = ROLES[fault.role](watch.state, rng)
        if not brokers and fault.role != "clients":
            self._note(number, fault, "skipped", [], f"nobody is {fault.role} at the moment")
            return ()
        strike = Strike(self.target, clients, brokers, {**kind.options, **fault.options}, rng)
        began_s = time.monotonic()
        self._note(number, fault, "begin", brokers, "")
        try:
            detail = await kind.begin(strike)
            self._progress(f"{fault.kind} {fault.role} {brokers or ''}: {detail}")
            await asyncio.sleep(max(0.0, fault.lasts_s - (time.monotonic() - began_s)))
        except (FaultFailed, LogClusterError, OSError) as error:
            self._problems.append(f"fault {number} ({fault.kind} {brokers}) failed: {error}")
            self._note(number, fault, "failed", brokers, str(error))
            detail = ""
        finally:
            await self._undo(number, fault, strike)
        self._note(number, fault, "end", brokers, detail)
        return brokers

    async def _undo(self, number: int, fault: Fault, strike: Strike) -> None:
        for undo in strike.undo:
            try:
                await asyncio.wait_for(undo(), UNDO_TIMEOUT_S)
            except (FaultFailed, OSError, TimeoutError) as error:
                self._problems.append(f"fault {number} ({fault.kind}) could not be undone: {error!r}")

    def _note(self, number: int, fault: Fault, phase: str, nodes: Sequence[int], detail: str) -> None:
        line = {
            "t_ns": time.monotonic_ns(),
            "number": number,
            "kind": fault.kind,
            "phase": phase,
            "nodes": list(nodes),
            "role": fault.role,
            "detail": detail,
        }
        with self.files.faults.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    # -- after ---------------------------------------------------------------------------------------------------

    async def _settle(self, watch: ClusterWatch) -> None:
        self._progress("healing")
        await self.target.heal_links()
        for broker_id in self.target.broker_ids:
            if not self.target.is_running(broker_id):
                await self.target.start_broker(broker_id, wait=False)
        replicas = max(topic.replication_factor for topic in self.scenario.topics.values())
        deadline_s = time.monotonic() + self.scenario.settle_s_max
        while not await watch.is_settled(replicas):
            if time.monotonic() > deadline_s:
                self._problems.append(
                    f"not all replicas were in sync {self.scenario.settle_s_max:.0f} s after the last fault"
                )
                return
            await asyncio.sleep(0.2)

    def _judge(self) -> Outcome:
        self._progress("judging")
        facts = json.loads(self.files.run.read_text(encoding="utf-8"))
        facts["ended"] = {"monotonic_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}
        facts["problems"] = self._problems
        self.files.run.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return judge(self.files)

    def _histories(self) -> list[Path]:
        return sorted(self.files.histories.glob("*.jsonl"))

    def _excused_topics(self) -> list[str]:
        """Topics that promise nothing: acknowledged from page caches, in a run in which all may lose their power."""
        if not self.scenario.lazy_disk:
            return []
        return [name for name, topic in self.scenario.topics.items() if topic.config.get("flush.mode") == "async"]


def judge(files: RunFiles) -> Outcome:
    """Check the histories of a run that is over, and write its report; again, if it was done before.

    Raises:
        FaultFailed: the directory holds no run.
    """
    try:
        facts = json.loads(files.run.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise FaultFailed(f"{files.directory} holds no run that was finished: {error}") from None
    events = merge(sorted(files.histories.glob("*.jsonl")))
    report = check_history(events, files.history, excused_topics=facts.get("excused_topics", ()))
    problems = [
        *facts.get("problems", ()),
        *(f"{event.client}: {event.f}: {event.error}" for event in incidents(events)),
    ]
    del events  # hours of them are gigabytes, and the report reads what it needs again
    result = write_report(
        files,
        report,
        problems=problems,
        bounds=facts.get("bounds"),
        expected_anomalies=facts.get("expected_anomalies", ()),
    )
    return Outcome(
        facts["scenario"], result.status, list(result.reasons), dict(result.anomalies), dict(result.figures), files
    )
