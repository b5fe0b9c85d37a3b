"""Finds the active controller and calls it: discovery, caching, retries within a deadline. One per node.

Where the controller is comes from three sources: the last success, the `leader_id` that a `NotController` names, and
a probe of all voters at once, of which only one runs at a time. A request whose outcome is unknown is sent again only
where that does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final, Protocol, TypeVar

import grpc

from logcluster.model.errors import (
    BrokerNotAvailable,
    Disconnected,
    LogClusterError,
    NotController,
    Overloaded,
    RequestTimedOut,
    StaleBrokerEpoch,
)
from logcluster.model.ids import Endpoint
from logcluster.runtime.clock import Clock
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2, controller_pb2_grpc
from logcluster.wire.status import error_from_rpc

REQUEST_TIMEOUT_MS: Final = 10_000
ATTEMPT_TIMEOUT_MS: Final = 3_000
PROBE_TIMEOUT_MS: Final = 400
BACKOFF_MS_MIN: Final = 10
BACKOFF_MS_MAX: Final = 100
"""Kept small: while there is no controller, a cluster of three asks a few dozen cheap questions a second."""

Answer = TypeVar("Answer")


class Channels(Protocol):
    """Where channels to peers come from."""

    def channel(self, endpoint: Endpoint) -> grpc.aio.Channel:
        """The channel to an endpoint; cheap, connects on use."""
        ...


class ControllerClient:
    """See the top of the file.

    Args:
        voters: lane endpoints of the quorum's nodes.
        random: jitter.
        broker_id: on whose behalf; None for a node without a broker.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        voters: Mapping[int, Endpoint],
        channels: Channels,
        clock: Clock,
        random: Random,
        broker_id: int | None = None,
    ) -> None:
        self.broker_epoch: int | None = None
        """Set by the lifecycle once registered."""
        self._cluster_id = cluster_id
        self._voters = dict(voters)
        self._channels = channels
        self._clock = clock
        self._random = random
        self._broker_id = broker_id
        self._controller_id: int | None = None
        self._discovery: asyncio.Task[None] | None = None
        self._scope = TaskScope("controller-client")

    async def close(self) -> None:
        """End what is under way."""
        await self._scope.close()

    @property
    def controller_id(self) -> int | None:
        """The node last known as the active controller."""
        return self._controller_id

    def note_failure(self, error: LogClusterError) -> None:
        """Learn from a failed call where the controller is, or that it is not where it was."""
        leader_id: int | None = None
        if isinstance(error, NotController):
            fact = error.facts.get("leader_id")
            if fact is not None and str(fact).isdigit() and int(str(fact)) in self._voters:
                leader_id = int(str(fact))
            self._controller_id = leader_id if leader_id != self._controller_id else None
        elif isinstance(error, Disconnected | BrokerNotAvailable | RequestTimedOut):
            self._controller_id = None

    async def find(self) -> grpc.aio.Channel | None:
        """A channel to the active controller, or None when the voters know of none now."""
        if self._controller_id is None:
            await self._discover()
        if self._controller_id is None:
            return None
        return self._channels.channel(self._voters[self._controller_id])

    async def _discover(self) -> None:
        if self._discovery is None or self._discovery.done():
            self._discovery = self._scope.spawn(self._probe_voters(), name="discover")
        await asyncio.shield(self._discovery)

    async def _probe_voters(self) -> None:
        """Ask all voters at once; believe the one with the newest term that names a controller."""
        best_term = -1
        async with TaskScope("probe-voters") as scope:
            waiting = {scope.spawn(self._probe_one(node_id), name=f"node-{node_id}") for node_id in self._voters}
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for response in sorted((task.result() for task in done), key=lambda found: (found.term, found.node_id)):
                    if not response.HasField("controller_id") or response.controller_id not in self._voters:
                        continue
                    if response.term > best_term:
                        best_term = response.term
                        self._controller_id = response.controller_id
                    if response.node_id == response.controller_id and response.term == best_term:
                        # It says so itself: nobody can know better, and a wrong word is corrected by NotController.
                        return

    async def _probe_one(self, node_id: int) -> controller_pb2.ProbeResponse:
        stub: controller_pb2_grpc.NodeServiceAsyncStub = controller_pb2_grpc.NodeServiceStub(
            self._channels.channel(self._voters[node_id])
        )
        try:
            return await stub.Probe(
                controller_pb2.ProbeRequest(cluster_id=self._cluster_id), timeout=PROBE_TIMEOUT_MS / 1000
            )
        except grpc.aio.AioRpcError:
            return controller_pb2.ProbeResponse(node_id=node_id, term=-1)

    async def call(
        self,
        send: Callable[[grpc.aio.Channel, float], Awaitable[Answer]],
        *,
        timeout_ms: int = REQUEST_TIMEOUT_MS,
        retry_unknown: bool,
    ) -> Answer:
        """Send a request to the active controller, trying again until it is answered or the time is over.

        Args:
            send: makes the call on a channel, given its timeout in seconds.
            retry_unknown: whether to send again when an attempt may have been applied.

        Raises:
            LogClusterError: the controller's answer, or why there was none. Definite unless an attempt was left
                with unknown outcome.
        Cancellation: the request may have been applied.
        """
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        backoff_ms = BACKOFF_MS_MIN
        last_error: LogClusterError | None = None
        unknown: LogClusterError | None = None
        was_redirected = False
        while (remaining_ms := deadline_ms - self._clock.monotonic_ms()) > 0:
            channel = await self.find()
            if channel is not None:
                try:
                    return await send(channel, min(remaining_ms, ATTEMPT_TIMEOUT_MS) / 1000)
                except grpc.aio.AioRpcError as failure:
                    last_error = error_from_rpc(failure)
                except LogClusterError as error:
                    last_error = error
                self.note_failure(last_error)
                if not _may_retry(last_error, retry_unknown=retry_unknown):
                    raise last_error
                if not last_error.definite:
                    unknown = last_error
                # Follow a redirection at once, but pause when two nodes point at one another.
                was_redirected = (
                    not was_redirected and isinstance(last_error, NotController) and self._controller_id is not None
                )
                if was_redirected:
                    continue
            pause_ms = min(backoff_ms, max(1, deadline_ms - self._clock.monotonic_ms()))
            await self._clock.sleep_ms(pause_ms // 2 + self._random.randrange(pause_ms // 2 + 1))
            backoff_ms = min(2 * backoff_ms, BACKOFF_MS_MAX)
        raise unknown or last_error or NotController("there is no active controller")

    async def alter_partitions(
        self, request: controller_pb2.AlterPartitionsRequest, *, timeout_ms: int = REQUEST_TIMEOUT_MS
    ) -> controller_pb2.AlterPartitionsResponse:
        """Propose other in-sync replicas.

        Never sent again here when the outcome is unknown: whoever proposes has to know of that, because a refusal
        of the second copy says nothing about the first one.

        Raises: as `call`.
        """

        async def send(channel: grpc.aio.Channel, timeout: float) -> controller_pb2.AlterPartitionsResponse:
            stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
            return await stub.AlterPartitions(request, timeout=timeout)

        return await self.call(send, timeout_ms=timeout_ms, retry_unknown=False)

    async def allocate_producer_ids(self, *, timeout_ms: int = REQUEST_TIMEOUT_MS) -> tuple[int, int]:
        """Get a block of producer ids: the first one, and how many.

        Raises: as `call`; StaleBrokerEpoch also while this broker is not registered.
        """
        if self._broker_id is None or self.broker_epoch is None:
            raise StaleBrokerEpoch("this broker is not registered yet")
        request = controller_pb2.AllocateProducerIdsRequest(broker_id=self._broker_id, broker_epoch=self.broker_epoch)

        async def send(channel: grpc.aio.Channel, timeout: float) -> controller_pb2.AllocateProducerIdsResponse:
            stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
            return await stub.AllocateProducerIds(request, timeout=timeout)

        answer = await self.call(send, timeout_ms=timeout_ms, retry_unknown=True)
        return answer.first_producer_id, answer.count

    async def create_internal_topic(
        self, request: controller_pb2.CreateInternalTopicRequest, *, timeout_ms: int = REQUEST_TIMEOUT_MS
    ) -> None:
        """Make a topic of the cluster's own; nothing when it exists.

        Raises: as `call`; InvalidReplicationFactor: there are too few brokers for now.
        """

        async def send(channel: grpc.aio.Channel, timeout: float) -> controller_pb2.CreateInternalTopicResponse:
            stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
            return await stub.CreateInternalTopic(request, timeout=timeout)

        await self.call(send, timeout_ms=timeout_ms, retry_unknown=True)

    async def register(
        self, request: controller_pb2.RegisterBrokerRequest, *, timeout_ms: int = REQUEST_TIMEOUT_MS
    ) -> int:
        """Register a broker process; returns its broker epoch. Sent again freely: the incarnation id makes it one.

        Raises: as `call`.
        """

        async def send(channel: grpc.aio.Channel, timeout: float) -> controller_pb2.RegisterBrokerResponse:
            stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
            return await stub.RegisterBroker(request, timeout=timeout)

        return (await self.call(send, timeout_ms=timeout_ms, retry_unknown=True)).broker_epoch


def _may_retry(error: LogClusterError, *, retry_unknown: bool) -> bool:
    if isinstance(error, NotController | BrokerNotAvailable | Overloaded):
        return True
    return retry_unknown and isinstance(error, Disconnected | RequestTimedOut)
