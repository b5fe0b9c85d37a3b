"""What a simulated run found wrong: one value for invariants, history checks, liveness bounds and crashes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["invariant", "history", "liveness", "crash"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must never happen, and did.

    Args:
        name: which rule, with dashes; of an invariant, a key of `sim.invariants.INVARIANTS`.
        detail: who, where, which offsets; one line.
        at_ms: virtual milliseconds since the run began.
        source: which kind of check noticed.
    """

    name: str
    detail: str
    at_ms: int
    source: Source

    def __str__(self) -> str:
        return f"{self.at_ms} ms: {self.source} {self.name}: {self.detail}"
