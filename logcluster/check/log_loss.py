"""Checks of loss: what was acknowledged must be read.

Owns lost-write, lost-on-node, unseen and undrained. A write is lost when it was acknowledged with acks=all, nobody
ever read it, and readers are past it: some reader passed over its offset, or, once the final drain read the partition
from the beginning, its offset lies below the bound of what was read. Acknowledged writes above that bound are
`unseen`: a lost tail or a consumer that is stuck. Source: Jepsen Kafka workload (lost-write, unseen); NATS checker
(prefix, middle, postfix, and loss per node, which finds a split brain that the union of all readers hides).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from logcluster.check.entries import Gap, Index, KeyIndex, Write
from logcluster.check.registry import Check, Findings

LOSS_RULES = {
    "lost-write": "A write acknowledged with acks=all is missing although readers went past it: acked is durable.",
    "unseen": "An acknowledged write was not read by the end of the final drain: lost tail or stuck consumer.",
    "undrained": "The run promised a final drain and acknowledged writes to this partition, but nothing drained it.",
}
NODE_RULES = {
    "lost-on-node": "One broker never served a record that others did, though readers went past it there: split brain.",
}


def check_loss(index: Index, findings: Findings) -> None:
    """Acknowledged values minus values read, per key."""
    split = {"prefix": 0, "middle": 0, "postfix": 0}
    findings.metrics["recovered"] = sum(
        write.outcome == "info" and write.value in index.keys[write.key].first_reader for write in index.writes.values()
    )
    for key_index in index.keys.values():
        topic = key_index.topic
        if topic.partition("@")[0] in findings.options.compacted_topics:
            continue
        is_deleted = topic in index.deleted_topics
        is_drained = key_index.drained_by is not None and not is_deleted
        lost = dict(_passed_over(key_index))
        if is_drained:
            lost.update(_below_bound(key_index, lost))
        _report_lost(key_index, lost, findings, split)
        if not is_deleted:
            _check_tail(index, key_index, lost, findings)
    findings.metrics["lost_split"] = split


def _passed_over(key_index: KeyIndex) -> Iterator[tuple[str, tuple[Write, Gap | None]]]:
    """Writes whose offset a reader passed over and that nobody read; each is looked at once, however many gaps."""
    offsets = key_index.acked_offsets if key_index.gaps else []
    done = 0
    for gap in sorted(key_index.gaps, key=key_index.first_owed):
        low = key_index.first_owed(gap)
        start, done_now = max(done, bisect_left(offsets, low)), bisect_left(offsets, gap.high)
        for place in range(start, done_now):
            write = key_index.acked_at[offsets[place]]
            if write.value not in key_index.first_reader:
                yield write.value, (write, gap)
        done = max(done, done_now)


def _below_bound(
    key_index: KeyIndex, known: dict[str, tuple[Write, Gap | None]]
) -> Iterator[tuple[str, tuple[Write, Gap | None]]]:
    """Writes below what was read, after a drain that began at the beginning."""
    highest = key_index.readers_end()
    if highest is None:
        return
    bound = min(highest, key_index.drained_to)
    low = key_index.deleted_below()
    for write in _unread(key_index):
        if write.offset is not None and low <= write.offset <= bound and write.value not in known:
            yield write.value, (write, None)


def _unread(key_index: KeyIndex) -> Iterator[Write]:
    first_reader = key_index.first_reader
    for write in key_index.writes:
        if write.outcome == "ok" and write.is_acks_all and write.value not in first_reader:
            yield write


def _report_lost(
    key_index: KeyIndex,
    lost: dict[str, tuple[Write, Gap | None]],
    findings: Findings,
    split: dict[str, int],
) -> None:
    if not lost:
        return
    places = _places_among_producers(key_index)
    highest = max(key_index.offset_of, key=key_index.offset_of.__getitem__, default="")
    for write, gap in lost.values():
        place = places[write.value]
        split[place] += 1
        events = list(write.events)
        shown = [write.offset]
        if gap is not None:
            passed = f"a reader went from offset {gap.low} to {gap.high}"
            events += [gap.before.index, gap.event.index]
            shown += [gap.low, gap.high]
        else:
            passed = f"readers came to offset {key_index.offset_of[highest]}"
            events.append(key_index.first_reader[highest].index)
        detail = (
            f"value {write.value!r}, acknowledged at offset {write.offset}, was never read though {passed} "
            f"({place} of what {write.invoke.client} sent)"
        )
        findings.add("lost-write", key_index.key, detail, events, shown)


def _places_among_producers(key_index: KeyIndex) -> dict[str, str]:
    """Per value: before the first value of its producer that was read (prefix), after the last, or between."""
    read_numbers: dict[str, list[int]] = {}
    for number, write in enumerate(key_index.writes):
        if write.value in key_index.first_reader:
            ends = read_numbers.setdefault(write.invoke.client, [number, number])
            ends[1] = number
    places = {}
    for number, write in enumerate(key_index.writes):
        first, last = read_numbers.get(write.invoke.client, [len(key_index.writes), -1])
        places[write.value] = "prefix" if number < first else "postfix" if number > last else "middle"
    return places


def _check_tail(
    index: Index, key_index: KeyIndex, lost: dict[str, tuple[Write, Gap | None]], findings: Findings
) -> None:
    """After the drain nothing acknowledged may be unread."""
    if findings.options.drain_required and key_index.drained_by is None:
        promised = [write for write in key_index.writes if write.is_promised]
        if promised:
            detail = f"{len(promised)} writes were acknowledged, but no drain covered the partition"
            findings.add("undrained", key_index.key, detail, promised[-1].events, [promised[-1].offset])
        return
    if not index.is_drained:
        return
    low = key_index.deleted_below()
    bound = key_index.readers_end()
    came_to = "nothing was read" if bound is None else f"readers came to offset {bound}"
    drained = () if key_index.drained_by is None else (key_index.drained_by.index,)
    for write in _unread(key_index):
        if write.value in lost or (write.offset is not None and write.offset < low):
            continue
        detail = f"value {write.value!r}, acknowledged at offset {write.offset}, was not drained: {came_to}"
        findings.add("unseen", key_index.key, detail, [*write.events, *drained], [write.offset, bound])


def check_nodes(index: Index, findings: Findings) -> None:
    """Per broker that served reads: what it left out although others served it."""
    for key_index in index.keys.values():
        if not key_index.read_on_node or key_index.topic.partition("@")[0] in findings.options.compacted_topics:
            continue
        for gap in key_index.gaps:
            if gap.node is None:
                continue
            served = key_index.read_on_node.get(gap.node, set())
            passed = (key_index.read_offsets[place] for place in key_index.read_between(gap))
            missing = next((offset for offset in passed if offset not in served), None)
            if missing is not None:
                value = key_index.read_at[missing]
                detail = f"node {gap.node} served offsets {gap.low} and {gap.high}, and never {value!r} at {missing}"
                events = [gap.before.index, gap.event.index, key_index.first_reader[value].index]
                findings.add("lost-on-node", key_index.key, detail, events, [missing, gap.high])


CHECKS = (Check(check_loss, LOSS_RULES), Check(check_nodes, NODE_RULES))
