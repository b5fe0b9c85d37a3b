"""The event loop of a broker: asyncio's own, asked for I/O less often while there is work at hand.

asyncio asks the operating system for I/O between any two turns of its ready queue, and a record passes a dozen turns
on its way through a broker. Each question costs ten to twenty microseconds and nearly always finds nothing. This
selector answers "nothing" by itself for a few turns while callbacks are ready; with an idle loop nothing changes.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Final

TURNS_WITHOUT_POLL_MAX: Final = 6
"""How many turns in a row may pass without looking for I/O; bounds how long a busy loop lets a socket wait."""


class PatientSelector(selectors.DefaultSelector):
    """A selector that skips polls which need not wait, at most `TURNS_WITHOUT_POLL_MAX` in a row."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As `selectors.BaseSelector.select`; may return nothing at once when `timeout` is 0 or less."""
        if timeout is not None and timeout <= 0 and self._skipped < TURNS_WITHOUT_POLL_MAX:
            self._skipped += 1
            return []
        self._skipped = 0
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(timeout)
        return ready


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A fresh event loop with a `PatientSelector`."""
    return asyncio.SelectorEventLoop(PatientSelector())
