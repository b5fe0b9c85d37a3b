"""Every metric a node shows: name, kind, labels, meaning. Names and labels are stable; docs/metrics.md has this table.

Rules (prometheus.io/docs/practices/naming): one prefix, base units, the unit at the end, `_total` where a value only
grows. Labels are bounded; what multiplies by partitions or groups is switchable (`metrics.per_partition`,
`metrics.group_series_max`).
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]
FOREIGN_PREFIXES: Final = ("process_", "python_")
"""Metrics that prometheus-client makes by itself, under the names that everybody's dashboards know."""


class Definition(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, help_text: str, *labels: str) -> Definition:
    return Definition(name, "gauge", help_text, labels)


def _counter(name: str, help_text: str, *labels: str) -> Definition:
    return Definition(name, "counter", help_text, labels)


def _histogram(name: str, help_text: str, *labels: str) -> Definition:
    return Definition(name, "histogram", help_text, labels)


NODE: Final = (
    _gauge("logcluster_build_info", "Version of this node; always 1.", "version"),
    _gauge("logcluster_identity_info", "Who this node is; always 1.", "cluster_id", "node_id", "rack", "roles"),
    _gauge("logcluster_node_ready", "1 when the node is ready."),
    _gauge("logcluster_metadata_offset", "Metadata applied up to here."),
    _histogram("logcluster_event_loop_lag_seconds", "How late the event loop ran a timer that is due every 100 ms."),
    _gauge("logcluster_log_directory_free_bytes", "Bytes left on the disk of the log directory."),
    _gauge("logcluster_log_directory_disk_bytes", "Size of the disk of the log directory."),
    _gauge("logcluster_log_directory_failed", "1 when the log directory has failed."),
    _gauge("logcluster_tls_certificate_expiry_timestamp_seconds", "When the certificate in use expires, since 1970."),
    _counter("logcluster_tls_reload_failures_total", "Looks at the certificate's files that found unusable ones."),
    _gauge("logcluster_series_left_out", "Partitions or group topics without series of their own.", "kind"),
)

REQUESTS: Final = (
    _counter("logcluster_broker_requests_total", "Requests by outcome.", "transport", "api", "code"),
    _histogram("logcluster_broker_request_duration_seconds", "Time of unary calls that were OK.", "transport", "api"),
    _counter("logcluster_broker_request_bytes_total", "Bytes of unary requests.", "transport", "api"),
    _counter("logcluster_broker_response_bytes_total", "Bytes of unary responses.", "transport", "api"),
    _gauge("logcluster_broker_requests_running", "Requests in a handler that runs as a task.", "transport"),
    _counter("logcluster_broker_requests_refused_total", "Requests refused because too many run.", "transport"),
    _counter("logcluster_broker_incidents_total", "Requests that met a bug; the log has each.", "transport"),
    _counter("logcluster_broker_partition_errors_total", "Partitions refused in an OK answer.", "api", "error"),
    _gauge("logcluster_produce_waiting", "Produce requests' partitions that wait for their commit."),
    _gauge("logcluster_lane_connections", "Lane connections that peers and clients have open here."),
    _counter("logcluster_lane_connections_total", "Lane connections that were accepted."),
    _gauge("logcluster_lane_calls_open", "Lane calls that are open, long polls and streams included."),
)

LOGS: Final = (
    _gauge("logcluster_log_size_bytes", "Bytes in all logs."),
    _gauge("logcluster_log_segments", "Segments of all logs."),
    _gauge("logcluster_log_replicas_failed", "Replicas here whose log is damaged."),
    _counter("logcluster_log_appended_bytes_total", "Bytes appended to logs.", "role"),
    _counter("logcluster_log_appended_records_total", "Records appended to logs.", "role"),
    _histogram("logcluster_log_flush_duration_seconds", "Time of a group commit to the disk."),
    _gauge("logcluster_log_flushes_waiting", "Logs that wait for a flush, those of flush.mode=async included."),
    _gauge("logcluster_producers", "Producers that replicas here remember."),
    _counter("logcluster_producers_evicted_total", "Producers forgotten because there were too many."),
    _counter("logcluster_producers_expired_total", "Producers forgotten because they were silent for long."),
)

REPLICATION: Final = (
    _gauge("logcluster_partitions", "Partition replicas hosted."),
    _gauge("logcluster_partitions_led", "Partitions led."),
    _gauge("logcluster_partitions_under_replicated", "Led partitions with fewer in-sync replicas than replicas."),
    _gauge("logcluster_partitions_under_min_in_sync", "Led partitions that cannot commit."),
    _gauge("logcluster_partitions_at_min_in_sync", "Led partitions that cannot lose another in-sync replica."),
    _gauge("logcluster_replication_uncommitted_records", "Most records above the high watermark of a led partition."),
    _gauge(
        "logcluster_replication_follower_lag_records", "Most records a follower lacks of one partition.", "follower"
    ),
    _gauge("logcluster_replication_follower_lag_seconds", "Longest time a follower is not caught up.", "follower"),
)

