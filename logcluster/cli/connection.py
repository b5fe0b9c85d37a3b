"""Opening a client for one command, and views of the cluster that several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from logcluster.cli.command import Settings

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.client.metadata_cache import PartitionFacts, TopicFacts

CONNECT_TIMEOUT_MS_MAX: Final = 5_000


def open_client(settings: Settings, *, transport: str = "lane") -> Client:
    """A client of the cluster that --bootstrap names; `async with`."""
    import logcluster

    return logcluster.connect(
        settings.bootstrap,
        transport=transport,  # type: ignore[arg-type]  # checked by connect
        connect_timeout_ms=min(settings.timeout_ms, CONNECT_TIMEOUT_MS_MAX),
        request_timeout_ms=settings.timeout_ms,
        tls=settings.tls or False,
    )


def partition_row(topic: str, facts: PartitionFacts) -> dict[str, object]:
    """One partition as `partition ls` and `topic describe` print it."""
    return {
        "topic": topic,
        "partition": facts.partition,
        "leader": facts.leader_id,
        "leader_epoch": facts.leader_epoch,
        "replicas": list(facts.replicas),
        "in_sync_replicas": list(facts.in_sync_replicas),
        "eligible_leader_replicas": list(facts.eligible_leader_replicas),
        "offline_replicas": list(facts.offline_replicas),
        "state": partition_state(facts),
    }


def partition_state(facts: PartitionFacts) -> str:
    """`ok`, `under-replicated` (a replica is not in sync) or `offline` (no leader)."""
    if facts.leader_id is None:
        return "offline"
    return "ok" if len(facts.in_sync_replicas) >= len(facts.replicas) else "under-replicated"


def topic_row(facts: TopicFacts) -> dict[str, object]:
    """One topic as `topic ls` prints it."""
    states = [partition_state(partition) for partition in facts.partitions]
    return {
        "name": facts.name,
        "partitions": len(facts.partitions),
        "replication_factor": max((len(partition.replicas) for partition in facts.partitions), default=0),
        "under_replicated": states.count("under-replicated"),
        "offline": states.count("offline"),
        "internal": facts.is_internal,
        "topic_id": facts.topic_id.hex(),
    }
