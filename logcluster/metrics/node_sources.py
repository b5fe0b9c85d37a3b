"""The node as a whole, its log directory's disk and its listeners, as a scrape reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import psutil

from logcluster.config import NodeConfig
from logcluster.metrics.exposition import Sink, Source
from logcluster.rpc.lane.server import LaneServer


class NodeView(NamedTuple):
    """What the node says of itself."""

    is_ready: bool
    metadata_offset: int
    is_log_directory_failed: bool


class Statistics(Protocol):
    """A server with counts by name."""

    def statistics(self) -> dict[str, int]:
        """See `Boundary.statistics`."""
        ...


def node_source(config: NodeConfig, version: str, view: Callable[[], NodeView]) -> Source:
    """Who the node is and how it does.

    Args:
        view: asked at every scrape; must not wait.
    """
    roles = ",".join(config.node.roles)

    def collect(sink: Sink) -> None:
        now = view()
        sink.put("logcluster_build_info", 1, version)
        sink.put("logcluster_identity_info", 1, config.cluster.id, str(config.node.id), config.node.rack, roles)
        sink.put("logcluster_node_ready", float(now.is_ready))
        sink.put("logcluster_metadata_offset", now.metadata_offset)
        sink.put("logcluster_log_directory_failed", float(now.is_log_directory_failed))

    return collect


def disk_source(directory: str) -> Source:
    """Room on the disk; nothing while the directory cannot be looked at."""

    def collect(sink: Sink) -> None:
        try:
            usage = psutil.disk_usage(directory)  # type: ignore[no-untyped-call]  # psutil is not annotated
        except OSError:
            return
        sink.put("logcluster_log_directory_free_bytes", usage.free)
        sink.put("logcluster_log_directory_disk_bytes", usage.total)

    return collect


def server_source(servers: Mapping[str, Statistics]) -> Source:
    """What every listener counts for itself, by transport."""

    def collect(sink: Sink) -> None:
        for transport, server in servers.items():
            statistics = server.statistics()
            refused = statistics["handlers_refused"] + statistics.get("calls_refused", 0)
            sink.put("logcluster_broker_requests_running", statistics["handlers_running"], transport)
            sink.put("logcluster_broker_requests_refused_total", refused, transport)
            sink.put("logcluster_broker_incidents_total", statistics["incidents"], transport)

    return collect


def lane_source(lane: LaneServer) -> Source:
    """Connections and calls of the lane."""

    def collect(sink: Sink) -> None:
        statistics = lane.statistics()
        sink.put("logcluster_lane_connections", statistics["connections"])
        sink.put("logcluster_lane_connections_total", statistics["connections_total"])
        sink.put("logcluster_lane_calls_open", statistics["calls_open"])

    return collect


class Certificate(Protocol):
    """What is shown of a node's certificate; `NodeTls` is one."""

    @property
    def expires_at_s(self) -> float:
        """Seconds since 1970."""
        ...

    @property
    def reload_failures(self) -> int:
        """Looks at its files that found something which cannot be used."""
        ...


def tls_source(certificate: Certificate) -> Source:
    """When the certificate in use expires, and whether its files can be loaded."""

    def collect(sink: Sink) -> None:
        sink.put("logcluster_tls_certificate_expiry_timestamp_seconds", certificate.expires_at_s)
        sink.put("logcluster_tls_reload_failures_total", certificate.reload_failures)

    return collect


def error_source(errors: Mapping[str, Counter[str]]) -> Source:
    """Partitions that were refused within good answers, by API and error."""

    def collect(sink: Sink) -> None:
        for api, counts in errors.items():
            for error, count in sorted(counts.items()):
                sink.put("logcluster_broker_partition_errors_total", count, api, error)

    return collect
