"""The books of a workload: what was said to the history, what is open, and which topics and offsets are known.

All of it belongs to the driver, not to a client process: when a process is killed nothing of it runs any more, and its
open operations still have to get their outcome, `info`. An operation is open until it has exactly one outcome. `fail`
is written only for an error that says that nothing was applied (`LogClusterError.definite`, promise P9); after `info`
the logical process is dead and the same client goes on as another one (Jepsen's rule, reliability 1.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from logcluster.check.history import EventType, Recorder
from logcluster.model.errors import LogClusterError, UnknownServerError
from logcluster.sim.findings import Finding, Source
from logcluster.sim.workload.excuses import is_excused
from logcluster.sim.workload.options import TopicOptions


@dataclass(slots=True)
class Operation:
    """One invocation without an outcome."""

    invoked: int
    process: str
    name: str
    value: Any


class Speaker:
    """One sequential voice in the history: a loop of a client. Its logical process changes after every `info`.

    Args:
        client: the name that stays.
    """

    def __init__(self, books: Books, client: str) -> None:
        self.client = client
        self._books = books
        self._recorder = books.recorder
        self._process = self._recorder.new_process(client)
        self._open: dict[int, Operation] = {}

    def invoke(self, name: str, value: Any, **meta: Any) -> Operation:
        """An operation begins; record it before anything of it can take effect."""
        invoked = self._recorder.invoke(self._process, self.client, name, value, **meta)
        operation = self._open[invoked] = Operation(invoked, self._process, name, value)
        self._books.count(name, "invoke")
        return operation

    def ok(self, operation: Operation, value: Any, **meta: Any) -> None:
        """It was applied."""
        self._close(operation, "ok", value, None, meta)

    def failed(self, operation: Operation, value: Any, error: LogClusterError, **meta: Any) -> None:
        """It ended with an error: `fail` when that is definite, otherwise `info`."""
        outcome: EventType = "fail" if error.definite else "info"
        self._close(operation, outcome, value, self._describe(operation, error), meta)

    def doubted(self, operation: Operation, error: LogClusterError) -> None:
        """It ended with an error that says nothing about this operation alone: `info`."""
        self._close(operation, "info", operation.value, self._describe(operation, error), {})

    def refused(self, operation: Operation, value: Any, error: LogClusterError, **meta: Any) -> None:
        """A call that changes nothing did not succeed, for whatever reason: `fail`."""
        self._close(operation, "fail", value, self._describe(operation, error), meta)

    def abandon(self, reason: str) -> int:
        """Nobody will learn the outcome of what is open: `info`; returns how many there were."""
        operations = list(self._open.values())
        for operation in operations:
            self._close(operation, "info", operation.value, reason, {})
        return len(operations)

    @property
    def open_count(self) -> int:
        return len(self._open)

    def _describe(self, operation: Operation, error: LogClusterError) -> str:
        """The error as the history names it. That something failed that should not is also a finding."""
        text = f"{type(error).__name__}: {error.message}"
        if isinstance(error, UnknownServerError):
            self._books.find("internal-error", f"{self.client}: {operation.name} {operation.value}: {text}", "crash")
        return text

    def _close(
        self, operation: Operation, outcome: EventType, value: Any, error: str | None, meta: dict[str, Any]
    ) -> None:
        if self._open.pop(operation.invoked, None) is None:
            return  # abandoned: it has its outcome
        self._recorder.complete(operation.invoked, outcome, value, error, **meta)
        self._books.count(operation.name, outcome)
        if outcome == "info" and operation.process == self._process:
            self._process = self._recorder.new_process(self.client)


@dataclass(slots=True)
class KeyState:
    """One partition as the clients saw it. Offsets are the next ones: 0 means nothing."""

    topic: TopicState
    partition: int
    key: str
    committed_next_offset: int = 0
    """Beyond the last record acknowledged with `acks=all` or read by anybody: the log reached this far for certain."""
    read_next_offset: int = 0
    trimmed_offset: int = 0
    """Below it records may have been deleted on request."""

    @property
    def has_unread(self) -> bool:
        return self.read_next_offset < self.committed_next_offset


@dataclass(slots=True)
class TopicState:
    """One topic of the run."""

    options: TopicOptions
    keys: list[KeyState] = field(default_factory=list)
    is_created: bool = False
    """Somebody saw it; until then its creation may have failed or is under way."""
    is_deleted: bool = False
    """Its deletion was asked for; whether it is gone does not matter any more."""

    @property
    def name(self) -> str:
        return self.options.name

    @property
    def is_usable(self) -> bool:
        return self.is_created and not self.is_deleted

    def grow(self, partitions: int) -> None:
        """Know of at least so many partitions."""
        for index in range(len(self.keys), partitions):
            self.keys.append(KeyState(topic=self, partition=index, key=f"{self.name}-{index}"))


@dataclass(frozen=True, slots=True)
class SentRecord:
    """What else a record carries beside its value, to compare with what is read."""

    key: bytes | None
    timestamp_ms: int | None
    """None: the client chose."""
    headers: tuple[tuple[str, bytes], ...]


class Books:
    """Everything the clients of one workload share.

    Args:
        now_ms: virtual milliseconds, for findings.
    """

    def __init__(self, recorder: Recorder, now_ms: Callable[[], int] = lambda: 0) -> None:
        self.recorder = recorder
        self._now_ms = now_ms
        self.topics: dict[str, TopicState] = {}
        self.sent: dict[str, SentRecord] = {}
        self.findings: list[Finding] = []
        self.topic_findings: list[tuple[str, Finding]] = []
        """Those that are nothing if the topic is excused at the end."""
        self.counts: dict[str, int] = {}
        self.power_loss = False
        self.disk_damage = False
        """Which faults there were; see `excuses`."""
        self.read_record_count = 0

    def count(self, name: str, outcome: str) -> None:
        label = f"{name}.{outcome}"
        self.counts[label] = self.counts.get(label, 0) + 1

    def find(self, name: str, detail: str, source: Source, *, topic: str = "") -> None:
        """Report what no history shows.

        Args:
            topic: it is nothing if this topic turns out to be excused.
        """
        finding = Finding(name, detail, self._now_ms(), source)
        if topic:
            self.topic_findings.append((topic, finding))
        else:
            self.findings.append(finding)

    # Topics.

    def add_topic(self, options: TopicOptions) -> TopicState:
        """A topic that is about to be created."""
        topic = self.topics[options.name] = TopicState(options)
        return topic

    def usable_topics(self) -> list[TopicState]:
        """Those that exist and were not deleted, in order of creation."""
        return [topic for topic in self.topics.values() if topic.is_usable]

    def usable_keys(self) -> Iterator[KeyState]:
        """Their partitions."""
        for topic in self.usable_topics():
            yield from topic.keys

    def promised_topics(self) -> list[TopicState]:
        """Usable ones of which something is still promised: what the final clients look at."""
        excused = self.excused_topics()
        return [topic for topic in self.usable_topics() if topic.name not in excused]

    def excused_topics(self) -> list[str]:
        """Names of those that promise nothing after the faults there were."""
        return [
            topic.name
            for topic in self.topics.values()
            if is_excused(topic.options, power_loss=self.power_loss, disk_damage=self.disk_damage)
        ]

    def key_state(self, topic: str, partition: int) -> KeyState:
        """A partition that some client met."""
        state = self.topics[topic]
        state.grow(partition + 1)
        return state.keys[partition]

    # Offsets.

    def note_acked(self, topic: str, partition: int, offset: int) -> None:
        """A write with `acks=all` was acknowledged at `offset`."""
        state = self.key_state(topic, partition)
        if offset >= state.committed_next_offset:
            state.committed_next_offset = offset + 1

    def note_read(self, topic: str, partition: int, offset: int) -> str:
        """A record at `offset` was read; returns the partition's key."""
        state = self.key_state(topic, partition)
        self.read_record_count += 1
        if offset >= state.read_next_offset:
            state.read_next_offset = offset + 1
            state.committed_next_offset = max(state.committed_next_offset, offset + 1)
        return state.key
