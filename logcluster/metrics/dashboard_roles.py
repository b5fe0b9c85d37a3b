"""The dashboards of what nodes do beside serving partitions: metadata quorum, consumer groups; and of topics."""

from __future__ import annotations

from typing import Final

from logcluster.metrics.dashboard_panels import Dashboard, Row, graph, quantile, rate

QUORUM: Final = Dashboard(
    name="logcluster-quorum",
    title="logcluster / Metadata quorum",
    rows=(
        Row(
            title="Raft",
            panels=(
                graph("Role", ("logcluster_raft_role{$nodes} == 1", "{{instance}} {{role}}")),
                graph("Term", ("logcluster_raft_term{$nodes}", "{{instance}}")),
                graph("Knows a leader", ("logcluster_raft_has_leader{$nodes}", "{{instance}}")),
                graph("Commits", ("rate(logcluster_raft_commit_index{$nodes}[5m])", "{{instance}}"), unit="ops"),
                graph(
                    "Behind",
                    ("logcluster_raft_peer_lag_entries{$nodes}", "voter {{peer}}"),
                    (
                        "logcluster_raft_commit_index{$nodes} - logcluster_raft_applied_index{$nodes}",
                        "apply {{instance}}",
                    ),
                ),
                graph(
                    "Entries since the snapshot",
                    ("logcluster_raft_last_log_index{$nodes} - logcluster_raft_snapshot_index{$nodes}", "{{instance}}"),
                ),
            ),
        ),
        Row(
            title="Controller",
            panels=(
                graph("Active", ("logcluster_controller_active{$nodes}", "{{instance}}")),
                graph("Brokers", ("max by (state) (logcluster_controller_brokers{$nodes})", "{{state}}")),
                graph("Requests waiting", ("logcluster_controller_requests_waiting{$nodes}", "{{instance}}")),
                graph(
                    "Topics and partitions",
                    ("max(logcluster_controller_topics{$nodes})", "topics"),
                    ("max(logcluster_controller_partitions{$nodes})", "partitions"),
                ),
                graph(
                    "Metadata behind",
                    (
                        "scalar(max(logcluster_metadata_offset{$nodes})) - logcluster_metadata_offset{$nodes}",
                        "{{instance}}",
                    ),
                    help_text="Entries of metadata that a node has not applied and another one has.",
                ),
                graph(
                    "Elections",
                    (rate("logcluster_controller_elections_total", "kind"), "{{kind}}"),
                    unit="ops",
                ),
            ),
        ),
    ),
)

GROUPS: Final = Dashboard(
    name="logcluster-groups",
    title="logcluster / Consumer groups",
    rows=(
        Row(
            title="Lag",
            panels=(
                graph(
                    "In records",
                    ("topk(20, sum by (group, topic) (logcluster_group_lag_records{$nodes}))", "{{group}} {{topic}}"),
                    width=12,
                ),
                graph(
                    "In time",
                    ("topk(20, max by (group, topic) (logcluster_group_lag_seconds{$nodes}))", "{{group}} {{topic}}"),
                    unit="s",
                    width=12,
                ),
                graph(
                    "Growth",
                    (
                        "topk(20, sum by (group, topic) (deriv(logcluster_group_lag_records{$nodes}[5m])))",
                        "{{group}} {{topic}}",
                    ),
                    unit="ops",
                    help_text="Records a second; below zero the group catches up.",
                    width=12,
                ),
                graph(
                    "Not known",
                    ("sum by (group, topic) (logcluster_group_lag_unknown{$nodes}) > 0", "{{group}} {{topic}}"),
                    ('sum(logcluster_series_left_out{kind="group_topic", $nodes})', "not shown"),
                    width=12,
                ),
            ),
        ),
        Row(
            title="Coordinators",
            panels=(
                graph("Groups", ("sum by (state) (logcluster_groups{$nodes})", "{{state}}")),
                graph("Members", ("logcluster_group_members{$nodes}", "{{instance}}")),
                graph(
                    "Rebalances and commits",
                    (rate("logcluster_group_rebalances_total", "instance"), "rebalances {{instance}}"),
                    (rate("logcluster_group_commits_total", "instance"), "commits {{instance}}"),
                    unit="ops",
                ),
                graph(
                    "Shards",
                    ("sum by (instance, state) (logcluster_coordinator_shards{$nodes})", "{{state}} {{instance}}"),
                ),
                graph(
                    "Load time, p99",
                    (quantile(0.99, "logcluster_coordinator_load_duration_seconds", "instance"), "{{instance}}"),
                    ("logcluster_coordinator_loading_seconds{$nodes}", "under way {{instance}}"),
                    unit="s",
                ),
            ),
        ),
    ),
)

TOPICS: Final = Dashboard(
    name="logcluster-topics",
    title="logcluster / Topics",
    rows=(
        Row(
            title="Largest and busiest (needs series per partition: metrics.per_partition)",
            panels=(
                graph(
                    "Records in",
                    (
                        "topk(20, sum by (topic) (rate(logcluster_partition_appended_records_total{$nodes}[5m])"
                        " * on (instance, topic, partition) logcluster_partition_leader{$nodes}))",
                        "{{topic}}",
                    ),
                    unit="ops",
                ),
                graph(
                    "Bytes in",
                    (
                        "topk(20, sum by (topic) (rate(logcluster_partition_appended_bytes_total{$nodes}[5m])"
                        " * on (instance, topic, partition) logcluster_partition_leader{$nodes}))",
                        "{{topic}}",
                    ),
                    unit="Bps",
                ),
                graph(
                    "Size, all replicas",
                    ("topk(20, sum by (topic) (logcluster_partition_size_bytes{$nodes}))", "{{topic}}"),
                    unit="bytes",
                ),
                graph(
                    "Not in sync",
                    (
                        "sum by (topic) (logcluster_partition_replicas{$nodes}"
                        " - logcluster_partition_replicas_in_sync{$nodes}) > 0",
                        "{{topic}}",
                    ),
                ),
                graph(
                    "Uncommitted",
                    (
                        "topk(20, max by (topic) ((logcluster_partition_log_end_offset{$nodes}"
                        " - logcluster_partition_high_watermark{$nodes})"
                        " * on (instance, topic, partition) logcluster_partition_leader{$nodes}))",
                        "{{topic}}",
                    ),
                ),
                graph(
                    "Follower lag",
                    (
                        "topk(20, max by (topic, follower) (logcluster_partition_follower_lag_records{$nodes}))",
                        "{{topic}} broker {{follower}}",
                    ),
                ),
                graph(
                    "Records kept",
                    (
                        "topk(20, sum by (topic) ((logcluster_partition_high_watermark{$nodes}"
                        " - logcluster_partition_log_start_offset{$nodes})"
                        " * on (instance, topic, partition) logcluster_partition_leader{$nodes}))",
                        "{{topic}}",
                    ),
                ),
                graph("Segments", ("topk(20, sum by (topic) (logcluster_partition_segments{$nodes}))", "{{topic}}")),
                graph(
                    "Partitions not shown",
                    ('logcluster_series_left_out{kind="partition", $nodes}', "{{instance}}"),
                ),
            ),
        ),
    ),
)
