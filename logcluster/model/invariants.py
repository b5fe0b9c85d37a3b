"""Checks of what must always hold; they stay on in production and survive `python -O`.

A violated invariant is a bug in this program, never a bad request: it is not retried and not
swallowed. The scope that runs the code hands it to the fault handler, which stops the partition
or the node.
"""

from __future__ import annotations


class InvariantViolation(Exception):
    """Something that can only be false through a bug was false; carries the facts."""

    def __init__(self, what: str, **facts: object) -> None:
        self.what = what
        self.facts = facts
        details = ", ".join(f"{name}={value!r}" for name, value in facts.items())
        super().__init__(f"{what} ({details})" if details else what)


def invariant(condition: bool, what: str, **facts: object) -> None:
    """Raise `InvariantViolation` unless `condition` holds; `what` says what must hold.

    In hot loops write `if not ...: raise InvariantViolation(...)`, so that facts are built only on failure.
    """
    if not condition:
        raise InvariantViolation(what, **facts)
