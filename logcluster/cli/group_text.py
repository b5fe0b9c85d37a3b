"""Groups, members, lags, events and resets as rows for tables and JSON, and as lines; no input or output here.

JSON rows carry numbers with their units in the names; tables carry what people read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from logcluster.client.lag import LagReport, LagTotal, LagTrend, PartitionLag

if TYPE_CHECKING:
    from logcluster.client.group_descriptions import GroupEvent, GroupFacts, GroupListing, MemberFacts, OffsetChange

GROUP_COLUMNS: Final = ["group", "state", "members", "group_epoch", "coordinator_id"]
MEMBER_COLUMNS: Final = ["member", "host", "state", "epoch", "partitions", "to_come", "silent", "processing"]
OFFSET_COLUMNS: Final = ["topic", "partition", "committed", "end_offset", "lag", "behind", "member"]
LAG_COLUMNS: Final = ["topic", "partition", "committed", "end_offset", "lag", "behind", "in/s", "out/s", "trend",
                      "clear_in"]  # fmt: skip
CHANGE_COLUMNS: Final = ["topic", "partition", "before", "after", "moved", "note"]
_MEMBER_ID_LETTERS: Final = 8


def span_text(span_ms: float | None) -> str:
    """A length of time for people: `250 ms`, `1.5 s`, `3m 20s`, `2h 5m`, `3d 4h`; `-` when it is not known."""
    if span_ms is None:
        return "-"
    if span_ms < 1000:
        return f"{round(span_ms)} ms"
    seconds = span_ms / 1000
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for unit_seconds, name, part_seconds, part_name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m")):
        if whole >= unit_seconds:
            return f"{whole // unit_seconds}{name} {whole % unit_seconds // part_seconds}{part_name}"
    return f"{whole // 60}m {whole % 60}s"


def count_text(count: int, word: str) -> str:
    """A number of things: `1 member`, `2,000 records`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def time_text(time_ms: int) -> str:
    """A point in time, local, to the millisecond."""
    return datetime.fromtimestamp(time_ms / 1000).astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]


def seconds_text(seconds: float | None) -> str:
    """As `span_text`; nothing at all is `0 s`."""
    return "-" if seconds is None else "0 s" if seconds == 0 else span_text(seconds * 1000)


def partitions_text(partitions: Iterable[tuple[str, int]]) -> str:
    """Partitions by topic, runs drawn together: `orders:0-3,5 payments:1`; `-` when there are none."""
    by_topic: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        by_topic.setdefault(topic, []).append(partition)
    return " ".join(f"{topic}:{_runs(numbers)}" for topic, numbers in by_topic.items()) or "-"


