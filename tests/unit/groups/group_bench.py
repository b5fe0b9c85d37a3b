"""A group at the bench: what its coordinator decides is appended and replayed at once, as if committed."""

from __future__ import annotations

import re

from logcluster.core.coordinators.groups.coordinator import GroupCoordinator
from logcluster.core.coordinators.groups.draft import key_of
from logcluster.core.coordinators.groups.requests import (
    CommitItem,
    CommitOffsets,
    DeleteOffsets,
    FetchOffsets,
    GroupSettings,
    Heartbeat,
    Subscription,
)
from logcluster.model.errors import InvalidRegularExpression
from logcluster.model.ids import TopicId, TopicIdPartition

SETTINGS = GroupSettings()


class FakeTopics:
    """Topics by name; a topic that is created again has another id."""

    def __init__(self, **partitions: int) -> None:
        self.sizes = {}
        self.made = 0
        self.matched = []
        for name, count in partitions.items():
            self.create(name, count)

    def create(self, name: str, partitions: int) -> TopicId:
        self.made += 1
        topic_id = TopicId(b"%-12s%04d" % (name.encode()[:12], self.made))
        self.sizes[name] = (topic_id, partitions)
        return topic_id

    def grow(self, name: str, partitions: int) -> None:
        self.sizes[name] = (self.sizes[name][0], partitions)

    def delete(self, name: str) -> None:
        del self.sizes[name]

    def size(self, name: str):
        return self.sizes.get(name)

    def name(self, topic_id: TopicId):
        return next((name for name, (known, _) in self.sizes.items() if known == topic_id), None)

    def matching(self, regex: str):
        self.matched.append(regex)
        try:
            pattern = re.compile(regex)
        except re.error as error:
            raise InvalidRegularExpression(str(error)) from None
        return [name for name in sorted(self.sizes) if pattern.fullmatch(name) and not name.startswith("__")]

    def partition_racks(self, topic_id: TopicId, partition: int) -> frozenset[str]:
        return frozenset()


