"""The fetch path of consumers: committed batches only, a size budget, a long poll, tails from memory.

Invariants: nothing at or above the high watermark is returned; at least one batch is, even when it exceeds the budget,
so that a reader always gets on; a reader registers before it looks, so no move of the high watermark is missed.
Source: protocols.md (h), KIP-320 (epochs), KIP-207.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from logcluster.broker.partition import Partition
from logcluster.broker.produce import PartitionFinder, find_partition, set_error
from logcluster.model.errors import LogClusterError, NotLeaderOrFollower, OffsetOutOfRange, UnknownLeaderEpoch
from logcluster.model.limits import DEADLINE_MS_MAX, FETCH_SIZE_BYTES_MAX, MIB
from logcluster.model.probes import probe
from logcluster.record.batch import decode_records, iterate_headers
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb

PARTITION_SIZE_BYTES_DEFAULT: Final = 1 * MIB
NO_REPLICA: Final = -1


class FetchHandler:
    """Serves fetch requests."""

    def __init__(self, partitions: PartitionFinder, *, clock: Clock, disk: DiskExecutor) -> None:
        self._partitions = partitions
        self._clock = clock
        self._disk = disk
        self.errors: Counter[str] = Counter()
        """Partitions that were refused, by the error's name."""

    async def fetch(self, request: pb.FetchRequest) -> pb.FetchResponse:
        """Read what is committed; wait up to `max_wait_ms` for `min_bytes`. Errors are per partition.

        Cancellation: atomic.
        """
        items = list(request.partitions)
        wait_ms = min(request.max_wait_ms, DEADLINE_MS_MAX)
        if wait_ms <= 0:
            response, _ = await self._read_all(request, items)
            return response
        deadline_ms = self._clock.monotonic_ms() + wait_ms
        loop = asyncio.get_running_loop()
        while True:
            woken: asyncio.Future[None] = loop.create_future()
            watched = self._watch(items, woken)
            timer: asyncio.TimerHandle | None = None
            try:
                response, is_complete = await self._read_all(request, items)
                remaining_ms = deadline_ms - self._clock.monotonic_ms()
                if is_complete or remaining_ms <= 0:
                    return response
                timer = loop.call_later(remaining_ms / 1000, _wake, woken)
                await woken
            finally:
                if timer is not None:
                    timer.cancel()
                for partition in watched:
                    partition.readers.pop(woken, None)

    def _watch(self, items: Sequence[pb.FetchPartition], woken: asyncio.Future[None]) -> list[Partition]:
        watched: list[Partition] = []
        for item in items:
            try:
                partition = find_partition(self._partitions, item)
            except LogClusterError:
                continue  # the read will say so
            partition.readers[woken] = None
            watched.append(partition)
        return watched

    async def _read_all(
        self, request: pb.FetchRequest, items: Sequence[pb.FetchPartition]
    ) -> tuple[pb.FetchResponse, bool]:
        """Read every partition within the budget; also says whether that is an answer, or worth waiting for more."""
        room = min(request.max_bytes or FETCH_SIZE_BYTES_MAX, FETCH_SIZE_BYTES_MAX)
        response = pb.FetchResponse()
        size_bytes = 0
        is_complete = False
        as_records = request.format == pb.FETCH_FORMAT_RECORDS
        for item in items:
            if room <= 0:
                break
            try:
                answer = await self._read(item, min(item.max_bytes or PARTITION_SIZE_BYTES_DEFAULT, room))
            except LogClusterError as error:
                answer = pb.PartitionFetch(
                    topic=item.topic, partition=item.partition, preferred_read_replica=NO_REPLICA
                )
                set_error(answer, error)
                self.errors[type(error).__name__] += 1
                if isinstance(error, OffsetOutOfRange):
                    self._add_range(answer)
                is_complete = True
            else:
                is_complete = is_complete or answer.HasField("diverging_epoch")
                size = len(answer.batches)
                size_bytes += size
                room -= size
                if as_records and size:
                    _unpack(answer, item.fetch_offset)
            response.partitions.append(answer)
        return response, is_complete or size_bytes >= max(1, request.min_bytes)

    def _add_range(self, answer: pb.PartitionFetch) -> None:
        log = self._partitions.partition(answer.topic, answer.partition).log
        answer.log_start_offset = log.log_start_offset

    async def _read(self, item: pb.FetchPartition, size_bytes_max: int) -> pb.PartitionFetch:
        partition = find_partition(self._partitions, item)
        leader = partition.require_leader(item.leader_epoch if item.HasField("leader_epoch") else None)
        log = partition.log
        fetch_offset = item.fetch_offset
        high_watermark = partition.high_watermark
        answer = pb.PartitionFetch(
            topic=item.topic,
            partition=item.partition,
            high_watermark=high_watermark,
            last_stable_offset=high_watermark,
            log_start_offset=log.log_start_offset,
            preferred_read_replica=NO_REPLICA,
            next_offset=fetch_offset,
        )
        if item.HasField("last_fetched_epoch"):
            if item.last_fetched_epoch > leader.leader_epoch:
                # Somebody else leads meanwhile: where this log ends says nothing about what the reader has.
                probe("fetch.reader_of_later_epoch")
                raise UnknownLeaderEpoch(
                    topic=item.topic,
                    partition=item.partition,
                    leader_id=partition.leader_id,
                    leader_epoch=leader.leader_epoch,
                )
            diverging = log.leader_epochs.divergence(
                last_epoch=item.last_fetched_epoch, position=fetch_offset, log_end_offset=log.log_end_offset
            )
            if diverging is not None:
                probe("fetch.diverging_epoch_found")
                answer.diverging_epoch.leader_epoch = diverging.leader_epoch
                answer.diverging_epoch.end_offset = diverging.end_offset
                return answer
        read = log.read_tail(fetch_offset, size_bytes_max=size_bytes_max, end_offset=high_watermark)
        if read is None:
            read = await self._disk.run(
                lambda: log.read(fetch_offset, size_bytes_max=size_bytes_max, end_offset=high_watermark)
            )
            if partition.leader is not leader:
                probe("fetch.leader_changed_while_reading")
                raise NotLeaderOrFollower(leader_id=partition.leader_id, leader_epoch=partition.leader_epoch)
        if read.data:
            answer.batches = read.data
            answer.next_offset = read.next_offset
        return answer


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _unpack(answer: pb.PartitionFetch, fetch_offset: int) -> None:
    """Replace batches by typed records from `fetch_offset` on; what the system wrote for itself is left out."""
    data = answer.batches
    answer.batches = b""
    for position, header in iterate_headers(data):
        if header.is_control:
            continue
        for record in decode_records(data[position : position + header.size_bytes]):
            if record.offset < fetch_offset:
                continue
            typed = answer.records.add(offset=record.offset, timestamp_ms=record.timestamp)
            if record.key is not None:
                typed.key = record.key
            if record.value is not None:
                typed.value = record.value
            for key, value in record.headers:
                typed_header = typed.headers.add(key=key)
                if value is not None:
                    typed_header.value = value
