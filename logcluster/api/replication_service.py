"""The replica stream's servicer: checks who calls, then pumps between the stream and a `ReplicaFeed`. Peers only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import grpc

from logcluster.broker.replica_feed import ReplicaFeed
from logcluster.model.errors import (
    InconsistentClusterId,
    InvalidRequest,
    NotReady,
    StaleBrokerEpoch,
)
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.internal.v1 import replication_pb2 as pb, replication_pb2_grpc

Context = grpc.aio.ServicerContext[pb.ReplicateRequest, pb.ReplicateResponse]


def _raised_below(_name: str, _error: BaseException) -> None:
    """The stream ends with what its request side raised."""


class FeedHost(Protocol):
    """What the servicer asks of the replica manager."""

    @property
    def broker_id(self) -> int: ...

    @property
    def broker_epoch(self) -> int | None: ...

    @property
    def cluster_id(self) -> str: ...

    def known_broker_epoch(self, broker_id: int) -> int | None:
        """Epoch of the broker's registration in the metadata applied here."""

    def open_feed(self, *, follower_id: int, follower_broker_epoch: int) -> ReplicaFeed:
        """A feed for one stream."""


class ReplicationServicer(replication_pb2_grpc.ReplicationServiceServicer):
    """Followers pull from the partitions led here."""

    def __init__(self, host: FeedHost) -> None:
        self._host = host

    async def Replicate(  # noqa: N802  # the service's name
        self, request_iterator: AsyncIterator[pb.ReplicateRequest], context: Context
    ) -> AsyncIterator[pb.ReplicateResponse]:
        """One stream of one follower broker; ends when either side does.

        Raises:
            InvalidRequest, InconsistentClusterId, StaleBrokerEpoch, NotReady: the first message is refused.
        """
        first = await anext(request_iterator, None)
        if first is None:
            return
        feed = self._open(first)
        try:
            async with TaskScope(f"feed-{feed.follower_id}", on_fault=_raised_below) as scope:
                requests = scope.spawn(self._take_requests(feed, first, request_iterator), name="requests")
                scope.spawn(feed.run_cold_reads(), name="cold-reads")
                requests.add_done_callback(lambda _task: feed.stop())
                while (message := await feed.next_message()) is not None:
                    yield message
                await requests
        finally:
            feed.close()

    def _open(self, first: pb.ReplicateRequest) -> ReplicaFeed:
        host = self._host
        hello = first.hello
        if not first.HasField("hello"):
            raise InvalidRequest("the first message of a replica stream says who calls")
        if hello.cluster_id != host.cluster_id:
            raise InconsistentClusterId(cluster_id=hello.cluster_id)
        own_epoch = host.broker_epoch
        if own_epoch is None:
            raise NotReady("the broker has not registered yet")
        if hello.leader_id != host.broker_id:
            raise InvalidRequest("the stream is meant for another broker", broker_id=host.broker_id)
        if hello.leader_broker_epoch > own_epoch:
            raise NotReady("this broker does not know its own registration yet", broker_epoch=own_epoch)
        known = host.known_broker_epoch(hello.broker_id)
        if known is not None and hello.broker_epoch < known:
            raise StaleBrokerEpoch(broker_id=hello.broker_id, broker_epoch=known)
        return host.open_feed(follower_id=hello.broker_id, follower_broker_epoch=hello.broker_epoch)

    async def _take_requests(
        self, feed: ReplicaFeed, first: pb.ReplicateRequest, requests: AsyncIterator[pb.ReplicateRequest]
    ) -> None:
        feed.on_request(first)
        async for request in requests:
            feed.on_request(request)
