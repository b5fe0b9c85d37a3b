"""Changing the cluster: any broker takes the call and passes it to the active controller.

A call that was passed on carries a mark and is not passed on again. When a change is answered, the broker that
answers has it in its own metadata (or waited for it some seconds), so that the next question to the same broker
knows of it. `DescribeReplicas` and `DeleteRecords` concern the broker asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import grpc

from logcluster.api import admin_messages
from logcluster.api.metadata_service import FORWARDED_KEY, is_forwarded
from logcluster.broker.controller_client import ControllerClient
from logcluster.broker.controller_driver import ControllerDriver
from logcluster.broker.metadata_loader import MetadataLoader
from logcluster.core.controller.requests import (
    DrainBroker,
    DrainBrokerResult,
    ElectResult,
    TopicResult,
    UnregisterBroker,
)
from logcluster.core.metadata.image import MetadataImage
from logcluster.core.metadata.topic_config import CONFIG_KEYS
from logcluster.model.errors import InvalidTopic, LogClusterError, NotController, UnknownTopicOrPartition
from logcluster.model.internal_topics import is_internal
from logcluster.wire.gen.logcluster.v1 import admin_pb2 as pb, admin_pb2_grpc
from logcluster.wire.status import error_detail

Context = grpc.aio.ServicerContext[Any, Any]
FORWARD_TIMEOUT_MS: Final = 20_000
LOCAL_METADATA_TIMEOUT_MS: Final = 3_000

Answer = TypeVar("Answer")
Method = TypeVar("Method")


class ReplicaDirectory(Protocol):
    """What this file asks of the replicas that this broker hosts."""

    def describe_replicas(self, topics: Sequence[str]) -> list[pb.ReplicaStatus]:
        """Sizes and offsets of hosted replicas, of all topics when none is named."""
        ...

    def stray_directories(self) -> list[str]:
        """Topic ids found on disk that the metadata does not know."""
        ...

    async def delete_records(self, topic: str, partition: int, before_offset: int | None) -> int:
        """As the leader, delete records below an offset (None: below the high watermark); returns the log start.

        Raises:
            NotLeaderOrFollower, UnknownTopicOrPartition, OffsetOutOfRange
        """
        ...


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """See the top of the file.

    Args:
        driver: the controller driver of this node; None on a node that is no voter.
        replicas: what this broker hosts.
    """

    def __init__(
        self,
        *,
        broker_id: int,
        driver: ControllerDriver | None,
        client: ControllerClient,
        loader: MetadataLoader,
        replicas: ReplicaDirectory,
    ) -> None:
        self._broker_id = broker_id
        self._driver = driver
        self._client = client
        self._loader = loader
        self._replicas = replicas

    async def CreateTopics(  # noqa: N802
        self, request: pb.CreateTopicsRequest, context: Context
    ) -> pb.CreateTopicsResponse:
        async def here(driver: ControllerDriver) -> pb.CreateTopicsResponse:
            results = await driver.submit(admin_messages.create_topics(request))
            return pb.CreateTopicsResponse(topics=_topic_results(results))

        answer: pb.CreateTopicsResponse = await self._at_controller(
            context, here, lambda stub, **options: stub.CreateTopics(request, **options)
        )
        created = [bytes(topic.topic_id) for topic in answer.topics if topic.topic_id]
        await self._until_local(lambda image: all(topic_id in image.topics for topic_id in created))
        return answer

    async def DeleteTopics(  # noqa: N802
        self, request: pb.DeleteTopicsRequest, context: Context
    ) -> pb.DeleteTopicsResponse:
        async def here(driver: ControllerDriver) -> pb.DeleteTopicsResponse:
            results = await driver.submit(admin_messages.delete_topics(request))
            return pb.DeleteTopicsResponse(topics=_topic_results(results))

        answer: pb.DeleteTopicsResponse = await self._at_controller(
            context, here, lambda stub, **options: stub.DeleteTopics(request, **options)
        )
        if not request.validate_only:
            deleted = [bytes(topic.topic_id) for topic in answer.topics if topic.topic_id]
            await self._until_local(lambda image: not any(topic_id in image.topics for topic_id in deleted))
        return answer

    async def CreatePartitions(  # noqa: N802
        self, request: pb.CreatePartitionsRequest, context: Context
    ) -> pb.CreatePartitionsResponse:
        async def here(driver: ControllerDriver) -> pb.CreatePartitionsResponse:
            result = await driver.submit(admin_messages.create_partitions(request))
            return pb.CreatePartitionsResponse(topic=admin_messages.topic_result(cast(TopicResult, result)))

        answer: pb.CreatePartitionsResponse = await self._at_controller(
            context, here, lambda stub, **options: stub.CreatePartitions(request, **options)
        )
        if not request.validate_only:
            await self._until_local(lambda image: _has_partitions(image, request.topic, request.partitions))
        return answer

    async def AlterTopicConfig(  # noqa: N802
        self, request: pb.AlterTopicConfigRequest, context: Context
    ) -> pb.AlterTopicConfigResponse:
        async def here(driver: ControllerDriver) -> pb.AlterTopicConfigResponse:
            await driver.submit(admin_messages.alter_topic_config(request))
            return pb.AlterTopicConfigResponse()

        answer: pb.AlterTopicConfigResponse = await self._at_controller(
            context, here, lambda stub, **options: stub.AlterTopicConfig(request, **options)
        )
        if not request.validate_only:
            await self._until_local(lambda image: _has_config(image, request))
        return answer

    async def ElectLeaders(  # noqa: N802
        self, request: pb.ElectLeadersRequest, context: Context
    ) -> pb.ElectLeadersResponse:
        async def here(driver: ControllerDriver) -> pb.ElectLeadersResponse:
            results = cast(tuple[ElectResult, ...], await driver.submit(admin_messages.elect_leaders(request)))
            return pb.ElectLeadersResponse(partitions=[admin_messages.elect_result(result) for result in results])

        return await self._at_controller(context, here, lambda stub, **options: stub.ElectLeaders(request, **options))

    async def DrainBroker(  # noqa: N802
        self, request: pb.DrainBrokerRequest, context: Context
    ) -> pb.DrainBrokerResponse:
        async def here(driver: ControllerDriver) -> pb.DrainBrokerResponse:
            asked = DrainBroker(broker_id=request.broker_id, drain=request.drain, until_restart=request.until_restart)
            result = await driver.submit(asked)
            return pb.DrainBrokerResponse(leaders_remaining=cast(DrainBrokerResult, result).leaders_remaining)

        return await self._at_controller(context, here, lambda stub, **options: stub.DrainBroker(request, **options))

    async def UnregisterBroker(  # noqa: N802
        self, request: pb.UnregisterBrokerRequest, context: Context
    ) -> pb.UnregisterBrokerResponse:
        async def here(driver: ControllerDriver) -> pb.UnregisterBrokerResponse:
            await driver.submit(UnregisterBroker(broker_id=request.broker_id))
            return pb.UnregisterBrokerResponse()

        return await self._at_controller(
            context, here, lambda stub, **options: stub.UnregisterBroker(request, **options)
        )

    async def DescribeTopicConfig(  # noqa: N802
        self, request: pb.DescribeTopicConfigRequest, context: Context
    ) -> pb.DescribeTopicConfigResponse:
        topic = self._loader.image.topic_by_name(request.topic)
        if topic is None:
            raise UnknownTopicOrPartition(f"there is no topic {request.topic!r}", topic=request.topic)
        return pb.DescribeTopicConfigResponse(
            entries=[
                pb.ConfigEntry(
                    key=name,
                    value=topic.config.get(name, key.default),
                    is_default=name not in topic.config,
                    default_value=key.default,
                    description=key.description,
                )
                for name, key in sorted(CONFIG_KEYS.items())
            ]
        )

    async def DescribeReplicas(  # noqa: N802
        self, request: pb.DescribeReplicasRequest, context: Context
    ) -> pb.DescribeReplicasResponse:
        return pb.DescribeReplicasResponse(
            broker_id=self._broker_id,
            replicas=self._replicas.describe_replicas(list(request.topics)),
            stray_directories=self._replicas.stray_directories(),
        )

    async def DeleteRecords(  # noqa: N802
        self, request: pb.DeleteRecordsRequest, context: Context
    ) -> pb.DeleteRecordsResponse:
        results: list[pb.DeleteRecordsResult] = []
        for item in request.partitions:
            result = pb.DeleteRecordsResult(topic=item.topic, partition=item.partition)
            try:
                if is_internal(item.topic):
                    raise InvalidTopic(f"{item.topic!r} is a topic of the cluster's own")
                result.log_start_offset = await self._replicas.delete_records(
                    item.topic, item.partition, None if item.before_offset < 0 else item.before_offset
                )
            except LogClusterError as error:
                result.error.CopyFrom(error_detail(error))
            results.append(result)
        return pb.DeleteRecordsResponse(partitions=results)

    async def _at_controller(
        self,
        context: Context,
        here: Callable[[ControllerDriver], Awaitable[Answer]],
        there: Callable[..., Awaitable[Answer]],
    ) -> Answer:
        """Carry a call out where the active controller is.

        Raises:
            NotController: it was passed on to here, and this node is not (any more) the active controller.
        """
        driver = self._driver
        if driver is not None and driver.is_active:
            try:
                return await here(driver)
            except NotController as error:
                # Leadership was lost just before; nothing was done.
                self._client.note_failure(error)
        if is_forwarded(context):
            leader_id = driver.leader_id if driver is not None else self._client.controller_id
            if leader_id is None or leader_id == self._broker_id:
                raise NotController("this node is not the active controller")
            raise NotController("this node is not the active controller", leader_id=leader_id)

        async def send(channel: grpc.aio.Channel, timeout: float) -> Answer:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            return await there(stub, timeout=timeout, metadata=((FORWARDED_KEY, "1"),))

        return await self._client.call(send, timeout_ms=FORWARD_TIMEOUT_MS, retry_unknown=False)

    async def _until_local(self, condition: Callable[[MetadataImage], bool]) -> None:
        await self._loader.wait_until(condition, timeout_ms=LOCAL_METADATA_TIMEOUT_MS)


def _topic_results(results: object) -> list[pb.TopicResult]:
    return [admin_messages.topic_result(result) for result in cast(tuple[TopicResult, ...], results)]


def _has_partitions(image: MetadataImage, name: str, count: int) -> bool:
    topic = image.topic_by_name(name)
    return topic is not None and len(topic.partitions) >= count


def _has_config(image: MetadataImage, request: pb.AlterTopicConfigRequest) -> bool:
    topic = image.topic_by_name(request.topic)
    return (
        topic is not None
        and all(topic.config.get(key) == value for key, value in request.set.items())
        and not any(key in topic.config for key in request.unset)
    )
