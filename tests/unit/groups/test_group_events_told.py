"""What the log of a node tells of groups: a rebalance once, and nothing of what goes on in between."""

from __future__ import annotations

from typing import Any

import pytest

from logcluster.broker.coordinators.group_events import tell_rebalances
from logcluster.core.coordinators.groups.records import EventRecord, EventValue


def event(sequence: int, kind: Any, **facts: Any) -> EventRecord:
    value = EventValue(time_ms=1, kind=kind, group_epoch=4, reason=f"because of {kind}", **facts)
    return EventRecord(group="billing", sequence=sequence, value=value)


def test_a_rebalance_is_told_with_its_reason_and_its_size(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="logcluster")
    records = [
        event(7, "joined", member_id="a"),
        event(8, "rebalanced", partition_counts={"a": 3, "b": 3}, moved=2),
        EventRecord(group="billing", sequence=1, value=None),
    ]
    tell_rebalances("__consumer_offsets-3", records)
    assert caplog.messages == [
        "group_rebalanced group=billing partition=__consumer_offsets-3 group_epoch=4 members=2 moved_partitions=2 "
        "reason=because of rebalanced"
    ]


def test_commits_and_heartbeats_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="logcluster")
    tell_rebalances("__consumer_offsets-3", [event(7, "settled"), event(8, "reset"), object()])
    assert caplog.messages == []
