"""Reaching brokers: bootstrap addresses, stubs per broker, and calls that any broker answers.

Bootstrap addresses are gRPC ports; the lane listens one above, by convention. With the lane as carrier, addresses are
tried as lane port + 1, then as the lane port itself, then over gRPC for the metadata alone, which names the real lane
ports. After that, brokers come from the metadata. Carriers are ports (`ChannelSource`), so that tests and the
simulator bring their own.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from grpc.aio import AioRpcError

from logcluster.client.metadata_cache import BrokerFacts, MetadataCache
from logcluster.client.retry import RetryPolicy, retry
from logcluster.model.errors import (
    BrokerNotAvailable,
    LogClusterError,
    RequestTimedOut,
    TlsHandshakeFailed,
    UnavailableError,
    UnsupportedVersion,
)
from logcluster.model.ids import Endpoint
from logcluster.runtime.clock import Clock
from logcluster.wire.gen.logcluster.v1 import metadata_pb2
from logcluster.wire.gen.logcluster.v1.admin_pb2_grpc import AdminServiceStub
from logcluster.wire.gen.logcluster.v1.data_pb2_grpc import DataServiceStub
from logcluster.wire.gen.logcluster.v1.groups_pb2_grpc import GroupServiceStub
from logcluster.wire.gen.logcluster.v1.metadata_pb2_grpc import MetadataServiceStub
from logcluster.wire.status import error_from_rpc

if TYPE_CHECKING:
    from grpc.aio import Channel

Carrier = Literal["lane", "grpc"]
Response = TypeVar("Response")

_ATTEMPT_MS_FIRST = 1_000
_ATTEMPT_MS_MAX = 4_000
_REMEMBER_FAILURE_MS = 2_000


class ChannelSource(Protocol):
    """One carrier's channels; connecting happens at the first call."""

    def channel(self, endpoint: Endpoint) -> Channel:
        """The channel to a process; the same one every time."""
        ...

    async def close(self) -> None:
        """End all calls and connections."""
        ...


class Stubs:
    """The services of one process."""

    __slots__ = ("admin", "data", "groups", "metadata")

    def __init__(self, channel: Channel) -> None:
        self.data: Any = DataServiceStub(channel)
        self.metadata: Any = MetadataServiceStub(channel)
        self.admin: Any = AdminServiceStub(channel)
        self.groups: Any = GroupServiceStub(channel)


async def call(method: Callable[..., Awaitable[Response]], request: object, *, timeout_ms: int) -> Response:
    """Call a stub's method with a deadline.

    Raises:
        LogClusterError: what the status means.
    Cancellation: the call may have been carried out.
    """
    try:
        return await method(request, timeout=timeout_ms / 1000)
    except AioRpcError as error:
        raise error_from_rpc(error) from error


