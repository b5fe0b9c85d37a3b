"""Checks of single values: was what readers saw ever sent, whole, allowed to exist, and in one place?

Owns malformed-history, phantom, resurrection, corrupt-value, G1a, G1c-realtime, duplicate, inconsistent-offsets and
offset-reassigned. A repeated value is reported once, whatever it disturbs afterwards. Source: Jepsen Kafka workload;
phantom is the NATS checker's "unexpected".
"""

from __future__ import annotations

from collections.abc import Iterator

from logcluster.check.entries import Index, KeyIndex, Write
from logcluster.check.history import Event
from logcluster.check.registry import Check, Findings

WRITTEN_RULES = {
    "phantom": "A reader was given a value that no client ever tried to send to that partition.",
    "resurrection": "A record of one incarnation of a topic was served under another: deleted data must stay deleted.",
    "G1a": "A reader was given a value whose send had definitely failed: a refusal promises it will never exist.",
    "G1c-realtime": "A value was read before its send had begun, so the reader saw something that did not exist yet.",
}
PLACE_RULES = {
    "duplicate": "One send of an idempotent producer stands in the log twice: a retry must never append again.",
    "inconsistent-offsets": "Two values were seen at one offset: below the high watermark there is one history.",
    "offset-reassigned": "After an offset had been acknowledged for one value, another value was read there.",
}


def check_malformed(index: Index, findings: Findings) -> None:
    """The recorder broke the format's rules, so nothing else here can be trusted."""
    for why, event in index.malformed:
        findings.add("malformed-history", "", f"event #{event.index}: {why}", [event.index])


def check_corrupt(index: Index, findings: Findings) -> None:
    """Records that readers could not decode or found changed."""
    for key, key_index in index.keys.items():
        for offset, mark, event in key_index.corrupt:
            findings.add("corrupt-value", key, f"offset {offset}: {mark}", [event.index], [offset])


def check_written(index: Index, findings: Findings) -> None:
    """Every value read must have been sent there, before, and not refused."""
    for key, key_index in index.keys.items():
        for value, reader in key_index.first_reader.items():
            write = index.writes.get(value)
            offset = key_index.offset_of[value]
            if write is None or write.key != key:
                _unwritten(findings, key, value, offset, reader.index, write)
            elif write.outcome == "fail" and not (
                write.is_transactional and reader.meta.get("isolation") == "read_uncommitted"
            ):
                detail = f"value {value!r} was definitely refused, yet read at offset {offset}"
                findings.add("G1a", key, detail, [*write.events, reader.index], [offset])
            elif reader.index < write.invoke.index:
                detail = f"value {value!r} was read at offset {offset} before anybody had sent it"
                findings.add("G1c-realtime", key, detail, [reader.index, write.invoke.index], [offset])


def _unwritten(findings: Findings, key: str, value: str, offset: int, reader: int, write: Write | None) -> None:
    if write is None:
        findings.add("phantom", key, f"value {value!r} at offset {offset} was sent by nobody", [reader], [offset])
        return
    same_name = key.partition("@")[0] == write.key.partition("@")[0]
    name = "resurrection" if same_name else "phantom"
    detail = f"value {value!r} at offset {offset} was sent to {write.key}"
    findings.add(name, key, detail, [*write.events, reader], [offset])


def check_places(index: Index, findings: Findings) -> None:
    """One value at one offset, one offset for one value."""
    legal_duplicates = 0
    doubtful: list[tuple[KeyIndex, dict[str, set[int]], dict[int, set[str]]]] = []
    wanted: dict[str, set[int]] = {}
    for key, key_index in index.keys.items():
        places = {value: set(offsets) for value, offsets in key_index.duplicates.items()}
        contents = {offset: set(values) for offset, values in key_index.conflicts.items()}
        for offset, write in key_index.acked_at.items():
            _compare(key_index, offset, write, places, contents)
        for known, write in key_index.acked_twice:
            if write.offset is not None:
                contents.setdefault(write.offset, set()).update((known.value, write.value))
                _compare(key_index, write.offset, write, places, contents)
        for value in list(places):
            writer = index.writes.get(value)
            if writer is not None and writer.key == key and not writer.is_idempotent:
                legal_duplicates += 1
                del places[value]
        if places or contents:
            doubtful.append((key_index, places, contents))
            wanted[key] = set(contents).union(*places.values())
    findings.metrics["duplicates_without_idempotence"] = legal_duplicates
    if doubtful:
        _report_places(index, findings, doubtful, wanted)


def _compare(
    key_index: KeyIndex, offset: int, write: Write, places: dict[str, set[int]], contents: dict[int, set[str]]
) -> None:
    """An acknowledged offset against what readers saw there, and where they saw its value."""
    read = key_index.read_at.get(offset)
    if read is not None and read != write.value:
        contents.setdefault(offset, set()).update((read, write.value))
    seen_at = key_index.offset_of.get(write.value)
    if seen_at is not None and seen_at != offset:
        places.setdefault(write.value, {seen_at}).add(offset)


def _report_places(
    index: Index,
    findings: Findings,
    doubtful: list[tuple[KeyIndex, dict[str, set[int]], dict[int, set[str]]]],
    wanted: dict[str, set[int]],
) -> None:
    sightings = index.sightings(wanted)
    for key_index, places, contents in doubtful:
        key = key_index.key
        for value in sorted(places):
            offsets = sorted(places[value])
            seen = [sightings[key, offset, value].index for offset in offsets if (key, offset, value) in sightings]
            events = [*seen, *_acks(index, key, value)]
            findings.add("duplicate", key, f"value {value!r} stands at offsets {offsets}", events, offsets)
        for offset in sorted(contents):
            values = sorted(contents[offset])
            acked = list(_acked_here(index, key, offset, values))
            reads = [(value, sightings[key, offset, value]) for value in values if (key, offset, value) in sightings]
            events = [event.index for _, event in reads] + [number for write in acked for number in write.events]
            broken = next(_reassigned(acked, reads), None)
            name = "offset-reassigned" if broken else "inconsistent-offsets"
            findings.add(name, key, broken or f"offset {offset} held {', '.join(map(repr, values))}", events, [offset])


def _acks(index: Index, key: str, value: str) -> tuple[int, ...]:
    write = index.writes.get(value)
    return write.events if write is not None and write.key == key else ()


def _acked_here(index: Index, key: str, offset: int, values: list[str]) -> Iterator[Write]:
    for value in values:
        write = index.writes.get(value)
        if write is not None and write.key == key and write.is_promised and write.offset == offset:
            yield write


def _reassigned(acked: list[Write], reads: list[tuple[str, Event]]) -> Iterator[str]:
    """Acknowledged first, another value read there afterwards."""
    for write in acked:
        for value, event in reads:
            completed = write.completion.index if write.completion is not None else -1
            if value != write.value and event.index > completed:
                yield f"offset {write.offset} was acknowledged for {write.value!r}, then {value!r} was read there"


CHECKS = (
    Check(
        check_malformed,
        {"malformed-history": "The history breaks its own format, so the recorder is wrong and nothing can be proved."},
    ),
    Check(check_written, WRITTEN_RULES),
    Check(
        check_corrupt,
        {"corrupt-value": "A reader was given damaged bytes, or another key or timestamp than was sent."},
    ),
    Check(check_places, PLACE_RULES),
)
