"""Scenarios that are made, not written: every workload under every fault that concerns it. Another row is one entry.

Names are "WORKLOAD.FAULT", for example "append.pause-leader"; `python -m chaos list` shows all.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from chaos.scenario import Bounds, Clients, Fault, Scenario, Topic

DURATION_S: Final = 14.0
DURABLE: Final = {"min.insync.replicas": "2"}


class Load(NamedTuple):
    """A workload of the matrix."""

    description: str
    topics: Mapping[str, Topic]
    clients: tuple[Clients, ...]
    faults: str
    """Which faults it meets, a key of `SETS`."""


class Trouble(NamedTuple):
    """A fault of the matrix; `extra` are further fields of the scenario."""

    description: str
    faults: tuple[Fault, ...]
    extra: Mapping[str, Any] = {}


def _often(kind: str, role: str, *, every_s: float = 4.0, lasts_s: float = 1.5, **options: Any) -> tuple[Fault, ...]:
    return (
        Fault(
            kind=kind,
            role=role,
            at_s=2.0,
            every_s=every_s,
            lasts_s=lasts_s,
            jitter_s=0.3,
            until_s=11.0,
            options=options,
        ),
    )


READ: Final = Clients(workload="read", options={})
LOADS: Final[Mapping[str, Load]] = {
    "append": Load(
        "idempotent producers to many partitions",
        {"orders": Topic(partitions=6, config=DURABLE)},
        (Clients(workload="append", count=2, options={"rate": 200, "compression": "mixed"}), READ),
        "all",
    ),
    "append-one": Load(
        "idempotent and plain producers to one partition, one over grpc",
        {"orders": Topic(partitions=1, config=DURABLE)},
        (
            Clients(workload="append", options={"rate": 200, "carrier": "grpc"}),
            Clients(workload="append", options={"rate": 100, "idempotent": False}),
            READ,
        ),
        "leaders",
    ),
    "append-async": Load(
        "a topic that is acknowledged from the page caches of all replicas",
        {"orders": Topic(partitions=3, config={**DURABLE, "flush.mode": "async"})},
        (Clients(workload="append", count=2, options={"rate": 200}), READ),
        "processes",
    ),
    "group": Load(
        "a consumer group whose members come and go",
        {"orders": Topic(partitions=6, config=DURABLE)},
        (
            Clients(workload="append", options={"rate": 200}),
            Clients(workload="group", count=3, options={"group": "billing"}),
        ),
        "groups",
    ),
    "offsets": Load(
        "offsets committed and read from outside of a group",
        {"orders": Topic(partitions=3, config=DURABLE)},
        (Clients(workload="append", options={"rate": 50}), Clients(workload="offsets", count=2)),
        "coordinators",
    ),
    "admin": Load(
        "topics created, grown, changed and deleted beside the load",
        {"orders": Topic(partitions=3, config=DURABLE)},
        (Clients(workload="append", options={"rate": 100}), Clients(workload="admin"), READ),
        "controllers",
    ),
}

TROUBLES: Final[Mapping[str, Trouble]] = {
    "calm": Trouble("nothing happens", ()),
    "kill-leader": Trouble("leaders are killed with -9", _often("kill", "leader")),
    "kill-follower": Trouble("followers are killed with -9", _often("kill", "follower")),
    "kill-controller": Trouble("the active controller is killed with -9", _often("kill", "controller")),
    "kill-coordinator": Trouble("the group's coordinator is killed with -9", _often("kill", "coordinator")),
    "kill-all": Trouble("all brokers are killed at once", _often("kill", "all", every_s=6.0, lasts_s=0.5)),
    "kill-majority": Trouble("a majority is killed at once", _often("kill", "majority", every_s=5.0)),
    "stop-leader": Trouble("leaders are stopped with SIGTERM", _often("terminate", "leader")),
    "pause-leader": Trouble("leaders stand still", _often("pause", "leader", lasts_s=2.5)),
    "pause-controller": Trouble("the active controller stands still", _often("pause", "controller", lasts_s=2.5)),
    "pause-coordinator": Trouble("the group's coordinator stands still", _often("pause", "coordinator", lasts_s=2.5)),
    "pause-all": Trouble("all brokers stand still", _often("pause", "all", every_s=6.0)),
    "restart-storm": Trouble(
        "a leader is killed and started again and again", _often("restart-storm", "leader", every_s=6.0)
    ),
    "rolling-restart": Trouble("every broker is restarted in turn", _often("rolling-restart", "all", every_s=20.0)),
    "power-loss": Trouble("leaders lose power", _often("power-loss", "leader"), {"lazy_disk": True}),
    "power-loss-all": Trouble(
        "all lose power", _often("power-loss", "all", every_s=6.0, lasts_s=0.5), {"lazy_disk": True}
    ),
    "isolate-leader": Trouble("leaders see no other broker", _often("isolate", "leader", lasts_s=2.5)),
    "isolate-leader-out": Trouble(
        "leaders are heard by nobody", _often("isolate", "leader", lasts_s=2.5, direction="out")
    ),
    "isolate-leader-in": Trouble("leaders hear nobody", _often("isolate", "leader", lasts_s=2.5, direction="in")),
    "isolate-controller": Trouble("the controller sees no other broker", _often("isolate", "controller", lasts_s=2.5)),
    "isolate-all-out": Trouble(
        "leaders are cut off from everybody", _often("isolate", "leader", lasts_s=2.5, clients=True)
    ),
    "majority-ring": Trouble("every broker sees another majority", _often("majority-ring", "all", lasts_s=2.5)),
    "clients-cut": Trouble("leaders are cut off from clients", _often("clients-cut", "leader", lasts_s=2.5)),
    "delay": Trouble("80 ms on every link of a leader", _often("delay", "leader", lasts_s=2.5)),
    "bandwidth": Trouble(
        "little bandwidth for a leader", _often("bandwidth", "leader", lasts_s=2.5, bytes_per_s=64 << 10)
    ),
    "resets": Trouble("connections of leaders are reset", _often("resets", "leader")),
    "slow-disk": Trouble("the disk of a leader is slow", _often("slow-disk", "leader", lasts_s=2.5)),
    "io-error": Trouble("a write of a leader fails with EIO", _often("io-error", "leader")),
    "sync-error": Trouble("a sync of a leader fails with EIO", _often("io-error", "leader", operation="sync")),
    "disk-full": Trouble("a leader's disk is full", _often("disk-full", "leader")),
    "clock-jump": Trouble("wall clocks jump by an hour", _often("clock-jump", "random")),
    "clock-back": Trouble("wall clocks jump back", _often("clock-jump", "random", by_ms=-600_000)),
    "wipe": Trouble("a follower gets an empty disk", _often("wipe", "follower", every_s=20.0)),
    "bit-flip": Trouble(
        "a bit of a follower's log flips",
        # Late: what is damaged lies below a recovery point, and brokers move those every five seconds.
        (Fault(kind="bit-flip", role="follower", at_s=8.5, lasts_s=1.5),),
    ),
    "client-kill": Trouble("clients are killed with -9", _often("client-kill", "clients", every_s=2.0, lasts_s=0.1)),
    "client-pause": Trouble("clients stand still", _often("client-pause", "clients", lasts_s=3.0)),
}

_PROCESSES: Final = (
    "calm",
    "kill-leader",
    "kill-follower",
    "kill-controller",
    "kill-majority",
    "stop-leader",
    "pause-leader",
    "restart-storm",
    "rolling-restart",
)
_COORDINATORS: Final = (
    "calm",
    "kill-coordinator",
    "kill-leader",
    "kill-all",
    "pause-coordinator",
    "isolate-leader",
    "stop-leader",
    "restart-storm",
)
SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "all": tuple(name for name in TROUBLES if "coordinator" not in name),
    "leaders": (
        "kill-leader",
        "kill-all",
        "pause-leader",
        "isolate-leader",
        "isolate-leader-in",
        "isolate-leader-out",
        "clients-cut",
        "resets",
        "delay",
        "power-loss-all",
        "client-kill",
        "sync-error",
    ),
    "processes": _PROCESSES,
    "coordinators": _COORDINATORS,
    "groups": (
        *_COORDINATORS,
        "client-kill",
        "client-pause",
        "clients-cut",
        "delay",
        "resets",
        "rolling-restart",
        "power-loss-all",
        "isolate-all-out",
        "pause-all",
    ),
    "controllers": ("calm", "kill-controller", "kill-all", "pause-controller", "isolate-controller", "rolling-restart"),
}


@cache
def generated() -> Mapping[str, Scenario]:
    """Every scenario of the matrix, by name."""
    found: dict[str, Scenario] = {}
    for load_name, load in LOADS.items():
        for trouble_name in SETS[load.faults]:
            trouble = TROUBLES[trouble_name]
            name = f"{load_name}.{trouble_name}"
            found[name] = Scenario(
                name=name,
                description=f"{load.description}; {trouble.description}",
                duration_s=DURATION_S,
                topics=dict(load.topics),
                clients=list(load.clients),
                faults=list(trouble.faults),
                bounds=Bounds(acked_records_min=100),
                tags=["matrix"],
                **dict(trouble.extra),
            )
    return found
