"""Looking at a cluster once: metadata, the metrics of every broker, and the lag of every group.

Brokers and groups are asked at the same time, each with a time limit of its own: one that does not answer is shown as
such and holds up nobody for longer than that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from logcluster.cli.top_metrics import END_OFFSET, Metrics, parse_metrics
from logcluster.cli.top_view import BrokerLook, EndOffset, GroupLook, Look
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicPartition
from logcluster.runtime.scope import TaskScope

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.client.group_descriptions import GroupListing
    from logcluster.client.metadata_cache import BrokerFacts, TopicFacts
    from logcluster.runtime.clock import Clock

ANSWER_TIMEOUT_MS_MAX: Final = 2_000
STATUS_TIMEOUT_S_MAX: Final = 1.0
"""For a broker that has just not given its metrics."""
GROUPS_ASKED_MAX: Final = 100
TOPICS_ASKED_MAX: Final = 100
ASKED_AT_A_TIME: Final = 8
METRICS_BYTES_MAX: Final = 64 * 1024 * 1024
_HTTP_OK: Final = "200"

Key = TypeVar("Key")
Result = TypeVar("Result")


class Looker:
    """Looks at the cluster of a client, again and again.

    Args:
        timeout_ms: for each broker's metrics, the list of groups, and their lag; at most `ANSWER_TIMEOUT_MS_MAX`.
    """

    def __init__(self, client: Client, clock: Clock, *, timeout_ms: int) -> None:
        self._client = client
        self._clock = clock
        self._timeout_s = min(timeout_ms, ANSWER_TIMEOUT_MS_MAX) / 1000
        self._listings: list[GroupListing] = []
        """The groups of the last list that came."""
        self._turns = asyncio.Semaphore(ASKED_AT_A_TIME)

    async def look(self) -> Look:
        """See everything once.

        Raises:
            LogClusterError: no broker tells about the cluster. What is only partly known is no error.
        """
        at_ms, time_ms = self._clock.monotonic_ms(), self._clock.now_ms()
        cluster = await self._client.admin.describe_cluster()
        topics = await self._client.admin.list_topics(include_internal=True)
        async with TaskScope("top") as scope:
            groups_task = scope.spawn(self._look_at_groups(), name="groups")
            brokers = await _all_of({facts.broker_id: self._look_at_broker(facts) for facts in cluster.brokers})
            end_offsets = end_offsets_of(topics, brokers)
            end_offsets |= await self._missing_end_offsets(topics, brokers, end_offsets)
            groups, groups_error = await groups_task
        return Look(
            at_ms=at_ms,
            time_ms=time_ms,
            cluster_id=cluster.cluster_id,
            controller_id=cluster.controller_id,
            brokers=brokers,
            topics=topics,
            end_offsets=end_offsets,
            groups=tuple(groups),
            groups_error=groups_error,
        )

    async def _look_at_broker(self, facts: BrokerFacts) -> BrokerLook:
        try:
            async with asyncio.timeout(self._timeout_s):
                metrics = parse_metrics(await fetch_text(facts.host, facts.http_port, "/metrics"))
            return BrokerLook(facts=facts, at_ms=self._clock.monotonic_ms(), metrics=metrics)
        except (OSError, TimeoutError) as error:
            reason = f"no metrics from {facts.host}:{facts.http_port}: {str(error) or 'no answer in time'}"
        # The HTTP port may be closed to us, by a network policy for example, while the broker is well.
        memory_bytes = None
        is_reachable = True
        try:
            async with asyncio.timeout(min(self._timeout_s, STATUS_TIMEOUT_S_MAX)):
                memory_bytes = (await self._client.admin.node_status(facts.broker_id)).resident_size_bytes
        except (LogClusterError, OSError, TimeoutError):
            is_reachable = False
        return BrokerLook(
            facts=facts,
            at_ms=self._clock.monotonic_ms(),
            is_reachable=is_reachable,
            memory_bytes=memory_bytes,
            error=reason,
        )

    async def _missing_end_offsets(
        self,
        topics: Mapping[str, TopicFacts],
        brokers: Mapping[int, BrokerLook],
        known: Mapping[TopicPartition, EndOffset],
    ) -> dict[TopicPartition, EndOffset]:
        """Ask for what the metrics leave out (`metrics.per_partition_max`), of topics whose leaders all answer."""
        missing = [
            topic.name
            for topic in topics.values()
            if any(TopicPartition(topic.name, found.partition) not in known for found in topic.partitions)
            and all(_is_reachable(brokers, found.leader_id) for found in topic.partitions)
        ]
        asked = await _all_of({name: self._ask_end_offsets(name) for name in missing[:TOPICS_ASKED_MAX]})
        return {
            TopicPartition(topic, partition): end
            for topic, ends in asked.items()
            for partition, end in enumerate(ends)
            if TopicPartition(topic, partition) not in known
        }

    async def _ask_end_offsets(self, topic: str) -> list[EndOffset]:
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                offsets = await self._client.admin.list_offsets(topic)
        except (LogClusterError, TimeoutError):
            return []
        at_ms = self._clock.monotonic_ms()
        return [EndOffset(offset, at_ms) for offset in offsets]

    async def _look_at_groups(self) -> tuple[list[GroupLook], str | None]:
        error_text: str | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                self._listings = await self._client.admin.groups.list()
        except LogClusterError as error:
            error_text = error.message
        except TimeoutError:
            error_text = "not all brokers gave their groups in time"
        asked = {
            listing.group: self._look_at_group(listing, is_asked=number < GROUPS_ASKED_MAX)
            for number, listing in enumerate(self._listings)
        }
        return list((await _all_of(asked)).values()), error_text

    async def _look_at_group(self, listing: GroupListing, *, is_asked: bool) -> GroupLook:
        lags = None
        if is_asked:
            try:
                async with asyncio.timeout(self._timeout_s), self._turns:
                    lags = tuple(await self._client.admin.groups.lag(listing.group))
            except (LogClusterError, TimeoutError):
                pass  # shown as not known
        return GroupLook(
            group=listing.group,
            state=listing.state,
            member_count=listing.member_count,
            at_ms=self._clock.monotonic_ms(),
            lags=lags,
        )


def end_offsets_of(
    topics: Mapping[str, TopicFacts], brokers: Mapping[int, BrokerLook]
) -> dict[TopicPartition, EndOffset]:
    """Ends of the logs, as the metrics of the leaders say."""
    found = {}
    for topic in topics.values():
        for partition in topic.partitions:
            leader = None if partition.leader_id is None else brokers.get(partition.leader_id)
            metrics = Metrics() if leader is None or leader.metrics is None else leader.metrics
            offset = metrics.partition(END_OFFSET, topic.name, partition.partition)
            if leader is not None and offset is not None:
                found[TopicPartition(topic.name, partition.partition)] = EndOffset(round(offset), leader.at_ms)
    return found


def _is_reachable(brokers: Mapping[int, BrokerLook], broker_id: int | None) -> bool:
    broker = None if broker_id is None else brokers.get(broker_id)
    return broker is not None and broker.is_reachable


async def _all_of(works: Mapping[Key, Coroutine[None, None, Result]]) -> dict[Key, Result]:
    """Do everything at the same time; results in the order of the works."""
    async with TaskScope("top/ask", on_fault=lambda _name, _error: None) as scope:
        tasks = {key: scope.spawn(work, name=str(key)) for key, work in works.items()}
        if tasks:
            await asyncio.wait(tasks.values())
        return {key: task.result() for key, task in tasks.items()}


async def fetch_text(host: str, port: int, path: str) -> str:
    """GET without a library: HTTP/1.0, so that the answer is what comes until the end of the connection.

    Raises:
        OSError: nobody listens there, or the answer is not a good one.
    """
    if not port:
        raise OSError("it has no HTTP port")
    reader, writer = await asyncio.open_connection(host, port, limit=METRICS_BYTES_MAX)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        parts, size = [], 0
        while part := await reader.read(1 << 16):
            parts.append(part)
            size += len(part)
            if size > METRICS_BYTES_MAX:
                raise OSError("the answer is too large")
    finally:
        writer.close()
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    status_line = head.partition(b"\r\n")[0].decode(errors="replace")
    if status_line.split(" ")[1:2] != [_HTTP_OK]:
        raise OSError(f"it answered {status_line!r}")
    return body.decode(errors="replace")
