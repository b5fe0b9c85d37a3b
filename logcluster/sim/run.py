"""One run: everything of it drawn from a seed, from the cluster's settings to the verdict.

    start        brokers and topics
    safety       clients at work while the plan's faults strike; invariants after every event
    liveness     everything healed: every partition takes writes, all replicas come into sync, within a bound
    rest         replicas are compared byte for byte, fresh clients read everything, the history is judged

The shape is TigerBeetle's. A run ends at the first broken invariant; an empty list of findings is a pass.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from logcluster.check.checker import check
from logcluster.check.history import Event, Recorder
from logcluster.check.registry import CheckOptions
from logcluster.model import probes
from logcluster.runtime.clock import perf_counter_ns
from logcluster.sim import ablations
from logcluster.sim.ablations.profiles import draw_profile_plan
from logcluster.sim.event_loop import SimulationDeadlock, SimulationError, SimulationTimeUp
from logcluster.sim.faults.atlas import Atlas
from logcluster.sim.faults.injector import Injector
from logcluster.sim.faults.plan import Plan
from logcluster.sim.faults.swarm import draw_plan
from logcluster.sim.findings import Finding
from logcluster.sim.invariants import Invariants, check_at_rest
from logcluster.sim.log_capture import captured
from logcluster.sim.settings import draw_world_options
from logcluster.sim.timeline import TimelineEntry
from logcluster.sim.workload.options import WorkloadOptions
from logcluster.sim.workload.workload import Workload
from logcluster.sim.world import World, WorldOptions

CONVERGENCE_TIMEOUT_MS: Final = 30_000
LIVENESS_TIMEOUT_MS: Final = 20_000
VIRTUAL_MS_MAX: Final = 300_000
FINDINGS_MAX: Final = 20
LOSSES: Final = frozenset(
    {"lost-write", "unseen", "lost-on-node", "repeat-appended", "commit-lost", "commit-went-back", "double-ownership"}
)
"""What mode "beyond" allows: data may be gone, and with it the memory of duplicates, of offsets and of who has which
partition; what is served is never wrong."""
TOLERATED: Final = frozenset({"stale-list-offsets"})
"""A leader that wakes from a pause may name the end it knew before it hears that another leads; so does Kafka's."""

