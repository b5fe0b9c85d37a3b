"""Scenarios: what clients do, what is done to the cluster meanwhile, and what must come of it; a TOML file each.

    name = "leader-kill"
    description = "Partition leaders are killed with -9 under load."
    duration_s = 30

    [topics.orders]
    partitions = 6
    config = { "min.insync.replicas" = "2" }

    [[clients]]
    workload = "append"
    count = 2
    options = { topics = ["orders"] }

    [[faults]]
    kind = "kill"
    role = "leader"
    at_s = 5
    every_s = 8
    lasts_s = 2

A fault with `every_s` strikes again and again until `until_s` (the end of the run by default). Unknown names, kinds,
roles and options are refused when the file is read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from chaos.kinds import KINDS
from chaos.roles import ROLES

DIRECTORY: Final = Path(__file__).parent / "scenarios"


class ScenarioError(ValueError):
    """A scenario cannot be used; says which, where and why."""


class Topic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A topic that exists before anything happens."""

    partitions: int = 6
    replication_factor: int = 3
    config: dict[str, str] = {}


class Clients(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Client processes of one kind; `options` are the workload's (see chaos/workloads)."""

    workload: str
    count: int = 1
    options: dict[str, Any] = {}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault, once or again and again.

    Args:
        role: whom it strikes, a key of `ROLES`; bound at the moment it strikes.
        lasts_s: until it is undone; a killed broker is started again then.
        jitter_s: each time is moved by up to so much, drawn from the run's seed.
        options: the kind's, see `KINDS`.
    """

    kind: str
    role: str = "leader"
    at_s: float = 3.0
    every_s: float = 0.0
    until_s: float = 0.0
    lasts_s: float = 2.0
    jitter_s: float = 0.0
    options: dict[str, Any] = {}


class Bounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is missed makes the run fail, beside any anomaly; 0: no bound.

    Args:
        gap_s_max: how long writes to a partition may stop, p99 over the faults that stopped them.
        gap_s_max_of: the same for some kinds of faults, by kind.
        availability_percent_min: seconds in which every probe of a partition was acknowledged in time.
    """

    gap_s_max: float = 0.0
    gap_s_max_of: dict[str, float] = {}
    availability_percent_min: float = 0.0
    acked_records_min: int = 1


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the top of the file.

    Args:
        settings: additions to every node.toml, section -> key -> value.
        lazy_disk: unsynced bytes are lost when a broker dies; needed for power loss.
        disk_mib_max: size of each broker's filesystem; 0: unbounded.
        excuses: "power-loss" or "disk-damage": topics that promise nothing after these are not judged.
        ablations: safeguards that are off in every broker.
        expected_anomalies: for ablations: at least one of these must be found, and then the run passes.
    """

    name: str
    description: str
    duration_s: float = 30.0
    brokers: int = 3
    settings: dict[str, dict[str, Any]] = {}
    lazy_disk: bool = False
    disk_mib_max: int = 0
    topics: dict[str, Topic] = {}
    clients: list[Clients] = []
    faults: list[Fault] = []
    bounds: Bounds = Bounds()
    ablations: list[str] = []
    expected_anomalies: list[str] = []
    settle_s_max: float = 60.0
    tags: list[str] = []

    def capabilities(self) -> list[str]:
        """What its faults need of a target, each once."""
        needed = [KINDS[fault.kind].capability for fault in self.faults]
        needed += ["power-loss"] if self.lazy_disk else []
        needed += ["ablation"] if self.ablations else []
        return list(dict.fromkeys(needed))

    def strikes(self, seed: int) -> list[tuple[float, Fault]]:
        """Every moment (seconds after the beginning) at which a fault begins, in order; the same for the same seed."""
        found: list[tuple[float, int, Fault]] = []
        for number, fault in enumerate(self.faults):
            rng = Random(f"{seed}/{self.name}/{number}")
            for at_s in _times(fault, self.duration_s):
                moved_s = max(0.0, at_s + rng.uniform(-fault.jitter_s, fault.jitter_s))
                found.append((moved_s, number, fault))
        return [(at_s, fault) for at_s, _, fault in sorted(found, key=lambda item: item[:2])]


def _times(fault: Fault, duration_s: float) -> Iterator[float]:
    end_s = min(fault.until_s or duration_s, duration_s)
    at_s = fault.at_s
    while at_s < end_s:
        yield at_s
        if fault.every_s <= 0:
            return
        at_s += fault.every_s


def parse(text: str, *, where: str) -> Scenario:
    """Read a scenario.

    Raises:
        ScenarioError: it is no TOML, has unknown fields, kinds or roles, or makes no sense; says where.
    """
    try:
        scenario = msgspec.convert(tomllib.loads(text), Scenario)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ScenarioError(f"{where}: {error}") from None
    problems = [problem for number, fault in enumerate(scenario.faults) if (problem := _problem(number, fault))]
    if scenario.duration_s <= 0:
        problems.append(f"duration_s is {scenario.duration_s}, it must be above 0")
    if not scenario.topics or not scenario.clients:
        problems.append("a scenario has at least one topic and one kind of clients")
    if problems:
        raise ScenarioError(f"{where}: {'; '.join(problems)}")
    return scenario


def _problem(number: int, fault: Fault) -> str | None:
    if fault.kind not in KINDS:
        return f"faults[{number}]: there is no kind {fault.kind!r}; there are {', '.join(sorted(KINDS))}"
    if fault.role not in ROLES:
        return f"faults[{number}]: there is no role {fault.role!r}; there are {', '.join(sorted(ROLES))}"
    unknown = sorted(fault.options.keys() - KINDS[fault.kind].options.keys())
    if unknown:
        return f"faults[{number}]: {fault.kind} has no option {unknown[0]!r}"
    if fault.every_s < 0 or fault.lasts_s < 0 or fault.at_s < 0:
        return f"faults[{number}]: times cannot be negative"
    return None


def load(name: str) -> Scenario:
    """Read a scenario by its name (of those that come with the suite) or from a file.

    Raises:
        ScenarioError: there is none, or it cannot be used.
    """
    path = Path(name) if name.endswith(".toml") else DIRECTORY / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        from chaos.matrix import generated

        if name in generated():
            return generated()[name]
        raise ScenarioError(f"there is no scenario {name!r}; `python -m chaos list` names all") from None
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from None
    return parse(text, where=str(path))


def written() -> dict[str, Scenario]:
    """The scenarios that were written by hand, by name."""
    found: dict[str, Scenario] = {}
    for path in sorted(DIRECTORY.glob("*.toml")):
        scenario = parse(path.read_text(encoding="utf-8"), where=path.name)
        if scenario.name != path.stem:
            raise ScenarioError(f"{path.name}: its name is {scenario.name!r}")
        found[scenario.name] = scenario
    return found
