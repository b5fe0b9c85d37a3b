"""When to try again: jittered exponential back-off within a deadline, governed by the error's own flags.

One policy for producer, consumer and admin calls. Times are in milliseconds of the monotonic clock.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from logcluster.model.errors import LogClusterError, RequestTimedOut
from logcluster.runtime.clock import Clock

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Back-off between attempts; short, because a new leader is usually elected within a few hundred ms."""

    backoff_ms: int = 20
    backoff_ms_max: int = 100

    def delay_ms(self, attempt: int, generator: random.Random) -> int:
        """Time to wait after failed attempt number `attempt`, counted from 1; jittered between half and full."""
        full = min(self.backoff_ms_max, self.backoff_ms << min(max(attempt, 1) - 1, 16))
        return max(1, full // 2 + generator.randrange(full - full // 2 + 1))


class Doubt:
    """Remembers whether some attempt of a call may have been carried out, although the last one was refused (P9).

    As a block around the call and what is made of its answer: a definite refusal that says too much leaves it as
    `RequestTimedOut`.

    Args:
        what: that nobody knows then, as in "no answer said whether ...".
        hint: what the caller can do.
    """

    def __init__(self, what: str, *, hint: str = "") -> None:
        self.is_there = False
        self._what = what
        self._hint = {"hint": hint} if hint else {}

    def note(self, error: LogClusterError) -> None:
        """An attempt failed; for `on_failure`."""
        self.is_there = self.is_there or not error.definite

    def about(self, error: LogClusterError) -> LogClusterError:
        """What to tell the caller: the refusal, or that the outcome is unknown."""
        if not self.is_there or not error.definite:
            return error
        told = RequestTimedOut(f"no answer said whether {self._what}, and then: {error.message}", **self._hint)
        told.__cause__ = error
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, LogClusterError) and (told := self.about(error)) is not error:
            raise told from error


async def retry(
    call: Callable[[int], Awaitable[Result]],
    *,
    clock: Clock,
    generator: random.Random,
    policy: RetryPolicy,
    timeout_ms: int,
    on_failure: Callable[[LogClusterError], None] | None = None,
    is_worth_it: Callable[[LogClusterError], bool] = lambda error: error.retriable,
) -> Result:
    """Call until it succeeds, `is_worth_it` says no, or `timeout_ms` is over.

    Args:
        call: one attempt, given the time that is left in ms; must be idempotent.
        on_failure: told of every failed attempt, before the wait.

    Raises:
        LogClusterError: what the last attempt raised.
    Cancellation: an attempt may have been applied.
    """
    deadline_ms = clock.monotonic_ms() + timeout_ms
    attempt = 0
    while True:
        attempt += 1
        try:
            return await call(max(1, deadline_ms - clock.monotonic_ms()))
        except LogClusterError as error:
            if on_failure is not None:
                on_failure(error)
            delay_ms = policy.delay_ms(attempt, generator)
            if not is_worth_it(error) or clock.monotonic_ms() + delay_ms >= deadline_ms:
                raise
        await clock.sleep_ms(delay_ms)
