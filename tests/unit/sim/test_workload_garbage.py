"""Every kind of garbage breaks a rule that the broker's own validation knows; the batch it is made of breaks none."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from logcluster.model.errors import LogClusterError
from logcluster.record.batch import validate_batch, validate_records
from logcluster.record.builder import build_batch
from logcluster.sim.workload.garbage import GARBAGE_NAMES, make_garbage


def judge(batch: bytes) -> None:
    validate_records(batch, validate_batch(batch, size_bytes_max=1 << 20))


def test_no_garbage_is_valid() -> None:
    rng = random.Random(1)
    met: Counter[str] = Counter()
    for _ in range(600):
        garbage = make_garbage(rng, "orders", 2, b"value")
        (item,) = garbage.request.partitions
        assert (item.topic, item.partition) == ("orders", 2)
        with pytest.raises(LogClusterError) as caught:
            judge(item.batch)
        assert caught.value.definite
        met[garbage.name] += 1
    assert set(met) == set(GARBAGE_NAMES)


def test_what_is_no_garbage_is_valid() -> None:
    judge(build_batch([(1_000, None, b"value", []), (1_001, b"key", b"value", [])]))
