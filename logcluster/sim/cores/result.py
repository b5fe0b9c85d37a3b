"""What one run of a pure core gives, and the notebook it is written into while it runs.

A finding is a name out of a fixed vocabulary (a promise that was broken) and a readable detail. A run goes on after a
finding where it can, so that both the first symptom and the damage in the end are seen; each name is kept once. The
trace is every step as numbers; its SHA-256 is the identity of the run: equal for equal seeds, in any interpreter.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreResult:
    """Outcome of one seed.

    Attributes:
        findings: (name, detail) of every promise that was broken, in the order met; empty means passed.
        steps: how many inputs the cores took.
        trace_hash: SHA-256 over everything that happened.
        probes: how often which rare state was reached.
        virtual_ms: simulated time.
        options: what was drawn for this seed, readable.
    """

    seed: int
    findings: tuple[tuple[str, str], ...]
    steps: int
    trace_hash: str
    probes: dict[str, int]
    virtual_ms: int
    options: str

    @property
    def passed(self) -> bool:
        return not self.findings

    def describe(self) -> str:
        """A few lines for people: the seed, what was drawn, what was found."""
        lines = [f"seed {self.seed}: {self.steps} steps, {self.virtual_ms} ms, {self.trace_hash[:16]}", self.options]
        lines.extend(f"  {name}: {detail}" for name, detail in self.findings)
        return "\n".join(lines)


class Notebook:
    """Findings, probes and trace of a run.

    Args:
        transcript: filled with one line per step, for people; None costs nothing.
    """

    __slots__ = ("findings", "probes", "steps", "trace", "transcript")

    def __init__(self, transcript: list[str] | None = None) -> None:
        self.findings: dict[str, str] = {}
        self.probes: dict[str, int] = {}
        self.steps = 0
        self.trace = array("q")
        self.transcript = transcript

    def find(self, name: str, detail: str) -> None:
        """A promise was broken; the first detail of a name is kept."""
        self.findings.setdefault(name, detail)
        if self.transcript is not None:
            self.transcript.append(f"FOUND {name}: {detail}")

    def probe(self, name: str) -> None:
        """A rare state was reached."""
        self.probes[name] = self.probes.get(name, 0) + 1

    def result(self, *, seed: int, virtual_ms: int, options: str) -> CoreResult:
        """Close the book."""
        digest = hashlib.sha256(self.trace.tobytes())
        digest.update(repr(sorted(self.probes.items())).encode())
        digest.update(repr(list(self.findings.items())).encode())
        return CoreResult(
            seed=seed,
            findings=tuple(self.findings.items()),
            steps=self.steps,
            trace_hash=digest.hexdigest(),
            probes=dict(sorted(self.probes.items())),
            virtual_ms=virtual_ms,
            options=options,
        )
