"""The dashboards of the cluster as a whole and of its nodes."""

from __future__ import annotations

from typing import Final

from logcluster.metrics.dashboard_panels import Dashboard, Row, graph, number, quantile, rate

CLUSTER: Final = Dashboard(
    name="logcluster-cluster",
    title="logcluster / Cluster",
    rows=(
        Row(
            title="Is it well?",
            panels=(
                number("Nodes ready", "sum(logcluster_node_ready{$nodes})", bad_below=1),
                number("Active controllers", "sum(logcluster_controller_active{$nodes})", bad_below=1),
                number("Offline partitions", "max(logcluster_controller_partitions_offline{$nodes})", bad_above=0),
                number("Under min in-sync", "sum(logcluster_partitions_under_min_in_sync{$nodes})", bad_above=0),
                number("Under-replicated", "sum(logcluster_partitions_under_replicated{$nodes})", bad_above=0),
                number("Brokers fenced", 'max(logcluster_controller_brokers{state="fenced", $nodes})', bad_above=0),
            ),
        ),
        Row(
            title="Traffic",
            panels=(
                graph(
                    "Records in",
                    (rate("logcluster_log_appended_records_total", "instance", 'role="leader"'), "{{instance}}"),
                    unit="ops",
                ),
                graph(
                    "Bytes in",
                    (rate("logcluster_log_appended_bytes_total", "instance", 'role="leader"'), "{{instance}}"),
                    unit="Bps",
                    help_text="As stored: compressed, with batch headers.",
                ),
                graph(
                    "Bytes out to consumers",
                    (rate("logcluster_broker_response_bytes_total", "instance", 'api="Fetch"'), "{{instance}}"),
                    unit="Bps",
                ),
                graph(
                    "Produce requests",
                    (
                        rate("logcluster_broker_requests_total", "transport, code", 'api="Produce"'),
                        "{{transport}} {{code}}",
                    ),
                    unit="reqps",
                ),
                graph(
                    "Time of a Produce request",
                    (
                        quantile(0.5, "logcluster_broker_request_duration_seconds", "instance", 'api="Produce"'),
                        "p50 {{instance}}",
                    ),
                    (
                        quantile(0.99, "logcluster_broker_request_duration_seconds", "instance", 'api="Produce"'),
                        "p99 {{instance}}",
                    ),
                    unit="s",
                    help_text="With acks=all it includes the wait for the replicas.",
                ),
                graph(
                    "Errors",
                    (rate("logcluster_broker_requests_total", "api, code", 'code!="OK"'), "{{api}} {{code}}"),
                    (rate("logcluster_broker_partition_errors_total", "api, error"), "{{api}} {{error}}"),
                    unit="ops",
                    help_text="Of whole calls, and of single partitions in calls that were OK.",
                ),
            ),
        ),
        Row(
            title="Replication",
            panels=(
                graph(
                    "Follower lag",
                    ("max by (follower) (logcluster_replication_follower_lag_seconds{$nodes})", "broker {{follower}}"),
                    unit="s",
                ),
                graph(
                    "Elections and in-sync changes",
                    (rate("logcluster_controller_elections_total", "kind"), "election {{kind}}"),
                    (rate("logcluster_controller_in_sync_changes_total", "kind"), "in-sync {{kind}}"),
                    unit="ops",
                ),
                graph(
                    "Partitions led",
                    ("logcluster_partitions_led{$nodes}", "{{instance}}"),
                    ("max(logcluster_controller_partitions_misplaced{$nodes})", "misplaced"),
                ),
            ),
        ),
    ),
)

