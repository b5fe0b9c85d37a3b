"""Where the logs end whose offsets are committed: so that an offset which no record can have is refused.

A replica here answers for everything below its high watermark, which is what commits in order are about. Only for an
offset beyond that is the leader asked. When nobody can be asked the offset is taken: a group that cannot commit while
a partition has no leader would be worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import grpc

from logcluster.broker.partition import Partition
from logcluster.core.metadata.image import MetadataImage
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import Endpoint, TopicId, TopicIdPartition
from logcluster.model.probes import probe
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb, data_pb2_grpc

ASK_TIMEOUT_MS: Final = 1_000


class Replicas(Protocol):
    """What is needed of the replica manager."""

    def partition_by_id(self, topic_id: TopicId, index: int) -> Partition:
        """Raises UnknownTopicId, NotLeaderOrFollower."""
        ...


class Channels(Protocol):
    """Where channels to peers come from."""

    def channel(self, endpoint: Endpoint) -> grpc.aio.Channel:
        """The channel to an endpoint; cheap, connects on use."""
        ...


class EndOffsets:
    """Looks ends up."""

    def __init__(self, replicas: Replicas, channels: Channels, image: Callable[[], MetadataImage]) -> None:
        self._replicas = replicas
        self._channels = channels
        self._image = image

    async def beyond(self, wanted: Iterable[tuple[TopicIdPartition, int]]) -> dict[TopicIdPartition, int]:
        """Ends of those logs that may end below the offset which stands beside each; all others reach that far.

        What cannot be found out is left out. Cancellation: atomic.
        """
        doubtful = {key: offset for key, offset in wanted if not self._is_known_to_reach(key, offset)}
        ends: dict[TopicIdPartition, int] = {}
        by_leader: dict[int, list[TopicIdPartition]] = {}
        for key in doubtful:
            registration = self._image().partition(*key)
            if registration is not None and registration.leader_id is not None:
                by_leader.setdefault(registration.leader_id, []).append(key)
        for leader_id, keys in by_leader.items():
            ends.update(await self._ask(leader_id, keys))
        return ends

    def _is_known_to_reach(self, key: TopicIdPartition, offset: int) -> bool:
        try:
            return self._replicas.partition_by_id(*key).high_watermark >= offset
        except LogClusterError:
            return False

    async def _ask(self, leader_id: int, keys: list[TopicIdPartition]) -> dict[TopicIdPartition, int]:
        probe("coordinator.commit.end_offset_asked")
        image = self._image()
        broker = image.brokers.get(leader_id)
        if broker is None:
            return {}
        asked = [(key, image.topics[key.topic_id].name) for key in keys if key.topic_id in image.topics]
        request = pb.ListOffsetsRequest(
            partitions=[
                pb.ListOffsetsPartition(
                    topic=name, partition=key.partition, topic_id=key.topic_id, position=pb.OFFSET_POSITION_LATEST
                )
                for key, name in asked
            ]
        )
        stub: data_pb2_grpc.DataServiceAsyncStub = data_pb2_grpc.DataServiceStub(
            self._channels.channel(Endpoint(broker.host, broker.lane_port))
        )
        try:
            response = await stub.ListOffsets(request, timeout=ASK_TIMEOUT_MS / 1000)
        except grpc.aio.AioRpcError:
            return {}
        except LogClusterError:
            return {}
        return {
            key: answer.offset
            for (key, _), answer in zip(asked, response.partitions, strict=False)
            if not answer.HasField("error") and answer.HasField("offset")
        }
