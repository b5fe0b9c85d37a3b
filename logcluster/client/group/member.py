"""Being a member: heartbeats in a task of their own, the stream that says when one is due, what answers bring about.

The application may take as long as it likes for a record: nothing here waits for it but the giving up of partitions,
while heartbeats go on. What an answer asks for is done by `Reader`, one thing at a time, in a task beside the
heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Final, Protocol

from grpc.aio import AioRpcError

from logcluster.client.connections import call
from logcluster.client.context import Context
from logcluster.client.group.coordinator import ATTEMPT_MS, CoordinatorCalls
from logcluster.client.group.membership import AssignedPartition, Membership
from logcluster.model.errors import FencedError, LogClusterError, UnreleasedInstanceId
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb
from logcluster.wire.status import error_from_detail, error_from_rpc

logger = logging.getLogger("logcluster.client")

INSTANCE_PAUSE_MS: Final = 500
WATCH_PAUSE_MS: Final = 200
LEAVE_TIMEOUT_MS: Final = 2_000


class Reader(Protocol):
    """The consumer, as its membership sees it; partitions come in order, so that a seed gives one run."""

    @property
    def processing_since_ms(self) -> int:
        """Since when the application has not come back for records (wall clock); 0: it comes back in time."""
        ...

    async def take_on(self, partitions: Collection[AssignedPartition]) -> None:
        """Read these from now on."""
        ...

    async def give_up(self, partitions: Collection[AssignedPartition]) -> None:
        """Stop reading these: finish what is in hand, commit it."""
        ...

    async def lose(self, partitions: Collection[AssignedPartition]) -> None:
        """Stop reading these at once; they may be another member's, and nothing can be committed."""
        ...

    def fail(self, error: LogClusterError) -> None:
        """The consumer can be no member; the user must hear of it."""
        ...


class Member:
    """One membership; `start` it once, `leave` it once."""

    def __init__(
        self, membership: Membership, reader: Reader, *, calls: CoordinatorCalls, context: Context, scope: TaskScope
    ) -> None:
        self.membership = membership
        self._reader = reader
        self._calls = calls
        self._context = context
        self._clock = context.clock
        self._scope = scope
        self._wake = asyncio.Event()
        self._change: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._heartbeats: asyncio.Task[None] | None = None
        self._instance_deadline_ms: int | None = None

    def start(self) -> None:
        """Begin to join."""
        self._heartbeats = self._scope.spawn(self._run(), name="heartbeats")

    async def leave(self) -> None:
        """Tell the coordinator that the member goes; whether it hears that does not matter. Give up everything before.

        Cancellation: the session ends by itself.
        """
        for task in (self._heartbeats, self._watch, self._change):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if not self.membership.is_member:
            return
        with suppress(LogClusterError):
            await self._calls.call(
                self.membership.options.group,
                lambda stub: stub.Heartbeat,
                self.membership.leaving(),
                timeout_ms=LEAVE_TIMEOUT_MS,
            )

    # -- heartbeats ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        attempt = 0
        while True:
            self._wake.clear()
            request = self.membership.next_heartbeat(processing_since_ms=self._reader.processing_since_ms)
            try:
                response = await self._send(request)
            except LogClusterError as error:
                attempt += 1
                if not await self._failed(request, error, attempt):
                    return
                continue
            attempt = 0
            self._instance_deadline_ms = None
            if self.membership.answered(request, response):
                self._begin_change()
            self._begin_watch()
            if not self.membership.has_news:
                await self._pause(self.membership.heartbeat_interval_ms)

    async def _send(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        group = self.membership.options.group
        try:
            stub = await self._calls.stub(group, timeout_ms=ATTEMPT_MS)
            response: pb.HeartbeatResponse = await call(stub.Heartbeat, request, timeout_ms=ATTEMPT_MS)
        except LogClusterError as error:
            self._calls.note(group, error)
            raise
        return response

    async def _failed(self, request: pb.HeartbeatRequest, error: LogClusterError, attempt: int) -> bool:
        """Do what the error asks for; returns whether to go on."""
        lost = self.membership.refused(request, error)
        if lost is not None:
            logger.warning("group %s: %s", request.group, error.message)
            await self._lose(lost)
            return True
        if isinstance(error, UnreleasedInstanceId) and self._may_wait_for_instance():
            await self._pause(INSTANCE_PAUSE_MS)
            return True
        if error.retriable or not error.definite:
            policy = self._context.policy
            await self._clock.sleep_ms(policy.delay_ms(attempt, self._context.generator))
            return True
        await self._lose(self.membership.lose(is_forgotten=False))
        self._reader.fail(error)
        return False

    def _may_wait_for_instance(self) -> bool:
        """An earlier process of the same instance may be gone, and the coordinator not know it yet."""
        now_ms = self._clock.monotonic_ms()
        if self._instance_deadline_ms is None:
            self._instance_deadline_ms = now_ms + self._context.options.request_timeout_ms
        return now_ms < self._instance_deadline_ms

    async def _pause(self, delay_ms: int) -> None:
        """Wait, unless there is a reason for a heartbeat at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_ms / 1000):
                await self._wake.wait()

    # -- changes of the assignment ---------------------------------------------------------------------------------

    def _begin_change(self) -> None:
        if self._change is None or self._change.done():
            self._change = self._scope.spawn(self._reconcile(), name="assignment")

    async def _reconcile(self) -> None:
        """Bring what is read to what was assigned last, and let each step be told at once."""
        membership = self.membership
        while True:
            if given_up := membership.to_give_up:
                await self._reader.give_up(given_up)
                membership.gave_up(given_up)
            elif taken_on := membership.to_take_on:
                # Before it is read: it may be called back meanwhile, and must not be free while reading begins.
                membership.took_on(taken_on)
                await self._reader.take_on(taken_on)
            else:
                return
            self._wake.set()

    async def _lose(self, lost: frozenset[AssignedPartition]) -> None:
        """The membership is over: no step that was begun counts."""
        if self._change is not None and not self._change.done():
            self._change.cancel()
            # Awaiting the task itself could not tell its cancellation from one of this task, which `leave` waits for.
            await asyncio.wait([self._change])
        self._end_watch()
        await self._reader.lose(sorted(lost))

    # -- the stream ------------------------------------------------------------------------------------------------

    def _begin_watch(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = self._scope.spawn(self._watch_membership(self.membership.member_id), name="watch")

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _watch_membership(self, member_id: str) -> None:
        """Keep the stream open: while it is, the coordinator knows that this process lives."""
        group = self.membership.options.group
        request = pb.WatchMembershipRequest(group=group, member_id=member_id)
        while True:
            try:
                stub = await self._calls.stub(group, timeout_ms=ATTEMPT_MS)
                await self._follow(stub.WatchMembership(request))
            except AioRpcError as failure:
                self._calls.note(group, error_from_rpc(failure))
            except FencedError:
                self._wake.set()  # the next heartbeat finds out for good
                return
            except LogClusterError as error:
                self._calls.note(group, error)
            self._wake.set()
            await self._clock.sleep_ms(WATCH_PAUSE_MS)

    async def _follow(self, stream: Any) -> None:
        async for message in stream:
            if message.HasField("ended"):
                raise error_from_detail(message.ended)
            self._wake.set()
