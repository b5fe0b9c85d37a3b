"""Checks of order: readers go through a partition without skipping, repeating or going back; so do sends.

Owns the poll-order anomalies (int-poll-skip, int-nonmonotonic-poll, poll-skip, nonmonotonic-poll, head-skip,
order-in-poll) and the send-order ones (int-nonmonotonic-send, nonmonotonic-send, realtime-offset-regression). Polled
records carry their offset, so order is judged by offsets: a hole is a skip only if some reader saw a record in it
(records nobody ever saw are the business of log_loss.py). Values in two places and offsets with two values are left
out of the skip check and reported once, in log_values.py. Source: Jepsen Kafka workload; realtime order: Redpanda's
chaos checker.
"""

from __future__ import annotations

from collections.abc import Iterator

from logcluster.check.entries import Backward, Gap, Index, KeyIndex, Write
from logcluster.check.registry import Check, Findings

SKIP_NAMES = {"inside": "int-poll-skip", "between": "poll-skip", "head": "head-skip"}
POLL_RULES = {
    "int-poll-skip": "One poll passed over a record that exists: a consumer would never process it.",
    "poll-skip": "Two polls of an assigned consumer leave out a record between them that exists.",
    "head-skip": "The first poll after an assignment passed over a record at or above the assigned position.",
    "int-nonmonotonic-poll": "One poll went backwards or repeated a record.",
    "nonmonotonic-poll": "An assigned consumer was given a record at or below one it had already been given.",
    "order-in-poll": "Offsets inside one poll did not strictly ascend (values that stand in two places).",
}
SEND_RULES = {
    "int-nonmonotonic-send": "Two sends of one operation stand in the log in reverse order.",
    "nonmonotonic-send": "Two sends of one idempotent producer stand in the log in reverse order.",
    "realtime-offset-regression": "A send that began after another was acknowledged got a lower offset: "
    "appends are linearizable.",
}


def check_polls(index: Index, findings: Findings) -> None:
    """Every step of a reader that was not to the next offset."""
    for key_index in index.keys.values():
        is_compacted = key_index.topic.partition("@")[0] in findings.options.compacted_topics
        if not is_compacted:
            for gap in key_index.gaps:
                _check_gap(index, key_index, gap, findings)
        for backward in key_index.backward:
            _report_backward(key_index, backward, findings)


def _check_gap(index: Index, key_index: KeyIndex, gap: Gap, findings: Findings) -> None:
    places = key_index.read_between(gap)
    skipped = (key_index.read_offsets[place] for place in places)
    first = next((offset for offset in skipped if not _is_ambiguous(index, key_index, offset)), None)
    if first is None:
        return
    value = key_index.read_at[first]
    whence = f"assigned to {gap.low + 1}, began" if gap.kind == "head" else f"from offset {gap.low} went on"
    detail = f"{whence} at {gap.high} and passed over {len(places)} records, among them {value!r} at offset {first}"
    witness = key_index.first_reader[value].index
    findings.add(
        SKIP_NAMES[gap.kind], key_index.key, detail, [gap.before.index, gap.event.index, witness], [first, gap.high]
    )


def _is_ambiguous(index: Index, key_index: KeyIndex, offset: int) -> bool:
    """The record takes part in an illegal duplicate or in inconsistent offsets, which are reported already."""
    if offset in key_index.conflicts:
        return True
    value = key_index.read_at[offset]
    if value not in key_index.duplicates:
        return False
    write = index.writes.get(value)
    return write is None or write.is_idempotent


def _report_backward(key_index: KeyIndex, step: Backward, findings: Findings) -> None:
    if step.kind != "inside":
        name = "nonmonotonic-poll"
    elif step.value in key_index.duplicates or step.value not in key_index.offset_of:
        name = "order-in-poll"
    else:
        name = "int-nonmonotonic-poll"
    detail = f"expected offset {step.expected} or above, was given {step.value!r} at offset {step.offset}"
    findings.add(name, key_index.key, detail, [step.before.index, step.event.index], [step.offset, step.expected])


def check_sends(index: Index, findings: Findings) -> None:
    """Order of acknowledged appends: of one producer, and of real time."""
    skips = 0
    for key_index in index.keys.values():
        skips += _check_producers(key_index, findings)
        for write in key_index.overtaken:
            floor = write.floor
            if floor is not None:
                detail = (
                    f"{write.value!r} was sent after {floor.value!r} was acknowledged at offset {floor.offset}, "
                    f"but got offset {write.offset}"
                )
                findings.add(
                    "realtime-offset-regression",
                    key_index.key,
                    detail,
                    [*floor.events, *write.events],
                    [floor.offset, write.offset],
                )
    findings.metrics["int_send_skips"] = skips


def _check_producers(key_index: KeyIndex, findings: Findings) -> int:
    """Neighbouring sends of one process, in the order they began; returns how many inside one had others between."""
    skips = 0
    for earlier, later, earlier_offset, later_offset in _neighbours(key_index):
        is_inside = earlier.invoke is later.invoke
        if later_offset >= earlier_offset:  # Equal is inconsistent-offsets.
            skips += is_inside and later_offset > earlier_offset + 1
            continue
        if not is_inside and _is_judged_by_time(earlier, later):
            continue
        name = "int-nonmonotonic-send" if is_inside else "nonmonotonic-send"
        detail = (
            f"{earlier.value!r} was sent before {later.value!r} but stands behind it: "
            f"offsets {earlier_offset} and {later_offset}"
        )
        findings.add(name, key_index.key, detail, [*earlier.events, *later.events], [earlier_offset, later_offset])
    return skips


def _is_judged_by_time(earlier: Write, later: Write) -> bool:
    """The later send began when the earlier one was acknowledged: that is realtime-offset-regression already."""
    known = earlier.offset is not None and later.offset is not None and earlier.completion is not None
    return known and earlier.completion is not None and earlier.completion.index < later.invoke.index


def _neighbours(key_index: KeyIndex) -> Iterator[tuple[Write, Write, int, int]]:
    """Consecutive acknowledged sends of each process that the producer had to keep in order, with their offsets.

    Without idempotence or with weak acks order may break; after `info` a producer may begin anew as another one.
    """
    latest: dict[str, tuple[Write, int]] = {}
    for write in key_index.writes:
        if write.outcome != "ok" or not write.is_idempotent:
            continue
        offset = write.offset if write.offset is not None else key_index.offset_of.get(write.value)
        if offset is None or write.value in key_index.duplicates:
            continue
        process = write.invoke.process
        earlier = latest.get(process)
        if earlier is not None:
            yield earlier[0], write, earlier[1], offset
        latest[process] = (write, offset)


CHECKS = (Check(check_polls, POLL_RULES), Check(check_sends, SEND_RULES))
