"""`logcluster top` for people and for programs: what is wrong, tables, JSON. Pure, but for printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import typer

from logcluster.cli.group_text import clear_text, count_text, seconds_text, time_text, total_json
from logcluster.cli.output import print_table

if TYPE_CHECKING:
    from logcluster.cli.top_view import BrokerRow, GroupRow, TopicRow, View

BROKER_COLUMNS: Final = ["id", "state", "controller", "leaders", "replicas", "in", "out", "produce/s", "fetch/s",
                         "loop_lag", "loop_max", "cpu", "memory", "disk_free"]  # fmt: skip
TOPIC_COLUMNS: Final = ["topic", "partitions", "records/s", "bytes"]
GROUP_COLUMNS: Final = ["group", "state", "members", "lag", "behind", "in/s", "out/s", "trend", "clear_in"]
DISK_FREE_SHARE_MIN: Final = 0.1
LOOP_LAG_MS_MAX: Final = 500.0
"""Both as in the alerts of deploy/prometheus/rules.yaml."""


def problems_of(view: View) -> list[str]:
    """Everything that is not as it should be; empty: all is well. A group that is behind is its own affair."""
    found = [] if view.controller_id is not None else ["no active controller"]
    for broker in view.brokers:
        found += _broker_problems(broker)
    partitions = view.partitions
    for count, text in (
        (partitions.offline, "offline"),
        (partitions.under_min_in_sync or 0, "under min.insync.replicas"),
        (partitions.under_replicated, "under-replicated"),
    ):
        if count:
            found.append(f"{count_text(count, 'partition')} {text}")
    return found


def _broker_problems(broker: BrokerRow) -> list[str]:
    name = f"broker {broker.broker_id}"
    found = []
    states = [] if broker.state == "active" else [f"is {broker.state}"]
    states += [] if broker.reachable else ["does not answer"]
    if states:
        found.append(f"{name} {' and '.join(states)}")
    if broker.log_directory_failed:
        found.append(f"{name}: its log directory has failed")
    if broker.replicas_failed:
        found.append(f"{name}: the log of {count_text(broker.replicas_failed, 'replica')} is damaged")
    free, size = broker.disk_free_bytes, broker.disk_size_bytes
    if free is not None and size and free / size < DISK_FREE_SHARE_MIN:
        found.append(f"{name}: {bytes_text(free)} left on its disk")
    if broker.event_loop_lag_max_ms is not None and broker.event_loop_lag_max_ms > LOOP_LAG_MS_MAX:
        found.append(f"{name}: its event loop stood still for over {LOOP_LAG_MS_MAX:.0f} ms")
    return found


def view_json(view: View, *, rows_max: int) -> dict[str, object]:
    """One look as one object; docs/cli.md names the fields."""
    problems = problems_of(view)
    return {
        "time_ms": view.time_ms,
        "seconds": view.seconds,
        "healthy": not problems,
        "problems": problems,
        "cluster_id": view.cluster_id,
        "controller_id": view.controller_id,
        "brokers": [asdict(broker) for broker in view.brokers],
        "partitions": asdict(view.partitions),
        "topics": [asdict(topic) for topic in view.topics[:rows_max]],
        "groups": [_group_json(group) for group in view.groups[:rows_max]],
        "groups_error": view.groups_error,
    }


def failed_json(time_ms: int, reason: str) -> dict[str, object]:
    """A look that failed."""
    return {"time_ms": time_ms, "healthy": False, "problems": [reason]}


def print_view(view: View, *, rows_max: int) -> None:
    """One look: what is wrong, then brokers, partitions, topics and groups."""
    print_verdict(view.time_ms, problems_of(view))
    typer.echo()
    print_table(BROKER_COLUMNS, [broker_row(broker) for broker in view.brokers])
    for broker in view.brokers:
        if broker.reachable and broker.error is not None:
            typer.echo(f"broker {broker.broker_id}: {broker.error}")
    partitions = view.partitions
    under_min = "-" if partitions.under_min_in_sync is None else partitions.under_min_in_sync
    typer.echo(
        f"\n{count_text(partitions.count, 'partition')}: {partitions.offline} offline, {under_min} under "
        f"min.insync.replicas, {partitions.under_replicated} under-replicated"
    )
    _print_block(TOPIC_COLUMNS, [topic_row(topic) for topic in view.topics], rows_max, "topic")
    _print_block(GROUP_COLUMNS, [group_row(group) for group in view.groups], rows_max, "group")
    if view.groups_error is not None:
        typer.echo(f"groups are not up to date: {view.groups_error}")


def print_verdict(time_ms: int, problems: Sequence[str]) -> None:
    """The first line: whether all is well."""
    typer.echo(f"{time_text(time_ms)[:19]}  ", nl=False)
    if problems:
        typer.secho("; ".join(problems), fg="red", bold=True)
    else:
        typer.secho("all is well", fg="green", bold=True)


def _print_block(columns: Sequence[str], rows: Sequence[dict[str, object]], rows_max: int, word: str) -> None:
    typer.echo()
    if not rows:
        typer.echo(f"no {word}s")
        return
    print_table(columns, rows[:rows_max])
    if len(rows) > rows_max:
        typer.echo(f"and {count_text(len(rows) - rows_max, f'more {word}')}")


def broker_row(broker: BrokerRow) -> dict[str, object]:
    """One broker as a row of the table."""
    states = [] if broker.state == "active" and not broker.reachable else [broker.state]
    states += [] if broker.reachable else ["unreachable"]
    states += ["restarted"] if broker.restarted else []
    return {
        "id": broker.broker_id,
        "state": ", ".join(states),
        "controller": "*" if broker.is_controller else "",
        "leaders": broker.leaders,
        "replicas": broker.replicas,
        "in": bytes_text(broker.in_bytes_per_second, per_second=True),
        "out": bytes_text(broker.out_bytes_per_second, per_second=True),
        "produce/s": broker.produce_per_second,
        "fetch/s": broker.fetch_per_second,
        "loop_lag": _lag_text(broker.event_loop_lag_ms),
        "loop_max": _lag_text(broker.event_loop_lag_max_ms),
        "cpu": None if broker.cpu_percent is None else f"{broker.cpu_percent:.0f} %",
        "memory": bytes_text(broker.memory_bytes),
        "disk_free": bytes_text(broker.disk_free_bytes),
    }


def topic_row(topic: TopicRow) -> dict[str, object]:
    """One topic as a row of the table."""
    return {
        "topic": topic.topic,
        "partitions": topic.partitions,
        "records/s": topic.records_per_second,
        "bytes": bytes_text(topic.bytes_per_second, per_second=True),
    }


def group_row(group: GroupRow) -> dict[str, object]:
    """One group as a row of the table."""
    return {
        "group": group.group,
        "state": group.state,
        "members": group.members,
        "lag": group.total.records,
        "behind": seconds_text(group.total.seconds),
        "in/s": group.trend.produced_per_second,
        "out/s": group.trend.consumed_per_second,
        "trend": group.trend.direction,
        "clear_in": clear_text(group.trend),
    }


def _group_json(group: GroupRow) -> dict[str, object]:
    return {
        "group": group.group,
        "state": group.state,
        "members": group.members,
        **total_json(group.total, group.trend),
    }


def bytes_text(size: float | None, *, per_second: bool = False) -> str:
    """A size for people: `512 B`, `1.5 kB`, `82.8 GB`, `3.2 MB/s`; `-` when it is not known."""
    if size is None:
        return "-"
    rate = "/s" if per_second else ""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}{rate}" if unit == "B" else f"{size:.1f} {unit}{rate}"
        size /= 1000
    return f"{size:.1f} TB{rate}"


def _lag_text(lag_ms: float | None) -> str:
    return "-" if lag_ms is None else f"{lag_ms:.1f} ms" if lag_ms < 10 else f"{lag_ms:,.0f} ms"
