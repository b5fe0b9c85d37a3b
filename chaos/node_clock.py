"""A wall clock that jumps when it is told to; waits and deadlines go on undisturbed."""

from __future__ import annotations

from logcluster.runtime.clock import SystemClock


class JumpingClock(SystemClock):
    """The machine's clocks; `offset_ms` is added to the wall clock only. May be set from any thread."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.offset_ms
