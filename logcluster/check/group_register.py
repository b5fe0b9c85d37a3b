"""Which answers about a committed offset are possible: one partition in one group as an atomic register.

Owns the judgement of single reads. A commit, a reset or a deletion writes the register at some moment between its
invocation and its completion; with an unknown outcome at any moment from its invocation on, or never. A read of a
value is possible if some attempt to write that value began before the read ended and was not overwritten for certain
before the read began: an attempt is overwritten when another one began after its end and was acknowledged before the
read. An attempt of unknown outcome whose value was read, and can have come from nowhere else, has taken effect by
then; from there on it is an acknowledged one. All of this holds for every linearizable register, so no read is called
impossible that a correct coordinator could have answered; commits may go up and down as they like.
Cost: one sort per register, then logarithmic per operation. Source: Gibbons and Korach, Testing shared memories (1997).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Final

from logcluster.check.group_entries import BEFORE_THE_RUN, NEVER, OffsetRead, OffsetWrite

_BEFORE_ALL: Final = BEFORE_THE_RUN - 1
_BEGINS, _ENDS, _READS = 0, 1, 2


@dataclass(slots=True)
class Impossible:
    """A read that no write explains.

    `floor` is the latest write that was acknowledged before the read began (None: none was); `source` an attempt with
    the value that was read, although it must have been overwritten (None: nobody tried to write that value).
    """

    read: OffsetRead
    floor: OffsetWrite | None
    source: OffsetWrite | None


@dataclass(slots=True)
class _Candidates:
    """Attempts to write one value: those without a known end, and the one that ended last among the others."""

    open: list[OffsetWrite] = field(default_factory=list)
    last: int = _BEFORE_ALL
    write: OffsetWrite | None = None

    def add(self, write: OffsetWrite) -> None:
        if write.last == NEVER:
            self.open.append(write)
        elif write.last > self.last:
            self.last, self.write = write.last, write


class RegisterSweep:
    """Goes once through the operations of a register in order of time. `wipes` are deletions of the whole group.

    `writes` are changed: an attempt of unknown outcome gets an end when it is known to have taken effect.
    """

    def __init__(
        self, writes: Sequence[OffsetWrite], reads: Sequence[OffsetRead], wipes: Sequence[OffsetWrite] = ()
    ) -> None:
        self.recovered_count = 0
        self._reads = reads
        self._writes = [*map(copy, wipes), *writes]
        self._by_offset: dict[int | None, _Candidates] = {None: _Candidates(last=BEFORE_THE_RUN)}
        self._unknown = _Candidates()
        self._floor_moments: list[int] = []
        self._floors: list[OffsetWrite] = []

    def impossible(self) -> Iterator[Impossible]:
        """Reads that cannot have been answered so, in the order in which they ended."""
        moments: list[tuple[int, int, int, OffsetWrite | OffsetRead]] = []
        for number, write in enumerate(self._writes):
            moments.append((write.first, _BEGINS, number, write))
            if write.last != NEVER:
                moments.append((write.last, _ENDS, number, write))
        moments += [(read.completion.index, _READS, number, read) for number, read in enumerate(self._reads)]
        moments.sort()
        for moment, kind, _, item in moments:
            if isinstance(item, OffsetRead):
                found = self._judge(item)
                if found is not None:
                    yield found
            elif kind == _ENDS:
                self._took_effect(moment, item)
            elif item.is_unknown:
                self._unknown.add(item)
            else:
                self._by_offset.setdefault(item.offset, _Candidates()).add(item)

    def _took_effect(self, moment: int, write: OffsetWrite) -> None:
        """What ended before `first` of this write is overwritten for every read that begins after the moment."""
        if self._floors and self._floors[-1].first > write.first:
            write = self._floors[-1]
        self._floor_moments.append(moment)
        self._floors.append(write)

    def _judge(self, read: OffsetRead) -> Impossible | None:
        place = bisect_left(self._floor_moments, read.invoke.index)
        floor = self._floors[place - 1] if place else None
        bound = floor.first if floor is not None else _BEFORE_ALL
        if self._unknown.open or self._unknown.last > bound:
            return None
        candidates = self._by_offset.get(read.offset)
        if candidates is None:
            return Impossible(read, floor, None)
        if candidates.last > bound:
            return None
        if not candidates.open:
            return Impossible(read, floor, candidates.write)
        if len(candidates.open) == 1:  # Nothing else explains the read, so this one has taken effect by now.
            write = candidates.open.pop()
            write.last = read.completion.index
            self.recovered_count += 1
            candidates.add(write)
            self._took_effect(write.last, write)
        return None
