"""Doing damage to a disk: flipped bits, lost ends, foreign or stale blocks, broken or missing derived files.

Each function changes the bytes on the disk durably and returns the evidence by which the atlas later sees whether they
are still there; `NothingToDamage` when the disk holds nothing of the sort that may be damaged.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from logcluster.record.header import HEADER_SIZE_BYTES
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.faults.atlas import DamagedBytes
from logcluster.sim.faults.disk_map import DiskMap, StoredBatch

CHECKED_FROM_POSITION = 16
"""From here on every bit of a batch is covered by its checksum or is the magic or the checksum itself."""


class NothingToDamage(Exception):
    """There is nothing on this disk yet that this fault may damage."""


def _settled(disk: SimulatedDisk) -> list[StoredBatch]:
    batches = DiskMap(disk).settled_batches()
    if not batches:
        raise NothingToDamage("no batch is below a recovery point yet")
    return batches


def flip_bits(disk: SimulatedDisk, rng: random.Random, *, count: int, part: str) -> tuple[DamagedBytes, ...]:
    """Flip `count` bits in settled batches; with part "checked" only such as a checksum covers."""
    batches = _settled(disk)
    evidence = []
    for _ in range(count):
        batch = rng.choice(batches)
        first = CHECKED_FROM_POSITION if part == "checked" else 0
        position = batch.position + rng.randrange(first, batch.size_bytes)
        disk.flip_bit(batch.path, position * 8 + rng.randrange(8))
        evidence.append(_evidence(disk, batch.path, position, 1))
    return tuple(evidence)


def truncate(disk: SimulatedDisk, rng: random.Random, *, between: bool) -> tuple[DamagedBytes, ...]:
    """Lose the end of a segment file from somewhere in a settled batch on, or from its beginning."""
    batch = rng.choice(_settled(disk))
    position = batch.position if between else batch.position + rng.randrange(1, batch.size_bytes)
    disk.cut_file(batch.path, position)
    return (DamagedBytes(batch.path, position, b""),)


def overwrite(disk: SimulatedDisk, rng: random.Random, *, size_bytes: int, content: str) -> tuple[DamagedBytes, ...]:
    """Put random bytes, zeros, or bytes from elsewhere (a misdirected write) over settled ones."""
    batches = _settled(disk)
    batch = rng.choice(batches)
    position = batch.position + rng.randrange(batch.size_bytes)
    size = min(size_bytes, batch.end_position - position)
    before = disk.durable_content(batch.path)[position : position + size]
    if content == "elsewhere":
        # Never one that could stand there: nothing in a batch says which partition it belongs to.
        others = [other for other in batches if other.base_offset != batch.base_offset]
        if not others:
            raise NothingToDamage("there is no other batch")
        other = rng.choice(others)
        begin, position, size = other.position, batch.position, min(size_bytes, batch.size_bytes, other.size_bytes)
        before = disk.durable_content(batch.path)[position : position + size]
        data = disk.durable_content(other.path)[begin : begin + size]
    else:
        data = rng.randbytes(size) if content == "random" else bytes(size)
    if data == before:
        raise NothingToDamage("the bytes would be the same")
    disk.overwrite(batch.path, position, data)
    return (_evidence(disk, batch.path, position, len(data)),)


@dataclass(frozen=True, slots=True)
class RememberedBlock:
    """A block as it was, to be put back later."""

    path: str
    position: int
    data: bytes


def remember_block(disk: SimulatedDisk, rng: random.Random, *, size_bytes: int) -> RememberedBlock:
    """Remember a block that is about to change: the one where a segment's data end now."""
    paths = [path for path in DiskMap(disk).segment_paths() if disk.durable_content(path)]
    if not paths:
        raise NothingToDamage("there is no segment yet")
    path = rng.choice(paths)
    content = disk.durable_content(path)
    end = len(content.rstrip(b"\0"))
    position = max(0, end - rng.randrange(size_bytes)) // size_bytes * size_bytes
    return RememberedBlock(path, position, content[position : position + size_bytes].ljust(size_bytes, b"\0"))


def put_back(disk: SimulatedDisk, block: RememberedBlock) -> tuple[DamagedBytes, ...]:
    """Put the block back, as if what was written since had been lost; only the part of it that is settled now."""
    batches = [batch for batch in DiskMap(disk).settled_batches() if batch.path == block.path]
    if not batches:
        raise NothingToDamage("nothing there is below a recovery point yet")
    end = min(batches[-1].end_position, block.position + len(block.data))
    data = block.data[: max(0, end - block.position)]
    if not data or disk.durable_content(block.path)[block.position : end] == data:
        raise NothingToDamage("the block has not changed")
    disk.overwrite(block.path, block.position, data)
    return (_evidence(disk, block.path, block.position, len(data)),)


def damage_derived(disk: SimulatedDisk, rng: random.Random, *, which: str, how: str) -> tuple[DamagedBytes, ...]:
    """Flip a bit of a derived file, cut it short, or remove it."""
    paths = [path for path in DiskMap(disk).derived_files(which) if disk.content(path)]
    if not paths:
        raise NothingToDamage(f"there is no {which} file")
    path = rng.choice(paths)
    size_bytes = len(disk.content(path))
    if how == "flip":
        position = rng.randrange(size_bytes)
        disk.flip_bit(path, position * 8 + rng.randrange(8))
        return (_evidence(disk, path, position, 1),)
    if how == "cut":
        position = rng.randrange(size_bytes)
        disk.cut_file(path, position)
        return (DamagedBytes(path, position, b""),)
    disk.remove(path)
    return (DamagedBytes(path, 0, b"", is_removed=True),)


def is_still_there(disk: SimulatedDisk, evidence: Sequence[DamagedBytes]) -> bool:
    """Whether a node could still read damaged bytes."""
    return any(_is_there(disk, damaged) for damaged in evidence)


def _is_there(disk: SimulatedDisk, damaged: DamagedBytes) -> bool:
    if damaged.is_removed or not disk.exists(damaged.path):
        return damaged.is_removed and not disk.exists(damaged.path)
    content = disk.content(damaged.path)
    if not damaged.found:
        # A node that has not noticed goes on writing where it thinks the end is: what was lost reads as zeros.
        return not content[damaged.position : damaged.position + HEADER_SIZE_BYTES].strip(b"\0")
    return content[damaged.position : damaged.position + len(damaged.found)] == damaged.found


def _evidence(disk: SimulatedDisk, path: str, position: int, size_bytes: int) -> DamagedBytes:
    return DamagedBytes(path, position, disk.content(path)[position : position + size_bytes])
