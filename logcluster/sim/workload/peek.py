"""Single fetches without the client's fetcher: from any offset, as batches or as typed records.

What comes back is in the history as a poll after an assignment of its own; that nothing of it lies at or beyond the
high watermark of the same answer (promise P3) is checked here, because only the answer says both.
"""

from __future__ import annotations

import random
from typing import Final

from logcluster.client.connections import Stubs, call
from logcluster.client.records import ConsumerRecord
from logcluster.model.errors import LogClusterError
from logcluster.record.batch import decode_records
from logcluster.record.header import iterate_headers
from logcluster.sim.workload.books import Books, KeyState, Speaker
from logcluster.sim.workload.consuming import polled
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb
from logcluster.wire.status import error_from_detail

AHEAD_MAX: Final = 20
"""How far beyond the known end a fetch may begin."""


async def peek(
    stubs: Stubs, state: KeyState, books: Books, reader: Speaker, rng: random.Random, *, timeout_ms: int
) -> str | None:
    """Fetch once; returns what is wrong with the answer, or None."""
    name, partition = state.topic.name, state.partition
    offset = max(0, state.committed_next_offset + rng.randint(-AHEAD_MAX, 2))
    is_typed = rng.random() < 0.5
    request = pb.FetchRequest(
        max_wait_ms=rng.choice([0, 30]),
        max_bytes=rng.choice([0, 1, 2_000]),
        format=pb.FETCH_FORMAT_RECORDS if is_typed else pb.FETCH_FORMAT_BATCHES,
    )
    request.partitions.add(topic=name, partition=partition, fetch_offset=offset, max_bytes=rng.choice([0, 1, 500]))
    assign = reader.invoke("assign", {state.key: offset})
    reader.ok(assign, {state.key: offset})
    poll = reader.invoke("poll", {})
    try:
        response: pb.FetchResponse = await call(stubs.data.Fetch, request, timeout_ms=timeout_ms)
        answer = response.partitions[0] if response.partitions else pb.PartitionFetch()
        if answer.HasField("error") and answer.error.code:
            raise error_from_detail(answer.error)
        records = [record for record in _records(name, partition, answer) if record.offset >= offset]
    except LogClusterError as error:
        reader.refused(poll, {}, error)
        return None
    reader.ok(poll, polled(books, records))
    beyond = [record.offset for record in records if record.offset >= answer.high_watermark]
    if beyond:
        return f"{state.key}: offsets {beyond[:5]} with the high watermark at {answer.high_watermark}"
    return None


def _records(topic: str, partition: int, answer: pb.PartitionFetch) -> list[ConsumerRecord]:
    """All records of an answer, whichever format it has.

    Raises:
        LogClusterError: a batch is damaged.
    """
    found = [
        ConsumerRecord(
            topic,
            partition,
            record.offset,
            record.timestamp_ms,
            record.key if record.HasField("key") else None,
            record.value if record.HasField("value") else None,
            [(header.key, header.value if header.HasField("value") else None) for header in record.headers],
        )
        for record in answer.records
    ]
    for position, header in iterate_headers(answer.batches):
        for decoded in decode_records(answer.batches[position : position + header.size_bytes]):
            found.append(
                ConsumerRecord(
                    topic, partition, decoded.offset, decoded.timestamp, decoded.key, decoded.value, decoded.headers
                )
            )
    return found
