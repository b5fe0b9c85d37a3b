"""`logcluster broker`, `partition` and `cluster`: who is there, who leads what, and is all well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from logcluster.cli import drain
from logcluster.cli.command import CommandFailed, ExitCode, Settings, command, new_group
from logcluster.cli.connection import open_client, partition_row
from logcluster.cli.output import print_facts, print_json, print_rows

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.client.metadata_cache import BrokerFacts

brokers = new_group("Brokers: list, describe, drain.")
drain.register(brokers)
partitions = new_group("Partitions: list, elect leaders.")
clusters = new_group("The cluster as a whole: info, health, wait.")

POLL_MS: Final = 100
BrokerArgument = Annotated[int, typer.Argument(metavar="ID", help="Broker id.")]


def _broker_row(facts: BrokerFacts) -> dict[str, object]:
    return {
        "broker_id": facts.broker_id,
        "state": facts.state,
        "grpc": str(facts.grpc_endpoint),
        "lane_port": facts.lane_port,
        "http_port": facts.http_port,
        "rack": facts.rack or None,
    }


@command(brokers, "ls", example="logcluster broker ls -o json")
async def broker_ls(settings: Settings) -> None:
    """List the registered brokers."""
    async with open_client(settings) as client:
        cluster = await client.admin.describe_cluster()
    rows = [
        {**_broker_row(facts), "is_controller": facts.broker_id == cluster.controller_id}
        for facts in sorted(cluster.brokers, key=lambda broker: broker.broker_id)
    ]
    print_rows(settings, rows)


async def _broker(client: Client, broker_id: int) -> BrokerFacts:
    from logcluster.model.errors import NotFound

    found = await client.admin.list_brokers()
    for facts in found:
        if facts.broker_id == broker_id:
            return facts
    known = ", ".join(str(facts.broker_id) for facts in found)
    raise NotFound(f"no broker has the id {broker_id}", hint=f"known: {known} (logcluster broker ls)")


@command(brokers, "describe", example="logcluster broker describe 1")
async def broker_describe(settings: Settings, broker_id: BrokerArgument) -> None:
    """Show one broker: state, uptime, memory, and the replicas it hosts."""
    async with open_client(settings) as client:
        facts = await _broker(client, broker_id)
        status = await client.admin.node_status(broker_id)
        replicas = await client.admin.describe_replicas(broker_id=broker_id)
    rows: list[dict[str, object]] = [
        {
            "topic": replica.topic,
            "partition": replica.partition,
            "is_leader": replica.is_leader,
            "leader_epoch": replica.leader_epoch,
            "log_start_offset": replica.log_start_offset,
            "log_end_offset": replica.log_end_offset,
            "flushed_offset": replica.flushed_offset,
            "high_watermark": replica.high_watermark,
            "size_bytes": replica.size_bytes,
            "state": replica.state,
        }
        for replica in replicas
    ]
    summary: dict[str, object] = {
        **_broker_row(facts),
        "node_state": status.state,
        "ready": status.ready,
        "reasons": list(status.reasons),
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "resident_size_bytes": status.resident_size_bytes,
        "cpu_time_ms": status.cpu_time_ms,
        "pid": status.pid,
        "partitions": status.partition_count,
        "leaders": status.leader_count,
    }
    if settings.is_json:
        print_json({**summary, "replicas": rows})
        return
    print_facts(settings, summary)
    typer.echo()
    print_rows(settings, rows)


@command(partitions, "ls", example="logcluster partition ls orders\nlogcluster partition ls --unhealthy")
async def partition_ls(
    settings: Settings,
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="Default: all topics.")] = None,
    unhealthy: Annotated[bool, typer.Option("--unhealthy", help="Only under-replicated and offline ones.")] = False,
) -> None:
    """List partitions with their leaders and in-sync replicas."""
    async with open_client(settings) as client:
        if topic is None:
            found = list((await client.admin.list_topics(include_internal=True)).values())
        else:
            found = [await client.admin.describe_topic(topic)]
    rows = [partition_row(facts.name, partition) for facts in found for partition in facts.partitions]
    if unhealthy:
        rows = [row for row in rows if row["state"] != "ok"]
    print_rows(
        settings,
        rows,
        ["topic", "partition", "leader", "leader_epoch", "replicas", "in_sync_replicas", "offline_replicas", "state"],
    )


@command(partitions, "elect", example="logcluster partition elect\nlogcluster partition elect orders 3")
async def partition_elect(
    settings: Settings,
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="Default: all topics.")] = None,
    partition: Annotated[int | None, typer.Argument(metavar="[PARTITION]", help="Default: all of the topic.")] = None,
    unclean: Annotated[
        bool, typer.Option("--unclean", help="Take any live replica. Acknowledged records may be lost for good.")
    ] = False,
) -> None:
    """Give leadership back to the preferred replicas (the first of each assignment)."""
    async with open_client(settings) as client:
        chosen: list[tuple[str, int]] = []
        if topic is not None:
            facts = await client.admin.describe_topic(topic)
            numbers = [found.partition for found in facts.partitions] if partition is None else [partition]
            chosen = [(topic, number) for number in numbers]
        results = await client.admin.elect_leaders(chosen, unclean=unclean)
    rows: list[dict[str, object]] = []
    failures = 0
    for result in results:
        name = type(result.error).__name__ if result.error is not None else None
        is_failure = name not in {None, "ElectionNotNeeded"}
        failures += is_failure
        rows.append(
            {
                "topic": result.topic,
                "partition": result.partition,
                "leader": result.leader_id,
                "result": "elected" if name is None else "not needed" if not is_failure else "failed",
                "error": result.error.message if is_failure and result.error is not None else None,
            }
        )
    print_rows(settings, rows, ["topic", "partition", "leader", "result", "error"])
    if failures:
        raise CommandFailed(
            f"{failures} of {len(rows)} elections failed", hint="`logcluster partition ls` shows who is in sync"
        )


@command(clusters, "info", example="logcluster cluster info -o json")
async def cluster_info(settings: Settings) -> None:
    """Show the cluster's id, controller, quorum, brokers and totals."""
    async with open_client(settings) as client:
        cluster = await client.admin.describe_cluster()
        quorum = await client.admin.describe_quorum()
        topics = await client.admin.list_topics(include_internal=True)
    print_facts(
        settings,
        {
            "cluster_id": cluster.cluster_id,
            "controller_id": cluster.controller_id,
            "metadata_offset": cluster.metadata_offset,
            "quorum_leader_id": quorum.leader_id,
            "quorum_term": quorum.term,
            "quorum_commit_index": quorum.commit_index,
            "quorum_voters": [voter.node_id for voter in quorum.voters],
            "brokers": len(cluster.brokers),
            "brokers_active": sum(broker.is_active for broker in cluster.brokers),
            "topics": len(topics),
            "partitions": sum(len(topic.partitions) for topic in topics.values()),
        },
    )


