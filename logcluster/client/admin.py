"""Admin calls: topics, configuration, brokers, replicas, quorum.

Any broker takes them. What can be repeated safely is retried with other brokers; creating and deleting, too, because
after an unknown outcome "exists already" and "does not exist" are what success looks like.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from logcluster.client.connections import Stubs, call
from logcluster.client.context import Context
from logcluster.client.descriptions import (
    ClusterFacts,
    ConfigValue,
    ElectionResult,
    QuorumFacts,
    ReplicaFacts,
    quorum_facts,
    replica_facts,
)
from logcluster.client.group_admin import GroupAdmin
from logcluster.client.metadata import answer_from_wire
from logcluster.client.metadata_cache import BrokerFacts, TopicFacts
from logcluster.client.offsets import look_up_offsets
from logcluster.client.records import Point, Timestamp, normalize_point
from logcluster.client.retry import Doubt, retry
from logcluster.model.errors import (
    InvalidRequest,
    LogClusterError,
    RequestTimedOut,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from logcluster.model.ids import TopicPartition
from logcluster.wire.gen.logcluster.v1 import admin_pb2, errors_pb2, metadata_pb2
from logcluster.wire.status import error_from_detail

_ATTEMPT_MS = 10_000
_READ_ATTEMPT_MS = 1_000
"""A broker that stands still is not waited for when another one can say the same; doubled with each round."""
_READS = (metadata_pb2.GetMetadataRequest, metadata_pb2.DescribeQuorumRequest)
_POLL_MS = 20
_TOPIC_SPREAD_MS = 300
"""How long a topic that one broker does not know is looked for: it may have been created a moment ago."""


class Admin:
    """Admin calls; `client.admin`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._groups = GroupAdmin(context)

    @property
    def groups(self) -> GroupAdmin:
        """Consumer groups: list, describe, lag, reset, delete."""
        return self._groups

    # Topics.

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        replication_factor: int | None = None,
        config: Mapping[str, object] | None = None,
        assignments: Sequence[Sequence[int]] | None = None,
        exist_ok: bool = False,
        validate_only: bool = False,
        timeout_ms: int | None = None,
    ) -> TopicFacts:
        """Create a topic and wait until its partitions have leaders.

        Args:
            partitions, replication_factor: by default the cluster's.
            config: settings under Kafka's names.
            assignments: the replicas of each partition, the preferred leader first; instead of the two numbers.
            exist_ok: a topic of this name is no error, whatever it looks like.

        Raises:
            TopicAlreadyExists, InvalidTopic, InvalidConfig, InvalidReplicationFactor, ...: it was not created.
        """
        topic = admin_pb2.NewTopic(
            name=name,
            partitions=partitions or 0,
            replication_factor=replication_factor or 0,
            config={key: _config_text(value) for key, value in (config or {}).items()},
            assignments=[admin_pb2.ReplicaAssignment(broker_ids=ids) for ids in assignments or ()],
        )
        if partitions is not None and partitions < 1:
            topic.partitions = -1  # zero means the default on the wire
        if replication_factor is not None and replication_factor < 1:
            topic.replication_factor = -1
        request = admin_pb2.CreateTopicsRequest(topics=[topic], validate_only=validate_only)
        try:
            response = await self._ask(
                lambda stubs: stubs.admin.CreateTopics,
                request,
                first_error=_first_topic_error,
                timeout_ms=timeout_ms,
                repeats_ok=False,
            )
        except _AfterUnknownOutcome as repeated:
            if not isinstance(repeated.error, TopicAlreadyExists):
                raise repeated.error from repeated
        except TopicAlreadyExists:
            if not exist_ok:
                raise
        else:
            if validate_only:
                result = response.topics[0] if response.topics else admin_pb2.TopicResult(name=name)
                return TopicFacts(name=name, topic_id=result.topic_id)
        return await self._wait_until_led(name, timeout_ms)

    async def delete_topic(self, name: str, *, missing_ok: bool = False, timeout_ms: int | None = None) -> None:
        """Delete a topic and its records.

        Raises:
            UnknownTopicOrPartition: there is none.
        """
        request = admin_pb2.DeleteTopicsRequest(names=[name])
        try:
            response = await self._ask(
                lambda stubs: stubs.admin.DeleteTopics,
                request,
                first_error=_first_topic_error,
                timeout_ms=timeout_ms,
                repeats_ok=False,
            )
        except _AfterUnknownOutcome as repeated:
            if not isinstance(repeated.error, UnknownTopicOrPartition):
                raise repeated.error from repeated
        except UnknownTopicOrPartition:
            if not missing_ok:
                raise
        else:
            if response.topics and response.topics[0].topic_id:
                self._context.metadata.forget_topic(name, response.topics[0].topic_id)
                return
        self._context.metadata.request_refresh()

    async def list_topics(self, *, include_internal: bool = False) -> dict[str, TopicFacts]:
        """All topics by name, in order of name."""
        request = metadata_pb2.GetMetadataRequest(all_topics=True, include_internal=include_internal)
        response = await self._ask(lambda stubs: stubs.metadata.GetMetadata, request)
        answer = answer_from_wire(response)
        return {topic.name: topic for topic in sorted(answer.topics, key=lambda topic: topic.name)}

    async def describe_topic(self, name: str) -> TopicFacts:
        """One topic, with replicas and leaders.

        Raises:
            UnknownTopicOrPartition: there is none.
        """
        deadline_ms = self._context.clock.monotonic_ms() + _TOPIC_SPREAD_MS
        while (facts := await self._find_topic(name)) is None:
            if self._context.clock.monotonic_ms() >= deadline_ms:
                raise UnknownTopicOrPartition(f"topic {name!r} does not exist", topic=name)
            await self._context.clock.sleep_ms(_POLL_MS)
        return facts

    async def alter_topic(
        self,
        name: str,
        config: Mapping[str, object] | None = None,
        *,
        unset: Sequence[str] = (),
        validate_only: bool = False,
    ) -> None:
        """Change settings; a value of None, or a name in `unset`, goes back to the default.

        Raises:
            InvalidConfig: a key or value is not allowed; nothing was changed.
            UnknownTopicOrPartition: there is no such topic.
        """
        config = config or {}
        request = admin_pb2.AlterTopicConfigRequest(
            topic=name,
            set={key: _config_text(value) for key, value in config.items() if value is not None},
            unset=[*(key for key, value in config.items() if value is None), *unset],
            validate_only=validate_only,
        )
        await self._ask(lambda stubs: stubs.admin.AlterTopicConfig, request)

    async def describe_config(self, name: str) -> dict[str, ConfigValue]:
        """All settings of a topic by key, defaults included."""
        request = admin_pb2.DescribeTopicConfigRequest(topic=name)
        response = await self._ask(lambda stubs: stubs.admin.DescribeTopicConfig, request)
        return {
            entry.key: ConfigValue(
                key=entry.key,
                value=entry.value,
                is_default=entry.is_default,
                default_value=entry.default_value,
                description=entry.description,
            )
            for entry in response.entries
        }

    async def create_partitions(
        self,
        name: str,
        partitions: int,
        *,
        assignments: Sequence[Sequence[int]] | None = None,
        validate_only: bool = False,
    ) -> TopicFacts:
        """Grow a topic to `partitions` in all, and wait until they have leaders.

        Keys change their partition with the count.

        Raises:
            InvalidPartitions: the topic has as many, or more.
        """
        request = admin_pb2.CreatePartitionsRequest(
            topic=name,
            partitions=partitions,
            assignments=[admin_pb2.ReplicaAssignment(broker_ids=ids) for ids in assignments or ()],
            validate_only=validate_only,
        )
        await self._ask(
            lambda stubs: stubs.admin.CreatePartitions,
            request,
            first_error=lambda response: _detail_error(response.topic),
        )
        return await self._wait_until_led(name, None, partition_count=0 if validate_only else partitions)

    # Records.

    async def delete_records(self, before: Mapping[tuple[str, int], int | None]) -> dict[TopicPartition, int]:
        """Delete all records below an offset (None: all committed ones); returns where each log starts now.

        Raises:
            OffsetOutOfRange: an offset lies beyond the high watermark.
        """
        names = [TopicPartition(*name) for name in before]
        offsets = {TopicPartition(*name): offset for name, offset in before.items()}
        context = self._context
        for topic in dict.fromkeys(name.topic for name in names):
            await context.metadata.topic(topic)
        starts: dict[TopicPartition, int] = {}

        async def attempt(left_ms: int) -> None:
            by_leader: dict[int, list[TopicPartition]] = {}
            for name in names:
                leader = context.cache.leader(*name)
                if leader is None:
                    raise UnknownTopicOrPartition(f"there is no partition {name}")
                if name not in starts and leader.broker_id is not None:
                    by_leader.setdefault(leader.broker_id, []).append(name)
            try:
                for broker_id, led in by_leader.items():
                    request = admin_pb2.DeleteRecordsRequest()
                    for name in led:
                        offset = offsets[name]
                        request.partitions.add(
                            topic=name.topic, partition=name.partition, before_offset=-1 if offset is None else offset
                        )
                    stub = context.connections.stubs(broker_id).admin
                    response = await call(stub.DeleteRecords, request, timeout_ms=min(left_ms, _ATTEMPT_MS))
                    for result in response.partitions:
                        _raise_detail(result)
                        starts[TopicPartition(result.topic, result.partition)] = result.log_start_offset
            except LogClusterError:
                context.metadata.request_refresh()
                raise
            if len(starts) < len(names):
                context.metadata.request_refresh()
                raise RequestTimedOut("some partitions have no leader")

        await self._retry(attempt)
        return starts

    async def list_offsets(
        self, topic: str, point: Point = "latest", *, isolation: str = "read_uncommitted"
    ) -> list[int]:
        """For each partition in order, the offset of a place in the log."""
        facts = await self._context.metadata.topic(topic)
        normal = normalize_point(point)
        if isinstance(normal, int) and not isinstance(normal, Timestamp):
            raise InvalidRequest("an offset is its own offset", hint='ask for "earliest", "latest" or a time')
        names = [TopicPartition(topic, partition.partition) for partition in facts.partitions]
        found = await self._retry(
            lambda left_ms: look_up_offsets(
                dict.fromkeys(names, normal), context=self._context, isolation=isolation, timeout_ms=left_ms
            )
        )
        return [found[name] for name in names]

    # Brokers and the cluster.

    async def list_brokers(self) -> list[BrokerFacts]:
        """All registered brokers, in order of id."""
        return sorted((await self.describe_cluster()).brokers, key=lambda broker: broker.broker_id)

    async def describe_cluster(self) -> ClusterFacts:
        """Cluster id, controller and brokers, as one broker knows them."""
        response = await self._ask(lambda stubs: stubs.metadata.GetMetadata, metadata_pb2.GetMetadataRequest())
        answer = answer_from_wire(response)
        self._context.cache.apply(answer)
        return ClusterFacts(
            cluster_id=answer.cluster_id,
            controller_id=answer.controller_id,
            metadata_offset=answer.metadata_offset,
            brokers=answer.brokers,
        )

    async def describe_quorum(self) -> QuorumFacts:
        """The metadata quorum as the active controller sees it."""
        response = await self._ask(lambda stubs: stubs.metadata.DescribeQuorum, metadata_pb2.DescribeQuorumRequest())
        return quorum_facts(response)

    async def node_status(self, broker_id: int) -> metadata_pb2.GetNodeStatusResponse:
        """What one broker says of itself; asked directly, once.

        Raises:
            BrokerNotAvailable: it is not registered, or does not answer.
        """
        await self.describe_cluster()
        stub = self._context.connections.stubs(broker_id).metadata
        response: metadata_pb2.GetNodeStatusResponse = await call(
            stub.GetNodeStatus, metadata_pb2.GetNodeStatusRequest(), timeout_ms=self._timeout_ms(None, _ATTEMPT_MS)
        )
        return response

    async def describe_replicas(
        self, topics: Sequence[str] = (), *, broker_id: int | None = None
    ) -> list[ReplicaFacts]:
        """Replicas with their offsets and sizes, on one broker or on all active ones; all topics by default."""
        brokers = await self.list_brokers()
        ids = [broker.broker_id for broker in brokers if broker.is_active] if broker_id is None else [broker_id]
        found: list[ReplicaFacts] = []
        for asked_id in ids:
            stub = self._context.connections.stubs(asked_id).admin
            response = await call(
                stub.DescribeReplicas,
                admin_pb2.DescribeReplicasRequest(topics=topics),
                timeout_ms=self._timeout_ms(None, _ATTEMPT_MS),
            )
            found += [replica_facts(asked_id, replica) for replica in response.replicas]
        return found

    async def elect_leaders(
        self, partitions: Sequence[tuple[str, int]] = (), *, unclean: bool = False
    ) -> list[ElectionResult]:
        """Give leadership to the preferred replicas, or, unclean, to any live one, which may lose records.

        Args:
            partitions: by default all that are not led by their preferred replica.
        """
        request = admin_pb2.ElectLeadersRequest(
            partitions=[admin_pb2.ElectPartition(topic=topic, partition=partition) for topic, partition in partitions],
            unclean=unclean,
        )
        response = await self._ask(lambda stubs: stubs.admin.ElectLeaders, request)
        self._context.metadata.request_refresh()
        return [
            ElectionResult(
                topic=result.topic,
                partition=result.partition,
                leader_id=result.leader_id if result.HasField("leader_id") else None,
                error=_detail_error(result),
            )
            for result in response.partitions
        ]

    async def drain_broker(self, broker_id: int, *, drain: bool = True, until_restart: bool = False) -> int:
        """Move leaderships away from a broker, or (False) allow them again; returns how many it still leads.

        Args:
            until_restart: the drain ends when the broker registers again. Neither this nor its taking back changes a
                drain that was asked for without it.
        """
        request = admin_pb2.DrainBrokerRequest(broker_id=broker_id, drain=drain, until_restart=until_restart)
        response = await self._ask(lambda stubs: stubs.admin.DrainBroker, request)
        return int(response.leaders_remaining)

    async def unregister_broker(self, broker_id: int) -> None:
        """Forget a broker that is gone for good.

        Raises:
            LogClusterError: it is alive, or hosts replicas.
        """
        request = admin_pb2.UnregisterBrokerRequest(broker_id=broker_id)
        await self._ask(lambda stubs: stubs.admin.UnregisterBroker, request)

    # How calls are made.

    async def _ask(
        self,
        method: Callable[[Stubs], Callable[..., Any]],
        request: object,
        *,
        first_error: Callable[[Any], LogClusterError | None] = lambda response: None,
        repeats_ok: bool = True,
        timeout_ms: int | None = None,
    ) -> Any:
        """Ask any broker; retried while the error says so.

        Raises:
            _AfterUnknownOutcome: an error that may be the trace of an earlier attempt; not with `repeats_ok`.
        """
        context = self._context
        doubt = Doubt("it was done")
        waits_until_ms = context.clock.monotonic_ms() + _TOPIC_SPREAD_MS

        def is_worth_it(error: LogClusterError) -> bool:
            if isinstance(error, UnknownTopicOrPartition):
                return context.clock.monotonic_ms() < waits_until_ms
            return error.retriable

        async def attempt(left_ms: int) -> Any:
            response = await context.connections.ask_any(
                method,
                request,
                timeout_ms=left_ms,
                attempt_ms=_READ_ATTEMPT_MS if isinstance(request, _READS) else _ATTEMPT_MS,
                on_failure=doubt.note,
                is_worth_it=is_worth_it,
            )
            error = first_error(response)
            if error is not None:
                raise error
            return response

        try:
            return await self._retry(attempt, timeout_ms=timeout_ms, on_failure=doubt.note, is_worth_it=is_worth_it)
        except LogClusterError as error:
            if doubt.is_there and error.definite and not repeats_ok:
                raise _AfterUnknownOutcome(error) from error
            raise

    async def _retry(
        self,
        attempt: Callable[[int], Any],
        *,
        timeout_ms: int | None = None,
        on_failure: Callable[[LogClusterError], None] | None = None,
        is_worth_it: Callable[[LogClusterError], bool] = lambda error: error.retriable,
    ) -> Any:
        context = self._context
        return await retry(
            attempt,
            clock=context.clock,
            generator=context.generator,
            policy=context.policy,
            timeout_ms=self._timeout_ms(timeout_ms, context.options.request_timeout_ms),
            on_failure=on_failure,
            is_worth_it=is_worth_it,
        )

    def _timeout_ms(self, asked_ms: int | None, bound_ms: int) -> int:
        return min(self._context.options.request_timeout_ms, bound_ms) if asked_ms is None else asked_ms

    async def _find_topic(self, name: str) -> TopicFacts | None:
        request = metadata_pb2.GetMetadataRequest(topics=[name], include_internal=True)
        response = await self._ask(lambda stubs: stubs.metadata.GetMetadata, request)
        answer = answer_from_wire(response)
        return next((topic for topic in answer.topics if topic.name == name), None)

    async def _wait_until_led(self, name: str, timeout_ms: int | None, *, partition_count: int = 1) -> TopicFacts:
        """Wait until the answering broker knows the topic and a leader of every partition."""
        clock = self._context.clock
        deadline_ms = clock.monotonic_ms() + self._timeout_ms(timeout_ms, self._context.options.request_timeout_ms)
        while True:
            facts = await self._find_topic(name)
            if (
                facts is not None
                and len(facts.partitions) >= partition_count
                and all(partition.leader_id is not None for partition in facts.partitions)
            ):
                if self._context.cache.topic_id(name) not in {b"", facts.topic_id}:
                    with contextlib.suppress(LogClusterError):
                        await self._context.metadata.refresh()  # it is another one than before
                return facts
            if clock.monotonic_ms() >= deadline_ms:
                raise RequestTimedOut(f"topic {name!r} was created, but some partition has no leader yet", topic=name)
            await clock.sleep_ms(_POLL_MS)


class _AfterUnknownOutcome(LogClusterError):
    """A definite refusal that follows an attempt whose outcome is unknown."""

    code = 1098

    def __init__(self, error: LogClusterError) -> None:
        super().__init__(error.message)
        self.error = error


def _first_topic_error(response: Any) -> LogClusterError | None:
    for result in response.topics:
        error = _detail_error(result)
        if error is not None:
            return error
    return None


def _detail_error(result: Any) -> LogClusterError | None:
    detail: errors_pb2.ErrorDetail = result.error
    return error_from_detail(detail) if result.HasField("error") and detail.code else None


def _raise_detail(result: Any) -> None:
    error = _detail_error(result)
    if error is not None:
        raise error


def _config_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
