"""Flipping a bit of a stored batch, behind the back of the broker that stores it.

Only a batch below the recovery point of its log is hit: it was synced, the broker knows it, and a restart must not take
it for a torn tail. Never the last batch of a log, and always a bit of the format, of the checksum, or of what that
covers: base offset, length and leader epoch lie outside (see `logcluster.record.header`).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from logcluster.model.errors import LogClusterError
from logcluster.record.header import BatchHeader, iterate_headers
from logcluster.storage.checkpoints import read_partition_checkpoints
from logcluster.storage.posix_filesystem import PosixFilesystem
from logcluster.storage.segment import LOG_SUFFIX

CHECKED_FROM_POSITION: Final = 16
"""Of a batch: from here on every bit matters to its checksum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """Where a batch is."""

    path: Path
    position: int
    header: BatchHeader


def settled_batches(data_directory: Path) -> list[StoredBatch]:
    """Every batch below its log's recovery point that is not the last of its log.

    Raises:
        OSError, LogClusterError: the files cannot be read.
    """
    checkpoints = read_partition_checkpoints(PosixFilesystem(), str(data_directory)) or {}
    found: list[StoredBatch] = []
    for name, checkpoint in sorted(checkpoints.items()):
        batches = list(_batches(data_directory / name))[:-1]
        found += [batch for batch in batches if batch.header.last_offset < (checkpoint.recovery_point or 0)]
    return found


def _batches(directory: Path) -> Iterator[StoredBatch]:
    """The batches of a log in order, up to the first that cannot be read."""
    for path in sorted(directory.glob(f"*{LOG_SUFFIX}")):
        data = path.read_bytes()
        try:
            for position, header in iterate_headers(data):
                yield StoredBatch(path=path, position=position, header=header)
        except LogClusterError:
            continue  # zeros that are preallocated, or a tail that is being written


def flip_bit(data_directory: Path, *, seed: int, topics_first: bool = True) -> str | None:
    """Flip one bit of one batch, durably; returns what was done, or None where no batch may be hit yet.

    Args:
        seed: of the choice.
        topics_first: prefer the logs of people's topics to internal ones, whose names begin with "__".
    """
    randomness = random.Random(seed)
    batches = settled_batches(data_directory)
    if topics_first:
        batches = [batch for batch in batches if not batch.path.parent.name.startswith("__")] or batches
    if not batches:
        return None
    batch = randomness.choice(batches)
    header = batch.header
    position = batch.position + randomness.randrange(CHECKED_FROM_POSITION, header.size_bytes)
    bit = randomness.randrange(8)
    descriptor = os.open(batch.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        before = os.pread(descriptor, 1, position)[0]
        os.pwrite(descriptor, bytes([before ^ 1 << bit]), position)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    log_name, offsets = batch.path.parent.name, f"{header.base_offset} to {header.last_offset}"
    return f"flipped bit {bit} of byte {position} of {batch.path.name} of {log_name}: in the batch of offsets {offsets}"
