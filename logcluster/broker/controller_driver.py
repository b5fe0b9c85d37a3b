"""Runs the controller state machine over the metadata quorum, on every voter.

Every voter applies committed entries to `committed`. On the active controller a `Reign` holds the working state:
requests are handled one at a time on the event loop, their records replayed into the working state before they are
proposed, so that requests in flight together see each other, and their responses are released when the entry is
committed. A request that changes nothing waits for what it saw to be committed. When leadership ends the reign is
dropped as a whole, with unknown outcome for whoever waits; the next one starts over committed state, in the same term
if only a proposal was refused. The tasks here are one that ticks and one probe per dropped session.

Invariants: one writer; an entry has the index its request was told; `committed` is only moved by committed entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from logcluster.broker.broker_sessions import CommittedTail, SessionFeed
from logcluster.broker.metadata_events import Commit, tell
from logcluster.broker.raft_ports import CommittedEntry, Leadership
from logcluster.core.controller.controller import Controller, ControllerConfig
from logcluster.core.controller.requests import FenceBroker, Heartbeat, RegisterBroker, Request, Response, Result
from logcluster.core.metadata.image import EMPTY, BrokerRegistration, MetadataDelta, MetadataImage
from logcluster.core.metadata.records import MetadataRecord
from logcluster.core.raft.messages import Snapshot
from logcluster.model.errors import Disconnected, LogClusterError, NotController, Overloaded
from logcluster.model.invariants import invariant
from logcluster.model.limits import CONTROLLER_QUEUE_LENGTH_MAX
from logcluster.model.probes import probe
from logcluster.runtime.clock import Clock
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.failpoints import failpoint
from logcluster.runtime.scope import FaultHandler, TaskScope
from logcluster.wire.records import decode_batch, decode_snapshot, encode_batch, encode_snapshot

log = get_logger("controller")

TICK_INTERVAL_MS: Final = 50
SNAPSHOT_SIZE_BYTES: Final = 20 * 1024 * 1024
"""A snapshot of the metadata is due when entries of this size have come since the last one."""


class MetadataQuorum(Protocol):
    """What this file needs of the Raft driver."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def is_transferring(self) -> bool: ...
    @property
    def leader_id(self) -> int | None: ...
    @property
    def term(self) -> int: ...
    @property
    def applied_index(self) -> int: ...
    @property
    def last_log_index(self) -> int: ...
    def propose_nowait(self, payload: bytes) -> tuple[int, asyncio.Future[int]]: ...
    def compact(self, index: int, snapshot_payload: bytes) -> None: ...


class ProbeOutcome(Protocol):
    """What a probe of a broker's endpoint showed."""

    @property
    def is_refused(self) -> bool:
        """Nobody listens there: the process is gone."""
        ...

    @property
    def incarnation_id(self) -> bytes | None:
        """Which process answered; None when nobody did in time."""
        ...


class BrokerProber(Protocol):
    """Looks whether a broker's process is there."""

    async def probe(self, broker: BrokerRegistration) -> ProbeOutcome:
        """Ask once, within a fraction of a second; never raises for a broker that does not answer."""
        ...


@dataclass(slots=True)
class _Pending:
    """An entry that is proposed and not yet committed, and who waits for it."""

    records: tuple[MetadataRecord, ...]
    reason: str
    decided_ms: int
    waiters: list[tuple[asyncio.Future[Response], Response]] = field(default_factory=list)


class Reign:
    """Working state of an active controller, from the first own commit to the loss of leadership."""

    def __init__(self, controller: Controller, *, term: int, first_index: int) -> None:
        self.controller = controller
        self.term = term
        self.last_proposed = first_index
        self.pending: dict[int, _Pending] = {}
        self.waiting_count = 0
        self.feeds: dict[int, SessionFeed] = {}