PARTITIONS: Final = (
    _gauge("logcluster_partition_log_start_offset", "First offset.", "topic", "partition"),
    _gauge("logcluster_partition_log_end_offset", "Next offset to be written.", "topic", "partition"),
    _gauge("logcluster_partition_high_watermark", "Everything below is committed.", "topic", "partition"),
    _gauge("logcluster_partition_size_bytes", "Bytes of the log.", "topic", "partition"),
    _gauge("logcluster_partition_segments", "Segments of the log.", "topic", "partition"),
    _gauge("logcluster_partition_leader", "1 when led here.", "topic", "partition"),
    _gauge("logcluster_partition_leader_epoch", "Leader epoch known here.", "topic", "partition"),
    _gauge("logcluster_partition_replicas", "Replicas; from the leader.", "topic", "partition"),
    _gauge("logcluster_partition_replicas_in_sync", "In-sync replicas; from the leader.", "topic", "partition"),
    _gauge("logcluster_partition_follower_lag_records", "From the leader.", "topic", "partition", "follower"),
    _counter("logcluster_partition_appended_bytes_total", "Bytes appended, in either role.", "topic", "partition"),
    _counter("logcluster_partition_appended_records_total", "Records appended, in either role.", "topic", "partition"),
)

CONTROLLER: Final = (
    _gauge("logcluster_controller_active", "1 on the active controller."),
    _gauge("logcluster_controller_requests_waiting", "Requests that wait for their commit; active controller only."),
    _gauge("logcluster_controller_brokers", "Brokers; active controller only.", "state"),
    _gauge("logcluster_controller_topics", "Topics; active controller only."),
    _gauge("logcluster_controller_partitions", "Partitions; active controller only."),
    _gauge("logcluster_controller_partitions_offline", "Partitions without a leader; active controller only."),
    _gauge("logcluster_controller_partitions_misplaced", "Not led by the first replica; active controller only."),
    _counter("logcluster_controller_elections_total", "Changes of a partition's leader while active here.", "kind"),
    _counter("logcluster_controller_in_sync_changes_total", "Changes of in-sync sets while active here.", "kind"),
)

RAFT: Final = (
    _gauge("logcluster_raft_term", "Newest term known."),
    _gauge("logcluster_raft_role", "1 for the role this voter has.", "role"),
    _gauge("logcluster_raft_has_leader", "1 when this voter knows a leader of its term."),
    _gauge("logcluster_raft_voters", "Voters in force."),
    _gauge("logcluster_raft_commit_index", "Last committed entry known."),
    _gauge("logcluster_raft_applied_index", "Last entry applied."),
    _gauge("logcluster_raft_last_log_index", "Last entry of the log."),
    _gauge("logcluster_raft_snapshot_index", "Last entry of the newest snapshot."),
    _gauge("logcluster_raft_peer_lag_entries", "Entries that a voter lacks; from the leader.", "peer"),
)

COORDINATORS: Final = (
    _gauge("logcluster_coordinator_shards", "Shards of __consumer_offsets hosted here.", "state"),
    _histogram("logcluster_coordinator_load_duration_seconds", "From leadership to the first answer."),
    _gauge("logcluster_coordinator_loading_seconds", "How long the slowest load has taken so far; 0 without one."),
    _gauge("logcluster_groups", "Groups in memory here.", "state"),
    _gauge("logcluster_group_members", "Members of all groups coordinated here."),
    _counter("logcluster_group_rebalances_total", "New group epochs."),
    _counter("logcluster_group_commits_total", "Offsets of partitions that were committed."),
    _gauge("logcluster_group_lag_records", "Records not read yet.", "group", "topic"),
    _gauge("logcluster_group_lag_seconds", "Age of the first unread batch; the largest one.", "group", "topic"),
    _gauge("logcluster_group_lag_unknown", "Partitions whose log is not hosted here.", "group", "topic"),
)

PROCESS: Final = (
    _counter("process_cpu_seconds_total", "Processor time."),
    _gauge("process_resident_memory_bytes", "Resident memory."),
    _gauge("process_virtual_memory_bytes", "Virtual memory."),
    _gauge("process_start_time_seconds", "When the process began, since 1970."),
    _gauge("process_open_fds", "Open file descriptors."),
    _gauge("process_max_fds", "How many may be open."),
    _counter("python_gc_collections_total", "Runs of the garbage collector.", "generation"),
    _counter("python_gc_objects_collected_total", "Objects it collected.", "generation"),
    _counter("python_gc_objects_uncollectable_total", "Objects it could not collect.", "generation"),
)

SECTIONS: Final[dict[str, tuple[Definition, ...]]] = {
    "Node": NODE,
    "Requests": REQUESTS,
    "Logs": LOGS,
    "Replication": REPLICATION,
    "Partitions": PARTITIONS,
    "Controller": CONTROLLER,
    "Quorum": RAFT,
    "Coordinators and groups": COORDINATORS,
    "Process": PROCESS,
}
CATALOGUE: Final[dict[str, Definition]] = {
    definition.name: definition for section in SECTIONS.values() for definition in section
}


def series_names() -> frozenset[str]:
    """Names as they are scraped and queried: a histogram has three."""
    names: set[str] = set()
    for definition in CATALOGUE.values():
        if definition.kind == "histogram":
            names.update(f"{definition.name}_{suffix}" for suffix in ("bucket", "sum", "count"))
        else:
            names.add(definition.name)
    return frozenset(names)
