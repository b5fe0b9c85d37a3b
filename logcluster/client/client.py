"""`connect` and what it returns: one object for admin calls, producers and consumers.

Invariant: leaving the client's block ends everything that runs for it; producers and consumers are left before it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Literal, NoReturn, Self, Unpack

from logcluster.client.accumulator import AccumulatorOptions
from logcluster.client.admin import Admin
from logcluster.client.connections import Carrier, ChannelSource, Connections
from logcluster.client.consumer import Consumer, ReadRange
from logcluster.client.context import ClientOptions, Context
from logcluster.client.fetcher import FetchOptions
from logcluster.client.group.consumer import GroupConsumer
from logcluster.client.group.options import ConsumerGroupOptions, group_options as read_group_options
from logcluster.client.metadata import Metadata, answer_from_wire
from logcluster.client.metadata_cache import MetadataCache
from logcluster.client.offsets import Isolation, isolation_to_wire
from logcluster.client.producer import Acks, Producer
from logcluster.client.records import PartitionKey, Points
from logcluster.client.retry import RetryPolicy
from logcluster.model.errors import InvalidConfig, InvalidRequest, InvalidRequiredAcks, UnsupportedVersion
from logcluster.model.ids import Endpoint
from logcluster.model.limits import BATCH_SIZE_BYTES_MAX, FETCH_SIZE_BYTES_MAX, IN_FLIGHT_BATCHES_PER_PARTITION_MAX
from logcluster.model.tls import Tls
from logcluster.record.compression import Compression
from logcluster.rpc.channels import ChannelPool
from logcluster.rpc.tls import ClientTls, diagnose
from logcluster.runtime.clock import Clock, SystemClock
from logcluster.runtime.entropy import SystemEntropy
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.v1 import data_pb2

DEFAULT_PORT = 7070
FETCH_SIZE_BYTES = 16 * 1024 * 1024
"""Asked of a broker at a time, over all partitions."""
_ACKS: dict[object, int] = {
    "all": data_pb2.ACKS_ALL,
    -1: data_pb2.ACKS_ALL,
    "leader": data_pb2.ACKS_LEADER,
    1: data_pb2.ACKS_LEADER,
    "none": data_pb2.ACKS_NONE,
    0: data_pb2.ACKS_NONE,
}


def connect(
    *bootstrap: str,
    transport: Carrier = "lane",
    connect_timeout_ms: int = 2_000,
    request_timeout_ms: int = 30_000,
    topic_wait_ms: int = 3_000,
    metadata_age_ms_max: int = 30_000,
    tls: Tls | bool = False,
    traces: bool = False,
) -> Client:
    """Make a client of the cluster that is reachable at these addresses; it connects when its block is entered.

    Args:
        bootstrap: gRPC addresses of some brokers, `host:port`; several may stand in one text, separated by commas.
            By default 127.0.0.1:7070.
        transport: "lane" for speed, "grpc" where only HTTP/2 passes.
        connect_timeout_ms: how long to look for a first broker.
        request_timeout_ms: for admin calls and look-ups, retries included.
        topic_wait_ms: how long a topic that nobody knows (yet) is waited for.
        metadata_age_ms_max: how often a consumer looks for new partitions.
        tls: True trusts the authorities that this system trusts; a `Tls` names files. Host names are always verified.
        traces: make OpenTelemetry spans of what is sent and processed, and let records carry their context; see
            docs/tracing.md. Needs `pip install 'logcluster[traces]'`.

    Raises:
        InvalidConfig: an address or the transport is malformed, or traces are wanted and OpenTelemetry is missing.
    """
    texts = [text for group in bootstrap for text in group.split(",") if text.strip()] or [f"127.0.0.1:{DEFAULT_PORT}"]
    try:
        endpoints = [Endpoint.parse(text) for text in texts]
    except ValueError as error:
        raise InvalidConfig(str(error), hint="write addresses as HOST:PORT, for example 127.0.0.1:7070") from None
    if transport not in {"lane", "grpc"}:
        raise InvalidConfig(f"transport {transport!r} is neither lane nor grpc")
    options = ClientOptions(
        connect_timeout_ms=connect_timeout_ms,
        request_timeout_ms=request_timeout_ms,
        topic_wait_ms=topic_wait_ms,
        metadata_age_ms_max=metadata_age_ms_max,
        traces=traces,
    )
    files = Tls() if tls is True else tls or None
    return Client(endpoints, transport=transport, options=options, tls=files)


class Client:
    """A connection to a cluster; `async with`. Made by `connect`.

    Args:
        sources: channels by carrier; by default real ones. Closed with the client.
        tls: for real channels; None: plain text.
        clock, generator: by default the system's.

    Raises:
        InvalidConfig: the options want traces, and OpenTelemetry is missing.
    """

    def __init__(
        self,
        bootstrap: Sequence[Endpoint],
        *,
        transport: Carrier = "lane",
        options: ClientOptions | None = None,
        tls: Tls | None = None,
        sources: dict[Carrier, ChannelSource] | None = None,
        clock: Clock | None = None,
        generator: random.Random | None = None,
    ) -> None:
        self._bootstrap = tuple(bootstrap)
        self._transport: Carrier = transport
        self._options = options or ClientOptions()
        if self._options.traces:
            _check_traces()
        self._tls = tls
        self._sources = sources
        self._clock = clock or SystemClock()
        self._generator = generator or SystemEntropy().stream("client")
        self._scope: TaskScope | None = None
        self._context: Context | None = None
        self._admin: Admin | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerNotAvailable: nobody answers at any address.
            TlsHandshakeFailed: one side has TLS and the other has not, or a certificate was refused.
            InvalidConfig: a file that TLS needs cannot be used.
        """
        if self._context is not None:
            raise InvalidRequest("the client is open already")
        clock = self._clock
        sources = self._real_sources() if self._sources is None else self._sources
        cache = MetadataCache()
        policy = RetryPolicy()
        connections = Connections(
            self._bootstrap,
            transport=self._transport,
            sources=sources,
            cache=cache,
            clock=clock,
            generator=self._generator,
            policy=policy,
            connect_timeout_ms=self._options.connect_timeout_ms,
            # Who brings channels of their own has no sockets to ask.
            diagnose=partial(diagnose, tls=self._tls) if self._sources is None else None,
        )
        try:
            cache.apply(answer_from_wire(await connections.connect()))
        except BaseException:
            await connections.close()
            raise
        self._scope = TaskScope("client")
        metadata = Metadata(
            connections, cache, clock=clock, scope=self._scope, topic_wait_ms=self._options.topic_wait_ms
        )
        self._context = Context(
            connections=connections,
            metadata=metadata,
            clock=clock,
            generator=self._generator,
            policy=policy,
            options=self._options,
        )
        self._admin = Admin(self._context)
        return self

    def _real_sources(self) -> dict[Carrier, ChannelSource]:
        clock, timeout_ms = self._clock, self._options.connect_timeout_ms
        files = None if self._tls is None else ClientTls(self._tls)
        return {
            "lane": ChannelPool(
                clock=clock,
                transport="lane",
                ssl=None if files is None else files.context,
                connect_timeout_ms=timeout_ms,
            ),
            "grpc": ChannelPool(
                clock=clock, transport="grpc", credentials=None if files is None else files.credentials()
            ),
        }

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all calls and connections; calling again does nothing."""
        context, self._context, self._admin = self._context, None, None
        if self._scope is not None:
            await self._scope.close()
        if context is not None:
            await context.connections.close()

    @property
    def admin(self) -> Admin:
        """Topics, brokers and configuration."""
        if self._admin is None:
            self._refuse()
        return self._admin

    @property
    def cluster_id(self) -> str | None:
        """The cluster's id as the brokers say it."""
        return self._open().cache.cluster_id

    def producer(
        self,
        *,
        acks: Acks = "all",
        linger_ms: int = 2,
        batch_size_bytes: int = 512 * 1024,
        compression: str = "zstd",
        buffer_size_bytes: int = 64 * 1024 * 1024,
        delivery_timeout_ms: int = 120_000,
        idempotent: bool | None = None,
        max_in_flight: int = IN_FLIGHT_BATCHES_PER_PARTITION_MAX,
        transactional_id: str | None = None,
    ) -> Producer:
        """Make a producer; `async with`.

        Args:
            acks: "all" in-sync replicas, 1 for the leader alone, 0 for nobody.
            linger_ms: how long a batch may wait for more records while earlier ones are in flight; a record with
                nothing before it never waits.
            batch_size_bytes: of a batch before compression; a larger record gets a batch of its own. The topic's
                `max.message.bytes` bounds what is sent.
            compression: "zstd", "lz4", "snappy", "gzip" or "none"; small batches go as they are.
            buffer_size_bytes: of all records without an outcome.
            delivery_timeout_ms: from taking a record to giving it up, retries included.
            idempotent: retries never write twice; by default with `acks="all"`, and only possible then.
            max_in_flight: batches on their way per partition, 1 to 5.

        Raises:
            InvalidConfig, InvalidRequiredAcks, UnsupportedCompression: an argument is out of range.
            UnsupportedVersion: transactions are not there yet.
        """
        context = self._open()
        if transactional_id is not None:
            raise UnsupportedVersion("transactions are not supported yet", hint="leave out `transactional_id`")
        if acks not in _ACKS or isinstance(acks, bool):
            raise InvalidRequiredAcks(f"acks {acks!r} is none of 'all', 1 and 0")
        acks_number = _ACKS[acks]
        is_idempotent = acks_number == data_pb2.ACKS_ALL if idempotent is None else idempotent
        if is_idempotent and acks_number != data_pb2.ACKS_ALL:
            raise InvalidConfig("an idempotent producer needs acks='all'", hint="leave out `idempotent`")
        _check_range("max_in_flight", max_in_flight, 1, IN_FLIGHT_BATCHES_PER_PARTITION_MAX)
        _check_range("linger_ms", linger_ms, 0, 60_000)
        _check_range("batch_size_bytes", batch_size_bytes, 1, BATCH_SIZE_BYTES_MAX)
        _check_range("buffer_size_bytes", buffer_size_bytes, 1, 1 << 40)
        _check_range("delivery_timeout_ms", delivery_timeout_ms, 1, 24 * 60 * 60 * 1000)
        options = AccumulatorOptions(
            batch_size_bytes=batch_size_bytes,
            buffer_size_bytes=buffer_size_bytes,
            linger_ms=linger_ms,
            delivery_timeout_ms=delivery_timeout_ms,
            # Calls on one HTTP/2 connection may overtake one another; on a lane they do not.
            max_in_flight=max_in_flight if self._transport == "lane" else 1,
            compression=Compression.from_config_name(compression),
            is_idempotent=is_idempotent,
        )
        if self._options.traces:
            from logcluster.client.tracing import TracedProducer

            return TracedProducer(options, context=context, acks=acks_number)
        return Producer(options, context=context, acks=acks_number)

    def consumer(
        self,
        *topics: str,
        start: Points | None = None,
        until: Points | None = None,
        partitions: Sequence[PartitionKey] | None = None,
        max_records: int | None = None,
        isolation: Isolation = "read_uncommitted",
        on_out_of_range: Literal["earliest", "latest", "error"] = "error",
        max_wait_ms: int = 500,
        partition_size_bytes_max: int = 2 * 1024 * 1024,
        buffer_size_bytes: int = 64 * 1024 * 1024,
        **group_options: Unpack[ConsumerGroupOptions],
    ) -> Consumer:
        """Make a consumer of one or more topics; `async with`, then `async for`.

        Args:
            start: "earliest", "latest" (the default), an offset, a datetime or `Timestamp`; or a mapping from partition
                to these, which then also says which partitions are read.
            until: the same, exclusive: iteration ends there. "end" is the end of the log when the block is entered.
            partitions: numbers, or pairs of topic and number; by default all, also those added later.
            max_records: iteration ends after so many.
            isolation: "read_committed" leaves out records of open and aborted transactions.
            on_out_of_range: what to do when the position is no longer in the log, or when the topic was deleted and
                created again: raise, or go on at one end of the log. With `until` the latter is always an error.
            max_wait_ms: how long a broker holds a fetch that finds nothing.
            partition_size_bytes_max: asked of a partition at a time.
            buffer_size_bytes: fetched ahead of the user, in all.
            group_options: `group="billing"` makes a member of that group; see `ConsumerGroupOptions`. `start` is then
                where to begin where nothing is committed, "earliest" by default; `until` and `partitions` cannot be
                given.

        Raises:
            InvalidRequest: no topic is named, or an argument is out of range.
        """
        context = self._open()
        if group_options:
            return self._group_consumer(
                topics,
                group_options,
                start="earliest" if start is None else start,
                is_ranged=until is not None or partitions is not None,
                max_records=max_records,
                options=_fetch_options(
                    isolation, on_out_of_range, max_wait_ms, partition_size_bytes_max, buffer_size_bytes
                ),
            )
        if not topics or not all(isinstance(topic, str) for topic in topics):
            raise InvalidRequest("a consumer reads at least one topic", hint='client.consumer("orders", "payments")')
        if max_records is not None:
            _check_range("max_records", max_records, 0, 1 << 62)
        options = _fetch_options(isolation, on_out_of_range, max_wait_ms, partition_size_bytes_max, buffer_size_bytes)
        read_range = ReadRange(
            topics=tuple(dict.fromkeys(topics)),
            start="latest" if start is None else start,
            until=until,
            partitions=tuple(partitions) if partitions is not None else None,
            max_records=max_records,
        )
        return Consumer(read_range, context=context, options=options)

    def _group_consumer(
        self,
        topics: tuple[str, ...],
        given: ConsumerGroupOptions,
        *,
        start: Points,
        is_ranged: bool,
        max_records: int | None,
        options: FetchOptions,
    ) -> GroupConsumer:
        if is_ranged:
            raise InvalidRequest(
                "a member of a group reads what is assigned to it: `until` and `partitions` cannot be given"
            )
        return GroupConsumer(
            read_group_options(topics, given, start=start),
            context=self._open(),
            fetch_options=options,
            max_records=max_records,
        )

    def queue(self, topic: str, *, group: str) -> NoReturn:
        """Queue groups come later.

        Raises:
            UnsupportedVersion: always.
        """
        raise UnsupportedVersion("queue groups are not supported yet", topic=topic, group=group)

    def _open(self) -> Context:
        if self._context is None:
            self._refuse()
        return self._context

    @staticmethod
    def _refuse() -> NoReturn:
        raise InvalidRequest("the client is not open", hint="use `async with logcluster.connect(...) as client`")


