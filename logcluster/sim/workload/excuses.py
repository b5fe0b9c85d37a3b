"""Which topics may lose acknowledged records under which faults, and a history without them.

A topic that flushes lazily may lose them with the power; one that acknowledges with a single copy may lose them with
that copy's disk. Such topics are part of the load, because what others keep must not suffer from them, but after such a
fault nothing is promised for them, and neither the checker nor the final clients ask. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from logcluster.check.history import Event
from logcluster.sim.workload.options import TopicOptions

SAFE_MIN_ISR = 2


def is_excused(topic: TopicOptions, *, power_loss: bool, disk_damage: bool) -> bool:
    """Whether the topic promises nothing any more.

    Args:
        power_loss: some machine lost what it had not synced.
        disk_damage: some disk was lost, damaged, or refused to sync.
    """
    is_lazy = not topic.is_durable
    return (power_loss and is_lazy) or (disk_damage and (is_lazy or topic.min_isr < SAFE_MIN_ISR))


def without_topics(events: Sequence[Event], topics: Iterable[str]) -> list[Event]:
    """The history as if the topics had not been there; indexes stay, so that events still name one another."""
    left_out = frozenset(topics)
    if not left_out:
        return list(events)
    kept = []
    for event in events:
        if event.f == "send":
            if _topic(event.value[0]) not in left_out:
                kept.append(event)
        elif isinstance(event.value, dict) and any(_topic(key) in left_out for key in event.value):
            kept.append(replace(event, value=_part(event.value, left_out)))
        else:
            kept.append(event)
    return kept


def _topic(key: str) -> str:
    return key.rpartition("-")[0]


def _part(value: dict[str, Any], left_out: frozenset[str]) -> dict[str, Any]:
    return {key: part for key, part in value.items() if _topic(key) not in left_out}