class Connections:
    """All processes a client talks to.

    Args:
        sources: channels by carrier.
        transport: the carrier for brokers.
        diagnose: asked of an address that hangs up: whether TLS is why.
    """

    def __init__(  # wiring
        self,
        bootstrap: Sequence[Endpoint],
        *,
        transport: Carrier,
        sources: dict[Carrier, ChannelSource],
        cache: MetadataCache,
        clock: Clock,
        generator: random.Random,
        policy: RetryPolicy,
        connect_timeout_ms: int,
        diagnose: Callable[[Endpoint], Awaitable[TlsHandshakeFailed | None]] | None = None,
    ) -> None:
        self._bootstrap = tuple(bootstrap)
        self.transport: Carrier = transport
        self._sources = sources
        self._cache = cache
        self._clock = clock
        self._generator = generator
        self._policy = policy
        self._connect_timeout_ms = connect_timeout_ms
        self._diagnose = diagnose
        self._stubs: dict[tuple[Carrier, Endpoint], Stubs] = {}
        self._failed_at_ms: dict[tuple[Carrier, Endpoint], int] = {}

    def stubs(self, broker_id: int) -> Stubs:
        """The services of a broker.

        Raises:
            BrokerNotAvailable: the metadata does not name the broker.
        """
        broker = self._cache.brokers.get(broker_id)
        if broker is None:
            raise BrokerNotAvailable(f"broker {broker_id} is not registered", broker_id=broker_id)
        return self._stubs_at(*self._address(broker))

    def note_failure(self, broker_id: int) -> None:
        """A call to the broker failed for want of a connection: others are asked first for a while."""
        broker = self._cache.brokers.get(broker_id)
        if broker is not None:
            self._failed_at_ms[self._address(broker)] = self._clock.monotonic_ms()

    def _address(self, broker: BrokerFacts) -> tuple[Carrier, Endpoint]:
        if self.transport == "lane":
            return "lane", broker.lane_endpoint
        return "grpc", broker.grpc_endpoint

    def _stubs_at(self, carrier: Carrier, endpoint: Endpoint) -> Stubs:
        stubs = self._stubs.get((carrier, endpoint))
        if stubs is None:
            stubs = self._stubs[carrier, endpoint] = Stubs(self._sources[carrier].channel(endpoint))
        return stubs

    def _candidates(self) -> list[tuple[Carrier, Endpoint]]:
        """Whom to ask what any broker knows: those that did not fail lately first, bootstrap addresses last."""
        brokers = [self._address(broker) for broker in self._cache.brokers.values() if broker.is_active]
        self._generator.shuffle(brokers)
        addresses = dict.fromkeys([*brokers, *self._bootstrap_addresses()])
        recently_ms = self._clock.monotonic_ms() - _REMEMBER_FAILURE_MS
        return sorted(addresses, key=lambda address: self._failed_at_ms.get(address, -1) > recently_ms)

    def _bootstrap_addresses(self) -> list[tuple[Carrier, Endpoint]]:
        if self.transport == "grpc":
            return [("grpc", endpoint) for endpoint in self._bootstrap]
        above = [Endpoint(host, port + 1) for host, port in self._bootstrap if port < 65535]
        return [
            *(("lane", endpoint) for endpoint in above),
            *(("lane", endpoint) for endpoint in self._bootstrap),
            *(("grpc", endpoint) for endpoint in self._bootstrap),
        ]

    async def connect(self) -> metadata_pb2.GetMetadataResponse:
        """Find a broker that answers, within the connect timeout.

        Raises:
            BrokerNotAvailable: nobody answers at any bootstrap address.
            TlsHandshakeFailed: nobody does, for some because of TLS; waiting would not help, so it is said at once.
        """
        failures: list[LogClusterError] = []

        async def explain(error: LogClusterError) -> None:
            trouble = await self._tls_trouble(failures)
            failures.clear()
            if trouble is not None:
                raise trouble from error

        try:
            return await self._ask_until(
                lambda stubs: stubs.metadata.GetMetadata,
                metadata_pb2.GetMetadataRequest(),
                timeout_ms=self._connect_timeout_ms,
                on_failure=failures.append,
                is_worth_it=lambda error: error.retriable and not isinstance(error, TlsHandshakeFailed),
                after_round=explain,
            )
        except TlsHandshakeFailed:
            raise
        except (UnavailableError, UnsupportedVersion) as error:
            addresses = ", ".join(str(endpoint) for endpoint in self._bootstrap)
            raise BrokerNotAvailable(
                f"no broker can be reached; bootstrap addresses: {addresses} ({error.message})", addresses=addresses
            ) from error

    async def _tls_trouble(self, failures: Sequence[LogClusterError]) -> TlsHandshakeFailed | None:
        """Whether TLS is why nobody could be talked to, given how all attempts of a round failed."""
        for failure in failures:
            if isinstance(failure, TlsHandshakeFailed):
                return failure
        if self._diagnose is None:
            return None
        # Who does not listen, or hangs, has nothing more to tell.
        if all(isinstance(failure, RequestTimedOut) or "refused" in failure.message for failure in failures):
            return None
        for endpoint in self._bootstrap:
            trouble = await self._diagnose(endpoint)
            if trouble is not None:
                return trouble
        return None

    async def ask_metadata(self, request: metadata_pb2.GetMetadataRequest) -> metadata_pb2.GetMetadataResponse:
        """Ask one broker after the other, once each.

        Raises:
            LogClusterError: none answered.
        """
        return await self._ask_round(lambda stubs: stubs.metadata.GetMetadata, request, timeout_ms=30_000)

    async def ask_any(
        self,
        method: Callable[[Stubs], Callable[..., Awaitable[Response]]],
        request: object,
        *,
        timeout_ms: int,
        attempt_ms: int = _ATTEMPT_MS_FIRST,
        on_failure: Callable[[LogClusterError], None] | None = None,
        is_worth_it: Callable[[LogClusterError], bool] = lambda error: error.retriable,
    ) -> Response:
        """Ask brokers until one answers or time is over; errors of the request itself are raised at once.

        Args:
            attempt_ms: how long one broker may take at first; grows with each round.
            on_failure: told of every broker that could not be asked, or not heard.
            is_worth_it: whether to go on after an error that is not about reaching a broker.

        Raises:
            LogClusterError: the last failure.
        """
        return await self._ask_until(
            method,
            request,
            timeout_ms=timeout_ms,
            attempt_ms_first=attempt_ms,
            on_failure=on_failure,
            is_worth_it=is_worth_it,
        )

    async def _ask_until(
        self,
        method: Callable[[Stubs], Callable[..., Awaitable[Response]]],
        request: object,
        *,
        timeout_ms: int,
        attempt_ms_first: int = _ATTEMPT_MS_FIRST,
        on_failure: Callable[[LogClusterError], None] | None = None,
        is_worth_it: Callable[[LogClusterError], bool] = lambda error: error.retriable,
        after_round: Callable[[LogClusterError], Awaitable[None]] | None = None,
    ) -> Response:
        """As `ask_any`; `after_round` may raise what says more than the failure of a round."""
        attempt_ms = attempt_ms_first

        async def ask(left_ms: int) -> Response:
            nonlocal attempt_ms
            this_attempt_ms, attempt_ms = attempt_ms, min(attempt_ms * 2, max(_ATTEMPT_MS_MAX, attempt_ms_first))
            try:
                return await self._ask_round(
                    method, request, timeout_ms=left_ms, attempt_ms=this_attempt_ms, on_failure=on_failure
                )
            except LogClusterError as error:
                if after_round is not None:
                    await after_round(error)
                raise

        return await retry(
            ask,
            clock=self._clock,
            generator=self._generator,
            policy=self._policy,
            timeout_ms=timeout_ms,
            is_worth_it=is_worth_it,
        )

    async def _ask_round(
        self,
        method: Callable[[Stubs], Callable[..., Awaitable[Response]]],
        request: object,
        *,
        timeout_ms: int,
        attempt_ms: int = _ATTEMPT_MS_FIRST,
        on_failure: Callable[[LogClusterError], None] | None = None,
    ) -> Response:
        """Ask each candidate until one answers; only failures to reach a broker lead to the next."""
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        candidates = self._candidates()
        failure: LogClusterError | None = None
        for carrier, endpoint in candidates:
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if left_ms <= 0:
                break
            stubs = self._stubs_at(carrier, endpoint)
            try:
                response = await call(method(stubs), request, timeout_ms=min(left_ms, attempt_ms))
            except (UnavailableError, UnsupportedVersion) as error:  # the latter: another carrier's port
                if on_failure is not None:
                    on_failure(error)
                if isinstance(error, RequestTimedOut) or error.refresh_metadata:
                    self._failed_at_ms[carrier, endpoint] = self._clock.monotonic_ms()
                if failure is None or failure.definite:  # one unknown outcome makes the round's outcome unknown
                    failure = error
                continue
            self._failed_at_ms.pop((carrier, endpoint), None)
            return response
        addresses = ", ".join(str(endpoint) for endpoint in self._bootstrap)
        if failure is None:
            raise RequestTimedOut(f"no broker answered in time; bootstrap addresses: {addresses}")
        if isinstance(failure, BrokerNotAvailable) and not isinstance(failure, TlsHandshakeFailed):
            raise BrokerNotAvailable("no broker can be reached", addresses=addresses) from failure
        raise failure

    async def close(self) -> None:
        """End all calls and connections."""
        for source in self._sources.values():
            await source.close()
