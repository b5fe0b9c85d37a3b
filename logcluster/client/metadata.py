"""Asking brokers about the cluster: the cache, kept fresh by one refresh at a time.

Whoever meets a stale leader or a lost connection asks for a refresh; those who ask while one runs share the next,
because an answer on its way may be older than what they saw. Listeners are told after each. A bug in a refresh fails
those who wait for it, and no more; one in a listener is logged and kept from the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from logcluster.client.connections import Connections
from logcluster.client.metadata_cache import Answer, BrokerFacts, MetadataCache, PartitionFacts, TopicFacts
from logcluster.model.errors import LogClusterError, ShuttingDown, UnknownServerError, UnknownTopicOrPartition
from logcluster.runtime.clock import Clock
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.v1 import metadata_pb2
from logcluster.wire.status import error_from_detail

logger = logging.getLogger("logcluster.client")

_STATES = {
    metadata_pb2.BROKER_STATE_FENCED: "fenced",
    metadata_pb2.BROKER_STATE_ACTIVE: "active",
    metadata_pb2.BROKER_STATE_SHUTTING_DOWN: "shutting-down",
}
_TOPIC_POLL_MS = 50
_FAILURE_DOUBLINGS_MAX = 3


def _closed() -> LogClusterError:
    return ShuttingDown("the client is closed")


def answer_from_wire(response: metadata_pb2.GetMetadataResponse) -> Answer:
    """Read a broker's answer.

    Raises:
        LogClusterError: a topic's error other than that it does not exist.
    """
    topics: list[TopicFacts] = []
    missing: list[str] = []
    for topic in response.topics:
        if topic.HasField("error") and topic.error.code:
            error = error_from_detail(topic.error)
            if not isinstance(error, UnknownTopicOrPartition):
                raise error
            missing.append(topic.name)
            continue
        partitions = sorted(topic.partitions, key=lambda partition: partition.partition)
        topics.append(
            TopicFacts(
                name=topic.name,
                topic_id=topic.topic_id,
                is_internal=topic.internal,
                partitions=tuple(_partition_facts(partition) for partition in partitions),
            )
        )
    return Answer(
        cluster_id=response.cluster_id,
        controller_id=response.controller_id if response.HasField("controller_id") else None,
        metadata_offset=response.metadata_offset,
        brokers=tuple(
            BrokerFacts(
                broker_id=broker.broker_id,
                host=broker.host,
                grpc_port=broker.grpc_port,
                lane_port=broker.lane_port,
                http_port=broker.http_port,
                rack=broker.rack,
                broker_epoch=broker.broker_epoch,
                state=_STATES.get(broker.state, "unknown"),
            )
            for broker in response.brokers
        ),
        topics=tuple(topics),
        missing_topics=tuple(missing),
    )


def _partition_facts(partition: metadata_pb2.Partition) -> PartitionFacts:
    return PartitionFacts(
        partition=partition.partition,
        leader_id=partition.leader_id if partition.HasField("leader_id") else None,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        replicas=tuple(partition.replicas),
        in_sync_replicas=tuple(partition.in_sync_replicas),
        eligible_leader_replicas=tuple(partition.eligible_leader_replicas),
        offline_replicas=tuple(partition.offline_replicas),
    )


class Metadata:
    """The client's view of the cluster.

    Args:
        scope: runs the refreshes.
        refresh_interval_ms_min: pause between the beginnings of two refreshes; doubled, up to eightfold, by each
            failure.
        topic_wait_ms: how long a topic that nobody knows is waited for; a fresh one takes a moment to spread.
    """

    def __init__(  # wiring
        self,
        connections: Connections,
        cache: MetadataCache,
        *,
        clock: Clock,
        scope: TaskScope,
        topic_wait_ms: int,
        refresh_interval_ms_min: int = 10,
    ) -> None:
        self.cache = cache
        self._connections = connections
        self._clock = clock
        self._scope = scope
        self._topic_wait_ms = topic_wait_ms
        self._refresh_interval_ms_min = refresh_interval_ms_min
        self._topics: dict[str, None] = {}
        self._wanted = 0
        self._finished = 0
        self._is_running = False
        self._not_before_ms = 0
        self._failures = 0
        self._last_error: LogClusterError | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._listeners: dict[Callable[[], None], None] = {}

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever more is known, until `unlisten`; it must not raise."""
        self._listeners[listener] = None

    def unlisten(self, listener: Callable[[], None]) -> None:
        self._listeners.pop(listener, None)

    def forget_topic(self, name: str, topic_id: bytes) -> None:
        """See `MetadataCache.forget_topic`; listeners are told."""
        self.cache.forget_topic(name, topic_id)
        self._notify()

    def add_topics(self, *names: str) -> None:
        """Ask about these topics, too, from now on."""
        for name in names:
            self._topics[name] = None

    def request_refresh(self) -> None:
        """See to it that a refresh begins after now; does not wait."""
        if self._scope.is_closed:
            return
        self._wanted += 1
        if not self._is_running:
            self._is_running = True
            self._scope.spawn(self._run(), name="metadata-refresh")

    async def refresh(self) -> None:
        """Wait for a refresh that began after this call.

        Raises:
            LogClusterError: no broker answered.
            ShuttingDown: the client is closed.
        Cancellation: the refresh goes on.
        """
        if self._scope.is_closed:
            raise _closed()
        self.request_refresh()
        ticket = self._wanted
        while self._finished < ticket:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self._last_error is not None:
            raise self._last_error

    async def topic(self, name: str) -> TopicFacts:
        """The topic as known, or as a broker says now.

        Raises:
            UnknownTopicOrPartition: it does not exist after the time to wait for it.
            LogClusterError: no broker answered.
        """
        facts = self.cache.topic(name)
        if facts is not None:
            return facts
        self.add_topics(name)
        deadline_ms = self._clock.monotonic_ms() + self._topic_wait_ms
        while True:
            await self.refresh()
            facts = self.cache.topic(name)
            if facts is not None:
                return facts
            if self._clock.monotonic_ms() + _TOPIC_POLL_MS > deadline_ms:
                self._topics.pop(name, None)
                raise UnknownTopicOrPartition(f"topic {name!r} does not exist", topic=name)
            await self._clock.sleep_ms(_TOPIC_POLL_MS)

    async def _run(self) -> None:
        try:
            while self._finished < self._wanted:
                # Whoever is told of a failure may ask again at once: the pause holds from one run to the next.
                pause_ms = self._not_before_ms - self._clock.monotonic_ms()
                if pause_ms > 0:
                    await self._clock.sleep_ms(pause_ms)
                ticket = self._wanted
                began_ms = self._clock.monotonic_ms()
                try:
                    await self._fetch()
                    self._last_error = None
                    self._failures = 0
                except LogClusterError as error:
                    self._last_error = error
                    self._failures += 1
                except Exception as error:  # a bug, of which whoever waits must hear
                    logger.exception("a metadata refresh failed")
                    self._last_error = UnknownServerError(f"the metadata refresh failed: {error!r}")
                    self._last_error.__cause__ = error
                    self._failures += 1
                doublings = min(self._failures, _FAILURE_DOUBLINGS_MAX)
                self._not_before_ms = began_ms + (self._refresh_interval_ms_min << doublings)
                self._finished = ticket
                self._tell()
        finally:
            self._is_running = False
            if self._scope.is_closed:
                self._finished = self._wanted
                self._last_error = _closed()
            self._wake()

    async def _fetch(self) -> None:
        request = metadata_pb2.GetMetadataRequest(topics=list(self._topics), include_internal=True)
        response = await self._connections.ask_metadata(request)
        if not self.cache.apply(answer_from_wire(response)):
            logger.debug("ignored metadata at offset %d, older than what is known", response.metadata_offset)

    def _tell(self) -> None:
        self._notify()
        self._wake()

    def _notify(self) -> None:
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:
                logger.exception("a listener to metadata failed")

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
