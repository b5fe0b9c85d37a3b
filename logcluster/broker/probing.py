"""Asks a broker's lane endpoint who is there, to tell a dead process from a broken connection.

A refused port proves that the process which registered is gone; so does an answer of another process. Silence proves
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc

from logcluster.broker.controller_client import Channels
from logcluster.core.metadata.image import BrokerRegistration
from logcluster.model.ids import Endpoint
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2, controller_pb2_grpc
from logcluster.wire.status import is_connection_refused

PROBE_TIMEOUT_MS: Final = 250
PROBE_ATTEMPTS: Final = 2
"""The first attempt may only find out that a pooled connection is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a probe showed; see `controller_driver.ProbeOutcome`."""

    is_refused: bool = False
    incarnation_id: bytes | None = None


class LaneProber:
    """Probes by `NodeService.Probe`."""

    def __init__(self, channels: Channels, *, cluster_id: str) -> None:
        self._channels = channels
        self._cluster_id = cluster_id

    async def probe(self, broker: BrokerRegistration) -> Outcome:
        """Ask the broker's lane endpoint. Cancellation: atomic."""
        channel = self._channels.channel(Endpoint(broker.host, broker.lane_port))
        stub: controller_pb2_grpc.NodeServiceAsyncStub = controller_pb2_grpc.NodeServiceStub(channel)
        for _ in range(PROBE_ATTEMPTS):
            try:
                answer = await stub.Probe(
                    controller_pb2.ProbeRequest(cluster_id=self._cluster_id), timeout=PROBE_TIMEOUT_MS / 1000
                )
            except grpc.aio.AioRpcError as failure:
                if is_connection_refused(failure):
                    return Outcome(is_refused=True)
                if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                    return Outcome()
            else:
                return Outcome(incarnation_id=answer.incarnation_id)
        return Outcome()
