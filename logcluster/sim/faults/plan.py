"""The plan of a run: an explicit list of timed faults, stored as JSON, read by people one line each.

A plan is what is replayed and shrunk: what a seed drew is written down, and the same seed with a smaller plan repeats
everything else. Each fault has a number that stays its own when others are dropped, because its random choices at
injection come from a stream of that number. Times are virtual milliseconds since the safety phase began.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from logcluster.sim.faults.kinds import KINDS, ArgumentValue, FaultKind
from logcluster.sim.faults.selectors import InvalidSelector, check_selector

PLAN_FORMAT: Final = "logcluster-fault-plan"
PLAN_VERSION: Final = 1

Mode = Literal["promised", "beyond"]
"""Within what the design promises to survive, or beyond, where it only promises to stop loudly."""
MODES: Final[tuple[Mode, ...]] = ("promised", "beyond")


class InvalidPlan(ValueError):
    """A plan or a fault cannot be: the message says where and why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Args:
        at_ms: when it strikes.
        targets: selectors (`selectors`), resolved when it strikes; empty for a kind that has none.
        arguments: those that are not given have the default of `KINDS`.
        duration_ms: after this it is undone; 0 for a kind that does not last.
        number: names its random stream; unique in a plan.

    Raises:
        InvalidPlan: the kind does not take this.
    """

    at_ms: int
    kind: FaultKind
    targets: tuple[str, ...] = ()
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    duration_ms: int = 0
    number: int = 0

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem is not None:
            raise InvalidPlan(f"{self.kind} at {self.at_ms} ms: {problem}")

    def _problem(self) -> str | None:
        spec = KINDS[self.kind]
        if self.at_ms < 0 or self.duration_ms < 0 or self.number < 0:
            return "times and numbers are not negative"
        if spec.lasts != (self.duration_ms > 0):
            return "needs a duration above 0" if spec.lasts else "takes no duration"
        if len(self.targets) < spec.targets_min or (self.targets and not spec.targets_min):
            return f"takes {spec.targets_min or 'no'} target(s), not {len(self.targets)}"
        for name, value in self.arguments.items():
            argument = spec.arguments.get(name)
            if argument is None:
                return f"takes no argument {name!r} (known: {', '.join(spec.arguments) or 'none'})"
            why = argument.problem(value)
            if why is not None:
                return f"argument {name} = {value!r} {why}"
        try:
            for selector in self.targets:
                check_selector(selector)
        except InvalidSelector as error:
            return str(error)
        return None

    @property
    def end_ms(self) -> int:
        return self.at_ms + self.duration_ms

    def _value(self, name: str) -> ArgumentValue:
        return self.arguments.get(name, KINDS[self.kind].arguments[name].default)

    def integer(self, name: str) -> int:
        """The argument as a whole number, or its default."""
        return int(self._value(name))

    def number_of(self, name: str) -> float:
        """The argument as a number, or its default."""
        return float(self._value(name))

    def text(self, name: str) -> str:
        """The argument as text, or its default."""
        return str(self._value(name))

    def flag(self, name: str) -> bool:
        """The argument as a truth value, or its default."""
        return bool(self._value(name))

    def describe(self) -> str:
        """One line for people."""
        spec = KINDS[self.kind]
        values = {name: self._value(name) for name in spec.arguments}
        shown = {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}
        text = spec.text.format(targets=" and ".join(self.targets), duration_ms=self.duration_ms, **shown)
        return f"{self.at_ms:>7} ms  #{self.number:<3} {text}"

    def to_json(self) -> dict[str, Any]:
        """The fault as JSON values."""
        document: dict[str, Any] = {"number": self.number, "at_ms": self.at_ms, "kind": self.kind.value}
        if self.targets:
            document["targets"] = list(self.targets)
        if self.arguments:
            document["arguments"] = dict(self.arguments)
        if self.duration_ms:
            document["duration_ms"] = self.duration_ms
        return document

    @staticmethod
    def from_json(document: object) -> Fault:
        """Read what `to_json` wrote.

        Raises:
            InvalidPlan: it is no fault.
        """
        values = _mapping(document, "a fault")
        unknown = sorted(values.keys() - {"number", "at_ms", "kind", "targets", "arguments", "duration_ms"})
        if unknown:
            raise InvalidPlan(f"a fault has unknown keys: {', '.join(unknown)}")
        kind_text = values.get("kind")
        try:
            kind = FaultKind(str(kind_text))
        except ValueError:
            raise InvalidPlan(f"there is no kind of fault {kind_text!r}") from None
        targets = values.get("targets", [])
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise InvalidPlan(f"{kind}: targets must be a list of texts")
        return Fault(
            at_ms=_integer(values, "at_ms"),
            kind=kind,
            targets=tuple(targets),
            arguments=dict(_mapping(values.get("arguments", {}), f"arguments of {kind}")),
            duration_ms=_integer(values, "duration_ms", default=0),
            number=_integer(values, "number"),
        )


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the safety phase; no fault strikes or lasts in a quiet one."""

    start_ms: int
    end_ms: int
    is_quiet: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of one run, in the order of their times.

    Args:
        brokers: how many nodes the plan was made for, numbered from 0.
        duration_ms: length of the safety phase.
        windows: how it was cut up; empty in a plan made by hand.

    Raises:
        InvalidPlan: faults share a number, or a fault begins after the end.
    """

    faults: tuple[Fault, ...] = ()
    windows: tuple[Window, ...] = ()
    duration_ms: int = 8_000
    brokers: int = 3
    mode: Mode = "promised"

    def __post_init__(self) -> None:
        if self.duration_ms <= 0 or self.brokers <= 0:
            raise InvalidPlan("a plan has a duration and brokers above 0")
        if self.mode not in MODES:
            raise InvalidPlan(f"mode {self.mode!r} is none of {', '.join(MODES)}")
        seen: dict[int, Fault] = {}
        for fault in self.faults:
            other = seen.setdefault(fault.number, fault)
            if other is not fault:
                raise InvalidPlan(f"{other.kind} and {fault.kind} share the number {fault.number}")
            if fault.at_ms > self.duration_ms:
                raise InvalidPlan(f"{fault.kind} at {fault.at_ms} ms is beyond the end at {self.duration_ms} ms")
        object.__setattr__(self, "faults", tuple(sorted(self.faults, key=lambda fault: (fault.at_ms, fault.number))))

    def with_faults(self, faults: Iterable[Fault]) -> Plan:
        """The same plan with other faults."""
        return replace(self, faults=tuple(faults))

    def describe(self) -> tuple[str, ...]:
        """The plan for people, a line each: the whole, then every fault."""
        quiet = sum(window.is_quiet for window in self.windows)
        head = (
            f"{len(self.faults)} faults in {self.duration_ms} ms on {self.brokers} brokers, {self.mode}, "
            f"{len(self.windows)} windows, {quiet} of them quiet"
        )
        return (head, *(fault.describe() for fault in self.faults))

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "format": PLAN_FORMAT,
            "version": PLAN_VERSION,
            "mode": self.mode,
            "brokers": self.brokers,
            "duration_ms": self.duration_ms,
            "windows": [[window.start_ms, window.end_ms, window.is_quiet] for window in self.windows],
            "faults": [fault.to_json() for fault in self.faults],
        }

    @staticmethod
    def from_json(document: object) -> Plan:
        """Read what `to_json` wrote, as values or as text.

        Raises:
            InvalidPlan: it is no plan, or of another version.
        """
        if isinstance(document, str | bytes):
            try:
                document = json.loads(document)
            except ValueError as error:
                raise InvalidPlan(f"the plan is no JSON: {error}") from error
        values = _mapping(document, "a plan")
        if values.get("format") != PLAN_FORMAT:
            raise InvalidPlan(f"not a plan of faults: format is {values.get('format')!r}, not {PLAN_FORMAT!r}")
        if values.get("version") != PLAN_VERSION:
            raise InvalidPlan(f"version {values.get('version')!r} of the plan; this is for version {PLAN_VERSION}")
        faults = values.get("faults")
        windows = values.get("windows", [])
        if not isinstance(faults, list) or not isinstance(windows, list):
            raise InvalidPlan("faults and windows must be lists")
        return Plan(
            faults=tuple(Fault.from_json(fault) for fault in faults),
            windows=tuple(_window(window) for window in windows),
            duration_ms=_integer(values, "duration_ms"),
            brokers=_integer(values, "brokers"),
            mode=cast("Mode", values.get("mode")),
        )


def _window(document: object) -> Window:
    match document:
        case [int(start_ms), int(end_ms), bool(is_quiet)] if 0 <= start_ms < end_ms:
            return Window(start_ms, end_ms, is_quiet)
    raise InvalidPlan(f"a window is [start_ms, end_ms, is_quiet], not {document!r}")


def _mapping(document: object, what: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise InvalidPlan(f"{what} must be a JSON object, not {document!r}")
    return document


def _integer(values: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidPlan(f"{name} must be a whole number, not {value!r}")
    return value
