"""The kinds of faults: what each needs of a target, how it is begun and how it is undone. Another one is one entry.

A kind strikes brokers (ids bound from a role) or client processes. `begin` returns what is said of it in the report;
`end` undoes it, and is called also when the run is cut short.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from chaos.interfaces import CLIENTS, Target

if TYPE_CHECKING:
    from chaos.processes import ClientProcesses


@dataclass(slots=True)
class Strike:
    """One fault in force.

    Args:
        brokers: whom it strikes.
        options: the kind's defaults with what the scenario says.
    """

    target: Target
    clients: ClientProcesses
    brokers: Sequence[int]
    options: Mapping[str, Any]
    rng: random.Random
    undo: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """How to undo it, in this order."""

    def others(self, broker_id: int) -> list[int]:
        """Every other broker."""
        return [other for other in self.target.broker_ids if other != broker_id]


Begin = Callable[[Strike], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of fault is done.

    Args:
        capability: one of `interfaces.CAPABILITIES`.
        options: names and defaults.
        is_availability: whether writes may stop while it lasts (so that the report attributes gaps to it).
    """

    capability: str
    begin: Begin
    options: Mapping[str, Any] = field(default_factory=dict)
    is_availability: bool = True


def _each(strike: Strike, undo: Callable[[int], Awaitable[None]]) -> None:
    strike.undo += [lambda broker_id=broker_id: undo(broker_id) for broker_id in strike.brokers]  # type: ignore[misc]


async def _restart(target: Target, broker_id: int) -> None:
    """Start it without waiting until it is ready: with the others down it cannot be, and they are started next."""
    if not target.is_running(broker_id):
        await target.start_broker(broker_id, wait=False)


async def _kill(strike: Strike) -> str:
    _each(strike, lambda broker_id: _restart(strike.target, broker_id))
    await asyncio.gather(*(strike.target.kill(broker_id) for broker_id in strike.brokers))
    return "kill -9"


async def _terminate(strike: Strike) -> str:
    _each(strike, lambda broker_id: _restart(strike.target, broker_id))
    await asyncio.gather(*(strike.target.terminate(broker_id) for broker_id in strike.brokers))
    return "SIGTERM, stopped cleanly"


async def _pause(strike: Strike) -> str:
    _each(strike, strike.target.resume)
    await asyncio.gather(*(strike.target.pause(broker_id) for broker_id in strike.brokers))
    return "SIGSTOP"


async def _power_loss(strike: Strike) -> str:
    _each(strike, lambda broker_id: _restart(strike.target, broker_id))
    await strike.target.power_loss(strike.brokers)
    return "power loss: what was not synced is gone"


async def _wipe(strike: Strike) -> str:
    _each(strike, lambda broker_id: _restart(strike.target, broker_id))
    for broker_id in strike.brokers:
        await strike.target.kill(broker_id)
        await strike.target.wipe(broker_id)
    return "killed, and its disk replaced by an empty one"


async def _restart_storm(strike: Strike) -> str:
    for _ in range(int(strike.options["rounds"])):
        for broker_id in strike.brokers:
            await strike.target.kill(broker_id)
            await strike.target.start_broker(broker_id, wait=False)
            await asyncio.sleep(strike.rng.uniform(0.05, float(strike.options["pause_s"])))
    _each(strike, lambda broker_id: _restart(strike.target, broker_id))
    return f"killed and started {strike.options['rounds']} times"


async def _rolling_restart(strike: Strike) -> str:
    for broker_id in strike.target.broker_ids:
        await strike.target.terminate(broker_id)
        await strike.target.start_broker(broker_id)
        await asyncio.sleep(float(strike.options["pause_s"]))
    return "every broker restarted in turn"


async def _isolate(strike: Strike) -> str:
    strike.undo.append(strike.target.heal_links)
    for broker_id in strike.brokers:
        ends: list[int | str] = [*strike.others(broker_id)]
        if strike.options["clients"]:
            ends.append(CLIENTS)
        for other in ends:
            if strike.options["direction"] in ("both", "out"):
                await strike.target.cut(broker_id, other)
            if strike.options["direction"] in ("both", "in"):
                await strike.target.cut(other, broker_id)
    return f"isolated ({strike.options['direction']}) from the other brokers" + (
        " and from clients" if strike.options["clients"] else ", clients reach it"
    )


async def _clients_cut(strike: Strike) -> str:
    strike.undo.append(strike.target.heal_links)
    for broker_id in strike.brokers:
        await strike.target.cut(CLIENTS, broker_id)
        await strike.target.cut(broker_id, CLIENTS)
    return "cut off from all clients"


