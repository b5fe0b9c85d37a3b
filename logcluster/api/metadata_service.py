"""Who is in the cluster and who leads what: any broker answers from its own image of the metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from logcluster.broker.controller_client import ControllerClient
from logcluster.broker.metadata_loader import MetadataLoader
from logcluster.core.metadata.image import BrokerRegistration, MetadataImage, PartitionRegistration, TopicImage
from logcluster.model.errors import NotController, NotReady, UnknownTopicOrPartition
from logcluster.model.internal_topics import is_internal
from logcluster.wire.gen.logcluster.v1 import metadata_pb2 as pb, metadata_pb2_grpc
from logcluster.wire.status import error_detail

Context = grpc.aio.ServicerContext[Any, Any]
FORWARDED_KEY = "logcluster-forwarded"
"""Call metadata of a request that another node passed on; it is not passed on again."""
QUORUM_TIMEOUT_MS = 5_000


class MetadataServicer(metadata_pb2_grpc.MetadataServiceServicer):
    """See the top of the file.

    Args:
        describe_quorum: the quorum as this node sees it while it is the active controller, else None.
        node_status: what this node says about itself.
    """

    def __init__(
        self,
        *,
        loader: MetadataLoader,
        client: ControllerClient,
        describe_quorum: Callable[[], pb.DescribeQuorumResponse | None],
        node_status: Callable[[], pb.GetNodeStatusResponse],
    ) -> None:
        self._loader = loader
        self._client = client
        self._describe_quorum = describe_quorum
        self._node_status = node_status

    async def GetMetadata(  # noqa: N802
        self, request: pb.GetMetadataRequest, context: Context
    ) -> pb.GetMetadataResponse:
        image = self._loader.image
        if not image.offset:
            # An empty answer would read as "every topic was deleted".
            raise NotReady("this node has no metadata yet", hint="ask another broker, or wait for this one")
        return metadata_response(image, request, controller_id=self._client.controller_id)

    async def DescribeQuorum(  # noqa: N802
        self, request: pb.DescribeQuorumRequest, context: Context
    ) -> pb.DescribeQuorumResponse:
        described = self._describe_quorum()
        if described is not None:
            return described
        if is_forwarded(context):
            raise NotController("this node is not the active controller")

        async def send(channel: grpc.aio.Channel, timeout: float) -> pb.DescribeQuorumResponse:
            stub: metadata_pb2_grpc.MetadataServiceAsyncStub = metadata_pb2_grpc.MetadataServiceStub(channel)
            return await stub.DescribeQuorum(request, timeout=timeout, metadata=((FORWARDED_KEY, "1"),))

        return await self._client.call(send, timeout_ms=QUORUM_TIMEOUT_MS, retry_unknown=True)

    async def GetNodeStatus(  # noqa: N802
        self, request: pb.GetNodeStatusRequest, context: Context
    ) -> pb.GetNodeStatusResponse:
        return self._node_status()


def is_forwarded(context: Context) -> bool:
    """Did another node pass this call on?"""
    return any(key == FORWARDED_KEY for key, _ in context.invocation_metadata() or ())


def metadata_response(
    image: MetadataImage, request: pb.GetMetadataRequest, *, controller_id: int | None
) -> pb.GetMetadataResponse:
    """Build the answer; a topic asked for by name and not known carries `UnknownTopicOrPartition`."""
    topics: list[pb.Topic] = []
    if request.all_topics:
        topics = [
            _topic(topic, image)
            for name, topic_id in sorted(image.topic_ids.items())
            if (topic := image.topics[topic_id]) and (request.include_internal or not is_internal(name))
        ]
    for name in dict.fromkeys(request.topics):
        if request.all_topics and name in image.topic_ids and (request.include_internal or not is_internal(name)):
            continue
        found = image.topic_by_name(name)
        if found is None:
            error = UnknownTopicOrPartition(f"there is no topic {name!r}", topic=name)
            topics.append(pb.Topic(name=name, internal=is_internal(name), error=error_detail(error)))
        else:
            topics.append(_topic(found, image))
    return pb.GetMetadataResponse(
        cluster_id=image.cluster_id,
        controller_id=controller_id,
        metadata_offset=image.offset,
        brokers=[_broker(image.brokers[broker_id]) for broker_id in sorted(image.brokers)],
        topics=topics,
    )


def _broker(broker: BrokerRegistration) -> pb.Broker:
    if broker.is_fenced:
        state = pb.BROKER_STATE_FENCED
    elif broker.in_controlled_shutdown:
        state = pb.BROKER_STATE_SHUTTING_DOWN
    else:
        state = pb.BROKER_STATE_ACTIVE
    return pb.Broker(
        broker_id=broker.broker_id,
        host=broker.host,
        grpc_port=broker.grpc_port,
        lane_port=broker.lane_port,
        http_port=broker.http_port,
        rack=broker.rack,
        broker_epoch=broker.broker_epoch,
        state=state,
    )


def _topic(topic: TopicImage, image: MetadataImage) -> pb.Topic:
    return pb.Topic(
        name=topic.name,
        topic_id=topic.topic_id,
        internal=is_internal(topic.name),
        partitions=[_partition(topic.partitions[index], image) for index in sorted(topic.partitions)],
    )


def _partition(partition: PartitionRegistration, image: MetadataImage) -> pb.Partition:
    brokers = image.brokers
    return pb.Partition(
        partition=partition.partition,
        leader_id=partition.leader_id,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        replicas=partition.replicas,
        in_sync_replicas=partition.in_sync_replicas,
        eligible_leader_replicas=partition.eligible_leader_replicas,
        offline_replicas=[
            member for member in partition.replicas if member not in brokers or brokers[member].is_fenced
        ],
    )