def _runs(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def listing_row(listing: GroupListing) -> dict[str, object]:
    """One group as `group ls` prints it."""
    return {
        "group": listing.group,
        "state": listing.state,
        "members": listing.member_count,
        "group_epoch": listing.group_epoch,
        "coordinator_id": listing.coordinator_id,
    }


def group_json(facts: GroupFacts) -> dict[str, object]:
    """A group with its members; without offsets."""
    return {
        "group": facts.group,
        "state": facts.state,
        "group_epoch": facts.group_epoch,
        "assignment_epoch": facts.assignment_epoch,
        "assignor": facts.assignor,
        "coordinator_id": facts.coordinator_id,
        "members": [member_json(member) for member in facts.members],
    }


def member_json(member: MemberFacts) -> dict[str, object]:
    """One member, with all that is known."""
    return {
        "member_id": member.member_id,
        "instance_id": member.instance_id,
        "client_id": member.client_id,
        "host": member.client_host,
        "rack": member.rack_id or None,
        "member_epoch": member.member_epoch,
        "state": member.state,
        "topics": list(member.topics),
        "topic_regex": member.topic_regex,
        "assignment": [{"topic": topic, "partition": partition} for topic, partition in member.assignment],
        "target": [{"topic": topic, "partition": partition} for topic, partition in member.target],
        "joined_ms": member.joined_ms,
        "silent_ms": member.silent_ms,
        "connected": member.is_connected,
        "processing_since_ms": member.processing_since_ms,
    }


def group_line(facts: GroupFacts) -> str:
    """What is to be said of a group in one line."""
    epochs = f"epoch {facts.group_epoch}"
    if facts.assignment_epoch != facts.group_epoch:
        epochs += f" (assignment of {facts.assignment_epoch})"
    return (
        f"{facts.group}   {facts.state}   {count_text(len(facts.members), 'member')}   {epochs}   "
        f"{facts.assignor}   coordinator {facts.coordinator_id}"
    )


def member_name(member_id: str, instance_id: str | None = None, client_id: str = "") -> str:
    """A member as tables call it: its instance or client, and the beginning of its id."""
    label = instance_id or client_id
    short = member_id[:_MEMBER_ID_LETTERS]
    return f"{label}/{short}" if label else short


def member_row(member: MemberFacts, *, now_ms: int) -> dict[str, object]:
    """One member as a row of a table."""
    processing = "-"
    if member.processing_since_ms is not None:
        processing = f"since {span_text(max(0, now_ms - member.processing_since_ms))}"
    silent = span_text(member.silent_ms)
    return {
        "member": member_name(member.member_id, member.instance_id, member.client_id),
        "host": member.client_host or "-",
        "state": member.state,
        "epoch": member.member_epoch,
        "partitions": partitions_text(member.assignment),
        "to_come": partitions_text(set(member.target) - set(member.assignment)),
        "silent": silent if member.is_connected else f"{silent}, not connected",
        "processing": processing,
    }


def lag_json(lag: PartitionLag, trend: LagTrend | None = None) -> dict[str, object]:
    """One partition's lag; with a trend, also its rates."""
    row: dict[str, object] = {
        "topic": lag.topic,
        "partition": lag.partition,
        "committed": lag.committed,
        "log_start_offset": lag.log_start_offset,
        "end_offset": lag.end_offset,
        "lag_records": lag.records,
        "lag_seconds": lag.seconds,
        "behind_log_start": lag.is_behind_log_start,
        "member_id": lag.member_id,
    }
    return row if trend is None else row | trend_json(trend)


def trend_json(trend: LagTrend) -> dict[str, object]:
    """Rates and direction; `clear_seconds` null with `never_clears` false means that it is not known."""
    return {
        "trend": trend.direction,
        "produced_per_second": trend.produced_per_second,
        "consumed_per_second": trend.consumed_per_second,
        "clear_seconds": trend.clear_seconds,
        "never_clears": trend.is_never,
    }


def total_json(total: LagTotal, trend: LagTrend | None = None) -> dict[str, object]:
    """The lag of the whole group."""
    row: dict[str, object] = {
        "lag_records": total.records,
        "lag_seconds": total.seconds,
        "unknown_partitions": total.unknown_count,
    }
    return row if trend is None else row | trend_json(trend)


def lag_row(lag: PartitionLag, trend: LagTrend | None = None) -> dict[str, object]:
    """One partition's lag as a row of a table."""
    behind = seconds_text(lag.seconds)
    row: dict[str, object] = {
        "topic": lag.topic,
        "partition": lag.partition,
        "committed": lag.committed,
        "end_offset": lag.end_offset,
        "lag": lag.records,
        "behind": f"{behind}, records expired" if lag.is_behind_log_start else behind,
        "member": None if lag.member_id is None else member_name(lag.member_id),
    }
    if trend is not None:
        row |= {
            "in/s": trend.produced_per_second,
            "out/s": trend.consumed_per_second,
            "trend": trend.direction,
            "clear_in": clear_text(trend),
        }
    return row


def clear_text(trend: LagTrend) -> str:
    """How long until nothing is left: a time, `never`, or `-`."""
    return "never" if trend.is_never else seconds_text(trend.clear_seconds)


def total_line(total: LagTotal, report: LagReport | None = None) -> str:
    """The lag of the whole group in one line."""
    if total.records is None:
        return "lag not known: nothing is committed, or no leader answers"
    parts = [f"{count_text(total.records, 'record')} behind"]
    if total.seconds is not None and total.records:
        parts.append(f"oldest unread {seconds_text(total.seconds)} old")
    trend = None if report is None else report.trend
    if trend is not None and trend.produced_per_second is not None and trend.consumed_per_second is not None:
        parts.append(f"{trend.produced_per_second:,.1f}/s in, {trend.consumed_per_second:,.1f}/s out")
    if trend is not None and total.records:
        parts.append(f"{trend.direction}, clear in {clear_text(trend)}" if not trend.is_never
                     else f"{trend.direction}, never clears at this pace")  # fmt: skip
    if report is not None and 0 < report.stalled_count < len(report.lags):
        parts.append(f"{count_text(report.stalled_count, 'partition')} stalled")
    if total.unknown_count:
        parts.append(f"{count_text(total.unknown_count, 'partition')} not known")
    return "; ".join(parts)


def event_json(event: GroupEvent) -> dict[str, object]:
    """One event, with all that is known."""
    return {
        "sequence": event.sequence,
        "time_ms": event.time_ms,
        "kind": event.kind,
        "group_epoch": event.group_epoch,
        "reason": event.reason,
        "member_id": event.member_id,
        "instance_id": event.instance_id,
        "host": event.client_host,
        "partition_counts": dict(event.partition_counts),
        "moved": event.moved,
    }


def event_line(event: GroupEvent) -> str:
    """One event: when, what, who, why, and what became of the partitions."""
    parts = [f"{event.sequence:>5}  {time_text(event.time_ms)}  epoch {event.group_epoch:<4}  {event.kind:<14}"]
    if event.member_id:
        who = member_name(event.member_id, event.instance_id)
        parts.append(f"{who} at {event.client_host}" if event.client_host else who)
    parts.append(event.reason)
    if event.partition_counts:
        counts = ", ".join(f"{member_name(member)} {count}" for member, count in sorted(event.partition_counts.items()))
        parts.append(f"[{counts}; {event.moved} move]")
    return "  ".join(part for part in parts if part).rstrip()


def change_json(change: OffsetChange) -> dict[str, object]:
    """What a reset does to one partition."""
    return {
        "topic": change.topic,
        "partition": change.partition,
        "before": change.before,
        "after": change.after,
        "clamped": change.is_clamped,
    }


def change_row(change: OffsetChange) -> dict[str, object]:
    """What a reset does to one partition, as a row of a table."""
    moved = None if change.before is None else change.after - change.before
    return {
        "topic": change.topic,
        "partition": change.partition,
        "before": change.before,
        "after": change.after,
        "moved": "-" if moved is None else f"{moved:+,}" if moved else "0",
        "note": "nearest in the log" if change.is_clamped else "",
    }