NODES: Final = Dashboard(
    name="logcluster-nodes",
    title="logcluster / Nodes",
    rows=(
        Row(
            title="Requests",
            panels=(
                graph("By API", (rate("logcluster_broker_requests_total", "api"), "{{api}}"), unit="reqps"),
                graph(
                    "Time, p99 by API",
                    (quantile(0.99, "logcluster_broker_request_duration_seconds", "api"), "{{api}}"),
                    unit="s",
                ),
                graph(
                    "Open and refused",
                    ("logcluster_lane_calls_open{$nodes}", "open {{instance}}"),
                    ("logcluster_broker_requests_running{$nodes}", "running {{transport}} {{instance}}"),
                    (rate("logcluster_broker_requests_refused_total", "instance"), "refused/s {{instance}}"),
                    (rate("logcluster_broker_incidents_total", "instance"), "incidents/s {{instance}}"),
                ),
                graph(
                    "Request bytes by API",
                    (rate("logcluster_broker_request_bytes_total", "api"), "{{api}}"),
                    unit="Bps",
                ),
                graph(
                    "Response bytes by API",
                    (rate("logcluster_broker_response_bytes_total", "api"), "{{api}}"),
                    unit="Bps",
                ),
                graph(
                    "Connections",
                    ("logcluster_lane_connections{$nodes}", "open {{instance}}"),
                    (rate("logcluster_lane_connections_total", "instance"), "new/s {{instance}}"),
                ),
            ),
        ),
        Row(
            title="Logs",
            panels=(
                graph(
                    "Flush time",
                    (quantile(0.5, "logcluster_log_flush_duration_seconds", "instance"), "p50 {{instance}}"),
                    (quantile(0.99, "logcluster_log_flush_duration_seconds", "instance"), "p99 {{instance}}"),
                    unit="s",
                ),
                graph(
                    "Waiting",
                    ("logcluster_produce_waiting{$nodes}", "produce {{instance}}"),
                    ("logcluster_log_flushes_waiting{$nodes}", "flushes {{instance}}"),
                ),
                graph(
                    "Appended",
                    (rate("logcluster_log_appended_bytes_total", "instance, role"), "{{role}} {{instance}}"),
                    unit="Bps",
                ),
                graph("Size", ("logcluster_log_size_bytes{$nodes}", "{{instance}}"), unit="bytes"),
                graph(
                    "Disk free",
                    (
                        "logcluster_log_directory_free_bytes{$nodes} / logcluster_log_directory_disk_bytes{$nodes}",
                        "{{instance}}",
                    ),
                    unit="percentunit",
                ),
                graph(
                    "Segments, producers, damaged replicas",
                    ("logcluster_log_segments{$nodes}", "segments {{instance}}"),
                    ("logcluster_producers{$nodes}", "producers {{instance}}"),
                    ("logcluster_log_replicas_failed{$nodes}", "damaged {{instance}}"),
                ),
            ),
        ),
        Row(
            title="Process",
            panels=(
                graph(
                    "Event loop lag",
                    (quantile(0.5, "logcluster_event_loop_lag_seconds", "instance"), "p50 {{instance}}"),
                    (quantile(0.999, "logcluster_event_loop_lag_seconds", "instance"), "p99.9 {{instance}}"),
                    unit="s",
                    help_text="Everything a node does runs on one loop; one that stands still stops everything.",
                ),
                graph(
                    "Processor",
                    ("rate(process_cpu_seconds_total{$nodes}[5m])", "{{instance}}"),
                    unit="percentunit",
                    help_text="100 % is one core.",
                ),
                graph("Memory", ("process_resident_memory_bytes{$nodes}", "{{instance}}"), unit="bytes"),
                graph(
                    "Open files",
                    ("process_open_fds{$nodes} / process_max_fds{$nodes}", "{{instance}}"),
                    unit="percentunit",
                ),
                graph(
                    "Garbage collections",
                    (rate("python_gc_collections_total", "instance, generation"), "{{generation}} {{instance}}"),
                    unit="ops",
                ),
                graph(
                    "Certificate expires in",
                    ("logcluster_tls_certificate_expiry_timestamp_seconds{$nodes} - time()", "{{instance}}"),
                    (rate("logcluster_tls_reload_failures_total", "instance"), "reload failures/s {{instance}}"),
                    unit="s",
                    help_text="Empty without TLS.",
                ),
                graph("Version", ("count by (version) (logcluster_build_info{$nodes})", "{{version}}")),
            ),
        ),
    ),
)
