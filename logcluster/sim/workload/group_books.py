"""What must hold of a consumer group, kept by somebody who sees all of its members.

`ANOMALIES` has the names. Sources: KIP-848, reliability rules 1.3; KAFKA-5600, KAFKA-8104 (offsets of a former owner).

A partition is one of one topic: a topic that is created again under its name is another one. Offsets of trimmed topics
have gaps, so that nothing is said of them but that commits do not go back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from logcluster.client.group.commits import Commits, Position
from logcluster.client.group.membership import AssignedPartition, Membership
from logcluster.client.records import ConsumerRecord
from logcluster.core.coordinators.groups.group import Group
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.sim.workload.books import Books

ANOMALIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "skipped-records": "a committed offset passes a record that no member has come back from (at-least-once, P6)",
        "commit-went-back": "a commit is accepted that lies below one that was acknowledged before (a zombie's)",
        "commit-lost": "a fetch answers with less than was acknowledged before it began",
        "commit-from-nowhere": "a fetch answers with more than anybody ever tried to commit",
        "resumed-elsewhere": "a member that was told where the group is was handed earlier records first",
        "double-ownership": "a member in good standing reads what its coordinator may give to another one",
        "group-behind": "the faults are over, and records that were acknowledged are not handed out",
    }
)


@dataclass(slots=True)
class _Progress:
    """Of a group in one partition."""

    handled: set[int] = field(default_factory=set)
    """Offsets of records that some member has come back from."""
    start_offset: int = 0
    """Everything below was handled, or skipped as was allowed."""
    acknowledged: int = 0
    """The highest commit that was acknowledged."""
    attempted: int = 0
    """The highest commit that anybody tried."""


class GroupBooks:
    """The books of one group."""

    def __init__(self, group: str, books: Books) -> None:
        self.group = group
        self._books = books
        self._progress: dict[AssignedPartition, _Progress] = {}
        self._newest_epoch = -1

    def _of(self, partition: AssignedPartition) -> _Progress:
        return self._progress.setdefault(partition, _Progress())

    def _is_gapless(self, partition: AssignedPartition) -> bool:
        """Does every offset hold a record that must be handed out?"""
        topic = self._books.topics.get(partition.topic)
        return topic is not None and not topic.options.is_trimmed and topic.name not in self._books.excused_topics()

    def note_handled(self, topic_ids: Mapping[str, bytes], records: Iterable[ConsumerRecord]) -> None:
        """A member was given these records, and is done with them."""
        for record in records:
            partition = AssignedPartition(record.topic, topic_ids.get(record.topic, b""), record.partition)
            self._of(partition).handled.add(record.offset)

    def note_owned(self, member: str, membership: Membership, known: tuple[int, Group] | None) -> None:
        """What a member reads at this moment, and the group as its coordinator of this leader epoch knows it."""
        if known is None or known[0] < self._newest_epoch:
            return
        self._newest_epoch, group = known
        current = group.currents.get(membership.member_id)
        if current is None or not membership.is_member:
            return  # it was evicted, and will notice
        for item in sorted(membership.owned):
            partition = TopicIdPartition(TopicId(item.topic_id), item.partition)
            if partition not in current.assigned and partition not in current.revoking:
                self._find("double-ownership", item, f"{member} reads it, and it may be given to another member")

    def note_begun(self, member: str, partition: AssignedPartition, *, told: int, first: int) -> None:
        """A member was told that the group is at `told`, and `first` is the first record that it was handed then."""
        if first < told:
            self._find("resumed-elsewhere", partition, f"{member} began at {told} and was handed {first}")

    # -- commits -------------------------------------------------------------------------------------------------

    def note_attempt(self, positions: Mapping[AssignedPartition, Position]) -> None:
        """Somebody is about to commit."""
        for partition, position in positions.items():
            progress = self._of(partition)
            progress.attempted = max(progress.attempted, position.offset)

    def note_acknowledged(self, member: str, partition: AssignedPartition, offset: int, *, before: int) -> None:
        """A commit was acknowledged; `before` is what had been acknowledged when it began."""
        progress = self._of(partition)
        if offset < before:
            self._find("commit-went-back", partition, f"{member} committed {offset}, after {before} was acknowledged")
        progress.acknowledged = max(progress.acknowledged, offset)
        if not self._is_gapless(partition):
            return
        while progress.start_offset < offset and progress.start_offset in progress.handled:
            progress.handled.discard(progress.start_offset)
            progress.start_offset += 1
        if progress.start_offset < offset:
            self._find(
                "skipped-records",
                partition,
                f"{member} committed {offset}, nobody has handled {progress.start_offset}",
            )
            progress.start_offset = offset

    def partitions(self) -> list[AssignedPartition]:
        """Those of which some commit was acknowledged, in order."""
        return sorted(partition for partition, progress in self._progress.items() if progress.acknowledged)

    def acknowledged(self, partitions: Iterable[AssignedPartition]) -> dict[AssignedPartition, int]:
        """What is acknowledged of each now."""
        return {partition: self._of(partition).acknowledged for partition in partitions}

    def note_fetched(
        self, before: Mapping[AssignedPartition, int], found: Mapping[AssignedPartition, Position]
    ) -> None:
        """Somebody was told what is committed; `before` is what was acknowledged when it asked."""
        for partition, acknowledged in before.items():
            place = found.get(partition)
            offset = 0 if place is None else place.offset
            if offset < acknowledged:
                self._find("commit-lost", partition, f"{offset} was fetched, {acknowledged} had been acknowledged")
            elif offset > self._of(partition).attempted:
                self._find("commit-from-nowhere", partition, f"{offset} was fetched, nobody had committed that")

    def _find(self, name: str, partition: AssignedPartition, detail: str) -> None:
        label = f"{self.group}: {partition.topic}-{partition.partition}"
        self._books.find(name, f"{label}: {detail}", "history", topic=partition.topic)

    # -- the end -------------------------------------------------------------------------------------------------

    def behind(self) -> dict[str, str]:
        """Partitions of which something is not handed out that should be by now, with what is missing."""
        missing: dict[str, str] = {}
        for topic in self._books.promised_topics():
            if topic.options.is_trimmed or not topic.options.is_read_by_group:
                continue
            for state in topic.keys:
                progress = [
                    found
                    for partition, found in self._progress.items()
                    if (partition.topic, partition.partition) == (topic.name, state.partition)
                ]
                reached = max((_reach(found) for found in progress), default=0)
                if reached < state.committed_next_offset:
                    missing[state.key] = f"group {self.group} has handled {reached} of {state.committed_next_offset}"
        return missing


def _reach(progress: _Progress) -> int:
    offset = progress.start_offset
    while offset in progress.handled:
        offset += 1
    return offset


class WatchedCommits(Commits):
    """The commits of one member, with the books beside."""

    def __init__(self, inner: Commits, books: GroupBooks, member: str) -> None:
        super().__init__(inner._membership, inner._calls)
        self._group_books = books
        self._member = member

    async def commit(
        self, positions: Mapping[AssignedPartition, Position], *, timeout_ms: int = 10_000
    ) -> dict[AssignedPartition, LogClusterError]:
        """As `Commits.commit`."""
        books = self._group_books
        books.note_attempt(positions)
        before = books.acknowledged(positions)
        refused = await super().commit(positions, timeout_ms=timeout_ms)
        for partition, position in positions.items():
            if partition not in refused:
                books.note_acknowledged(self._member, partition, position.offset, before=before[partition])
        return refused

    async def fetch(
        self, partitions: Iterable[AssignedPartition], *, timeout_ms: int = 10_000
    ) -> dict[AssignedPartition, Position]:
        """As `Commits.fetch`."""
        wanted = list(partitions)
        before = self._group_books.acknowledged(wanted)
        found = await super().fetch(wanted, timeout_ms=timeout_ms)
        self._group_books.note_fetched(before, found)
        return found
