"""Every bound of the system in one place, with its unit, and checks of how bounds relate.

A full queue, an oversized message or a full window is refused with a definite error; nothing grows
without limit. What a user may change is a configuration key whose default is taken from here.
"""

from __future__ import annotations

from typing import Final

from logcluster.model.invariants import invariant

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Records and batches.
BATCH_SIZE_BYTES_MAX: Final = 8 * MIB
"""Hard bound on one batch on the wire, above every topic's `max.message.bytes`."""
MESSAGE_SIZE_BYTES_DEFAULT: Final = 1 * MIB
"""Default of `max.message.bytes`: the largest batch a topic accepts, header included."""
DECOMPRESSED_BATCH_SIZE_BYTES_MAX: Final = 64 * MIB
"""A batch that would grow beyond this is refused before it is fully decompressed."""
RECORDS_PER_BATCH_MAX: Final = 1_000_000
HEADERS_PER_RECORD_MAX: Final = 1_000

# Remote calls.
FRAME_SIZE_BYTES_MAX: Final = 72 * MIB
"""One frame of the lane: a fetch answer and its envelope must fit."""
FETCH_SIZE_BYTES_MAX: Final = 55 * MIB
CALLS_PER_CONNECTION_MAX: Final = 4_096
"""Calls open at once on one lane connection or grpc server; the next one is RESOURCE_EXHAUSTED."""
STREAM_CREDIT_BYTES: Final = 4 * MIB
"""What a sender may have in flight on one lane stream before the reader consumes it."""
METADATA_SIZE_BYTES_MAX: Final = 8 * KIB
REQUEST_DEADLINE_MS_DEFAULT: Final = 30_000
DEADLINE_MS_MAX: Final = 15 * 60 * 1000

# Storage.
SEGMENT_SIZE_BYTES_DEFAULT: Final = 1024 * MIB
SEGMENT_SIZE_BYTES_MIN: Final = 1 * MIB
SEGMENT_BATCHES_MAX: Final = 32_768
"""After a kill the last segment is read batch by batch, some microseconds each; small ones fill no gigabyte soon."""
INDEX_INTERVAL_BYTES: Final = 4 * KIB
RELATIVE_OFFSET_MAX: Final = 2**31 - 1
TAIL_CACHE_SIZE_BYTES_MAX: Final = 64 * MIB
"""Recently appended bytes one broker keeps in memory, over all its partitions."""
LOG_TAIL_CACHE_SIZE_BYTES_MAX: Final = 16 * MIB
"""The same for one partition, by default."""

# Producers.
PRODUCER_BATCHES_REMEMBERED: Final = 5
PRODUCER_IDS_PER_PARTITION_MAX: Final = 10_000
PRODUCER_ID_BLOCK_SIZE: Final = 1_000
SEQUENCE_MAX: Final = 2**31 - 1
IN_FLIGHT_BATCHES_PER_PARTITION_MAX: Final = 5

# Metadata.
TOPIC_NAME_LENGTH_MAX: Final = 249
PARTITIONS_PER_TOPIC_MAX: Final = 10_000
PARTITIONS_PER_CLUSTER_MAX: Final = 100_000
REPLICATION_FACTOR_MAX: Final = 15
VOTERS_MAX: Final = 9
BROKERS_MAX: Final = 1_000
METADATA_BATCH_RECORDS_MAX: Final = 10_000
CONTROLLER_QUEUE_LENGTH_MAX: Final = 10_000
DELETED_TOPIC_IDS_REMEMBERED_MAX: Final = 100_000

# Coordinators and groups.
COORDINATOR_QUEUE_LENGTH_MAX: Final = 10_000
"""Requests of one shard that wait, for its load or for their commit; the next one is refused."""
COORDINATOR_CACHE_KEYS_MAX: Final = 50_000
"""Keys of entities that the coordinators of one broker keep in memory; what is settled beyond is read again."""
COORDINATOR_BATCH_BYTES_MAX: Final = 512 * KIB
GROUPS_PER_REQUEST_MAX: Final = 1_000
OFFSETS_PER_REQUEST_MAX: Final = 100_000
GROUP_ID_BYTES_MAX: Final = 255
GROUP_MEMBERS_MAX: Final = 1_000
GROUP_EVENTS_MAX: Final = 200
OFFSET_METADATA_BYTES_MAX: Final = 4 * KIB
TOPIC_REGEX_LENGTH_MAX: Final = 1_000
SESSION_TIMEOUT_MS_MIN: Final = 500
SESSION_TIMEOUT_MS_MAX: Final = 30 * 60 * 1000
REBALANCE_TIMEOUT_MS_MAX: Final = 30 * 60 * 1000

invariant(MESSAGE_SIZE_BYTES_DEFAULT <= BATCH_SIZE_BYTES_MAX, "a default message fits the largest batch")
invariant(
    BATCH_SIZE_BYTES_MAX + MIB <= FRAME_SIZE_BYTES_MAX,
    "the largest batch and its envelope fit one frame",
)
invariant(
    FETCH_SIZE_BYTES_MAX + BATCH_SIZE_BYTES_MAX + MIB <= FRAME_SIZE_BYTES_MAX,
    "a full fetch answer and one oversized first batch fit one frame",
)
invariant(
    DECOMPRESSED_BATCH_SIZE_BYTES_MAX >= BATCH_SIZE_BYTES_MAX,
    "an uncompressed batch is within the decompressed bound",
)
invariant(
    IN_FLIGHT_BATCHES_PER_PARTITION_MAX <= PRODUCER_BATCHES_REMEMBERED,
    "every batch a producer may have in flight is within the duplicate window",
)
invariant(
    COORDINATOR_BATCH_BYTES_MAX < MESSAGE_SIZE_BYTES_DEFAULT,
    "a batch of a coordinator fits the default message size of its topic",
)
invariant(INDEX_INTERVAL_BYTES < SEGMENT_SIZE_BYTES_MIN, "a segment holds more than one index interval")