def _fetch_options(
    isolation: Isolation,
    on_out_of_range: Literal["earliest", "latest", "error"],
    max_wait_ms: int,
    partition_size_bytes_max: int,
    buffer_size_bytes: int,
) -> FetchOptions:
    """Check and gather what consumers with and without a group have in common."""
    if on_out_of_range not in {"earliest", "latest", "error"}:
        raise InvalidRequest(f"on_out_of_range={on_out_of_range!r} is unknown")
    _check_range("max_wait_ms", max_wait_ms, 0, 60_000)
    _check_range("partition_size_bytes_max", partition_size_bytes_max, 1, FETCH_SIZE_BYTES_MAX)
    isolation_to_wire(isolation)
    return FetchOptions(
        max_wait_ms=max_wait_ms,
        min_bytes=1,
        fetch_size_bytes_max=FETCH_SIZE_BYTES,
        partition_size_bytes_max=partition_size_bytes_max,
        buffer_size_bytes=buffer_size_bytes,
        isolation=isolation,
        on_out_of_range=on_out_of_range,
        rack="",
        grace_ms=1_000,
    )


def _check_traces() -> None:
    """Say early, and before anything is sent, that the extra is missing."""
    try:
        import logcluster.client.tracing  # noqa: F401
    except ImportError as error:
        raise InvalidConfig(str(error), hint="pip install 'logcluster[traces]', or leave out `traces`") from error


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidConfig(f"{name}={value!r} is not a whole number from {low} to {high}")
