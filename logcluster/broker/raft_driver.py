"""Runs `core.raft.node` on real time, disk and peers: persists, then sends what depends on it, then applies.

The node is stepped synchronously on the event loop, so a proposer learns its index before it awaits anything.
One writer task takes all writes that are ready, stores them as one synced batch off the loop, and reports the
last one (group commit); answers that promise durability wait for it. A leader's own append requests do not.
A write that failed, or a violated invariant, stops the driver for good: what is on disk is then unknown, and
only a restart finds out. Neighbours: `storage.raft_store`, `broker.raft_peer`, `api.raft_service`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self, assert_never

from logcluster.broker.raft_ports import (
    CommittedEntry,
    Leadership,
    RaftListener,
    RaftPeer,
    founding_reason,
    hindrance,
    next_steps,
    refusal_error,
    stranger_warning,
)
from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import (
    Accepted,
    Apply,
    ApplySnapshot,
    Effect,
    FoundingChanged,
    LeadershipChanged,
    Persist,
    Refused,
    Send,
    SendAfterDurable,
    StrangerNoticed,
)
from logcluster.core.raft.inputs import (
    AddVoter,
    Input,
    PeerUnreachable,
    Persisted,
    Propose,
    RemoveVoter,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
    SnapshotTaken,
    Started,
    Tick,
    TransferLeadership,
)
from logcluster.core.raft.messages import (
    AppendRequest,
    CensusRequest,
    EntryKind,
    Request,
    Response,
    SnapshotRequest,
    TimeoutNowRequest,
    Voter,
    VoteRequest,
)
from logcluster.core.raft.node import RaftNode
from logcluster.model.errors import (
    Disconnected,
    InvalidRequest,
    LogClusterError,
    NotReady,
    RequestTimedOut,
    ShuttingDown,
)
from logcluster.model.probes import probe
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.entropy import Entropy
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.failpoints import failpoint
from logcluster.runtime.scope import FaultHandler, TaskScope
from logcluster.storage.raft_store import RaftStore

log = get_logger("raft")

_SNAPSHOT_TIMEOUT_MS = 60_000


class RaftDriver:
    """One voter (or a node that waits to become one) at work; `async with driver:` runs it.

    Args:
        config: settings and identity.
        store: its durable state; the caller closes it after the driver.
        peers: gives the port to a node; asked for each call, so the caller may replace connections.
        listener: told what is committed and who leads, synchronously, in order, on the event loop.
        on_fault: told once when the driver had to stop; by default leaving the block raises the cause.
    """

    def __init__(
        self,
        config: RaftConfig,
        *,
        store: RaftStore,
        disk: DiskExecutor,
        clock: Clock,
        entropy: Entropy,
        peers: Callable[[int], RaftPeer],
        listener: RaftListener,
        on_fault: FaultHandler | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._disk = disk
        self._clock = clock
        self._rng = entropy.stream(f"raft-{config.node_id}")
        self._peers = peers
        self._listener = listener
        self._on_fault = on_fault
        self._scope = TaskScope(f"raft-{config.node_id}", on_fault=self._faulted)
        self._node: RaftNode | None = None
        self._is_stopped = False
        self._failure: BaseException | None = None
        self._effects: deque[Effect] = deque()
        self._is_draining = False
        self._writes: list[Persist] = []
        self._writes_ready = asyncio.Event()
        self._held: deque[SendAfterDurable] = deque()
        self._last_causality_id = 0
        self._inbound: dict[int, asyncio.Future[Response]] = {}
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._uncommitted: dict[int, asyncio.Future[int]] = {}
        self._leadership = Leadership(term=0, leader_id=None, is_leader=False)
        self._leadership_lost: list[asyncio.Future[None]] = []
        self._timer: asyncio.Task[None] | None = None
        self._timer_target_ms: int | None = None
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Load the stored state and take part.

        Raises:
            CorruptLog: the stored state contradicts itself.
            StorageFailure: it cannot be read.
        """
        persisted = await self._disk.run(self._store.load)
        failpoint("raft.start.after_load")
        self._node = RaftNode(self._config, persisted, rng=self._rng)
        self._writer = self._scope.spawn(self._write_loop(), name="writer")
        self._step(Started())
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        self._writes_ready.set()
        if self._writer is not None:
            await asyncio.wait([self._writer])
        await self._scope.close()
        if error is None and self._failure is not None and self._on_fault is None:
            raise self._failure

    # What it knows.

    @property
    def is_leader(self) -> bool:
        """Whether proposals are accepted: this node leads and its applied state is complete."""
        return self._node is not None and self._node.is_leader and not self._is_stopped

    @property
    def is_transferring(self) -> bool:
        """Whether leadership is being handed over: proposals are refused until that works or is given up."""
        return self._node is not None and self._node.is_transferring

    @property
    def leader_id(self) -> int | None:
        return self._node.leader_id if self._node is not None else None

    @property
    def role_name(self) -> str:
        """Name of the role's class in `core.raft.roles`; empty before the start."""
        return self._node.role_name if self._node is not None else ""

    @property
    def term(self) -> int:
        return self._node.term if self._node is not None else 0

    @property
    def commit_index(self) -> int:
        return self._node.commit_index if self._node is not None else 0

    @property
    def applied_index(self) -> int:
        """Last index that the listener was told of."""
        return self._node.applied_index if self._node is not None else 0

    @property
    def last_log_index(self) -> int:
        """Last index of the log, committed or not."""
        return self._node.last_log_index if self._node is not None else 0

    @property
    def snapshot_index(self) -> int:
        """Last index the newest snapshot holds; `applied_index` less this is what a restart replays."""
        return self._node.snapshot_index if self._node is not None else 0

    @property
    def voters(self) -> tuple[Voter, ...]:
        """The voter set in force, in order of node id."""
        return self._node.voters if self._node is not None else ()

    @property
    def hindrance(self) -> str | None:
        """What may keep the quorum without a leader, for people; None if nothing is known."""
        node = self._node
        return hindrance(node.founding, node.strangers) if node is not None else None

    def peer_match_indexes(self) -> dict[int, int]:
        """On a leader, how far each peer's durable log matches; empty elsewhere."""
        return self._node.peer_match_indexes() if self._node is not None else {}

    def peer_silences_ms(self) -> dict[int, int]:
        """On a leader, how long ago each peer was heard from; empty elsewhere."""
        return self._node.peer_silences_ms(self._clock.monotonic_ms()) if self._node is not None else {}

    def describe(self) -> str:
        """One line about the whole state."""
        return self._node.describe() if self._node is not None else "not started"

    # What it does.

    def propose_nowait(self, payload: bytes) -> tuple[int, asyncio.Future[int]]:
        """Append `payload`; return its index, and a future that gives the index at commit, once it is applied here.

        The future fails with `Disconnected` if leadership is lost first: the entry may still be committed later.

        Raises:
            NotController: this node does not lead; nothing was appended.
            Overloaded: too much is uncommitted; nothing was appended.
            ShuttingDown: the driver has stopped.
        """
        causality_id, future = self._ask()
        try:
            accepted = self._accepted_at_once(Propose(payload=payload, causality_id=causality_id), causality_id)
        except LogClusterError:
            if future.done():
                future.exception()  # Raised here, so nobody will await it.
            raise
        return accepted.index, future

    async def propose(self, payload: bytes) -> int:
        """Append `payload` and return its index once it is committed and applied here.

        Raises:
            NotController, Overloaded, ShuttingDown: nothing was appended.
            Disconnected: leadership was lost before the commit; the outcome is unknown.
        Cancellation: the entry stays proposed.
        """
        _, future = self.propose_nowait(payload)
        return await future

    def compact(self, index: int, snapshot_payload: bytes) -> None:
        """Hand over the application's state as of the applied entry `index`; the log before it may go.

        Raises:
            InvalidRequest: `index` is not applied yet.
        """
        if index > self.applied_index:
            raise InvalidRequest("a snapshot holds applied entries only", index=index, applied=self.applied_index)
        failpoint("raft.snapshot.before_compact")
        self._step(SnapshotTaken(index=index, payload=snapshot_payload))

    async def add_voter(self, voter: Voter) -> int:
        """Bring a node up to date and make it a voter; return the committed index of the change.

        Raises:
            NotController: this node does not lead, or stopped leading before the change began.
            InvalidRequest: it is a voter already, the set is full, or another change is under way.
            RequestTimedOut: the node did not catch up; it is no voter.
            Disconnected: leadership was lost; the outcome is unknown.
        """
        causality_id, future = self._ask()
        self._step(AddVoter(voter=voter, causality_id=causality_id))
        return await future

    async def remove_voter(self, node_id: int) -> int:
        """Take a node out of the voter set; return the committed index. Raises as `add_voter`."""
        causality_id, future = self._ask()
        self._step(RemoveVoter(node_id=node_id, causality_id=causality_id))
        return await future

    async def transfer_leadership(self, to: int | None = None) -> None:
        """Hand leadership to `to`, by default to the most advanced voter; return when this node leads no more.

        Raises:
            NotController: this node does not lead.
            InvalidRequest: there is no such voter.
            RequestTimedOut: the other node did not take over in time; this one may go on leading.
        """
        causality_id = self._next_causality_id()
        self._accepted_at_once(TransferLeadership(to=to, causality_id=causality_id), causality_id)
        if to == self._config.node_id or not self.is_leader:
            return
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leadership_lost.append(lost)
        try:
            async with asyncio.timeout(2 * self._config.election_timeout_ms_max / 1000):
                await lost
        except TimeoutError as error:
            raise RequestTimedOut("leadership was not taken over in time", target=to) from error

    def peer_connection_lost(self, peer_id: int) -> None:
        """Hint that the connection with a peer broke; if it leads, an election is tried soon."""
        self._step(PeerUnreachable(peer_id=peer_id))

    async def handle_request(self, request: Request) -> Response:
        """Answer a peer's request; what the answer promises is on disk.

        Raises:
            InconsistentVoterSet: the request is meant for another disk or node.
            NotReady, ShuttingDown: the driver has not started, or has stopped.
        """
        if self._node is None:
            raise NotReady("the quorum driver has not started")
        causality_id = self._next_causality_id()
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._inbound[causality_id] = future
        try:
            self._step(RequestReceived(request=request, causality_id=causality_id))
            if self._is_stopped and not future.done():
                raise ShuttingDown("the quorum driver has stopped")
            return await future
        finally:
            self._inbound.pop(causality_id, None)

    # The engine.

    def _next_causality_id(self) -> int:
        self._last_causality_id += 1
        return self._last_causality_id

    def _ask(self) -> tuple[int, asyncio.Future[int]]:
        if self._node is None or self._is_stopped:
            raise ShuttingDown("the quorum driver does not run")
        causality_id = self._next_causality_id()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked[causality_id] = future
        return causality_id, future

    def _accepted_at_once(self, event: Propose | TransferLeadership, causality_id: int) -> Accepted:
        """Step with a command that is answered in the same step; raise the error that a refusal stands for."""
        for effect in self._step(event):
            if isinstance(effect, Accepted) and effect.causality_id == causality_id:
                return effect
            if isinstance(effect, Refused) and effect.causality_id == causality_id:
                self._asked.pop(causality_id, None)
                raise refusal_error(effect)
        raise ShuttingDown("the quorum driver has stopped")

    def _step(self, event: Input) -> list[Effect]:
        """Step the node and carry out the effects; inside a listener's call they follow those already queued."""
        if self._is_stopped or self._node is None:
            return []
        try:
            effects = self._node.step(event, self._clock.monotonic_ms())
            self._effects.extend(effects)
            if not self._is_draining:
                self._drain()
        except BaseException as error:
            self._faulted("step", error)
            raise
        return effects

    def _drain(self) -> None:
        self._is_draining = True
        try:
            while self._effects:
                self._execute(self._effects.popleft())
        finally:
            self._is_draining = False
        self._arm_timer()

    def _execute(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self._writes.append(effect)
                self._writes_ready.set()
            case Send():
                self._send(effect.to, effect.message, effect.causality_id)
            case SendAfterDurable():
                self._held.append(effect)
            case Apply():
                self._apply(effect)
            case ApplySnapshot(snapshot=snapshot):
                failpoint("raft.snapshot.before_install")
                self._listener.on_snapshot(snapshot)
                failpoint("raft.snapshot.after_install")
                self._listener.on_applied(snapshot.index)
            case LeadershipChanged():
                self._announce(effect)
            case FoundingChanged() | StrangerNoticed():
                self._tell(effect)
            case Accepted(causality_id=causality_id, index=index):
                self._accepted(causality_id, index)
            case Refused():
                self._refused(effect)
            case _:
                assert_never(effect)

    def _send(self, to: int, message: Request | Response, causality_id: int | None) -> None:
        if isinstance(message, VoteRequest | AppendRequest | SnapshotRequest | TimeoutNowRequest | CensusRequest):
            if not self._scope.is_closed:
                self._scope.spawn(self._call(to, message), name=f"{type(message).__name__}-{to}")
            return
        assert causality_id is not None, "an answer answers something"
        future = self._inbound.get(causality_id)
        if future is not None and not future.done():
            future.set_result(message)

    async def _call(self, to: int, request: Request) -> None:
        try:
            response = await self._call_peer(self._peers(to), request)
        except (LogClusterError, OSError) as error:
            log.debug("raft_request_failed", request=type(request).__name__, peer_id=to, error=str(error))
            self._step(RequestFailed(peer_id=to, request=request))
            return
        self._step(ResponseReceived(peer_id=to, request=request, response=response))

    async def _call_peer(self, peer: RaftPeer, request: Request) -> Response:
        timeout_ms = self._config.request_timeout_ms
        match request:
            case AppendRequest():
                return await peer.append_entries(request, timeout_ms=timeout_ms)
            case VoteRequest():
                return await peer.vote(request, timeout_ms=timeout_ms)
            case SnapshotRequest():
                return await peer.install_snapshot(request, timeout_ms=_SNAPSHOT_TIMEOUT_MS)
            case TimeoutNowRequest():
                return await peer.timeout_now(request, timeout_ms=timeout_ms)
            case CensusRequest():
                return await peer.census(request, timeout_ms=timeout_ms)
            case _:
                assert_never(request)

    def _apply(self, effect: Apply) -> None:
        failpoint("raft.apply.before")
        data = [
            CommittedEntry(index=entry.index, term=entry.term, payload=entry.payload)
            for entry in effect.entries
            if entry.kind is EntryKind.DATA
        ]
        if data:
            self._listener.on_committed(data)
        self._listener.on_applied(effect.entries[-1].index)
        failpoint("raft.apply.before_answers")
        if not self._uncommitted:
            return
        for entry in effect.entries:
            future = self._uncommitted.pop(entry.index, None)
            if future is not None and not future.done():
                future.set_result(entry.index)

    def _accepted(self, causality_id: int, index: int) -> None:
        future = self._asked.pop(causality_id, None)
        if future is not None:
            self._uncommitted[index] = future

    def _refused(self, effect: Refused) -> None:
        inbound = self._inbound.get(effect.causality_id)
        if inbound is not None and not inbound.done():
            inbound.set_exception(refusal_error(effect))
        asked = self._asked.pop(effect.causality_id, None)
        if asked is not None and not asked.done():
            asked.set_exception(refusal_error(effect))

    def _announce(self, effect: LeadershipChanged) -> None:
        self._leadership = Leadership(term=effect.term, leader_id=effect.leader_id, is_leader=effect.is_leader)
        failpoint("raft.leadership.before_announce")
        log.info("quorum_leader_changed", term=effect.term, leader_id=effect.leader_id, is_ready=effect.is_leader)
        if not effect.is_leader:
            self._fail_uncommitted("leadership was lost before the commit; the outcome is unknown")
            for lost in self._leadership_lost:
                if not lost.done():
                    lost.set_result(None)
            self._leadership_lost.clear()
        self._listener.on_leadership(self._leadership)

    def _tell(self, effect: FoundingChanged | StrangerNoticed) -> None:
        """What an operator should know of a cluster that cannot begin, or of a voter that would begin anew."""
        if isinstance(effect, StrangerNoticed):
            log.warning("voter_without_history", voter_id=effect.node_id, reason=stranger_warning(effect.node_id))
            return
        report = effect.report
        if report is None:
            log.info("quorum_joined")
        elif report.obstacles:
            log.warning("quorum_not_founded", reason=founding_reason(report), hint=next_steps(report))
        else:
            log.info("quorum_waits", reason=founding_reason(report))

    def _fail_uncommitted(self, message: str) -> None:
        uncommitted, self._uncommitted = self._uncommitted, {}
        if uncommitted:
            probe("raft.propose.outcome_unknown")
        for future in uncommitted.values():
            if not future.done():
                future.set_exception(Disconnected(message))

    async def _write_loop(self) -> None:
        """Store what is ready as one batch, release what waited for it, report it; until the driver stops."""
        while not self._is_stopped:
            await self._writes_ready.wait()
            self._writes_ready.clear()
            while self._writes and not self._is_stopped:
                writes, self._writes = self._writes, []
                failpoint("raft.persist.before")
                await self._disk.run(partial(self._store.save, writes))
                failpoint("raft.persist.after")
                self._written(writes[-1].write_id)

    def _written(self, write_id: int) -> None:
        if self._is_stopped:
            return
        while self._held and self._held[0].write_id <= write_id:
            held = self._held.popleft()
            self._send(held.to, held.message, held.causality_id)
        failpoint("raft.persist.after_answers")
        self._step(Persisted(write_id=write_id))

    def _arm_timer(self) -> None:
        """Wake up at the node's deadline; a timer that wakes earlier looks again by itself."""
        assert self._node is not None, "the node runs"
        deadline_ms = self._node.next_deadline_ms()
        if deadline_ms is None or self._scope.is_closed:
            return
        if self._timer_target_ms is not None and self._timer_target_ms <= deadline_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_target_ms = deadline_ms
        self._timer = self._scope.spawn(self._run_timer(), name="timer")

    async def _run_timer(self) -> None:
        node = self._node
        assert node is not None, "the node runs"
        while not self._is_stopped:
            deadline_ms = node.next_deadline_ms()
            if deadline_ms is None:
                self._timer = self._timer_target_ms = None
                return
            self._timer_target_ms = deadline_ms
            await self._clock.sleep_ms(max(1, deadline_ms - self._clock.monotonic_ms()))
            due_ms = node.next_deadline_ms()
            if due_ms is not None and due_ms <= self._clock.monotonic_ms():
                self._timer_target_ms = -1  # this task looks again itself, none other is to be started
                self._step(Tick())

    # The end.

    def _faulted(self, name: str, error: BaseException) -> None:
        if self._failure is not None:
            return
        self._failure = error
        probe("raft.driver.stopped")
        log.error("quorum_driver_stopped", component=name, error=repr(error), exc_info=error)
        self._stop()
        if self._on_fault is not None:
            self._on_fault(name, error)

    def _stop(self) -> None:
        """Take no further step; fail everything that waits."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._fail_uncommitted("the node stopped before the commit; the outcome is unknown")
        for inbound in self._inbound.values():
            if not inbound.done():
                inbound.set_exception(ShuttingDown("the quorum driver has stopped"))
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ShuttingDown("the quorum driver has stopped"))
        for lost in self._leadership_lost:
            if not lost.done():
                lost.set_result(None)
        self._asked.clear()
        self._leadership_lost.clear()
