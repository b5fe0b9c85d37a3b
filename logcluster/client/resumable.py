"""An asynchronous iterator that outlives errors and cancellation.

A generator is over once an exception has left it; whoever asks again is told that it has ended, which for a log would
be wrong. Here another generator takes the place of the broken one and goes on from the state they share. Iterating
costs what the generator itself costs: `__anext__` is the generator's own, held in a slot, so no call lies in between.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Generic, Self, TypeVar

Item = TypeVar("Item")
Renew = Callable[[], None]
"""Called by the generator before an exception leaves it."""


class Resumable(Generic[Item]):
    """Iterates over what `begin` makes; after an exception over what it makes then.

    Args:
        begin: makes a generator that calls what it is given before an exception leaves it, `GeneratorExit` excepted.
    """

    __slots__ = ("__anext__", "__weakref__", "_begin", "_generator")

    if TYPE_CHECKING:

        def __anext__(self) -> Awaitable[Item]: ...

    def __init__(self, begin: Callable[[Renew], AsyncGenerator[Item, None]]) -> None:
        self._begin = begin
        self._renew()

    def _renew(self) -> None:
        # No strong reference back: an iterator that is dropped in the middle ends there and then, not at a collection.
        this = weakref.ref(self)

        def renew() -> None:
            iterator = this()
            if iterator is not None:
                iterator._renew()

        self._generator = self._begin(renew)
        self.__anext__ = self._generator.__anext__  # type: ignore[method-assign]  # a slot, see above

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """End the iteration, as of a generator."""
        await self._generator.aclose()
