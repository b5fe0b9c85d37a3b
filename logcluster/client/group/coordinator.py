"""Calls to the coordinator of a group: found through any broker, remembered, and looked for again when it moved.

    calls = CoordinatorCalls(context)
    response = await calls.call("billing", lambda stub: stub.CommitOffsets, request, timeout_ms=5_000)

What is sent here may be sent again after an unknown outcome: every call of the group service can be repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from logcluster.client.connections import call
from logcluster.client.context import Context
from logcluster.client.retry import retry
from logcluster.model.errors import (
    BrokerNotAvailable,
    Disconnected,
    LogClusterError,
    NotCoordinator,
    RequestTimedOut,
    UnavailableError,
    UnknownServerError,
)
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb
from logcluster.wire.status import error_from_detail

ATTEMPT_MS: Final = 3_000
"""So long one broker may take; a coordinator that fell silent has been replaced by then."""


class CoordinatorCalls:
    """Finds coordinators and calls them; one for all groups of a client's part."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._broker_ids: dict[str, int] = {}

    def forget(self, group: str) -> None:
        """Look for the coordinator again before the next call."""
        self._broker_ids.pop(group, None)

    async def stub(self, group: str, *, timeout_ms: int) -> Any:
        """The group service of the coordinator.

        Raises:
            CoordinatorNotAvailable: no broker coordinates the group at the moment.
            InvalidGroupId: there can be no such group.
            LogClusterError: no broker could be asked.
        Cancellation: atomic.
        """
        broker_id = self._broker_ids.get(group)
        if broker_id is None:
            broker_id = self._broker_ids[group] = await self._find(group, timeout_ms)
        try:
            return self._context.connections.stubs(broker_id).groups
        except BrokerNotAvailable:
            # It has joined the cluster since this client asked for metadata last.
            self.forget(group)
            await self._context.metadata.refresh()
            raise

    async def _find(self, group: str, timeout_ms: int) -> int:
        response: pb.FindCoordinatorsResponse = await self._context.connections.ask_any(
            lambda stubs: stubs.groups.FindCoordinators,
            pb.FindCoordinatorsRequest(groups=[group]),
            timeout_ms=timeout_ms,
            attempt_ms=ATTEMPT_MS,
        )
        if not response.coordinators:
            raise UnknownServerError("a broker did not say who coordinates the group")
        found = response.coordinators[0]
        if found.HasField("error") and found.error.code:
            raise error_from_detail(found.error)
        return found.broker_id

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
        """Call the coordinator until it answers, or time is over.

        Args:
            method: takes the stub of the group service, returns its method.
            timeout_ms: for everything; None: the client's request timeout.
            first_error: an error in the answer that stands for the whole of it; one that passes is tried again.
            on_failure: told of every failed attempt.

        Raises:
            LogClusterError: the coordinator's refusal, or the last failure.
        Cancellation: it may have been carried out.
        """
        context = self._context

        async def attempt(left_ms: int) -> Any:
            stub = await self.stub(group, timeout_ms=left_ms)
            answer = await call(method(stub), request, timeout_ms=min(left_ms, ATTEMPT_MS))
            error = None if first_error is None else first_error(answer)
            if error is not None:
                raise error
            return answer

        def failed(error: LogClusterError) -> None:
            self.note(group, error)
            if on_failure is not None:
                on_failure(error)

        return await retry(
            attempt,
            clock=context.clock,
            generator=context.generator,
            policy=context.policy,
            timeout_ms=context.options.request_timeout_ms if timeout_ms is None else timeout_ms,
            on_failure=failed,
        )

    def note(self, group: str, error: LogClusterError) -> None:
        """An attempt failed: whether the coordinator may be another broker now."""
        if isinstance(error, NotCoordinator | UnavailableError):
            broker_id = self._broker_ids.pop(group, None)
            if broker_id is not None and isinstance(error, Disconnected | RequestTimedOut | BrokerNotAvailable):
                self._context.connections.note_failure(broker_id)