class ControllerDriver:
    """See the top of the file. `async with` runs its tasks.

    Args:
        node_id: of this node.
        prober: looks whether a broker's process is there.
        random: of the stream "controller".
        snapshot_interval_entries: a snapshot is written at least every so many entries.
        on_fault: told when a task here fails unexpectedly; the node should stop.
    """

    def __init__(
        self,
        *,
        node_id: int,
        config: ControllerConfig,
        clock: Clock,
        prober: BrokerProber,
        random: Random,
        snapshot_interval_entries: int = 10_000,
        on_fault: FaultHandler | None = None,
    ) -> None:
        self.committed: MetadataImage = EMPTY
        self.node_id = node_id
        self._attached: MetadataQuorum | None = None
        self._config = config
        self._clock = clock
        self._prober = prober
        self._random = random
        self._snapshot_interval_entries = snapshot_interval_entries
        self._reign: Reign | None = None
        self._tail = CommittedTail()
        self._entries_since_snapshot = 0
        self._size_bytes_since_snapshot = 0
        self._scope = TaskScope("controller", on_fault=on_fault)
        self.on_reign: Callable[[bool], None] | None = None
        self.on_change: Callable[[MetadataImage, MetadataDelta], None] | None = None
        """On the active controller, told the image before each committed entry, and what the entry changed."""

    async def __aenter__(self) -> ControllerDriver:
        self._scope.spawn(self._tick(), name="tick")
        return self

    async def __aexit__(self, *details: object) -> None:
        self._end_reign()
        await self._scope.close()

    @property
    def is_active(self) -> bool:
        """Does this node answer controller requests now?"""
        return self._reign is not None

    @property
    def waiting_count(self) -> int:
        """Requests that wait for their commit."""
        return 0 if self._reign is None else self._reign.waiting_count

    @property
    def leader_id(self) -> int | None:
        """The node that leads the quorum, as far as known."""
        return self._quorum.leader_id

    @property
    def term(self) -> int:
        """The newest term known."""
        return self._quorum.term

    def attach(self, quorum: MetadataQuorum) -> None:
        """Name the Raft driver whose listener this object is; once, before that driver starts."""
        invariant(self._attached is None, "a controller driver has one quorum")
        self._attached = quorum

    @property
    def _quorum(self) -> MetadataQuorum:
        assert self._attached is not None, "attach() comes first"
        return self._attached

    @property
    def controller(self) -> Controller | None:
        """The working state; None unless active. For inspection only."""
        return None if self._reign is None else self._reign.controller

    # What the quorum says.

    def on_committed(self, entries: Sequence[CommittedEntry]) -> None:
        """Apply committed entries, in order; answer those who wait for them; feed the brokers' sessions.

        Raises:
            InvariantViolation, CorruptLog, UnsupportedVersion: the log cannot be applied: the node must stop.
        """
        for entry in entries:
            self._apply(entry)
        if self._reign is not None:
            for feed in self._reign.feeds.values():
                feed.wake()
        self._maybe_snapshot()

    def _apply(self, entry: CommittedEntry) -> None:
        reign = self._reign
        pending = reign.pending.pop(entry.index, None) if reign is not None else None
        records = pending.records if pending is not None else decode_batch(entry.payload)
        before = self.committed
        self.committed, delta = before.apply(records, offset=entry.index, term=entry.term)
        if self.on_change is not None and reign is not None:
            self.on_change(before, delta)
        if pending is not None:
            duration_ms = self._clock.monotonic_ms() - pending.decided_ms
            tell(before, self.committed, delta, Commit(records, pending.reason, duration_ms))
        self._tail.append(entry.index, entry.term, entry.payload)
        self._entries_since_snapshot += 1
        self._size_bytes_since_snapshot += len(entry.payload)
        failpoint("controller.apply.before_answers")
        if reign is not None and pending is not None:
            reign.waiting_count -= len(pending.waiters)
            for future, response in pending.waiters:
                if not future.done():
                    future.set_result(response)

    def on_applied(self, index: int) -> None:
        """Entries of the quorum's own say nothing here."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the committed state by a snapshot: at start, or because this node fell behind.

        Raises:
            CorruptLog, UnsupportedVersion: it cannot be read: the node must stop.
        """
        probe("controller.metadata.snapshot_loaded")
        invariant(self._reign is None, "an active controller loads no snapshot", index=snapshot.index)
        self.committed = decode_snapshot(snapshot.payload, offset=snapshot.index, term=snapshot.term)
        self._tail.restart(snapshot.index, snapshot.term)
        self._entries_since_snapshot = 0
        self._size_bytes_since_snapshot = 0

    def on_leadership(self, leadership: Leadership) -> None:
        """Note who leads the quorum; "this node" means also that everything committed before is applied."""
        if self._reign is not None and (not leadership.is_leader or leadership.term != self._reign.term):
            self._end_reign()
        if leadership.is_leader and self._reign is None:
            self._begin_reign(leadership.term)

    def _begin_reign(self, term: int) -> None:
        failpoint("controller.reign.before_begin")
        now_ms = self._clock.monotonic_ms()
        controller = Controller(self.committed, config=self._config, random=self._random, now_ms=now_ms)
        self._reign = Reign(controller, term=term, first_index=self.committed.offset)
        image = controller.image
        log.info(
            "controller_elected",
            term=term,
            metadata_offset=image.offset,
            brokers=len(image.brokers),
            brokers_active=sum(broker.is_active for broker in image.brokers.values()),
            topics=len(image.topics),
            partitions=controller.state.partition_count,
            partitions_without_leader=len(controller.state.leaderless()),
        )
        for broker in self.committed.brokers.values():
            self._scope.spawn(self._probe(self._reign, broker), name=f"probe-{broker.broker_id}")
        if self.on_reign is not None:
            self.on_reign(True)

    def _end_reign(self) -> None:
        reign, self._reign = self._reign, None
        if reign is None:
            return
        if reign.pending:
            probe("controller.reign.ended_with_requests")
        log.info("controller_deposed", term=reign.term, requests_in_doubt=reign.waiting_count)
        for feed in reign.feeds.values():
            feed.close(self._not_controller())
        for pending in reign.pending.values():
            for future, _ in pending.waiters:
                if not future.done():
                    future.set_exception(Disconnected("the active controller changed before the request was committed"))
        if self.on_reign is not None:
            self.on_reign(False)

    def _not_controller(self) -> NotController:
        leader_id = self._quorum.leader_id
        if leader_id == self.node_id:
            leader_id = None
        if leader_id is None:
            return NotController("there is no active controller at the moment", term=self._quorum.term)
        return NotController(f"node {leader_id} is the active controller", leader_id=leader_id, term=self._quorum.term)

    # Requests.

    async def submit(self, request: Request) -> Response:
        """Handle a request and wait until what it did is committed; the caller sets the deadline.

        Raises:
            NotController: this node is not the active controller; definite.
            Overloaded: too many requests wait; definite.
            Disconnected: leadership was lost meanwhile; the outcome is unknown.
            LogClusterError: the request is refused; definite.
        Cancellation: the request may still take effect.
        """
        return await self.submit_nowait(request)

    def submit_nowait(self, request: Request) -> asyncio.Future[Response]:
        """Handle a request now; the future ends at its commit. Raises as `submit` does, short of `Disconnected`."""
        reign = self._reign
        if reign is None:
            raise self._not_controller()
        if reign.waiting_count >= CONTROLLER_QUEUE_LENGTH_MAX:
            raise Overloaded("the controller has too many requests waiting")
        index = self._quorum.last_log_index + 1
        result = reign.controller.handle(request, now_ms=self._clock.monotonic_ms(), index=index)
        future = self._commit(reign, result, index, reason=_reason(request))
        if isinstance(request, RegisterBroker):
            self._drop_older_feed(reign, request.broker_id)
        return future

    def _commit(self, reign: Reign, result: Result, index: int, *, reason: str) -> asyncio.Future[Response]:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        if result.records:
            if self._quorum.is_transferring:
                # Refused before the working state knows of it: the hand-over may fail, and the reign go on.
                probe("controller.refused_while_handing_over")
                raise NotController("leadership is being handed over", term=self._quorum.term)
            reign.controller.replay(result.records, index=index, term=reign.term)
            # Known before it is proposed: a quorum of one may commit at once.
            now_ms = self._clock.monotonic_ms()
            pending = reign.pending[index] = _Pending(result.records, reason, now_ms, [(future, result.response)])
            reign.waiting_count += 1
            try:
                failpoint("controller.commit.before_propose")
                actual_index, committed = self._quorum.propose_nowait(encode_batch(result.records))
            except LogClusterError:
                # The working state holds what nobody proposed.
                del reign.pending[index]
                self._end_reign()
                raise
            committed.add_done_callback(_retrieve)
            invariant(actual_index == index, "an entry gets the index it was told", index=index, actual=actual_index)
            failpoint("controller.commit.after_propose")
            reign.last_proposed = index
            del pending
            return future
        last = reign.pending.get(reign.last_proposed)
        if last is not None:
            probe("controller.read.waits_for_commit")
        if last is None:
            future.set_result(result.response)
        else:
            last.waiters.append((future, result.response))
            reign.waiting_count += 1
        return future

    # Sessions of brokers.

    def open_session(self, heartbeat: Heartbeat, *, metadata_term: int) -> SessionFeed:
        """Begin a broker's session with its first heartbeat; an earlier session of the broker ends.

        Raises:
            NotController, StaleBrokerEpoch: the broker must look elsewhere, or register.
        """
        reign = self._reign
        if reign is None:
            raise self._not_controller()
        self._heard(reign, heartbeat)
        earlier = reign.feeds.pop(heartbeat.broker_id, None)
        if earlier is not None:
            probe("controller.session.replaced")
            earlier.close(Disconnected("the broker opened another session"))
        feed = SessionFeed(
            broker_id=heartbeat.broker_id,
            broker_epoch=heartbeat.broker_epoch,
            position=heartbeat.metadata_offset,
            position_term=metadata_term,
            tail=self._tail,
            committed=lambda: self.committed,
            may_shut_down=reign.controller.may_shut_down,
        )
        reign.feeds[heartbeat.broker_id] = feed
        log.info("broker_session_opened", broker_id=feed.broker_id, broker_epoch=feed.broker_epoch)
        return feed

    def heartbeat(self, feed: SessionFeed, heartbeat: Heartbeat) -> None:
        """Handle a later heartbeat of a session.

        Raises:
            NotController, StaleBrokerEpoch: the session is over.
        """
        reign = self._reign
        if reign is None:
            raise self._not_controller()
        self._heard(reign, heartbeat)
        # A member that waits to leave waits for the others to catch up.
        for other in reign.feeds.values():
            if other.wants_shutdown:
                other.wake()

    def _heard(self, reign: Reign, heartbeat: Heartbeat) -> None:
        index = self._quorum.last_log_index + 1
        result = reign.controller.handle(heartbeat, now_ms=self._clock.monotonic_ms(), index=index)
        if result.records:
            self._commit(reign, result, index, reason=_reason(heartbeat)).add_done_callback(_retrieve)

    def close_session(self, feed: SessionFeed) -> None:
        """Note that the stream of a session ended; its broker is probed, then fenced unless it comes back."""
        feed.close(Disconnected("the session ended"))
        reign = self._reign
        if reign is None or reign.feeds.get(feed.broker_id) is not feed:
            return
        del reign.feeds[feed.broker_id]
        log.info("broker_session_lost", broker_id=feed.broker_id, broker_epoch=feed.broker_epoch)
        reign.controller.sessions.dropped(
            feed.broker_id, broker_epoch=feed.broker_epoch, now_ms=self._clock.monotonic_ms()
        )
        broker = reign.controller.image.brokers.get(feed.broker_id)
        if broker is not None and broker.broker_epoch == feed.broker_epoch and not self._scope.is_closed:
            self._scope.spawn(self._probe(reign, broker), name=f"probe-{broker.broker_id}")

    def _drop_older_feed(self, reign: Reign, broker_id: int) -> None:
        feed = reign.feeds.get(broker_id)
        broker = reign.controller.image.brokers.get(broker_id)
        if feed is not None and broker is not None and feed.broker_epoch != broker.broker_epoch:
            del reign.feeds[broker_id]
            feed.close(Disconnected("the broker registered again"))

    async def _probe(self, reign: Reign, broker: BrokerRegistration) -> None:
        """Look once whether a broker without a session runs; when it surely does not, fence it at once."""
        if broker.broker_id in reign.feeds:
            return
        outcome = await self._prober.probe(broker)
        is_gone = outcome.is_refused or outcome.incarnation_id not in (None, broker.incarnation_id)
        if self._reign is not reign or not is_gone or broker.broker_id in reign.feeds:
            return
        probe("controller.probe.found_dead")
        reign.controller.sessions.gone(broker.broker_id, broker_epoch=broker.broker_epoch)
        self._run_due(reign)

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep_ms(TICK_INTERVAL_MS)
            if self._reign is not None and not self._quorum.is_leader:
                # A quorum driver that stopped on a fault says nothing.
                self._end_reign()
            if self._reign is None and self._may_reign_again():
                probe("controller.reign.began_again")
                self._begin_reign(self._quorum.term)
            if self._reign is not None:
                self._run_due(self._reign)

    def _may_reign_again(self) -> bool:
        """After a refused proposal the reign is over and leadership is not: go on from what is committed by then."""
        quorum = self._quorum
        return quorum.is_leader and not quorum.is_transferring and quorum.applied_index == quorum.last_log_index

    def _run_due(self, reign: Reign) -> None:
        for request in reign.controller.due(self._clock.monotonic_ms()):
            if self._reign is not reign:
                return
            if isinstance(request, FenceBroker):
                failpoint("controller.fence.before")
            try:
                self.submit_nowait(request).add_done_callback(_retrieve)
            except LogClusterError as error:
                log.info("own_request_refused", request=type(request).__name__, error=str(error))

    # Snapshots.

    def _maybe_snapshot(self) -> None:
        if (
            self._entries_since_snapshot < self._snapshot_interval_entries
            and self._size_bytes_since_snapshot < SNAPSHOT_SIZE_BYTES
        ):
            return
        failpoint("controller.snapshot.before_encode")
        self._quorum.compact(self.committed.offset, encode_snapshot(self.committed))
        self._entries_since_snapshot = 0
        self._size_bytes_since_snapshot = 0


def _reason(request: Request) -> str:
    """Why a broker is fenced by a request, if it is."""
    if isinstance(request, FenceBroker):
        return request.reason
    if isinstance(request, Heartbeat) and request.log_directory_failed:
        return "its log directory failed"
    return ""


def _retrieve(future: asyncio.Future[Response] | asyncio.Future[int]) -> None:
    """Look at a failure that nobody waits for, so that the loop does not complain."""
    if not future.cancelled():
        future.exception()
