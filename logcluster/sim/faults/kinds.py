"""Every kind of fault: its arguments with ranges and defaults, whether it lasts, and how it reads in one line.

One table, so that a plan can be checked when it is read and not when it is half carried out. The catalogue follows
what Jepsen, FoundationDB's Sim2, TigerBeetle's VOPR, etcd's robustness tests and Redpanda's chaos suite inject.
Duplicated and very late requests are absent: on a stream nothing arrives twice, so hostile clients see to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

ArgumentValue = bool | int | float | str


class FaultKind(StrEnum):
    """What happens; the texts stand in plans."""

    # processes
    CRASH = "crash"
    POWER_LOSS = "power-loss"
    QUICK_RESTART = "quick-restart"
    SHUTDOWN = "shutdown"
    PAUSE = "pause"
    SLOW_NODE = "slow-node"
    FAILPOINT = "failpoint"
    ROLLING_RESTART = "rolling-restart"
    RESTART_STORM = "restart-storm"
    LEADERSHIP_TRANSFER = "leadership-transfer"
    # clocks
    CLOCK_SKEW = "clock-skew"
    CLOCK_JUMP = "clock-jump"
    CLOCK_DRIFT = "clock-drift"
    # network
    ISOLATE = "isolate"
    ISOLATE_ONE_WAY = "isolate-one-way"
    CUT_LINK = "cut-link"
    MAJORITY_RING = "majority-ring"
    SWIZZLE = "swizzle"
    CLIENTS_CUT = "clients-cut"
    DELAY = "delay"
    SLOW_TAIL = "slow-tail"
    RESETS = "resets"
    RESET_STORM = "reset-storm"
    # disks
    SLOW_DISK = "slow-disk"
    READ_ERROR = "read-error"
    WRITE_ERROR = "write-error"
    SYNC_ERROR = "sync-error"
    STORE_ERROR = "store-error"
    DISK_FULL = "disk-full"
    # damage
    BIT_FLIP = "bit-flip"
    TRUNCATE_FILE = "truncate-file"
    OVERWRITE = "overwrite"
    STALE_BLOCK = "stale-block"
    DERIVED_DAMAGE = "derived-damage"
    WIPE = "wipe"


class FaultGroup(StrEnum):
    """What a fault touches; the swarm draws whole groups in and out."""

    PROCESS = "process"
    CLOCK = "clock"
    NETWORK = "network"
    DISK = "disk"
    DAMAGE = "damage"


@dataclass(frozen=True, slots=True)
class ArgumentSpec:
    """One argument: the type of its default decides what is accepted.

    Args:
        low, high: bounds of a number, both allowed.
        choices: the only texts allowed; empty for any.
    """

    default: ArgumentValue
    low: float = 0
    high: float = float("inf")
    choices: tuple[str, ...] = ()

    def problem(self, value: object) -> str | None:
        """Why `value` is not allowed; None when it is."""
        if isinstance(self.default, bool):
            return None if isinstance(value, bool) else "must be true or false"
        if isinstance(self.default, str):
            if not isinstance(value, str):
                return "must be text"
            return f"must be one of {', '.join(self.choices)}" if self.choices and value not in self.choices else None
        numbers = (int,) if isinstance(self.default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, numbers):
            return "must be a whole number" if isinstance(self.default, int) else "must be a number"
        return None if self.low <= value <= self.high else f"must be from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What a fault of one kind takes.

    Args:
        text: a line for people; `{targets}`, `{duration_ms}` and arguments are filled in.
        lasts: whether it needs a duration above zero.
        targets_min: how many targets it needs; 0 for one that has none.
    """

    group: FaultGroup
    text: str
    lasts: bool = True
    targets_min: int = 1
    arguments: Mapping[str, ArgumentSpec] = field(default_factory=dict)


SKEW_MS_MAX: Final = 3_600_000
"""A clock is wrong by an hour at most: nothing that retention or producer expiry (a day) would act upon."""
REPAIRS: Final = ("process", "machine", "disk")
"""How a stopped log directory comes back: process restarted, machine rebooted (page cache gone), disk replaced."""
DERIVED_FILES: Final = ("index", "epochs", "snapshot", "metadata", "boot", "checkpoint")

_P, _C, _N, _D, _X = (
    FaultGroup.PROCESS,
    FaultGroup.CLOCK,
    FaultGroup.NETWORK,
    FaultGroup.DISK,
    FaultGroup.DAMAGE,
)
_TORN = ArgumentSpec(False)
_REPAIR = ArgumentSpec("process", choices=REPAIRS)
_COUNT = ArgumentSpec(1, 1, 1_000)

