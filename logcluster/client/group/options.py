"""What may be said to `Client.consumer` about a group, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from logcluster.client.group.membership import MemberOptions
from logcluster.client.records import Points, normalize_point
from logcluster.model.errors import InvalidRequest

if TYPE_CHECKING:
    from logcluster.client.group.consumer import GroupOptions, Hook

TIMEOUT_MS_MAX = 24 * 60 * 60 * 1000


class ConsumerGroupOptions(TypedDict, total=False):
    """Options of a consumer in a group; times in milliseconds."""

    group: str
    """The group's name; its members share the partitions of their topics."""
    pattern: str
    """RE2: topics whose whole name matches are read, too, also those that are created later."""
    instance_id: str
    """Makes a static member: a restart within the session timeout moves no partition."""
    assignor: Literal["uniform", "range"]
    session_timeout_ms: int
    """A process that is silent so long is out of the group; by default the coordinator's."""
    rebalance_timeout_ms: int
    """So long the application may hold a record of a partition that is to be given up; by default the coordinator's."""
    auto_commit_interval_ms: int | None
    """How often what is done is committed, 1000 by default; None: only `commit` commits."""
    stuck_after_ms: int
    """An application that is with a record for so long is reported, 60000 by default; it keeps its partitions."""
    processing_timeout_ms: int | None
    """An application that is with a record for so long leaves the group, with an error; None (the default): never."""
    on_assigned: Hook
    """Called with the partitions that are read from now on; may be a coroutine function."""
    on_revoked: Hook
    """Called with the partitions that are about to be given up, after what was done is committed, or that were lost."""
    rack_id: str


def group_options(topics: Sequence[str], given: ConsumerGroupOptions, *, start: Points) -> GroupOptions:
    """Check and gather options.

    Raises:
        InvalidRequest: something is missing, or out of range.
    """
    from logcluster.client.group.consumer import GroupOptions

    if not given.get("group"):
        raise InvalidRequest("a group consumer needs the name of its group", hint='client.consumer("a", group="g")')
    unknown = given.keys() - ConsumerGroupOptions.__annotations__.keys()
    if unknown:
        raise InvalidRequest(f"option {sorted(unknown)[0]!r} is unknown")
    if not all(isinstance(topic, str) for topic in topics) or not (topics or given.get("pattern")):
        raise InvalidRequest("a group consumer names topics, or a pattern", hint='client.consumer("a", group="g")')
    if isinstance(start, Mapping):
        raise InvalidRequest("in a group, `start` is one point for all partitions")
    normalize_point(start)
    for name in ("session_timeout_ms", "rebalance_timeout_ms", "stuck_after_ms"):
        _check_time(name, given.get(name, 1))
    for name in ("auto_commit_interval_ms", "processing_timeout_ms"):
        _check_time(name, 1 if given.get(name) is None else given.get(name))
    return GroupOptions(
        member=MemberOptions(
            group=given["group"],
            topics=tuple(dict.fromkeys(topics)),
            pattern=given.get("pattern"),
            instance_id=given.get("instance_id"),
            assignor=given.get("assignor", ""),
            session_timeout_ms=given.get("session_timeout_ms", 0),
            rebalance_timeout_ms=given.get("rebalance_timeout_ms", 0),
            rack_id=given.get("rack_id", ""),
        ),
        start=start,
        auto_commit_interval_ms=given.get("auto_commit_interval_ms", 1_000),
        stuck_after_ms=given.get("stuck_after_ms", 60_000),
        processing_timeout_ms=given.get("processing_timeout_ms"),
        on_assigned=given.get("on_assigned"),
        on_revoked=given.get("on_revoked"),
    )


def _check_time(name: str, value: object) -> None:
    if not isinstance(value, int) or not 1 <= value <= TIMEOUT_MS_MAX:
        raise InvalidRequest(f"{name}={value!r}: from 1 to {TIMEOUT_MS_MAX} ms are possible")
