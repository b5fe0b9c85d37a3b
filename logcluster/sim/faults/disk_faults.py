"""Faults of disks: slow, failing, full, damaged, lost. What costs a copy of data asks the atlas first."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Final

from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.faults import damage
from logcluster.sim.faults.atlas import DamageClass, DamagedBytes
from logcluster.sim.faults.kinds import FaultKind
from logcluster.sim.faults.strike import Action, Skipped, Strike

NEVER: Final = 1 << 62
RESTART_MS: Final = 50


async def slow_disk(strike: Strike) -> None:
    low, high = strike.fault.number_of("latency_ms_min"), strike.fault.number_of("latency_ms_max")
    holds = strike.tools.holds
    try:
        for node_id in strike.node_ids:
            holds[node_id].latency_ms.hold(strike.number, (low, max(low, high)))
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            holds[node_id].latency_ms.release(strike.number)


async def read_error(strike: Strike) -> None:
    await _errors(strike, "read")


async def write_error(strike: Strike) -> None:
    await _errors(strike, "write")


async def sync_error(strike: Strike) -> None:
    """What was to be synced is lost, though it still can be read until the machine loses its power."""
    strike.ask_atlas(DamageClass.SYNC_FAILED)
    for node_id in strike.node_ids:
        strike.note_damage(node_id, DamageClass.SYNC_FAILED)
    await _errors(strike, "sync")


async def _errors(strike: Strike, operation: str) -> None:
    try:
        for node in strike.nodes:
            node.disk.fail_next(operation, errno.EIO, count=strike.fault.integer("count"))
        await strike.last()
    finally:
        for node in strike.nodes:
            node.disk.forget_failures()
            strike.restart_if_failed(node.node_id, strike.fault.text("repair"))


async def store_error(strike: Strike) -> None:
    """The node ends, and cannot start again before its store takes writes again."""
    stores = [node.store for node in strike.nodes]
    try:
        for store in stores:
            store.fail_after(strike.fault.integer("writes"))
        await strike.last()
    finally:
        for store in stores:
            store.fail_after(NEVER)


async def disk_full(strike: Strike) -> None:
    holds = strike.tools.holds
    try:
        for node in strike.nodes:
            capacity_bytes = node.disk.used_bytes() + strike.fault.integer("free_bytes")
            holds[node.node_id].capacity_bytes.hold(strike.number, capacity_bytes)
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            holds[node_id].capacity_bytes.release(strike.number)
            strike.restart_if_failed(node_id, "process")


async def _damage(
    strike: Strike, damage_class: DamageClass, do: Callable[[SimulatedDisk], tuple[DamagedBytes, ...]]
) -> None:
    strike.ask_atlas(damage_class)
    done = 0
    why = ""
    for node in strike.nodes:
        try:
            evidence = do(node.disk)
        except damage.NothingToDamage as error:
            why = str(error)
            continue
        done += 1
        strike.note_damage(node.node_id, damage_class, evidence)
    if not done:
        raise Skipped(why)


async def bit_flip(strike: Strike) -> None:
    count, part = strike.fault.integer("bits"), strike.fault.text("part")
    await _damage(strike, DamageClass.BATCHES, lambda disk: damage.flip_bits(disk, strike.rng, count=count, part=part))


async def truncate_file(strike: Strike) -> None:
    between = strike.fault.flag("between")
    await _damage(strike, DamageClass.BATCHES, lambda disk: damage.truncate(disk, strike.rng, between=between))


async def overwrite(strike: Strike) -> None:
    size_bytes, content = strike.fault.integer("size_bytes"), strike.fault.text("content")
    await _damage(
        strike,
        DamageClass.BATCHES,
        lambda disk: damage.overwrite(disk, strike.rng, size_bytes=size_bytes, content=content),
    )


async def stale_block(strike: Strike) -> None:
    size_bytes = strike.fault.integer("size_bytes")
    blocks: dict[int, tuple[SimulatedDisk, damage.RememberedBlock]] = {}
    for node in strike.nodes:
        try:
            blocks[node.node_id] = (node.disk, damage.remember_block(node.disk, strike.rng, size_bytes=size_bytes))
        except damage.NothingToDamage as error:
            raise Skipped(str(error)) from error
    await strike.last()
    strike.ask_atlas(DamageClass.BATCHES)
    for node_id, (disk, block) in blocks.items():
        if strike.tools.world.nodes[node_id].disk is not disk:
            continue  # It has a new one.
        try:
            strike.note_damage(node_id, DamageClass.BATCHES, damage.put_back(disk, block))
        except damage.NothingToDamage as error:
            strike.note("block_is_not_stale", node=node_id, why=str(error))


async def derived_damage(strike: Strike) -> None:
    which, how = strike.fault.text("file"), strike.fault.text("how")
    damage_class = DamageClass.CHECKPOINT if which == "checkpoint" else DamageClass.DERIVED
    await _damage(strike, damage_class, lambda disk: damage.damage_derived(disk, strike.rng, which=which, how=how))


async def wipe(strike: Strike) -> None:
    strike.ask_atlas(DamageClass.DISK_LOST)
    try:
        for node_id in strike.node_ids:
            strike.take_down(node_id, power_loss=True)
            strike.wipe(node_id)
        await strike.last()
    finally:
        for node_id in strike.node_ids:
            strike.let_up(node_id)


ACTIONS: Final[Mapping[FaultKind, Action]] = {
    FaultKind.SLOW_DISK: slow_disk,
    FaultKind.READ_ERROR: read_error,
    FaultKind.WRITE_ERROR: write_error,
    FaultKind.SYNC_ERROR: sync_error,
    FaultKind.STORE_ERROR: store_error,
    FaultKind.DISK_FULL: disk_full,
    FaultKind.BIT_FLIP: bit_flip,
    FaultKind.TRUNCATE_FILE: truncate_file,
    FaultKind.OVERWRITE: overwrite,
    FaultKind.STALE_BLOCK: stale_block,
    FaultKind.DERIVED_DAMAGE: derived_damage,
    FaultKind.WIPE: wipe,
}