async def _health(client: Client) -> dict[str, object]:
    cluster = await client.admin.describe_cluster()
    topics = await client.admin.list_topics(include_internal=True)
    rows = [partition_row(topic.name, partition) for topic in topics.values() for partition in topic.partitions]
    inactive = [broker.broker_id for broker in cluster.brokers if not broker.is_active]
    names = {state: [f"{row['topic']}-{row['partition']}" for row in rows if row["state"] == state]
             for state in ("under-replicated", "offline")}  # fmt: skip
    has_controller = cluster.controller_id is not None
    return {
        "healthy": has_controller and not inactive and not any(names.values()),
        "controller_id": cluster.controller_id,
        "brokers": len(cluster.brokers),
        "inactive_brokers": inactive,
        "partitions": len(rows),
        "under_replicated": names["under-replicated"],
        "offline": names["offline"],
    }


def _what_is_wrong(health: dict[str, object]) -> str:
    parts = [] if health["controller_id"] is not None else ["there is no active controller"]
    for name, total, text in (
        ("inactive_brokers", "brokers", "brokers not active"),
        ("offline", "partitions", "partitions without leader"),
        ("under_replicated", "partitions", "partitions with replicas out of sync"),
    ):
        found = health[name]
        if isinstance(found, list) and found:
            shown = ", ".join(map(str, found[:10])) + (", ..." if len(found) > 10 else "")
            parts.append(f"{text}: {shown} ({len(found)} of {health[total]})")
    return "; ".join(parts)


@command(clusters, "health", example="logcluster cluster health && echo fine")
async def cluster_health(settings: Settings) -> None:
    """Check that every broker is active and every partition fully replicated. Exit code 5 when not."""
    async with open_client(settings) as client:
        health = await _health(client)
    print_facts(settings, health)
    if not health["healthy"]:
        raise CommandFailed(
            _what_is_wrong(health),
            exit_code=ExitCode.UNAVAILABLE,
            hint="`logcluster broker ls` and `logcluster partition ls --unhealthy` show more",
        )


@command(clusters, "wait", example="logcluster cluster wait --timeout 60s\nlogcluster cluster wait --brokers 3")
async def cluster_wait(
    settings: Settings,
    count: Annotated[int, typer.Option("--brokers", min=1, help="At least so many active brokers.")] = 1,
) -> None:
    """Wait until the cluster answers and is healthy; --timeout bounds it, exit code 7 when it is over."""
    from logcluster.model.errors import RequestTimedOut, UnavailableError
    from logcluster.runtime.clock import SystemClock

    clock = SystemClock()
    deadline_ms = clock.monotonic_ms() + settings.timeout_ms
    problem = "nobody answered"
    while clock.monotonic_ms() < deadline_ms:
        try:
            async with open_client(settings) as client:
                health = await _health(client)
        except UnavailableError as error:
            problem = error.message
        else:
            active = int(str(health["brokers"])) - len(_list(health["inactive_brokers"]))
            if health["healthy"] and active >= count:
                print_facts(settings, health)
                return
            problem = _what_is_wrong(health) or f"{active} of {count} brokers are active"
        await clock.sleep_ms(POLL_MS)
    raise RequestTimedOut(f"the cluster is not healthy after {settings.timeout_ms / 1000:g} s: {problem}")


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