class Bench:
    """One group; members go by short ids, partitions by text ("t-0 t-1"). The clocks stand unless a test moves them."""

    def __init__(self, settings: GroupSettings = SETTINGS, group: str = "g", **partitions: int) -> None:
        self.topics = FakeTopics(**partitions)
        self.coordinator = GroupCoordinator(settings, lambda: self.topics)
        self.group = self.coordinator.new_entity(group)
        self.now_ms = 1_000
        self.wall_ms = 1_000_000
        self.store = {}
        self.batches = []
        self.wake = ()
        self.epochs = {}

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms
        self.wall_ms += ms

    def accept(self, result):
        """Append, replay, and check that the group holds what it must."""
        for record in result.records:
            assert record.group == self.group.name
            self.group.replay(record)
            if record.value is None:
                self.store.pop(key_of(record), None)
            else:
                self.store[key_of(record)] = record
        if result.records:
            self.batches.append(result.records)
        if result.on_appended is not None:
            result.on_appended()
        self.wake = result.wake
        self.group.check()
        return result.response

    def beat(self, member_id: str, epoch: int | None = None, *, owned: str | None = None, **fields):
        """A heartbeat with the epoch that the member was given last, unless another one is given."""
        if isinstance(owned, str):
            fields["owned"] = self.parts(owned)
        epoch = self.epochs.get(member_id, 0) if epoch is None else epoch
        request = Heartbeat(group=self.group.name, member_id=member_id, member_epoch=epoch, **fields)
        response = self.accept(self.coordinator.heartbeat(self.group, request, self.now_ms, self.wall_ms))
        self.epochs[member_id] = response.member_epoch
        return response

    def lose(self, member_id: str, **fields):
        """A heartbeat whose answer is lost: the member still has the epoch before."""
        before = self.epochs.get(member_id, 0)
        response = self.beat(member_id, **fields)
        self.epochs[member_id] = before
        return response

    def join(self, member_id: str, *topics: str, regex: str | None = None, **fields):
        subscription = Subscription(topics=topics, topic_regex=regex)
        return self.beat(member_id, 0, subscription=subscription, owned="", **fields)

    def leave(self, member_id: str, *, for_a_while: bool = False):
        return self.beat(member_id, -2 if for_a_while else -1)

    def settle(self) -> None:
        """Let every member do what it is told, until there is nothing left to do."""
        for _ in range(10):
            if self.group.state != "reconciling":
                return
            for member_id in sorted(self.group.members):
                self.beat(member_id, owned=self.has(member_id))
        raise AssertionError(f"does not settle: {self.group.describe()}")

    def has(self, member_id: str) -> str:
        """What the member may read, as text."""
        return self.text(self.group.currents[member_id].assigned)

    def gives_up(self, member_id: str) -> str:
        return self.text(self.group.currents[member_id].revoking)

    def parts(self, text: str) -> frozenset[TopicIdPartition]:
        return frozenset(self.part(word) for word in text.split())

    def part(self, word: str) -> TopicIdPartition:
        name, _, number = word.rpartition("-")
        return TopicIdPartition(self.topics.sizes[name][0], int(number))

    def text(self, partitions) -> str:
        labels = [f"{item.topic_id[:12].decode().strip()}-{item.partition}" for item in sorted(partitions)]
        return " ".join(labels)

    def look_at_topics(self) -> None:
        self.accept(self.coordinator.on_metadata_changed(self.group, self.now_ms, self.wall_ms))

    def expire(self) -> None:
        self.accept(self.coordinator.expire(self.group, self.now_ms, self.wall_ms))

    def sweep(self) -> int:
        return self.accept(self.coordinator.offsets_to_expire(self.group, self.wall_ms))

    def commit(self, member_id: str | None, word: str, offset: int, epoch: int | None = None, **fields):
        """Commit one offset; the partition's error, or None."""
        return self.commit_all(member_id, [self.item(word, offset, **fields)], epoch)[0]

    def commit_all(self, member_id: str | None, items, epoch: int | None = None, **fields):
        if epoch is None:
            epoch = -1 if member_id is None else self.epochs[member_id]
        request = CommitOffsets(
            group=self.group.name, member_id=member_id, member_epoch=epoch, items=tuple(items), **fields
        )
        return self.accept(self.coordinator.commit(self.group, request, self.now_ms, self.wall_ms)).errors

    def item(self, word: str, offset: int, **fields) -> CommitItem:
        name, _, number = word.rpartition("-")
        return CommitItem(**{"topic": name, "topic_id": None, "partition": int(number), "offset": offset, **fields})

    def fetch(self, *words: str, member_id: str | None = None, epoch: int = -1):
        """Committed offsets by partition; without words, all."""
        wanted = tuple((word.rpartition("-")[0], None, int(word.rpartition("-")[2])) for word in words) or None
        request = FetchOffsets(group=self.group.name, partitions=wanted, member_id=member_id, member_epoch=epoch)
        found = self.accept(self.coordinator.fetch(self.group, request))
        return {f"{item.topic}-{item.partition}": item.value and item.value.offset for item in found}

    def delete_offsets(self, *partitions):
        request = DeleteOffsets(group=self.group.name, partitions=partitions)
        return self.accept(self.coordinator.delete_offsets(self.group, request, self.now_ms, self.wall_ms)).errors

    def fail_over(self) -> None:
        """Another coordinator: the newest record of every key, in any order, and sessions that begin anew."""
        self.group = self.coordinator.new_entity(self.group.name)
        for key in sorted(self.store, key=repr):
            self.group.replay(self.store[key])
        self.group.on_loaded(self.now_ms)
        self.group.check()

    def events(self, *kinds: str) -> list[str]:
        """Kinds, or the reasons of the given kinds, oldest first."""
        found = [self.group.events[sequence] for sequence in sorted(self.group.events)]
        return [event.reason for event in found if event.kind in kinds] if kinds else [event.kind for event in found]
