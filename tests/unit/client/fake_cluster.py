"""A cluster in memory for tests of the client: real messages, real bytes, the broker's rules for sequences.

Partitions keep the last five batches of each producer and refuse gaps, old epochs and wrong leaders as a broker does.
Tests decide what goes wrong: `before` and `after` are hooks around every call, a broker can be killed or made silent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from logcluster.client.client import Client
from logcluster.client.context import ClientOptions
from logcluster.model import errors
from logcluster.model.ids import Endpoint
from logcluster.record.batch import decode_records, read_header, stamp, validate_batch
from logcluster.wire.gen.logcluster.v1 import admin_pb2, data_pb2, groups_pb2, metadata_pb2
from logcluster.wire.status import CallNotSentError, error_detail, status_from_error

Hook = Callable[[int, str, Any], Awaitable[None]]


async def nothing(broker_id: int, method: str, request: Any) -> None:
    """Let the call pass."""


@dataclass
class ProducerState:
    epoch: int
    batches: list[tuple[int, int, int]] = field(default_factory=list)
    """First and last sequence, base offset."""


class ModelPartition:
    """One partition's log with the broker's rules; no replication."""

    def __init__(self, leader_id: int | None) -> None:
        self.leader_id = leader_id
        self.leader_epoch = 0
        self.batches: list[bytes] = []
        self.log_start_offset = 0
        self.end_offset = 0
        self.producers: dict[int, ProducerState] = {}
        self.changed = asyncio.Event()

    def append(self, data: bytes) -> int:
        header = validate_batch(data, size_bytes_max=1 << 23)
        if header.has_producer:
            duplicate = self._check_sequence(header)
            if duplicate is not None:
                return duplicate
        base_offset = self.end_offset
        self.batches.append(stamp(data, base_offset=base_offset, leader_epoch=self.leader_epoch))
        self.end_offset += header.record_count
        if header.has_producer:
            state = self.producers[header.producer_id]
            state.batches = [*state.batches, (header.base_sequence, header.last_sequence, base_offset)][-5:]
        self.changed.set()
        self.changed = asyncio.Event()
        return base_offset

    def _check_sequence(self, header: Any) -> int | None:
        state = self.producers.get(header.producer_id)
        if state is None:
            self.producers[header.producer_id] = ProducerState(header.producer_epoch)
            return None
        if header.producer_epoch == state.epoch:
            for first, last, base_offset in state.batches:
                if (first, last) == (header.base_sequence, header.last_sequence):
                    return base_offset
        if header.producer_epoch < state.epoch:
            raise errors.InvalidProducerEpoch()
        if header.producer_epoch > state.epoch:
            if header.base_sequence != 0:
                raise errors.OutOfOrderSequenceNumber()
            state.epoch = header.producer_epoch
            state.batches = []
        elif state.batches and header.base_sequence != (state.batches[-1][1] + 1) & 0x7FFFFFFF:
            raise errors.OutOfOrderSequenceNumber()
        return None

    def read(self, offset: int, max_bytes: int) -> bytes:
        if not self.log_start_offset <= offset <= self.end_offset:
            raise errors.OffsetOutOfRange(f"offset {offset}")
        found: list[bytes] = []
        for batch in self.batches:
            if read_header(batch).next_offset > offset:
                if found and sum(map(len, found)) + len(batch) > max_bytes:
                    break
                found.append(batch)
        return b"".join(found)

    def values(self) -> list[bytes | None]:
        return [record.value for batch in self.batches for record in decode_records(batch)]


class FakeCluster:
    """Brokers 0 to n-1; broker i has gRPC port 7070 + 10 i and lane port one above."""

    def __init__(self, brokers: int = 3) -> None:
        self.alive = dict.fromkeys(range(brokers), True)
        self.silent: set[int] = set()
        self.topics: dict[str, list[ModelPartition]] = {}
        self.topic_ids: dict[str, bytes] = {}
        self.configs: dict[str, dict[str, str]] = {}
        self.metadata_offset = 1
        self.next_producer_id = 1000
        self.before: Hook = nothing
        self.after: Hook = nothing
        self.calls: list[tuple[int, str]] = []
        self.max_wait_ms = 20

    def add_topic(self, name: str, partitions: int = 1) -> list[ModelPartition]:
        self.metadata_offset += 1
        self.topic_ids[name] = random.Random(f"{name}/{self.metadata_offset}").randbytes(16)
        self.topics[name] = [ModelPartition(index % len(self.alive)) for index in range(partitions)]
        return self.topics[name]

    def create_again(self, name: str, partitions: int = 1) -> list[ModelPartition]:
        """Delete the topic and create another one of the same name."""
        del self.topics[name]
        return self.add_topic(name, partitions)

    def elect(self, topic: str, partition: int, leader_id: int | None) -> None:
        self.metadata_offset += 1
        model = self.topics[topic][partition]
        model.leader_id = leader_id
        model.leader_epoch += 1

    def kill(self, broker_id: int) -> None:
        self.alive[broker_id] = False

    def start(self, broker_id: int) -> None:
        self.alive[broker_id] = True

    def client(self, **options: Any) -> Client:
        return Client(
            [Endpoint("fake", 7070 + 10 * broker_id) for broker_id in self.alive],
            sources={"lane": FakeSource(self), "grpc": FakeSource(self)},  # type: ignore[dict-item]
            options=ClientOptions(**options),
            generator=random.Random(1),
        )

    # What brokers answer.

    async def call(self, endpoint: Endpoint, method: str, request: Any) -> Any:
        broker_id, rest = divmod(endpoint.port - 7070, 10)
        if rest != 1 or not self.alive.get(broker_id, False):
            raise not_sent(f"connection to {endpoint} refused")
        self.calls.append((broker_id, method))
        await self.before(broker_id, method, request)
        if broker_id in self.silent:
            await asyncio.Event().wait()
        if not self.alive[broker_id]:
            raise not_sent("connection refused")
        answer = getattr(self, f"_{method}")(broker_id, request)
        if isinstance(answer, Awaitable):
            answer = await answer
        await self.after(broker_id, method, request)
        if broker_id in self.silent:
            await asyncio.Event().wait()
        if not self.alive[broker_id]:
            raise lost()
        return answer

    def _GetMetadata(self, broker_id: int, request: Any) -> Any:
        response = metadata_pb2.GetMetadataResponse(
            cluster_id="fake", controller_id=0, metadata_offset=self.metadata_offset
        )
        for known_id, is_alive in self.alive.items():
            port = 7070 + 10 * known_id
            response.brokers.add(
                broker_id=known_id,
                host="fake",
                grpc_port=port,
                lane_port=port + 1,
                http_port=port + 2,
                state=metadata_pb2.BROKER_STATE_ACTIVE if is_alive else metadata_pb2.BROKER_STATE_FENCED,
            )
        for name in self.topics if request.all_topics else request.topics:
            topic = response.topics.add(name=name)
            if name not in self.topics:
                topic.error.CopyFrom(error_detail(errors.UnknownTopicOrPartition()))
                continue
            topic.topic_id = self.topic_ids[name]
            for index, model in enumerate(self.topics[name]):
                topic.partitions.add(
                    partition=index,
                    leader_id=model.leader_id,
                    leader_epoch=model.leader_epoch,
                    replicas=list(self.alive),
                    in_sync_replicas=list(self.alive),
                )
        return response

    def _InitProducerId(self, broker_id: int, request: Any) -> Any:
        self.next_producer_id += 1
        return data_pb2.InitProducerIdResponse(producer_id=self.next_producer_id, producer_epoch=0)

    def _led(self, broker_id: int, item: Any) -> ModelPartition:
        partitions = self.topics.get(item.topic)
        if partitions is None or not 0 <= item.partition < len(partitions):
            raise errors.UnknownTopicOrPartition()
        if item.topic_id != self.topic_ids[item.topic]:  # this client always says which topic it means
            raise errors.UnknownTopicId()
        model = partitions[item.partition]
        if model.leader_id != broker_id:
            raise errors.NotLeaderOrFollower()
        if item.HasField("leader_epoch") and item.leader_epoch < model.leader_epoch:
            raise errors.FencedLeaderEpoch()
        return model

    def _fill(self, answer: Any, item: Any, error: errors.LogClusterError) -> None:
        answer.error.CopyFrom(error_detail(error))
        if isinstance(error, errors.StaleEpochError):
            model = self.topics[item.topic][item.partition]
            if model.leader_id is not None:
                answer.leader.leader_id = model.leader_id
                answer.leader.leader_epoch = model.leader_epoch

    def _Produce(self, broker_id: int, request: Any) -> Any:
        response = data_pb2.ProduceResponse()
        for item in request.partitions:
            answer = response.partitions.add(topic=item.topic, partition=item.partition, log_append_time_ms=-1)
            try:
                answer.base_offset = self._led(broker_id, item).append(item.batch)
            except errors.LogClusterError as error:
                self._fill(answer, item, error)
        return response

    async def _Fetch(self, broker_id: int, request: Any) -> Any:
        for attempt in range(2):
            response = data_pb2.FetchResponse()
            for item in request.partitions:
                answer = data_pb2.PartitionFetch(topic=item.topic, partition=item.partition)
                try:
                    model = self._led(broker_id, item)
                    answer.log_start_offset = model.log_start_offset
                    answer.batches = model.read(item.fetch_offset, item.max_bytes)
                    answer.high_watermark = answer.last_stable_offset = model.end_offset
                except errors.LogClusterError as error:
                    self._fill(answer, item, error)
                if answer.batches or answer.HasField("error"):
                    response.partitions.append(answer)
            if response.partitions or attempt:
                return response
            await asyncio.sleep(min(request.max_wait_ms, self.max_wait_ms) / 1000)
        return None

    def _ListOffsets(self, broker_id: int, request: Any) -> Any:
        response = data_pb2.ListOffsetsResponse()
        for item in request.partitions:
            answer = response.partitions.add(topic=item.topic, partition=item.partition)
            try:
                model = self._led(broker_id, item)
                if item.WhichOneof("query") == "timestamp_ms":
                    records = [record for batch in model.batches for record in decode_records(batch)]
                    found = next((record for record in records if record.timestamp >= item.timestamp_ms), None)
                    if found is not None:
                        answer.offset = found.offset
                elif item.position == data_pb2.OFFSET_POSITION_EARLIEST:
                    answer.offset = model.log_start_offset
                else:
                    answer.offset = model.end_offset
            except errors.LogClusterError as error:
                self._fill(answer, item, error)
        return response

    def _CreateTopics(self, broker_id: int, request: Any) -> Any:
        response = admin_pb2.CreateTopicsResponse()
        for topic in request.topics:
            result = response.topics.add(name=topic.name)
            if topic.name in self.topics:
                result.error.CopyFrom(error_detail(errors.TopicAlreadyExists()))
            else:
                self.add_topic(topic.name, topic.partitions or 1)
                self.configs[topic.name] = dict(topic.config)
        return response

    def _DeleteTopics(self, broker_id: int, request: Any) -> Any:
        response = admin_pb2.DeleteTopicsResponse()
        for name in request.names:
            result = response.topics.add(name=name)
            if self.topics.pop(name, None) is not None:
                result.topic_id = self.topic_ids[name]
            else:
                result.error.CopyFrom(error_detail(errors.UnknownTopicOrPartition()))
            self.metadata_offset += 1
        return response

    def _DeleteRecords(self, broker_id: int, request: Any) -> Any:
        response = admin_pb2.DeleteRecordsResponse()
        for item in request.partitions:
            model = self.topics[item.topic][item.partition]
            model.log_start_offset = model.end_offset if item.before_offset < 0 else item.before_offset
            response.partitions.add(topic=item.topic, partition=item.partition, log_start_offset=model.log_start_offset)
        return response

    def _AlterTopicConfig(self, broker_id: int, request: Any) -> Any:
        if request.topic not in self.topics:
            raise errors.UnknownTopicOrPartition()
        config = self.configs.setdefault(request.topic, {})
        config.update(request.set)
        for key in request.unset:
            config.pop(key, None)
        return admin_pb2.AlterTopicConfigResponse()


class FakeSource:
    """Channels into the fake cluster."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster

    def channel(self, endpoint: Endpoint) -> FakeChannel:
        return FakeChannel(self.cluster, endpoint)

    async def close(self) -> None:
        pass


