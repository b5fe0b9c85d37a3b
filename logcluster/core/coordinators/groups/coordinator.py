"""The group coordinator: all that can be asked of a group, in the shape that the runtime of coordinators knows.

It has no state of its own. Every method reads the group and returns records and a response; what a method raises has
changed nothing. Rules: docs/protocol/groups.md. Runtime: docs/protocol/coordinators.md.

    heartbeat     joining, leaving, leading (reconcile), rebalance (subscriptions, assignors)
    commit, ...   offsets, retention
    describe, ... admin, events
"""

from __future__ import annotations

from collections.abc import Callable

from logcluster.core.coordinators.groups import admin, offsets, retention
from logcluster.core.coordinators.groups.context import Context
from logcluster.core.coordinators.groups.events import read_events
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.heartbeat import heartbeat
from logcluster.core.coordinators.groups.identity import check_group_id
from logcluster.core.coordinators.groups.leaving import expire, look_at_topics
from logcluster.core.coordinators.groups.records import GroupStateRecord
from logcluster.core.coordinators.groups.requests import (
    CommitOffsets,
    CommitResult,
    DeleteOffsets,
    FetchedOffset,
    FetchOffsets,
    GroupDescription,
    GroupEvents,
    GroupListing,
    GroupSettings,
    Heartbeat,
    HeartbeatResult,
    Topics,
)
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import UnknownMemberId

GROUP_TOPIC = "__consumer_offsets"


class GroupCoordinator:
    """Implements `machine.Coordinator` for groups.

    Args:
        topics: gives what the broker knows of topics now; asked once per decision. It must know at least what the
            broker knew when it learned that it leads the group's shard.
    """

    def __init__(self, settings: GroupSettings, topics: Callable[[], Topics]) -> None:
        self._settings = settings
        self._topics = topics

    @property
    def topic(self) -> str:
        """The internal topic whose partitions are its shards."""
        return GROUP_TOPIC

    def new_entity(self, key: str) -> Group:
        """A group without records: one that does not exist."""
        return Group(key)

    def check_group_id(self, name: str) -> None:
        """Check that a group may be called `name`.

        Raises:
            InvalidGroupId: it may not; says why.
        """
        check_group_id(name)

    def _context(self, now_ms: int, wall_ms: int) -> Context:
        return Context(settings=self._settings, topics=self._topics(), now_ms=now_ms, wall_ms=wall_ms)

    def heartbeat(
        self, group: Group, request: Heartbeat, now_ms: int, wall_ms: int
    ) -> Result[GroupStateRecord, HeartbeatResult]:
        """Join, stay, report and take partitions, leave.

        Raises:
            LogClusterError: as `heartbeat.heartbeat` does.
        """
        return heartbeat(group, request, self._context(now_ms, wall_ms))

    def connected(self, group: Group, member_id: str) -> None:
        """Note that the member opened a stream; each call has its `disconnected` later.

        Raises:
            UnknownMemberId: it is no member.
        """
        if member_id not in group.members:
            raise UnknownMemberId(f"group {group.name!r} has no member {member_id}", member_id=member_id)
        group.sessions.connected(member_id)

    def disconnected(self, group: Group, member_id: str, now_ms: int) -> None:
        """Note that a stream of the member ended; of somebody who is no member any more that means nothing.

        With its last stream a dynamic member has the grace time left; a static one has its session, but another
        process may take its place at once.
        """
        member = group.members.get(member_id)
        if member is None:
            return
        grace_deadline_ms = None if member.instance_id is not None else now_ms + self._settings.disconnect_grace_ms
        group.sessions.disconnected(member_id, grace_deadline_ms=grace_deadline_ms)

    def expire(self, group: Group, now_ms: int, wall_ms: int) -> Result[GroupStateRecord, None]:
        """Evict members whose time is over."""
        return expire(group, self._context(now_ms, wall_ms))

    def on_metadata_changed(self, group: Group, now_ms: int, wall_ms: int) -> Result[GroupStateRecord, None]:
        """Topics or partitions have changed: make a new target if the group reads any of them."""
        return look_at_topics(group, self._context(now_ms, wall_ms))

    def commit(
        self, group: Group, request: CommitOffsets, now_ms: int, wall_ms: int
    ) -> Result[GroupStateRecord, CommitResult]:
        """Keep offsets.

        Raises:
            LogClusterError: as `offsets.commit` does.
        """
        return offsets.commit(group, request, self._context(now_ms, wall_ms))

    def fetch(self, group: Group, request: FetchOffsets) -> Result[GroupStateRecord, tuple[FetchedOffset, ...]]:
        """Read committed offsets; of a group that does not exist there are none.

        Raises:
            LogClusterError: as `offsets.fetch` does.
        """
        return offsets.fetch(group, request, self._topics())

    def delete_offsets(
        self, group: Group, request: DeleteOffsets, now_ms: int, wall_ms: int
    ) -> Result[GroupStateRecord, CommitResult]:
        """Forget offsets.

        Raises:
            GroupIdNotFound: there is no such group.
        """
        return offsets.delete_offsets(group, request, self._context(now_ms, wall_ms))

    def offsets_to_expire(self, group: Group, wall_ms: int) -> Result[GroupStateRecord, int]:
        """Forget offsets whose time is over, and with the last one the group; the response says how many offsets go.

        For a sweep over all groups, at rest or not.
        """
        return retention.sweep(group, self._context(0, wall_ms))

    def delete(self, group: Group) -> Result[GroupStateRecord, None]:
        """Forget a group without members.

        Raises:
            GroupIdNotFound: there is no such group.
            NonEmptyGroup: it has members.
        """
        return admin.delete(group)

    def describe(self, group: Group, now_ms: int) -> Result[GroupStateRecord, GroupDescription]:
        """Show a group.

        Raises:
            GroupIdNotFound: there is no such group.
        """
        return admin.describe(group, now_ms=now_ms)

    def listing(self, group: Group) -> GroupListing | None:
        """The group in a list; None: it does not exist."""
        return admin.listing(group)

    def events(self, group: Group, after_sequence: int, count_max: int) -> Result[GroupStateRecord, GroupEvents]:
        """What happened in a group.

        Raises:
            GroupIdNotFound: there is no such group.
            InvalidRequest: the count is negative.
        """
        return read_events(group, after_sequence=after_sequence, count_max=count_max)
