"""How `logcluster doctor` asks: names, ports, and single calls to one address, without retries or a cache.

A client would go on to the next broker when one does not answer; here each address has to answer for itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from logcluster.model.errors import BrokerNotAvailable, Disconnected, LogClusterError, TlsHandshakeFailed

if TYPE_CHECKING:
    from logcluster.client.connections import Stubs
    from logcluster.client.descriptions import QuorumFacts
    from logcluster.client.metadata_cache import Answer
    from logcluster.model.ids import Endpoint
    from logcluster.model.tls import Tls

Result = TypeVar("Result")
Carrier = Literal["lane", "grpc"]
MIN_IN_SYNC = "min.insync.replicas"


class Network(Protocol):
    """What checks need of the world; each method raises OSError or LogClusterError when it gets no answer."""

    async def resolve(self, host: str) -> list[str]:
        """IP addresses of a host."""
        ...

    async def connect(self, endpoint: Endpoint) -> None:
        """Open a TCP connection, and close it again."""
        ...

    async def metadata(self, endpoint: Endpoint) -> Answer:
        """Brokers and all topics, asked over gRPC."""
        ...

    async def identity(self, endpoint: Endpoint, carrier: Carrier) -> tuple[int, str]:
        """Node id and cluster id of the process at an address."""
        ...

    async def quorum(self, endpoint: Endpoint) -> QuorumFacts:
        """The metadata quorum, asked over gRPC."""
        ...

    async def min_in_sync(self, endpoint: Endpoint, topic: str) -> int:
        """`min.insync.replicas` of a topic, asked over gRPC."""
        ...

    async def close(self) -> None:
        """End all connections."""
        ...


class RealNetwork:
    """This machine's resolver and sockets, and the calls of the product.

    Args:
        timeout_ms: deadline of one call; who waits for it bounds the rest.
        tls: None: plain text.

    Raises:
        InvalidConfig: a file that TLS needs cannot be used.
    """

    def __init__(self, *, timeout_ms: int, tls: Tls | None = None) -> None:
        from logcluster.rpc.channels import ChannelPool
        from logcluster.rpc.tls import ClientTls
        from logcluster.runtime.clock import SystemClock

        clock = SystemClock()
        files = None if tls is None else ClientTls(tls)
        self._tls = tls
        self._timeout_ms = timeout_ms
        self._pools = {
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

    async def resolve(self, host: str) -> list[str]:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def connect(self, endpoint: Endpoint) -> None:
        _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.close()
        await writer.wait_closed()

    async def metadata(self, endpoint: Endpoint) -> Answer:
        from logcluster.client.metadata import answer_from_wire
        from logcluster.wire.gen.logcluster.v1 import metadata_pb2

        request = metadata_pb2.GetMetadataRequest(all_topics=True, include_internal=True)
        stub = self._stubs(endpoint).metadata
        return answer_from_wire(await self._first_call(endpoint, stub.GetMetadata, request))

    async def identity(self, endpoint: Endpoint, carrier: Carrier) -> tuple[int, str]:
        from logcluster.wire.gen.logcluster.v1 import metadata_pb2

        stub = self._stubs(endpoint, carrier).metadata
        request = metadata_pb2.GetNodeStatusRequest()
        status: metadata_pb2.GetNodeStatusResponse = await self._first_call(endpoint, stub.GetNodeStatus, request)
        return status.node_id, status.cluster_id

    async def quorum(self, endpoint: Endpoint) -> QuorumFacts:
        from logcluster.client.connections import call
        from logcluster.client.descriptions import quorum_facts
        from logcluster.wire.gen.logcluster.v1 import metadata_pb2

        stub = self._stubs(endpoint).metadata
        request = metadata_pb2.DescribeQuorumRequest()
        return quorum_facts(await call(stub.DescribeQuorum, request, timeout_ms=self._timeout_ms))

    async def min_in_sync(self, endpoint: Endpoint, topic: str) -> int:
        from logcluster.client.connections import call
        from logcluster.wire.gen.logcluster.v1 import admin_pb2

        request = admin_pb2.DescribeTopicConfigRequest(topic=topic)
        response: admin_pb2.DescribeTopicConfigResponse = await call(
            self._stubs(endpoint).admin.DescribeTopicConfig, request, timeout_ms=self._timeout_ms
        )
        return next((int(entry.value) for entry in response.entries if entry.key == MIN_IN_SYNC), 1)

    async def _first_call(
        self, endpoint: Endpoint, method: Callable[..., Awaitable[Result]], request: object
    ) -> Result:
        """A call to an address that may not have answered yet: when it hangs up, see whether TLS is why."""
        from logcluster.client.connections import call
        from logcluster.rpc.tls import diagnose

        try:
            return await call(method, request, timeout_ms=self._timeout_ms)
        except (BrokerNotAvailable, Disconnected) as error:
            if isinstance(error, TlsHandshakeFailed):
                raise
            raise (await diagnose(endpoint, self._tls)) or error from error

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()

    def _stubs(self, endpoint: Endpoint, carrier: Carrier = "grpc") -> Stubs:
        from logcluster.client.connections import Stubs

        return Stubs(self._pools[carrier].channel(endpoint))


def reason_of(error: OSError | UnicodeError | LogClusterError, timeout_ms: int) -> str:
    """Why there was no answer, in few words."""
    if isinstance(error, socket.gaierror):
        return f"cannot be resolved: {error.strerror}"
    if isinstance(error, UnicodeError):
        return "cannot be resolved: not a host name"
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_ms / 1000:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nobody listens there"
    if isinstance(error, TlsHandshakeFailed):
        return f"{error.message} ({type(error).__name__})"
    if isinstance(error, LogClusterError):
        # gRPC wraps what happened twice: "failed to connect to all addresses; last error: UNKNOWN: …".
        text = error.message.rpartition("; last error: ")[2].removeprefix("UNKNOWN: ")
        return f"{text} ({type(error).__name__})"
    return error.strerror or str(error)