Mode = Literal["promised", "beyond"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run is asked for.

    Args:
        plan: of faults; None draws one from the seed.
        ablation: name of a safeguard that is off, a key of `ablations.ABLATIONS`.
        mode: "promised" injects what the design survives; "beyond" more, and then demands only that nothing wrong
            is served.
        duration_ms: of the safety phase, in virtual time.
        brokers: nodes of the cluster.
    """

    seed: int
    plan: Plan | None = None
    ablation: str | None = None
    mode: Mode = "promised"
    duration_ms: int = 8_000
    brokers: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run gave; the same for the same options, except `wall_ms`.

    Args:
        findings: what was wrong, in the order it was noticed; empty is a pass.
        trace_hash: SHA-256 of every turn, delivery and fault.
        plan: what was injected, drawn or given.
        derived: what was drawn from the seed besides the plan, a line each.
        history: of the clients.
        log: last lines that nodes and clients logged.
    """

    seed: int
    findings: tuple[Finding, ...]
    trace_hash: str
    virtual_ms: int
    wall_ms: int
    event_count: int
    probes: dict[str, int]
    plan: Plan
    derived: tuple[str, ...]
    timeline: tuple[TimelineEntry, ...]
    statistics: dict[str, Any]
    history: tuple[Event, ...] = ()
    log: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.findings


class _Broken(SimulationError):
    """An invariant is broken, so there is no point in going on."""


@dataclass(slots=True)
class _Parts:
    """What stands for the time of a run."""

    world: World
    plan: Plan
    workload: Workload
    recorder: Recorder
    injector: Injector
    findings: list[Finding] = field(default_factory=list)


def run_seed(options: RunOptions) -> RunResult:
    """Run one seed to its end; never raises for what the cluster does.

    Raises:
        KeyError: there is no such ablation.
    """
    started_ns = perf_counter_ns()
    world_options = draw_world_options(random.Random(f"{options.seed}/settings"), brokers=options.brokers)
    plan = options.plan
    if plan is None:
        plan = _draw_plan(options)
    world = World(options.seed, world_options)
    workload_options = WorkloadOptions.draw(world.stream("workload-options"), brokers=options.brokers)
    recorder = Recorder(lambda: int(world.loop.time() * 1e9))
    workload = Workload(world, workload_options, recorder)
    beyond = options.mode == "beyond"
    atlas = Atlas(world.nodes, damaged_nodes_max=None if beyond else 1)
    injector = Injector(world, plan, atlas, workload.clients, world.stream("faults"))
    parts = _Parts(world, plan, workload, recorder, injector)
    world.observers.append(Invariants(world, on_finding=_stop_at_first(parts)))
    world.on_unexpected = _note_unexpected(parts)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(captured(world))
        hits = stack.enter_context(probes.counting())
        if options.ablation is not None:
            stack.enter_context(ablations.apply(options.ablation))
        _drive(parts, options)
    return RunResult(
        seed=options.seed,
        findings=tuple(parts.findings[:FINDINGS_MAX]),
        trace_hash=world.loop.trace_hash(),
        virtual_ms=world.now_ms,
        wall_ms=(perf_counter_ns() - started_ns) // 1_000_000,
        event_count=world.loop.event_count,
        probes=hits,
        plan=plan,
        derived=_derived(world_options, workload_options),
        timeline=tuple(world.timeline.entries),
        statistics={**workload.statistics, **injector.statistics()},
        history=tuple(recorder.events),
        log=tuple(log.lines),
    )


def _draw_plan(options: RunOptions) -> Plan:
    """Draw from everything; with a safeguard off, from the faults in which it matters."""
    rng = random.Random(f"{options.seed}/plan")
    profile = None if options.ablation is None else ablations.ABLATIONS[options.ablation].profile
    if profile is not None and options.mode == "promised":
        return draw_profile_plan(profile, rng, brokers=options.brokers, duration_ms=options.duration_ms)
    return draw_plan(rng, brokers=options.brokers, duration_ms=options.duration_ms, mode=options.mode)


def _drive(parts: _Parts, options: RunOptions) -> None:
    """Run the world; what ends it early becomes a finding."""
    world, findings = parts.world, parts.findings
    try:
        world.run(lambda: _phases(parts, options.mode), time_ms_max=VIRTUAL_MS_MAX)
    except _Broken:
        pass
    except SimulationDeadlock as error:
        findings.append(Finding("deadlock", str(error), world.now_ms, "liveness"))
    except SimulationTimeUp as error:
        findings.append(Finding("time-up", str(error), world.now_ms, "liveness"))
    except SimulationError as error:
        findings.append(Finding("stuck", str(error), world.now_ms, "liveness"))
    else:
        _judge(parts, options)


async def _phases(parts: _Parts, mode: Mode) -> None:
    world, workload, findings = parts.world, parts.workload, parts.findings
    await world.start()
    await workload.prepare()
    await workload.start()
    await parts.injector.run()
    excused = workload.excuse(**_hardships(parts))  # of topics that promise less, nothing is demanded in either mode
    if mode == "beyond":
        await workload.stop()
        return
    findings += await workload.probe_liveness(LIVENESS_TIMEOUT_MS)
    findings += await workload.catch_up_groups(LIVENESS_TIMEOUT_MS)
    await workload.stop()
    await _converge(parts, frozenset(excused))
    findings += await workload.drain()
    findings += check_at_rest(world)


def _hardships(parts: _Parts) -> dict[str, bool]:
    """Which kinds of faults struck, for topics that promise less than the default."""
    kinds = {entry.kind for entry in parts.world.timeline.entries}
    return {"power_loss": "power_loss" in kinds, "disk_damage": bool(kinds & {"damage", "wipe"})}


async def _converge(parts: _Parts, excused: frozenset[str]) -> None:
    """Wait until every broker is active and every replica of every partition that promises anything is in sync."""
    world = parts.world

    def missing() -> list[str]:
        return _not_converged(world, excused)

    deadline_ms = world.now_ms + CONVERGENCE_TIMEOUT_MS
    while missing():
        if world.now_ms >= deadline_ms:
            for detail in missing()[:FINDINGS_MAX]:
                parts.findings.append(Finding("no-convergence", detail, world.now_ms, "liveness"))
            return
        await world.sleep_ms(50)


def _not_converged(world: World, excused: frozenset[str]) -> list[str]:
    inactive = [f"{node.name} is {node.state}" for node in world.nodes.values() if not node.is_active]
    if inactive:
        return inactive
    images = [node.node.loader.image for node in world.nodes.values() if node.node is not None]
    if len({image.offset for image in images}) > 1:
        return [f"metadata offsets differ: {[image.offset for image in images]}"]
    return [
        f"{topic.name}-{number}: in-sync replicas {list(partition.in_sync_replicas)} of {list(partition.replicas)}"
        for topic in images[0].topics.values()
        for number, partition in topic.partitions.items()
        if topic.name not in excused and sorted(partition.in_sync_replicas) != sorted(partition.replicas)
    ]


def _judge(parts: _Parts, options: RunOptions) -> None:
    """Check the history of the clients, and take what they noticed beside it."""
    is_promised = options.mode == "promised"
    for finding in parts.workload.findings:
        if finding not in parts.findings and (is_promised or finding.name not in LOSSES):
            parts.findings.append(finding)
    tolerated = TOLERATED if is_promised else TOLERATED | LOSSES
    if options.ablation is not None:
        tolerated -= ablations.ABLATIONS[options.ablation].expected
    events = parts.workload.checked_events(is_drained=is_promised)
    report = check(events, CheckOptions(drain_required=is_promised, tolerated=tolerated))
    for anomaly in report.anomalies:
        detail = f"{anomaly.key}: {anomaly.detail}"
        parts.findings.append(Finding(anomaly.name, detail, parts.world.now_ms, "history"))


def _stop_at_first(parts: _Parts) -> Any:
    def found(finding: Finding) -> None:
        parts.findings.append(finding)
        parts.world.timeline.note("finding", name=finding.name, detail=finding.detail)
        parts.world.loop.fail(_Broken(str(finding)))

    return found


def _note_unexpected(parts: _Parts) -> Any:
    def unexpected(what: str, error: BaseException | None) -> None:
        detail = f"{what}: {error!r}"
        parts.findings.append(Finding("unexpected-error", detail, parts.world.now_ms, "crash"))
        parts.world.loop.fail(_Broken(detail))

    return unexpected


def _derived(world: WorldOptions, workload: WorkloadOptions) -> tuple[str, ...]:
    lines = [f"{key} = {value}" for key, value in sorted(world.settings.items())]
    lines.append(f"link delay {world.link_delay_ms} ms, disk latency {world.disk_latency_ms} ms")
    lines.append(f"workload {workload.to_dict()}")
    return tuple(lines)
