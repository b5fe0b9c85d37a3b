"""Sums of counters whose owners come and go.

A partition that leaves this broker takes its counters with it; a plain sum over partitions would go back, and
Prometheus would read that as a restart and count everything again. Here the sum only grows: at every look it takes
what each owner has counted since the last one. What is counted between the last look and the end of an owner is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


class RunningTotals(Generic[Owner]):
    """Totals of several counters over all owners.

    Args:
        read: the counters of one owner, always as many; each grows, or begins at 0 again.
    """

    def __init__(self, read: Callable[[Owner], tuple[int, ...]]) -> None:
        self._read = read
        self._last: dict[int, tuple[Owner, tuple[int, ...]]] = {}
        self._totals: list[int] = []

    def look(self, owners: Iterable[Owner]) -> list[int]:
        """Take in what these owners have counted; returns the totals, empty before there was any owner."""
        latest: dict[int, tuple[Owner, tuple[int, ...]]] = {}
        for owner in owners:
            values = self._read(owner)
            if not self._totals:
                self._totals = [0] * len(values)
            # The owner is kept beside its id, so that no other object can get the same one.
            known = self._last.get(id(owner))
            before = (0,) * len(values) if known is None else known[1]
            for index, (value, earlier) in enumerate(zip(values, before, strict=True)):
                # Below the last value: the owner has begun anew.
                self._totals[index] += value - earlier if value >= earlier else value
            latest[id(owner)] = (owner, values)
        self._last = latest
        return list(self._totals)
