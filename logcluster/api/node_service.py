"""Answers probes: who this process is, and who leads the quorum as far as it knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import grpc

from logcluster.model.errors import InconsistentClusterId
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2 as pb, controller_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]


class ControllerView(NamedTuple):
    """Who the active controller is (None: not known), and in which term."""

    controller_id: int | None
    term: int


class NodeServicer(controller_pb2_grpc.NodeServiceServicer):
    """See the top of the file.

    Args:
        controller: this node's present view. A voter that won an election but does not serve yet says None.
    """

    def __init__(
        self,
        *,
        node_id: int,
        cluster_id: str,
        incarnation_id: bytes,
        directory_id: bytes,
        controller: Callable[[], ControllerView],
    ) -> None:
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._incarnation_id = incarnation_id
        self._directory_id = directory_id
        self._controller = controller

    async def Probe(  # noqa: N802
        self, request: pb.ProbeRequest, context: Context
    ) -> pb.ProbeResponse:
        if request.cluster_id and request.cluster_id != self._cluster_id:
            raise InconsistentClusterId(
                f"this node belongs to cluster {self._cluster_id!r}, not {request.cluster_id!r}",
                cluster_id=self._cluster_id,
            )
        view = self._controller()
        return pb.ProbeResponse(
            node_id=self._node_id,
            cluster_id=self._cluster_id,
            incarnation_id=self._incarnation_id,
            directory_id=self._directory_id,
            controller_id=view.controller_id,
            term=view.term,
        )