KINDS: Final[Mapping[FaultKind, KindSpec]] = {
    FaultKind.CRASH: KindSpec(_P, "crash {targets}, start again after {duration_ms} ms"),
    FaultKind.POWER_LOSS: KindSpec(
        _P, "cut the power of {targets} for {duration_ms} ms (torn writes: {torn})", arguments={"torn": _TORN}
    ),
    FaultKind.QUICK_RESTART: KindSpec(
        _P,
        "crash {targets}, start again after {duration_ms} ms, before a session ends (power lost: {power_loss})",
        arguments={"power_loss": ArgumentSpec(False)},
    ),
    FaultKind.SHUTDOWN: KindSpec(_P, "shut {targets} down in order, start again after {duration_ms} ms"),
    FaultKind.PAUSE: KindSpec(_P, "pause {targets} for {duration_ms} ms"),
    FaultKind.SLOW_NODE: KindSpec(
        _P, "slow {targets} down by {factor} for {duration_ms} ms", arguments={"factor": ArgumentSpec(3.0, 1, 100)}
    ),
    FaultKind.FAILPOINT: KindSpec(
        _P,
        "within {duration_ms} ms, crash {targets} at hit {hit} of {name}, start again after {down_ms} ms "
        "(power lost: {power_loss})",
        arguments={
            "name": ArgumentSpec(""),
            "hit": ArgumentSpec(1, 1, 1_000_000),
            "down_ms": ArgumentSpec(300, 1, 600_000),
            "power_loss": ArgumentSpec(False),
        },
    ),
    FaultKind.ROLLING_RESTART: KindSpec(
        _P,
        "restart all nodes one by one within {duration_ms} ms (controlled: {controlled}), each {down_ms} ms down",
        targets_min=0,
        arguments={"controlled": ArgumentSpec(True), "down_ms": ArgumentSpec(100, 1, 600_000)},
    ),
    FaultKind.RESTART_STORM: KindSpec(
        _P,
        "restart random nodes {restarts} times within {duration_ms} ms (power lost: {power_loss})",
        targets_min=0,
        arguments={"restarts": ArgumentSpec(5, 1, 100), "power_loss": ArgumentSpec(False)},
    ),
    FaultKind.LEADERSHIP_TRANSFER: KindSpec(_P, "let {targets} lead the metadata quorum", lasts=False),
    FaultKind.CLOCK_SKEW: KindSpec(
        _C,
        "set the clock of {targets} {skew_ms} ms off for {duration_ms} ms",
        arguments={"skew_ms": ArgumentSpec(1_000, -SKEW_MS_MAX, SKEW_MS_MAX)},
    ),
    FaultKind.CLOCK_JUMP: KindSpec(
        _C,
        "let the clock of {targets} jump by {jump_ms} ms",
        lasts=False,
        arguments={"jump_ms": ArgumentSpec(1_000, -SKEW_MS_MAX, SKEW_MS_MAX)},
    ),
    FaultKind.CLOCK_DRIFT: KindSpec(
        _C,
        "let the clock of {targets} drift by {drift} for {duration_ms} ms",
        arguments={"drift": ArgumentSpec(0.01, -0.9, 10)},
    ),
    FaultKind.ISOLATE: KindSpec(
        _N,
        "cut {targets} off from all other nodes for {duration_ms} ms (clients too: {clients})",
        arguments={"clients": ArgumentSpec(False)},
    ),
    FaultKind.ISOLATE_ONE_WAY: KindSpec(
        _N,
        "hold back what goes {direction} of {targets} for {duration_ms} ms (clients too: {clients})",
        arguments={"direction": ArgumentSpec("out", choices=("in", "out")), "clients": ArgumentSpec(False)},
    ),
    FaultKind.CUT_LINK: KindSpec(
        _N,
        "cut the link between {targets} for {duration_ms} ms (one way: {one_way})",
        targets_min=2,
        arguments={"one_way": ArgumentSpec(False)},
    ),
    FaultKind.MAJORITY_RING: KindSpec(
        _N, "for {duration_ms} ms every node sees a majority, no two the same", targets_min=0
    ),
    FaultKind.SWIZZLE: KindSpec(
        _N,
        "cut {nodes} random nodes off one by one, and heal them in another order within {duration_ms} ms",
        targets_min=0,
        arguments={"nodes": ArgumentSpec(2, 1, 100)},
    ),
    FaultKind.CLIENTS_CUT: KindSpec(
        _N,
        "cut {percent} % of the clients off from {targets} for {duration_ms} ms (one way: {one_way})",
        arguments={"percent": ArgumentSpec(100, 1, 100), "one_way": ArgumentSpec(False)},
    ),
    FaultKind.DELAY: KindSpec(
        _N,
        "delay all to and from {targets} by {delay_ms_min} to {delay_ms_max} ms for {duration_ms} ms",
        arguments={"delay_ms_min": ArgumentSpec(5, 0, 60_000), "delay_ms_max": ArgumentSpec(50, 1, 60_000)},
    ),
    FaultKind.SLOW_TAIL: KindSpec(
        _N,
        "delay {probability} of all to and from {targets} by up to {delay_ms_max} ms for {duration_ms} ms",
        arguments={"probability": ArgumentSpec(0.01, 0, 1), "delay_ms_max": ArgumentSpec(300, 1, 60_000)},
    ),
    FaultKind.RESETS: KindSpec(
        _N,
        "reset connections of {targets} with {probability} of the writes for {duration_ms} ms",
        arguments={"probability": ArgumentSpec(0.01, 0, 1)},
    ),
    FaultKind.RESET_STORM: KindSpec(
        _N,
        "break all connections of {targets} {times} times within {duration_ms} ms",
        arguments={"times": _COUNT},
    ),
    FaultKind.SLOW_DISK: KindSpec(
        _D,
        "let the disk of {targets} take {latency_ms_min} to {latency_ms_max} ms for {duration_ms} ms",
        arguments={"latency_ms_min": ArgumentSpec(5.0, 0, 60_000), "latency_ms_max": ArgumentSpec(50.0, 0, 60_000)},
    ),
    FaultKind.READ_ERROR: KindSpec(
        _D,
        "fail {count} reads on {targets} (EIO); repair by {repair} after {duration_ms} ms",
        arguments={"count": _COUNT, "repair": _REPAIR},
    ),
    FaultKind.WRITE_ERROR: KindSpec(
        _D,
        "fail {count} writes on {targets} (EIO); repair by {repair} after {duration_ms} ms",
        arguments={"count": _COUNT, "repair": _REPAIR},
    ),
    FaultKind.SYNC_ERROR: KindSpec(
        _D,
        "fail {count} syncs on {targets} and lose what they were to keep; repair by {repair} after {duration_ms} ms",
        arguments={"count": _COUNT, "repair": _REPAIR},
    ),
    FaultKind.STORE_ERROR: KindSpec(
        _D,
        "fail the quorum store of {targets} after {writes} writes, for {duration_ms} ms",
        arguments={"writes": ArgumentSpec(0, 0, 10_000)},
    ),
    FaultKind.DISK_FULL: KindSpec(
        _D,
        "leave {targets} {free_bytes} bytes of disk for {duration_ms} ms",
        arguments={"free_bytes": ArgumentSpec(0, 0, 2**40)},
    ),
    FaultKind.BIT_FLIP: KindSpec(
        _X,
        "flip {bits} bits ({part}) of synced batches on {targets}",
        lasts=False,
        arguments={"bits": _COUNT, "part": ArgumentSpec("any", choices=("any", "checked"))},
    ),
    FaultKind.TRUNCATE_FILE: KindSpec(
        _X,
        "cut a segment of {targets} short, below what was synced (between batches: {between})",
        lasts=False,
        arguments={"between": ArgumentSpec(False)},
    ),
    FaultKind.OVERWRITE: KindSpec(
        _X,
        "overwrite up to {size_bytes} synced bytes on {targets} with {content}",
        lasts=False,
        arguments={
            "size_bytes": ArgumentSpec(512, 1, 1 << 20),
            "content": ArgumentSpec("random", choices=("random", "zeros", "elsewhere")),
        },
    ),
    FaultKind.STALE_BLOCK: KindSpec(
        _X,
        "give {targets} back a block as it was {duration_ms} ms earlier",
        arguments={"size_bytes": ArgumentSpec(4_096, 1, 1 << 20)},
    ),
    FaultKind.DERIVED_DAMAGE: KindSpec(
        _X,
        "damage ({how}) a file that can be rebuilt ({file}) on {targets}",
        lasts=False,
        arguments={
            "file": ArgumentSpec("index", choices=DERIVED_FILES),
            "how": ArgumentSpec("flip", choices=("flip", "cut", "remove")),
        },
    ),
    FaultKind.WIPE: KindSpec(_X, "crash {targets}, give it an empty disk, start it after {duration_ms} ms"),
}
