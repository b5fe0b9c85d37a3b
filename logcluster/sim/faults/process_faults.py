"""Faults of processes and clocks: crashes, power losses, restarts of all sorts, pauses, wrong clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from logcluster.broker.raft_driver import RaftDriver
from logcluster.model.errors import LogClusterError
from logcluster.sim.faults.failpoint_arms import Arm
from logcluster.sim.faults.kinds import FaultKind
from logcluster.sim.faults.strike import Action, Skipped, Strike

TORN_PROBABILITY: Final = 0.9
POLL_MS: Final = 20


async def _down(strike: Strike, *, power_loss: bool, tear_probability: float | None = None) -> None:
    try:
        for node_id in strike.node_ids:
            strike.take_down(node_id, power_loss=power_loss, tear_probability=tear_probability)
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            strike.let_up(node_id)


async def crash(strike: Strike) -> None:
    await _down(strike, power_loss=False)


async def power_loss(strike: Strike) -> None:
    tear_probability = TORN_PROBABILITY if strike.fault.flag("torn") else None
    await _down(strike, power_loss=True, tear_probability=tear_probability)


async def quick_restart(strike: Strike) -> None:
    await _down(strike, power_loss=strike.fault.flag("power_loss"))


async def shutdown(strike: Strike) -> None:
    try:
        for node_id in strike.node_ids:
            await _stop(strike, node_id)
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            strike.take_down(node_id)  # What has not stopped by now is killed.
            strike.let_up(node_id)


async def _stop(strike: Strike, node_id: int) -> None:
    """Controlled shutdown, for as long as the fault lasts."""
    strike.tools.holds[node_id].down.hold(strike.number, None)
    try:
        async with asyncio.timeout(strike.left_ms / 1000):
            await strike.tools.world.nodes[node_id].stop()
    except TimeoutError:
        strike.note("stop_took_too_long", node=node_id)


async def rolling_restart(strike: Strike) -> None:
    node_ids = sorted(strike.tools.world.nodes)
    strike.rng.shuffle(node_ids)
    down_ms = strike.fault.integer("down_ms")
    for node_id in node_ids:
        try:
            if strike.fault.flag("controlled"):
                await _stop(strike, node_id)
            strike.take_down(node_id)
            await strike.sleep(down_ms)
        finally:
            strike.let_up(node_id)
        while strike.left_ms > 0:
            await strike.sleep(POLL_MS)
            if strike.tools.view.is_fully_in_sync():
                break
        if strike.left_ms == 0:
            strike.note("rolling_restart_cut_short", after=node_id)
            return


async def restart_storm(strike: Strike) -> None:
    restarts = strike.fault.integer("restarts")
    interval_ms = max(2, strike.fault.duration_ms // restarts)
    node_ids = sorted(strike.tools.world.nodes)
    for _ in range(restarts):
        node_id = strike.rng.choice(node_ids)
        down_ms = strike.rng.randint(1, interval_ms - 1)
        try:
            strike.take_down(node_id, power_loss=strike.fault.flag("power_loss"))
            await strike.sleep(down_ms)
        finally:
            strike.let_up(node_id)
        await strike.sleep(interval_ms - down_ms)


async def pause(strike: Strike) -> None:
    holds = strike.tools.holds
    try:
        for node_id in strike.node_ids:
            holds[node_id].paused.hold(strike.number, None)
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            holds[node_id].paused.release(strike.number)


async def slow_node(strike: Strike) -> None:
    holds = strike.tools.holds
    try:
        for node_id in strike.node_ids:
            holds[node_id].slowness.hold(strike.number, strike.fault.number_of("factor"))
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            holds[node_id].slowness.release(strike.number)


async def failpoint(strike: Strike) -> None:
    """Arm every target; one that strikes keeps its node down for `down_ms`, or until the fault is over."""
    name, lost_power = strike.fault.text("name"), strike.fault.flag("power_loss")
    arms: dict[int, Arm] = {}
    struck: list[int] = []

    def arm(node_id: int) -> None:
        def hit() -> None:
            struck.append(node_id)
            strike.note("failpoint_struck", node=node_id, name=name)
            strike.take_down(node_id, power_loss=lost_power)

        armed = Arm(strike.tools.world.nodes[node_id].name, name, strike.fault.integer("hit"), hit)
        arms[node_id] = armed
        strike.tools.failpoints.arm(armed)

    try:
        for node_id in strike.node_ids:
            arm(node_id)
        while strike.left_ms > 0 and len(struck) < len(arms):
            await strike.sleep(POLL_MS)
        for armed in arms.values():
            strike.tools.failpoints.disarm(armed)
        if struck:
            await strike.sleep(strike.fault.integer("down_ms"))
        else:
            strike.note("failpoint_not_hit", name=name)
    finally:
        for node_id, armed in arms.items():
            strike.tools.failpoints.disarm(armed)
            strike.let_up(node_id)


async def leadership_transfer(strike: Strike) -> None:
    """Ask the leader of the quorum to let the target lead; if it leads already, anybody else."""
    leader_id = strike.tools.view.controller_id()
    if leader_id is None:
        raise Skipped("no controller is active")
    node = strike.tools.view.running(leader_id)
    process = strike.tools.world.nodes[leader_id].process
    if node is None or node.raft is None or process is None or strike.tools.world.nodes[leader_id].is_paused:
        raise Skipped("the leader of the quorum does not run")
    to = None if strike.node_ids[0] == leader_id else strike.node_ids[0]
    process.spawn(_transfer(node.raft, to), name="transfer-leadership")


async def _transfer(raft: RaftDriver, to: int | None) -> None:
    try:
        await raft.transfer_leadership(to)
    except LogClusterError:
        return  # A refusal is as good an answer; what the quorum makes of it is what is looked at.


async def clock_skew(strike: Strike) -> None:
    holds = strike.tools.holds
    try:
        for node_id in strike.node_ids:
            holds[node_id].skew_ms.hold(strike.number, strike.fault.integer("skew_ms"))
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            holds[node_id].skew_ms.release(strike.number)


async def clock_jump(strike: Strike) -> None:
    for node_id in strike.node_ids:
        strike.tools.holds[node_id].skew_ms.hold(strike.number, strike.fault.integer("jump_ms"))


async def clock_drift(strike: Strike) -> None:
    holds = strike.tools.holds
    try:
        for node_id in strike.node_ids:
            holds[node_id].drift.hold(strike.number, strike.fault.number_of("drift"))
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            holds[node_id].drift.release(strike.number)


ACTIONS: Final[Mapping[FaultKind, Action]] = {
    FaultKind.CRASH: crash,
    FaultKind.POWER_LOSS: power_loss,
    FaultKind.QUICK_RESTART: quick_restart,
    FaultKind.SHUTDOWN: shutdown,
    FaultKind.PAUSE: pause,
    FaultKind.SLOW_NODE: slow_node,
    FaultKind.FAILPOINT: failpoint,
    FaultKind.ROLLING_RESTART: rolling_restart,
    FaultKind.RESTART_STORM: restart_storm,
    FaultKind.LEADERSHIP_TRANSFER: leadership_transfer,
    FaultKind.CLOCK_SKEW: clock_skew,
    FaultKind.CLOCK_JUMP: clock_jump,
    FaultKind.CLOCK_DRIFT: clock_drift,
}
