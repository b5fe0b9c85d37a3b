"""What a power loss on stage takes: generators that answer a simulated disk's questions as the script wants them.

A disk without power asks of each file which of four ways it loses its unsynced writes, and then of each write whether
it is lost or torn; of each directory how many of its changes it keeps (`SimulatedDisk.crash`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

Loss = Literal["all", "first", "torn"]
"""Everything that was not synced; the first such write of each file, although later ones had reached the disk; or the
last sectors of each such write."""

WAYS_TO_LOSE_WRITES: Final = 4
"""Nothing survives, everything, a prefix, or any subset."""


class _Forgetful(random.Random):
    """Of everything that a power loss may leave or take, it takes everything."""

    def randrange(self, *_bounds: Any, **_options: Any) -> int:
        return 0


class _Reordering(random.Random):
    """Of the unsynced writes of each file the first is lost, the later ones had reached the disk already."""

    def __init__(self) -> None:
        super().__init__(0)
        self._is_first = False

    def randrange(self, start: int, *_bounds: Any, **_options: Any) -> int:
        self._is_first = start == WAYS_TO_LOSE_WRITES
        return start - 1  # the last way is that single writes are lost; of a directory's changes, all are kept

    def random(self) -> float:
        was_first, self._is_first = self._is_first, False
        return 0.0 if was_first else 1.0


class _Tearing(random.Random):
    """Of each unsynced write that reaches over the end of a sector, some leading sectors have reached the disk."""

    def __init__(self) -> None:
        super().__init__(0)
        self._draws: Iterator[float] = iter(())

    def randrange(self, start: int, *_bounds: Any, **_options: Any) -> int:
        self._draws = iter((1.0, 0.0, 0.5, 0.0))  # not lost, but torn, half way, and the beginning is kept
        return start - 1

    def random(self) -> float:
        return next(self._draws, 1.0)


LOSSES: Final[Mapping[Loss, Callable[[], random.Random]]] = {
    "all": _Forgetful,
    "first": _Reordering,
    "torn": _Tearing,
}
