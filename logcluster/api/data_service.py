"""The data service: produce, fetch, offsets, epochs, producer ids. Decodes, calls the broker, encodes.

Errors of one partition travel in its part of the answer; the status speaks for the whole call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from logcluster.broker.fetch import FetchHandler
from logcluster.broker.produce import PartitionFinder, ProduceHandler, find_partition, set_error
from logcluster.broker.producer_ids import ProducerIds
from logcluster.model.errors import (
    InvalidRequest,
    LogClusterError,
    OffsetNotAvailable,
    UnsupportedVersion,
)
from logcluster.rpc.interceptors import answered_directly_by
from logcluster.runtime.disk import DiskExecutor
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb, data_pb2_grpc
from logcluster.wire.status import error_detail

Context = Any
"""`grpc.aio.ServicerContext`, or the lane's equivalent; unused here."""


class DataServicer(data_pb2_grpc.DataServiceServicer):
    """Serves clients; any broker answers, for what it leads."""

    def __init__(
        self,
        partitions: PartitionFinder,
        *,
        produce: ProduceHandler,
        fetch: FetchHandler,
        producer_ids: ProducerIds,
        disk: DiskExecutor,
    ) -> None:
        self._partitions = partitions
        self._produce = produce
        self._fetch = fetch
        self._producer_ids = producer_ids
        self._disk = disk

    @answered_directly_by("produce_directly")
    async def Produce(self, request: pb.ProduceRequest, context: Context) -> pb.ProduceResponse:  # noqa: N802
        """Append record batches. Cancellation: what was appended stays."""
        return await self._produce.produce(request)

    def produce_directly(self, request: pb.ProduceRequest, answer: Callable[[pb.ProduceResponse], None]) -> None:
        """As `Produce`, for a carrier that needs no task per call."""
        self._produce.start(request, answer)

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> pb.FetchResponse:  # noqa: N802
        """Read committed records. Cancellation: atomic."""
        return await self._fetch.fetch(request)

    async def ListOffsets(  # noqa: N802
        self, request: pb.ListOffsetsRequest, context: Context
    ) -> pb.ListOffsetsResponse:
        """Find offsets by position or time; errors are per partition. Cancellation: atomic."""
        response = pb.ListOffsetsResponse()
        for item in request.partitions:
            answer = response.partitions.add(topic=item.topic, partition=item.partition)
            try:
                await self._list_offset(item, answer)
            except LogClusterError as error:
                set_error(answer, error)
        return response

    async def _list_offset(self, item: pb.ListOffsetsPartition, answer: pb.PartitionOffset) -> None:
        partition = find_partition(self._partitions, item)
        leader = partition.require_leader(item.leader_epoch if item.HasField("leader_epoch") else None)
        log = partition.log
        query = item.WhichOneof("query")
        if query == "position" and item.position == pb.OFFSET_POSITION_EARLIEST:
            answer.offset = log.log_start_offset
        elif query == "position" and item.position == pb.OFFSET_POSITION_LATEST:
            answer.offset = leader.latest_offset()
        elif query == "timestamp_ms" or item.position == pb.OFFSET_POSITION_MAX_TIMESTAMP:
            end_offset = partition.high_watermark
            if query == "timestamp_ms":
                wanted_ms = item.timestamp_ms
                found = await self._disk.run(lambda: log.offset_for_timestamp(wanted_ms, end_offset=end_offset))
            else:
                found = await self._disk.run(lambda: log.newest_timestamp(end_offset=end_offset))
            if found is None:
                if end_offset < leader.epoch_start_offset:
                    raise OffsetNotAvailable(high_watermark=end_offset)
                return
            answer.offset = found.offset
            answer.timestamp_ms = found.timestamp_ms
        else:
            raise InvalidRequest("a query names a position or a time")
        epoch = log.leader_epochs.epoch_at(answer.offset)
        answer.leader_epoch = leader.leader_epoch if epoch is None else epoch

    async def GetEpochEndOffsets(  # noqa: N802
        self, request: pb.GetEpochEndOffsetsRequest, context: Context
    ) -> pb.GetEpochEndOffsetsResponse:
        """Where leader epochs end on this leader (KIP-320); errors are per partition. Cancellation: atomic."""
        response = pb.GetEpochEndOffsetsResponse()
        for item in request.partitions:
            answer = response.partitions.add(topic=item.topic, partition=item.partition)
            try:
                partition = find_partition(self._partitions, item)
                partition.require_leader(item.current_leader_epoch if item.HasField("current_leader_epoch") else None)
                end = partition.log.end_offset_for_epoch(item.leader_epoch)
            except LogClusterError as error:
                answer.error.CopyFrom(error_detail(error))
                continue
            if end is not None:
                answer.epoch_end.leader_epoch = end.leader_epoch
                answer.epoch_end.end_offset = end.end_offset
        return response

    async def InitProducerId(  # noqa: N802
        self, request: pb.InitProducerIdRequest, context: Context
    ) -> pb.InitProducerIdResponse:
        """Give a new producer id.

        Raises:
            UnsupportedVersion: a transactional id was given.
        """
        if request.transactional_id:
            raise UnsupportedVersion(
                "transactional producers are not supported yet", hint="leave transactional_id empty"
            )
        return pb.InitProducerIdResponse(producer_id=await self._producer_ids.take(), producer_epoch=0)
