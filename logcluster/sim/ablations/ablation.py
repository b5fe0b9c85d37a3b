"""What an ablation is: one safeguard, how it is switched off, and what must then be found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One safeguard that can be switched off for a run in this interpreter.

    Args:
        name: in kebab case.
        safeguard: what the product does otherwise, in one sentence.
        promise: which one it serves, "P1" to "P9".
        source: the proposal, paper or bug it comes from.
        expected: names of anomalies and invariants; at least one must be found. Finding only others is no catch.
        profile: name of a preset of faults and workload under which the safeguard matters; None where any does.
        patch: gives the block in which the safeguard is off.
        dormant: why the simulator cannot see its loss at present; None for the others, which must be caught.
    """

    name: str
    safeguard: str
    promise: str
    source: str
    expected: frozenset[str]
    profile: str | None = None
    patch: Callable[[], AbstractContextManager[None]]
    dormant: str | None = None
