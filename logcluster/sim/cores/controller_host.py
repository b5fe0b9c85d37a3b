"""The real controller as one reign after another over a committed log; the quorum below it is a delay and a failover.

A request is handled at once, its records are replayed into the working state, and its answer leaves when the entry is
committed, in order. A failover drops a suffix of what was not committed, and a new reign begins over committed state:
callers of what was dropped hear `Disconnected`, which says nothing about the outcome. Committed images are what brokers
learn; how they travel is the world's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from logcluster.core.controller.controller import Controller, ControllerConfig
from logcluster.core.controller.requests import CreateTopics, NewTopic, Request, Response
from logcluster.core.metadata.image import EMPTY, MetadataImage, PartitionRegistration
from logcluster.model.errors import Disconnected, LogClusterError, NotController
from logcluster.model.ids import TopicId
from logcluster.model.invariants import InvariantViolation
from logcluster.sim.cores.replication_options import ReplicationOptions
from logcluster.sim.cores.result import Notebook
from logcluster.sim.cores.schedule import Schedule

SESSION_TIMEOUT_MS = 350
HEARTBEAT_MS = 90
TOPIC = "orders"

Answer = Callable[[Response | LogClusterError], None]


@dataclass(slots=True)
class _Entry:
    """A proposed entry: the state once it is replayed, and who waits for its commit."""

    image: MetadataImage
    waiters: list[tuple[Answer, Response]] = field(default_factory=list)


class ControllerHost:
    """Runs `Controller`; `on_commit` is told of every committed image."""

    def __init__(
        self,
        schedule: Schedule,
        options: ReplicationOptions,
        book: Notebook,
        on_commit: Callable[[MetadataImage, MetadataImage], None],
    ) -> None:
        self._schedule = schedule
        self._options = options
        self._book = book
        self._on_commit = on_commit
        self._config = ControllerConfig(
            cluster_id="c",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            disconnect_grace_ms=60,
            leader_rebalance_interval_ms=400 if options.elect else None,
        )
        self._random = Random(schedule.rng.getrandbits(32))
        self._reign = 0
        self._next_index = 1
        self._pending: deque[_Entry] = deque()
        self._fails_after_proposal: int | None = None
        """Downtime of a failover that strikes while the next entry is still uncommitted."""
        self.committed: MetadataImage = EMPTY
        self.controller: Controller | None = None
        self.topic_id: TopicId | None = None
        self.begin_reign()

    # -- reigns --------------------------------------------------------------------------------------------------

    def begin_reign(self) -> None:
        """A new active controller over committed state."""
        self._reign += 1
        self._next_index = self.committed.offset + 2  # the new term's first entry is the quorum's own
        self.controller = Controller(
            self.committed, config=self._config, random=self._random, now_ms=self._schedule.now_ms
        )
        self._schedule.at(40, self._turn, self._reign)

    def end_reign(self, *, kept_entries: int) -> None:
        """The active controller is gone: the first `kept_entries` uncommitted ones survive, the others do not."""
        self.controller = None
        for entry in list(self._pending)[:kept_entries]:
            self._apply(entry)
        dropped = list(self._pending)[kept_entries:]
        self._pending.clear()
        if dropped:
            self._book.probe("core.controller.uncommitted_dropped")
        for entry in dropped:
            for answer, _ in entry.waiters:
                answer(Disconnected("the active controller changed"))

    def fail_over(self, downtime_ms: int) -> None:
        """One reign ends; another begins after `downtime_ms`."""
        if self.controller is None:
            return
        lost = self._schedule.chance(self._options.uncommitted_lost)
        self.end_reign(kept_entries=self._schedule.below(len(self._pending)) if lost else len(self._pending))
        self._schedule.at(downtime_ms, self.begin_reign)
        self._book.probe("core.controller.failover")

    def fail_over_soon(self, downtime_ms: int) -> None:
        """As `fail_over`, but at an unlucky moment: just after the next entry was proposed."""
        self._fails_after_proposal = downtime_ms

    def heal(self) -> None:
        """No more failovers."""
        self._fails_after_proposal = None

    def _turn(self, reign: int) -> None:
        """What the passing of time asks for."""
        if reign != self._reign or self.controller is None:
            return
        for request in self.controller.due(self._schedule.now_ms):
            self.submit(request, _ignore)
        self._schedule.at(40, self._turn, reign)

    # -- requests ------------------------------------------------------------------------------------------------

    def submit(self, request: Request, answer: Answer) -> None:
        """Handle a request; `answer` hears the response at commit, or an error."""
        controller = self.controller
        if controller is None:
            answer(NotController("no active controller"))
            return
        index = self._next_index
        try:
            result = controller.handle(request, now_ms=self._schedule.now_ms, index=index)
        except LogClusterError as error:
            answer(error)
            return
        except InvariantViolation as violation:
            self._book.find("core-invariant", f"controller: {violation}")
            answer(Disconnected("the controller stopped"))
            self.fail_over(50)
            return
        if result.records:
            self._next_index += 1
            controller.replay(result.records, index=index, term=self._reign)
            self._pending.append(_Entry(controller.image, [(answer, result.response)]))
            self._schedule.at(1 + self._schedule.below(self._options.delay_ms_max), self._commit, self._reign)
            if self._fails_after_proposal is not None:
                self._schedule.at(0, self.fail_over, self._fails_after_proposal)
                self._fails_after_proposal = None
        elif self._pending:
            self._pending[-1].waiters.append((answer, result.response))
        else:
            answer(result.response)

    def _commit(self, reign: int) -> None:
        """One entry more is committed, the oldest first."""
        if reign == self._reign and self._pending:
            self._apply(self._pending.popleft())

    def _apply(self, entry: _Entry) -> None:
        before, self.committed = self.committed, entry.image
        if self.controller is not None:
            self._check(self.controller)
        self._on_commit(before, entry.image)
        for answer, response in entry.waiters:
            answer(response)

    def _check(self, controller: Controller) -> None:
        try:
            controller.check()
        except InvariantViolation as violation:
            self._book.find("core-invariant", f"controller: {violation}")

    # -- the one partition ---------------------------------------------------------------------------------------

    def create_topic(self) -> None:
        """Create the topic; every broker is registered and active."""
        options = self._options
        topic = NewTopic(
            name=TOPIC,
            partitions=1,
            replication_factor=options.replication_factor,
            config={
                "min.insync.replicas": str(options.min_in_sync),
                "flush.mode": "sync" if options.is_synced else "async",
            },
        )
        self.submit(CreateTopics(topics=(topic,)), _ignore)

    @property
    def partition(self) -> PartitionRegistration | None:
        """The partition as committed; None before the topic exists."""
        return partition_of(self.committed)


def partition_of(image: MetadataImage) -> PartitionRegistration | None:
    """The one partition of an image."""
    topic = image.topic_by_name(TOPIC)
    return None if topic is None else topic.partitions[0]


def _ignore(response: Response | LogClusterError) -> None:
    """Nobody waits for this."""
    del response
