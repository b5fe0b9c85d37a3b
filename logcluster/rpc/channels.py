"""One shared channel per peer, over either carrier.

A pool is bounded; a peer that has left the cluster is forgotten by whoever learns of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import grpc

from logcluster.model import errors, limits
from logcluster.model.ids import Endpoint
from logcluster.rpc.grpc_carrier import grpc_channel
from logcluster.rpc.lane.channel import LaneChannel
from logcluster.rpc.lane.network import CONNECT_TIMEOUT_MS_DEFAULT, LaneNetwork, LaneOptions
from logcluster.rpc.tls import ContextSource
from logcluster.runtime.clock import Clock
from logcluster.wire.status import is_connection_refused

__all__ = ["ChannelPool", "Transport", "is_connection_refused"]

Transport = Literal["lane", "grpc"]
CHANNELS_MAX: Final = 2 * limits.BROKERS_MAX


class ChannelPool:
    """Owner of the channels to all peers of one process.

    Args:
        ssl: for the lane, or what gives the context for the next connection; `credentials` is its counterpart for grpc.
        on_disconnect: told the endpoint and the reason when a lane connection has ended.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        transport: Transport = "lane",
        ssl: ContextSource | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        connect_timeout_ms: int = CONNECT_TIMEOUT_MS_DEFAULT,
        on_disconnect: Callable[[Endpoint, Exception | None], None] | None = None,
        options: LaneOptions | None = None,
        network: LaneNetwork | None = None,
    ) -> None:
        if transport not in {"lane", "grpc"}:
            raise errors.InvalidConfig(f"transport {transport!r} is neither lane nor grpc")
        self.transport: Transport = transport
        self._clock = clock
        self._ssl = ssl
        self._credentials = credentials
        self._connect_timeout_ms = connect_timeout_ms
        self._on_disconnect = on_disconnect
        self._options = options
        self._network = network
        self._channels: dict[Endpoint, Any] = {}
        self._is_closed = False

    def channel(self, endpoint: Endpoint) -> Any:
        """Return the channel to `endpoint`, to be given to generated stubs; it stays the pool's.

        Raises:
            Overloaded: there are too many peers.
            RuntimeError: the pool is closed.
        """
        channel = self._channels.get(endpoint)
        if channel is not None:
            return channel
        if self._is_closed:
            raise RuntimeError("the channel pool is closed")
        if len(self._channels) >= CHANNELS_MAX:
            raise errors.Overloaded("too many peers", channels_max=CHANNELS_MAX)
        channel = self._open(endpoint)
        self._channels[endpoint] = channel
        return channel

    async def forget(self, endpoint: Endpoint) -> None:
        """Close the channel to a peer that has left; its calls are cancelled."""
        channel = self._channels.pop(endpoint, None)
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        """Close all channels; their calls are cancelled. Idempotent."""
        self._is_closed = True
        while self._channels:
            _endpoint, channel = self._channels.popitem()
            await channel.close()

    def _open(self, endpoint: Endpoint) -> Any:
        if self.transport == "grpc":
            return grpc_channel(endpoint, credentials=self._credentials)
        notify = self._on_disconnect
        return LaneChannel(
            endpoint,
            clock=self._clock,
            ssl=self._ssl,
            connect_timeout_ms=self._connect_timeout_ms,
            on_disconnect=None if notify is None else lambda error: notify(endpoint, error),
            options=self._options,
            network=self._network,
        )
