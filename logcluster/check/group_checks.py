"""Checks of consumer groups: committed offsets last, partitions have one owner, no record is left out.

Owns commit-lost, commit-phantom, spurious-reset, offset-regression, resumed-elsewhere, zombie-commit, double-ownership
and group-gap. Committed offsets are judged as a register (group_register.py), so that operations that overlap or have
an unknown outcome excuse what they can. A record is owed to a group if it is known to exist: some poll returned it, or
its write was acknowledged with acks=all; records of transactions that are not known to be committed, deleted ones,
compacted topics and what log_values.py reports already are not. Source: reliability rules of Redpanda's and
Bufstream's consistency tests (commits, resets, gaps); KIP-848 and KIP-1251 (who may commit).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from logcluster.check.entries import Index, KeyIndex
from logcluster.check.group_entries import NEVER, GroupIndex, GroupKey, Span
from logcluster.check.group_register import Impossible, RegisterSweep
from logcluster.check.registry import Check, Findings

REGISTER_RULES = {
    "commit-lost": "A committed offset was read that an acknowledged commit had replaced: commits are durable.",
    "commit-phantom": "An offset was read as committed that nobody had tried to commit.",
    "spurious-reset": "A member began by its start policy although an offset was committed and in range: "
    "records come again, or never.",
}
ORDER_RULES = {
    "offset-regression": "A member's commit undid a higher one although nobody had moved the group back.",
    "resumed-elsewhere": "A member began to read at another place than the committed offset.",
    "zombie-commit": "A commit was accepted from a member that had left, or whose partition was another one's by then.",
    "double-ownership": "A partition had two owners, though its first owner was still there or had given it up.",
}
GAP_RULES = {
    "group-gap": "The group is past a record that none of its members was ever handed: at-least-once is broken.",
}
_SHOWN = 3


def check_registers(index: Index, findings: Findings) -> None:
    """What was read as committed, and what the groups did at all."""
    if not index.groups:
        return
    metrics = findings.metrics["groups"] = {}
    for group in index.groups.values():
        recovered = 0
        for group_key in group.keys.values():
            sweep = RegisterSweep(group_key.writes, group_key.reads, group.wipes)
            for impossible in sweep.impossible():
                _report_read(group, group_key, impossible, findings)
            recovered += sweep.recovered_count
        metrics[group.name] = {
            "members": len(group.client_of),
            "records_handed": group.record_count,
            "records_redelivered": group.redelivered_count,
            "commits": group.commits,
            "commits_recovered": recovered,
        }


def _report_read(group: GroupIndex, group_key: GroupKey, found: Impossible, findings: Findings) -> None:
    read, floor, source = found.read, found.floor, found.source
    events = list(read.events)
    if floor is None:
        known = "nothing was committed"
    else:
        events += floor.events
        who = floor.member or "somebody outside of the group"
        known = "the offset was removed" if floor.offset is None else f"{who} had {floor.offset} acknowledged"
    refused = group_key.refused.get(read.offset) if read.offset is not None else None
    if read.is_by_policy:
        name, what = "spurious-reset", f"{read.completion.meta.get('member')} began by its policy, but {known}"
    elif read.offset is None:
        name, what = "commit-lost", f"nothing was said to be committed, but {known}"
    elif source is not None:
        events += source.events
        name, what = "commit-lost", f"{read.offset} was said to be committed, but {known} since"
    else:
        name, what = "commit-phantom", f"{read.offset} was said to be committed, which nobody had tried; {known}"
        if refused is not None and refused.index < read.completion.index:
            events.append(refused.index)
            what += ", and a commit of it had been refused"
    offsets = [read.offset, floor.offset if floor is not None else None]
    findings.add(name, group_key.key, f"group {group.name}: {what}", events, offsets)


def check_order(index: Index, findings: Findings) -> None:
    """What the order of events alone proves, and starts that passed over records."""
    for group, group_key in _partitions(index):
        for breach in group_key.breaches:
            detail = f"group {group.name}: {breach.detail}"
            findings.add(breach.name, group_key.key, detail, breach.events, breach.offsets)
        for span, passed in _passed_over(index, group_key.key, group_key.start_spans, {}, findings):
            detail = (
                f"group {group.name}: a member began at {span.low}, was handed {span.end} and never {_listed(passed)}"
            )
            findings.add("resumed-elsewhere", group_key.key, detail, span.events, [passed[0], span.end])


def check_gaps(index: Index, findings: Findings) -> None:
    """Every record that the group is past was handed to somebody; no member leaves out what a former owner had."""
    for group, group_key in _partitions(index):
        handed = group_key.handed
        for span, missing in _passed_over(index, group_key.key, group_key.spans, handed, findings):
            past = "handed out" if span.deadline == NEVER else "committed"
            detail = f"group {group.name}: {past} up to {span.end}, but no member was handed {_listed(missing)}"
            events = [*span.events, *_witness(index.keys[group_key.key], missing[0])]
            findings.add("group-gap", group_key.key, detail, events, [missing[0], span.end])
        for span, passed in _passed_over(index, group_key.key, group_key.step_spans, {}, findings):
            others = [offset for offset in passed if handed.get(offset, NEVER) < span.event.index]
            if others:  # The rest is nobody's, and reported above.
                detail = f"group {group.name}: a member went from {span.low} to {span.end}, past {_listed(others)}"
                findings.add("group-gap", group_key.key, detail, span.events, [others[0], span.end])


def _partitions(index: Index) -> Iterator[tuple[GroupIndex, GroupKey]]:
    for group in index.groups.values():
        for group_key in group.keys.values():
            yield group, group_key


def _passed_over(
    index: Index, key: str, spans: list[Span], handed: dict[int, int], findings: Findings
) -> Iterator[tuple[Span, list[int]]]:
    """Per span the offsets of the records owed in it that were not handed out in time; each is looked at once."""
    key_index = index.keys.get(key)
    if not spans or key_index is None or key_index.topic.partition("@")[0] in findings.options.compacted_topics:
        return
    deletion = index.deleted_topics.get(key_index.topic)
    read_at, records = key_index.read_at, key_index.read_offsets
    unread = [offset for offset in key_index.acked_at if offset not in read_at]
    if unread:
        records = sorted(records + unread)
    done = 0
    for span in sorted(spans, key=lambda span: span.low):
        if deletion is not None and deletion.index < span.event.index:
            continue
        low = max(span.low, done, key_index.deleted_below(span.event.index))
        done = max(done, span.end)
        inside = records[bisect_left(records, low) : bisect_left(records, span.end)]
        late = [offset for offset in inside if handed.get(offset, NEVER) >= span.deadline]
        owed = [offset for offset in late if _is_owed(index, key_index, offset)]
        if owed:
            yield span, owed


def _is_owed(index: Index, key_index: KeyIndex, offset: int) -> bool:
    """The record exists and is visible for certain, and nothing else is wrong with it."""
    read, acked = key_index.read_at.get(offset), key_index.acked_at.get(offset)
    value = read if read is not None else acked.value if acked is not None else ""
    write = index.writes.get(value)
    if write is None or write.outcome == "fail" or (write.is_transactional and write.outcome != "ok"):
        return False
    is_moved = acked is not None and acked.value != value
    return not is_moved and offset not in key_index.conflicts and value not in key_index.duplicates


def _witness(key_index: KeyIndex, offset: int) -> tuple[int, ...]:
    """An event that shows that there is a record."""
    value = key_index.read_at.get(offset)
    return key_index.acked_at[offset].events if value is None else (key_index.first_reader[value].index,)


def _listed(offsets: list[int]) -> str:
    shown = ", ".join(map(str, offsets[:_SHOWN]))
    return shown if len(offsets) <= _SHOWN else f"{shown} and {len(offsets) - _SHOWN} more"


CHECKS = (
    Check(check_registers, REGISTER_RULES),
    Check(check_order, ORDER_RULES),
    Check(check_gaps, GAP_RULES),
)
