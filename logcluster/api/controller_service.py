"""What brokers ask of the active controller: protobuf in, controller requests out, and the session stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import grpc

from logcluster.broker.broker_sessions import SessionFeed, SessionUpdate
from logcluster.broker.controller_driver import ControllerDriver
from logcluster.core.controller.requests import (
    AllocateProducerIds,
    AllocateProducerIdsResult,
    AlterPartition,
    AlterPartitionResult,
    AlterPartitions,
    CreateTopics,
    FailedReplica,
    Heartbeat,
    IsrMember,
    NewTopic,
    RegisterBroker,
    RegisterBrokerResult,
    TopicResult,
)
from logcluster.model.errors import InvalidRequest, InvalidTopic, LogClusterError, TopicAlreadyExists
from logcluster.model.ids import TopicId
from logcluster.model.internal_topics import is_internal
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2 as pb, controller_pb2_grpc
from logcluster.wire.records import snapshot_to_pb
from logcluster.wire.status import error_detail

Context = grpc.aio.ServicerContext[object, object]


class ControllerServicer(controller_pb2_grpc.ControllerServiceServicer):
    """Serves brokers while this node is the active controller; otherwise `NotController` names it."""

    def __init__(self, driver: ControllerDriver) -> None:
        self._driver = driver

    async def RegisterBroker(  # noqa: N802
        self, request: pb.RegisterBrokerRequest, context: Context
    ) -> pb.RegisterBrokerResponse:
        result = await self._driver.submit(
            RegisterBroker(
                cluster_id=request.cluster_id,
                broker_id=request.broker_id,
                incarnation_id=request.incarnation_id,
                directory_id=request.directory_id,
                host=request.host,
                grpc_port=request.grpc_port,
                lane_port=request.lane_port,
                http_port=request.http_port,
                rack=request.rack,
                previous_broker_epoch=(
                    request.previous_broker_epoch if request.HasField("previous_broker_epoch") else None
                ),
            )
        )
        return pb.RegisterBrokerResponse(broker_epoch=cast(RegisterBrokerResult, result).broker_epoch)

    async def AlterPartitions(  # noqa: N802
        self, request: pb.AlterPartitionsRequest, context: Context
    ) -> pb.AlterPartitionsResponse:
        result = await self._driver.submit(
            AlterPartitions(
                broker_id=request.broker_id,
                broker_epoch=request.broker_epoch,
                partitions=tuple(_alter_partition(item) for item in request.partitions),
            )
        )
        results = cast(tuple[AlterPartitionResult, ...], result)
        return pb.AlterPartitionsResponse(partitions=[_alter_partition_result(item) for item in results])

    async def AllocateProducerIds(  # noqa: N802
        self, request: pb.AllocateProducerIdsRequest, context: Context
    ) -> pb.AllocateProducerIdsResponse:
        result = await self._driver.submit(
            AllocateProducerIds(broker_id=request.broker_id, broker_epoch=request.broker_epoch)
        )
        block = cast(AllocateProducerIdsResult, result)
        return pb.AllocateProducerIdsResponse(first_producer_id=block.first_producer_id, count=block.count)

    async def CreateInternalTopic(  # noqa: N802
        self, request: pb.CreateInternalTopicRequest, context: Context
    ) -> pb.CreateInternalTopicResponse:
        """Make a topic of the cluster's own, if it is not there.

        Raises:
            InvalidTopic: it would be a topic of users.
            InvalidReplicationFactor, ...: it cannot be made now.
        """
        if not is_internal(request.name):
            raise InvalidTopic(f"{request.name!r} is no name of an internal topic")
        topic = NewTopic(
            name=request.name,
            partitions=request.partitions,
            replication_factor=request.replication_factor,
            config=dict(request.config),
        )
        results = cast(
            tuple[TopicResult, ...], await self._driver.submit(CreateTopics(topics=(topic,), by_cluster=True))
        )
        error = results[0].error
        if error is not None and not isinstance(error, TopicAlreadyExists):
            raise error
        return pb.CreateInternalTopicResponse()

    async def BrokerSession(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.BrokerSessionRequest], context: Context
    ) -> AsyncIterator[pb.BrokerSessionResponse]:
        """Hold the session of one broker; its end, however it comes, is told to the driver."""
        first = await anext(aiter(request_iterator), None)
        if first is None:
            raise InvalidRequest("a session begins with a heartbeat")
        feed = self._driver.open_session(_heartbeat(first), metadata_term=first.metadata_term)
        feed.heard(first.sequence, wants_shutdown=first.want_shutdown)
        try:
            async with TaskScope(f"session-{first.broker_id}") as scope:
                scope.spawn(self._listen(feed, request_iterator), name="heartbeats")
                while True:
                    yield _session_response(await feed.next_update())
        finally:
            self._driver.close_session(feed)

    async def _listen(self, feed: SessionFeed, requests: AsyncIterator[pb.BrokerSessionRequest]) -> None:
        """Take heartbeats until the broker stops sending; what is wrong with one ends the session."""
        try:
            async for request in requests:
                self._driver.heartbeat(feed, _heartbeat(request))
                feed.heard(request.sequence, wants_shutdown=request.want_shutdown)
        except LogClusterError as error:
            feed.close(error)
        except grpc.aio.AioRpcError:
            # The connection broke: the driver learns it when the stream is closed.
            pass
        else:
            feed.close(InvalidRequest("the broker ended the session"))


def _heartbeat(request: pb.BrokerSessionRequest) -> Heartbeat:
    return Heartbeat(
        broker_id=request.broker_id,
        broker_epoch=request.broker_epoch,
        metadata_offset=request.metadata_offset,
        want_shutdown=request.want_shutdown,
        log_directory_failed=request.log_directory_failed,
        failed_replicas=tuple(
            FailedReplica(topic_id=TopicId(item.topic_id), partition=item.partition, leader_epoch=item.leader_epoch)
            for item in request.failed_replicas
        ),
    )


def _session_response(update: SessionUpdate) -> pb.BrokerSessionResponse:
    response = pb.BrokerSessionResponse(
        entries=[
            pb.MetadataEntry(index=entry.index, term=entry.term, payload=entry.payload) for entry in update.entries
        ],
        is_fenced=update.is_fenced,
        may_shut_down=update.may_shut_down,
        term=update.term,
        commit_index=update.commit_index,
        sequence=update.sequence,
    )
    if update.snapshot is not None:
        response.snapshot.index = update.snapshot.offset
        response.snapshot.term = update.snapshot.term
        response.snapshot.snapshot.CopyFrom(snapshot_to_pb(update.snapshot))
    return response


def _alter_partition(item: pb.AlterPartition) -> AlterPartition:
    return AlterPartition(
        topic_id=TopicId(item.topic_id),
        partition=item.partition,
        leader_epoch=item.leader_epoch,
        partition_epoch=item.partition_epoch,
        new_in_sync_replicas=tuple(
            IsrMember(broker_id=member.broker_id, broker_epoch=member.broker_epoch)
            for member in item.new_in_sync_replicas
        ),
        recovering=item.recovering,
    )


def _alter_partition_result(result: AlterPartitionResult) -> pb.AlterPartitionResult:
    return pb.AlterPartitionResult(
        topic_id=result.topic_id,
        partition=result.partition,
        error=None if result.error is None else error_detail(result.error),
        leader_id=-1 if result.leader_id is None else result.leader_id,
        leader_epoch=result.leader_epoch,
        partition_epoch=result.partition_epoch,
        in_sync_replicas=result.in_sync_replicas,
        recovering=result.recovering,
    )
