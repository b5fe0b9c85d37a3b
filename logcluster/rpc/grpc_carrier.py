"""The grpc carrier: grpc.aio servers and channels with every limit stated on both sides.

Message size, concurrent calls and keepalive are set explicitly: the defaults refuse messages above 4 MiB and answer a
client that pings more than once in five minutes with GOAWAY (grpc doc/keepalive.md). Port sharing is off, so
that a second process on the same port fails instead of taking half of the calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc

from logcluster.model import limits
from logcluster.model.ids import Endpoint
from logcluster.rpc.interceptors import Boundary, GrpcInterceptor, Interceptor
from logcluster.runtime.clock import Clock

KEEPALIVE_TIME_MS: Final = 30_000
KEEPALIVE_TIMEOUT_MS: Final = 10_000
KEEPALIVE_MIN_INTERVAL_MS: Final = 10_000
RECONNECT_BACKOFF_MS_MIN: Final = 100
RECONNECT_BACKOFF_MS_MAX: Final = 1_000
CONNECT_TIMEOUT_MS: Final = 1_000
SECURE_CONNECT_TIMEOUT_MS: Final = 3_000

_COMMON_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_send_message_length", limits.FRAME_SIZE_BYTES_MAX),
    ("grpc.max_receive_message_length", limits.FRAME_SIZE_BYTES_MAX),
    ("grpc.max_metadata_size", 2 * limits.METADATA_SIZE_BYTES_MAX),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
SERVER_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *_COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 4 * KEEPALIVE_TIME_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MIN_INTERVAL_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MIN_INTERVAL_MS),
)
CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *_COMMON_OPTIONS,
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_BACKOFF_MS_MIN),
    # The name misleads: it bounds one attempt, which takes two round trips; who is refused tries again earlier.
    ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_BACKOFF_MS_MAX),
    # Retries belong to one place, and that is above the carrier.
    ("grpc.enable_retries", 0),
    # Proxies of the environment are for the web.
    ("grpc.enable_http_proxy", 0),
    # Each channel its own connection: a closed channel's state must not speak for a new one.
    ("grpc.use_local_subchannel_pool", 1),
)


SECURE_CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    # A TLS handshake takes more turns, and processor time.
    ("grpc.min_reconnect_backoff_ms", SECURE_CONNECT_TIMEOUT_MS),
)


class _CurrentHealth:
    """The standard health servicer, brought up to date before each answer: other ports say what is so now, too."""

    def __init__(self, servicer: Any) -> None:
        self.refresh: Callable[[], Awaitable[None]] | None = None
        self._servicer = servicer

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.refresh is not None:
            await self.refresh()
        return await self._servicer.Check(request, context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name)


class GrpcServer:
    """A grpc.aio server with the interface of `LaneServer`."""

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        boundary: Boundary,
        credentials: grpc.ServerCredentials | None,
        health: Any,
    ) -> None:
        self.boundary = boundary
        self._server = server
        self._credentials = credentials
        self._health = health
        self._is_started = False

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        self._server.add_generic_rpc_handlers(tuple(generic_rpc_handlers))

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None:
        self._server.add_registered_method_handlers(service_name, method_handlers)

    async def start(self, host: str, port: int) -> int:
        """Bind, serve, and return the bound port.

        Raises:
            OSError: the address cannot be bound.
        """
        address = str(Endpoint(host, port))
        try:
            if self._credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise OSError(f"cannot bind {address}: {error}") from error
        await self._server.start()
        self._is_started = True
        return bound

    async def set_serving(self, service: str, is_serving: bool) -> None:
        """Tell the standard health service; the empty name speaks for the whole server."""
        if self._health is not None:
            from grpc_health.v1 import health_pb2

            status = (
                health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
            )
            await self._health.set(service, status)

    def refresh_health_by(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Have `refresh` called before the standard health service answers; it calls `set_serving`."""
        if self._health is not None:
            self._health.refresh = refresh

    async def stop(self, grace_ms: int) -> None:
        """Say NOT_SERVING, refuse new calls, wait up to `grace_ms` for the open ones, cancel the rest. Idempotent."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_ms / 1000 if grace_ms > 0 else None)

    def statistics(self) -> dict[str, int]:
        return self.boundary.statistics()


def build_grpc_server(
    *,
    clock: Clock,
    interceptors: Sequence[Interceptor] = (),
    calls_max: int = limits.CALLS_PER_CONNECTION_MAX,
    boundary: Boundary | None = None,
    credentials: grpc.ServerCredentials | None = None,
    reflected_services: Sequence[str] = (),
    with_health: bool = True,
) -> GrpcServer:
    """Build a server; register services on it, then `start`.

    Args:
        interceptors: outermost first, all of them inside the `Boundary`.
        calls_max: calls running at once in the whole server; the next is refused with RESOURCE_EXHAUSTED.
        reflected_services: full names of services that reflection shows, besides health and reflection themselves.
    """
    boundary = boundary or Boundary()
    # Our own limit answers first and with details; grpc's is the backstop for the calls that do not reach it.
    if boundary.calls_max is None:
        boundary.calls_max = calls_max
    server = grpc.aio.server(
        interceptors=(GrpcInterceptor((boundary, *interceptors)),),
        options=SERVER_OPTIONS,
        maximum_concurrent_rpcs=2 * calls_max,
    )
    health = None
    names = list(reflected_services)
    if with_health:
        from grpc_health.v1 import _async as health_async, health_pb2, health_pb2_grpc

        health = _CurrentHealth(health_async.HealthServicer())
        health_pb2_grpc.add_HealthServicer_to_server(health, server)  # type: ignore[no-untyped-call]  # no stubs
        names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    if reflected_services:
        from grpc_reflection.v1alpha import reflection

        names.append(reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)  # type: ignore[no-untyped-call]  # no stubs
    return GrpcServer(server, boundary=boundary, credentials=credentials, health=health)


def grpc_channel(
    endpoint: Endpoint,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """Open a channel; it connects on the first call. Later `options` override ours."""
    # Of two values for one name grpc takes the first.
    ours = dict(CHANNEL_OPTIONS) if credentials is None else {**dict(CHANNEL_OPTIONS), **dict(SECURE_CHANNEL_OPTIONS)}
    merged = list({**ours, **dict(options)}.items())
    if credentials is None:
        return grpc.aio.insecure_channel(str(endpoint), options=merged)
    return grpc.aio.secure_channel(str(endpoint), credentials, options=merged)