async def _majority_ring(strike: Strike) -> str:
    """Every broker sees a majority, no two the same one (Jepsen's majorities-ring)."""
    strike.undo.append(strike.target.heal_links)
    ring = list(strike.target.broker_ids)
    strike.rng.shuffle(ring)
    reach = len(ring) // 2
    for position, broker_id in enumerate(ring):
        near = {ring[(position + step) % len(ring)] for step in range(-((reach + 1) // 2), reach // 2 + 1)}
        for other in ring:
            if other not in near:
                await strike.target.cut(broker_id, other)
    return f"majority ring {ring}"


def _links(strike: Strike) -> list[tuple[int | str, int | str]]:
    links: list[tuple[int | str, int | str]] = []
    for broker_id in strike.brokers:
        ends: list[int | str] = [*strike.others(broker_id), CLIENTS]
        links += [(broker_id, end) for end in ends] + [(end, broker_id) for end in ends]
    return links


async def _delay(strike: Strike) -> str:
    strike.undo.append(strike.target.heal_links)
    for source, destination in _links(strike):
        await strike.target.delay(
            source,
            destination,
            delay_ms=int(strike.options["delay_ms"]),
            jitter_ms=int(strike.options["jitter_ms"]),
        )
    return f"{strike.options['delay_ms']} ± {strike.options['jitter_ms']} ms each way"


async def _bandwidth(strike: Strike) -> str:
    strike.undo.append(strike.target.heal_links)
    for source, destination in _links(strike):
        await strike.target.limit(source, destination, bytes_per_s=int(strike.options["bytes_per_s"]))
    return f"{int(strike.options['bytes_per_s']) // 1024} KiB/s each way"


async def _resets(strike: Strike) -> str:
    for _ in range(int(strike.options["rounds"])):
        for source, destination in _links(strike):
            await strike.target.reset(source, destination)
        await asyncio.sleep(float(strike.options["pause_s"]))
    return f"connections reset {strike.options['rounds']} times"


async def _slow_disk(strike: Strike) -> str:
    _each(strike, lambda broker_id: strike.target.slow_disk(broker_id, delay_ms=0))
    for broker_id in strike.brokers:
        await strike.target.slow_disk(broker_id, delay_ms=int(strike.options["delay_ms"]))
    return f"each write and sync takes {strike.options['delay_ms']} ms longer"


async def _disk_error(strike: Strike) -> str:
    _each(strike, lambda broker_id: _revive(strike.target, broker_id))
    for broker_id in strike.brokers:
        await strike.target.fail_disk(
            broker_id,
            operation=strike.options["operation"],
            error=strike.options["error"],
            count=int(strike.options["count"]),
        )
    return f"the next {strike.options['count']} {strike.options['operation']} fail with {strike.options['error']}"


async def _revive(target: Target, broker_id: int) -> None:
    """A broker whose log directory has stopped needs a new process; whether it died by itself or not."""
    if target.is_running(broker_id):
        await target.kill(broker_id)
    await target.start_broker(broker_id, wait=False)


async def _clock_jump(strike: Strike) -> str:
    by_ms = int(strike.options["by_ms"])
    for broker_id in strike.brokers:
        await strike.target.jump_clock(broker_id, by_ms=by_ms)
        if strike.options["back"]:
            strike.undo.append(lambda broker_id=broker_id: strike.target.jump_clock(broker_id, by_ms=-by_ms))  # type: ignore[misc]
    return f"the wall clock jumps by {by_ms} ms"


async def _bit_flip(strike: Strike) -> str:
    """Of a stopped broker, so that what is served later was read from the disk."""
    said = []
    _each(strike, lambda broker_id: _restart(strike.target, broker_id))
    for broker_id in strike.brokers[:1]:
        await strike.target.kill(broker_id)
        said.append(await strike.target.damage(broker_id, seed=strike.rng.getrandbits(32)))
    return "; ".join(said)


async def _client_kill(strike: Strike) -> str:
    return "killed " + ", ".join(await strike.clients.kill(strike.rng, int(strike.options["count"])))


async def _client_pause(strike: Strike) -> str:
    names = strike.clients.pause(strike.rng, int(strike.options["count"]))
    strike.undo.append(lambda: strike.clients.resume(names))
    return "paused " + ", ".join(names)


KINDS: Final[Mapping[str, Kind]] = {
    "kill": Kind("kill", _kill),
    "terminate": Kind("terminate", _terminate),
    "pause": Kind("pause", _pause),
    "power-loss": Kind("power-loss", _power_loss),
    "wipe": Kind("wipe", _wipe),
    "restart-storm": Kind("kill", _restart_storm, {"rounds": 5, "pause_s": 0.5}),
    "rolling-restart": Kind("terminate", _rolling_restart, {"pause_s": 1.0}),
    "isolate": Kind("cut", _isolate, {"clients": False, "direction": "both"}),
    "clients-cut": Kind("cut", _clients_cut),
    "majority-ring": Kind("cut", _majority_ring),
    "delay": Kind("delay", _delay, {"delay_ms": 80, "jitter_ms": 40}),
    "bandwidth": Kind("bandwidth", _bandwidth, {"bytes_per_s": 256 << 10}),
    "resets": Kind("reset", _resets, {"rounds": 5, "pause_s": 0.2}),
    "slow-disk": Kind("slow-disk", _slow_disk, {"delay_ms": 30}),
    "io-error": Kind("io-error", _disk_error, {"operation": "write", "error": "EIO", "count": 1}),
    "disk-full": Kind("io-error", _disk_error, {"operation": "write", "error": "ENOSPC", "count": 50}),
    "clock-jump": Kind("clock-jump", _clock_jump, {"by_ms": 3_600_000, "back": True}, is_availability=False),
    "bit-flip": Kind("bit-flip", _bit_flip),
    "client-kill": Kind("client-kill", _client_kill, {"count": 1}, is_availability=False),
    "client-pause": Kind("client-pause", _client_pause, {"count": 1}, is_availability=False),
}
