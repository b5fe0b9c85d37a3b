"""What waits in a shard: requests with their handlers, and entities in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from logcluster.core.coordinators.machine import Result

AnyEntity = TypeVar("AnyEntity")
Handler = Callable[[Any, int, int], Result[Any, Any]]
"""Given the entity, the monotonic and the wall clock in milliseconds; reads, and decides."""


class Request:
    """One request to one entity.

    Attributes:
        future: gets the response or the error; None for the runtime's own, whose outcome nobody waits for.
        is_linearizable: a question whose answer must not be stale.
        was_appended: from here on a failure is no definite refusal (P9).
    """

    __slots__ = ("deadline_ms", "future", "handler", "is_linearizable", "key", "was_appended")

    def __init__(
        self,
        key: str,
        handler: Handler,
        *,
        deadline_ms: int,
        future: asyncio.Future[Any] | None,
        is_linearizable: bool = False,
    ) -> None:
        self.key = key
        self.handler = handler
        self.deadline_ms = deadline_ms
        self.future = future
        self.is_linearizable = is_linearizable
        self.was_appended = False

    @property
    def is_over(self) -> bool:
        """Has the caller given up, or been answered?"""
        return self.future is not None and self.future.done()

    def answer(self, response: object) -> None:
        """Give the response to the caller, if it still waits."""
        if self.future is not None and not self.future.done():
            self.future.set_result(response)

    def fail(self, error: BaseException) -> None:
        """Give an error to the caller, if it still waits."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class Held(Generic[AnyEntity]):
    """An entity in memory.

    Attributes:
        last_offset: end of the last batch with its records; what it shows is committed when that is.
        noted_ms: its place in the shard's heap of deadlines; None: it has none there.
        key_count: as it was counted last; one more than it has, so that an entity without keys counts, too.
    """

    __slots__ = ("entity", "key_count", "last_offset", "noted_ms")

    def __init__(self, entity: AnyEntity) -> None:
        self.entity = entity
        self.last_offset = 0
        self.noted_ms: int | None = None
        self.key_count = 0
