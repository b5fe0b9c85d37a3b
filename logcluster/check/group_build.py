"""Builds the group side of the index: one sweep over what concerns groups, in order of time.

Owns the order in which it counts: marks at once, commits and resets from their beginning to their end, the rest from
its end. group_owners.py has the owners of partitions, group_commits.py what sets committed offsets, group_reading.py
what members read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Final

from logcluster.check.entries import Index, Operation, topic_of
from logcluster.check.group_commits import Commits
from logcluster.check.group_entries import BEFORE_THE_RUN, MARKS, NEVER, GroupIndex, GroupKey, OffsetWrite
from logcluster.check.group_owners import Owners
from logcluster.check.group_reading import Reading

Handler = Callable[[GroupIndex, Operation], None]

GROUP_OPERATIONS: Final = MARKS | {"commit", "reset_offsets", "fetch_offsets", "resume"}
OF_MEMBERS: Final = MARKS | {"resume", "poll", "txn"}


def build_groups(index: Index) -> None:
    """Fills `index.groups` from the operations and the polls of members that the index holds."""
    if not index.group_polls and GROUP_OPERATIONS.isdisjoint(index.operations):
        return
    for _, handle, group, operation in sorted(_moments(index), key=itemgetter(0)):
        handle(group, operation)
    for group in index.groups.values():
        for group_key in group.keys.values():
            _close(index, group_key)


def _moments(index: Index) -> Iterator[tuple[int, Handler, GroupIndex, Operation]]:
    """What happened, with the moment at which it counts."""
    owners, commits, reading = Owners(index.malformed), Commits(index.malformed), Reading(index)
    handlers: dict[str, tuple[Handler | None, Handler | None]] = {
        "assigned": (owners.assigned, None),
        "revoked": (owners.given_up, None),
        "lost": (owners.given_up, None),
        "leave": (owners.left, None),
        "commit": (commits.commit_begins, commits.commit_ends),
        "reset_offsets": (commits.reset_begins, commits.reset_ends),
        "seek": (commits.seek_begins, None),
        "fetch_offsets": (None, reading.fetched),
        "resume": (None, reading.resumed),
    }
    for f, (begins, ends) in handlers.items():
        for operation in index.operations.get(f, ()):
            group = _group_of(index, operation)
            if group is None:
                continue
            if begins is not None:
                is_expiry = operation.invoke.meta.get("expired")  # At an unknown moment before it was noticed.
                yield BEFORE_THE_RUN if is_expiry else operation.invoke.index, begins, group, operation
            if ends is not None:
                yield (operation.completion or operation.invoke).index, ends, group, operation
    for operation in index.group_polls:
        group = _group_of(index, operation)
        if group is not None and operation.completion is not None:
            yield operation.completion.index, reading.polled, group, operation


def _group_of(index: Index, operation: Operation) -> GroupIndex | None:
    """The group an operation belongs to, if it names what it must."""
    event = operation.completion or operation.invoke
    name, member = event.meta.get("group"), event.meta.get("member")
    if event.f == "seek" and name is None:
        return None
    if not isinstance(name, str) or not name:
        index.malformed.append(("it names no group", event))
        return None
    group = index.groups.get(name)
    if group is None:
        group = index.groups[name] = GroupIndex(name)
    if member is None and event.f not in OF_MEMBERS:
        return group
    if not isinstance(member, str):
        index.malformed.append(("it names no member", event))
        return None
    if group.client_of.setdefault(member, event.client) != event.client:
        index.malformed.append((f"member {member} is of another client: names are of one life", event))
        return None
    return group


def _close(index: Index, group_key: GroupKey) -> None:
    """What was handed out after the last commit must have no gaps either. Offsets go with their topic."""
    handed_by = group_key.handed_by
    if handed_by is not None:
        group_key.cover(group_key.handed_end, handed_by, NEVER, (handed_by.index,))
    deletion = index.deleted_topics.get(topic_of(group_key.key))
    if deletion is not None:
        group_key.writes.append(OffsetWrite(None, "info", deletion.index, NEVER, (deletion.index,)))
