"""What a handler is given beside the group and the request: settings, topics, and the time."""

from __future__ import annotations

from dataclasses import dataclass

from logcluster.core.coordinators.groups.requests import GroupSettings, Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One decision's surroundings; the topics are those of one moment.

    Args:
        now_ms: monotonic, for deadlines.
        wall_ms: wall clock, for people and for the age of offsets.
    """

    settings: GroupSettings
    topics: Topics
    now_ms: int
    wall_ms: int