class FakeChannel:
    def __init__(self, cluster: FakeCluster, endpoint: Endpoint) -> None:
        self._cluster = cluster
        self._endpoint = endpoint

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        method = path.rsplit("/", 1)[1]
        request_type = _REQUESTS[method]

        async def call(request: Any, timeout: float | None = None) -> Any:
            copy = request_type.FromString(request_serializer(request))
            try:
                async with asyncio.timeout(timeout):
                    answer = await self._cluster.call(self._endpoint, method, copy)
            except TimeoutError:
                raise rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded") from None
            except errors.LogClusterError as error:
                code, message, trailing = status_from_error(error)
                raise rpc_error(code, message, trailing) from error
            return response_deserializer(answer.SerializeToString())

        return call

    unary_stream = stream_unary = stream_stream = unary_unary


class _Requests(dict[str, Any]):
    def __missing__(self, method: str) -> Any:
        for module in (data_pb2, metadata_pb2, admin_pb2, groups_pb2):
            if hasattr(module, f"{method}Request"):
                return getattr(module, f"{method}Request")
        raise KeyError(method)


_REQUESTS = _Requests()


def rpc_error(code: grpc.StatusCode, details: str, trailing: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


def lost() -> grpc.aio.AioRpcError:
    """The connection broke while waiting for the answer."""
    return rpc_error(grpc.StatusCode.UNAVAILABLE, "connection lost")


def not_sent(details: str) -> grpc.aio.AioRpcError:
    """The connection could not be made."""
    return CallNotSentError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
