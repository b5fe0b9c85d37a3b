"""What must hold of a consumer group, kept by somebody who sees all of its members.

    skipped-records       a committed offset passes a record that no member was handed (at-least-once, P6)
    commit-went-back      a commit is accepted that lies below one that was acknowledged before (a zombie's)
    commit-lost           a fetch answers with less than was acknowledged before it began
    commit-from-nowhere   a fetch answers with more than anybody ever tried to commit
    group-behind          the faults are over, and records that were acknowledged are not handed out

Sources: KIP-848, reliability rules 1.3; KAFKA-5600, KAFKA-8104 (offsets of a former owner).

A partition is one of one topic: a topic that is created again under its name is another one. Offsets of trimmed topics
have gaps, so that nothing is said of them but that commits do not go back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from logcluster.client.group.commits import Commits, Position
from logcluster.client.group.membership import AssignedPartition
from logcluster.client.records import ConsumerRecord
from logcluster.model.errors import LogClusterError
from logcluster.sim.workload.books import Books


@dataclass(slots=True)
class _Progress:
    """Of a group in one partition."""

    handed: set[int] = field(default_factory=set)
    """Offsets of records that some member was handed."""
    start_offset: int = 0
    """Everything below was handed, or skipped as was allowed."""
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

    def _of(self, partition: AssignedPartition) -> _Progress:
        return self._progress.setdefault(partition, _Progress())

    def _is_gapless(self, partition: AssignedPartition) -> bool:
        """Does every offset hold a record that must be handed out?"""
        topic = self._books.topics.get(partition.topic)
        return topic is not None and not topic.options.is_trimmed and topic.name not in self._books.excused_topics()

    def note_handed(self, topic_ids: Mapping[str, bytes], records: Iterable[ConsumerRecord]) -> None:
        """A member was given these records."""
        for record in records:
            partition = AssignedPartition(record.topic, topic_ids.get(record.topic, b""), record.partition)
            self._of(partition).handed.add(record.offset)

    # -- commits -------------------------------------------------------------------------------------------------

    def note_attempt(self, positions: Mapping[AssignedPartition, Position]) -> None:
        """Somebody is about to commit."""
        for partition, position in positions.items():
            progress = self._of(partition)
            progress.attempted = max(progress.attempted, position.offset)

    def note_acknowledged(self, member: str, partition: AssignedPartition, offset: int, *, before: int) -> None:
        """A commit was acknowledged; `before` is what had been acknowledged when it began."""
        progress = self._of(partition)
        label = f"{self.group}: {partition.topic}-{partition.partition}"
        if offset < before:
            self._find("commit-went-back", f"{label}: {member} committed {offset}, after {before} was acknowledged")
        progress.acknowledged = max(progress.acknowledged, offset)
        if not self._is_gapless(partition):
            return
        while progress.start_offset < offset and progress.start_offset in progress.handed:
            progress.handed.discard(progress.start_offset)
            progress.start_offset += 1
        if progress.start_offset < offset:
            self._find(
                "skipped-records",
                f"{label}: {member} committed {offset}, nobody was handed {progress.start_offset}",
            )
            progress.start_offset = offset

    def acknowledged(self, partitions: Iterable[AssignedPartition]) -> dict[AssignedPartition, int]:
        """What is acknowledged of each now."""
        return {partition: self._of(partition).acknowledged for partition in partitions}

    def note_fetched(
        self, before: Mapping[AssignedPartition, int], found: Mapping[AssignedPartition, Position]
    ) -> None:
        """A member was told where to begin; `before` is what was acknowledged when it asked."""
        for partition, acknowledged in before.items():
            place = found.get(partition)
            offset = 0 if place is None else place.offset
            label = f"{self.group}: {partition.topic}-{partition.partition}"
            if offset < acknowledged:
                self._find("commit-lost", f"{label}: {offset} was fetched, {acknowledged} had been acknowledged")
            elif offset > self._of(partition).attempted:
                self._find("commit-from-nowhere", f"{label}: {offset} was fetched, nobody had committed that")

    def _find(self, name: str, detail: str) -> None:
        self._books.find(name, detail, "history")

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
                    missing[state.key] = f"group {self.group} was handed {reached} of {state.committed_next_offset}"
        return missing


def _reach(progress: _Progress) -> int:
    offset = progress.start_offset
    while offset in progress.handed:
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
