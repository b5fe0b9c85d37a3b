"""Whether a refusal speaks for a whole call of a coordinator, or only for its last attempt.

A call is repeated until it is answered. When an attempt got no answer it may have been carried out, and a later one
that is refused for certain changes nothing about that: the outcome is `info`, however definite the last error is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from logcluster.client.client import Client
from logcluster.client.context import Context
from logcluster.client.group.coordinator import CoordinatorCalls
from logcluster.model.errors import LogClusterError


class DoubtfulCalls(CoordinatorCalls):
    """Calls that remember whether some attempt since `begin` may have been carried out; for one call at a time."""

    def __init__(self, client: Client | Context) -> None:
        super().__init__(client._open() if isinstance(client, Client) else client)
        self.has_doubt = False

    def begin(self) -> None:
        """Another operation begins."""
        self.has_doubt = False

    async def call(
        self,
        group: str,
        method: Callable[[Any], Callable[..., Awaitable[Any]]],
        request: object,
        *,
        timeout_ms: int | None = None,
        first_error: Callable[[Any], LogClusterError | None] | None = None,
        on_failure: Callable[[LogClusterError], None] | None = None,
    ) -> Any:
        """As `CoordinatorCalls.call`."""

        def failed(error: LogClusterError) -> None:
            self.has_doubt = self.has_doubt or not error.definite
            if on_failure is not None:
                on_failure(error)

        return await super().call(
            group, method, request, timeout_ms=timeout_ms, first_error=first_error, on_failure=failed
        )
