"""Which topics a fault excuses, and that the history of the others stays whole."""

from __future__ import annotations

import pytest

from logcluster.check.history import Event, Recorder
from logcluster.sim.workload.excuses import is_excused, without_topics
from logcluster.sim.workload.options import TopicOptions


@pytest.mark.parametrize(
    ("is_durable", "min_isr", "power_loss", "disk_damage", "expected"),
    [
        (True, 2, True, True, False),
        (True, 1, True, False, False),
        (True, 1, False, True, True),
        (False, 2, False, False, False),
        (False, 2, True, False, True),
        (False, 2, False, True, True),
    ],
)
def test_excuses(*, is_durable: bool, min_isr: int, power_loss: bool, disk_damage: bool, expected: bool) -> None:
    topic = TopicOptions(name="t", partitions=1, min_isr=min_isr, is_durable=is_durable, config={})
    assert is_excused(topic, power_loss=power_loss, disk_damage=disk_damage) is expected


def history() -> list[Event]:
    recorder = Recorder(lambda: 0)
    for name, value in [
        ("send", ["weak-0", None, "v1"]),
        ("send", ["my-strong-1", None, "v2"]),
        ("poll", {"weak-0": [[0, "v1"]], "my-strong-1": [[0, "v2"]]}),
        ("poll", {"my-strong-1": []}),
        ("list_offsets", {"weak-0": 1}),
        ("delete_topic", "weak"),
    ]:
        recorder.complete(recorder.invoke("p", "c", name, value), "ok", value)
    return recorder.events


def test_a_topic_is_taken_out_of_sends_and_polls() -> None:
    kept = [event for event in without_topics(history(), ["weak"]) if event.type == "ok"]
    assert [(event.f, event.value) for event in kept] == [
        ("send", ["my-strong-1", None, "v2"]),
        ("poll", {"my-strong-1": [[0, "v2"]]}),
        ("poll", {"my-strong-1": []}),
        ("list_offsets", {}),
        ("delete_topic", "weak"),
    ]


def test_without_excuses_nothing_changes() -> None:
    assert without_topics(history(), []) == history()
