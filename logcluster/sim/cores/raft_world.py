"""A quorum of pure voters on simulated time, network and disks; one heap of events, no event loop.

What the driver owes a node (`core.raft.node`) holds here too: effects in order, writes in order, a held message leaves
after its write, one answer or failure per request, a clock that never goes back. Everything else may go wrong: see
`raft_faults`. `raft_checks` looks after every step.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import (
    Accepted,
    Apply,
    ApplySnapshot,
    Effect,
    LeadershipChanged,
    Persist,
    RefusalReason,
    Refused,
    Send,
    SendAfterDurable,
)
from logcluster.core.raft.inputs import (
    Input,
    PeerUnreachable,
    Persisted,
    Propose,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
    Started,
    Tick,
)
from logcluster.core.raft.messages import (
    AppendResponse,
    Entry,
    Request,
    Response,
    SnapshotRequest,
    TimeoutNowRequest,
    Voter,
    VoteResponse,
)
from logcluster.core.raft.node import RaftNode
from logcluster.model.invariants import InvariantViolation
from logcluster.sim.cores.raft_checks import RaftChecks
from logcluster.sim.cores.raft_disk import RaftDisk
from logcluster.sim.cores.raft_member import Call, RaftMember
from logcluster.sim.cores.raft_options import RaftOptions
from logcluster.sim.cores.result import Notebook
from logcluster.sim.cores.schedule import Schedule

REQUEST_TIMEOUT_MS = 80


def directory_of(node_id: int, generation: int) -> bytes:
    """A disk's id: each wiped disk of a node is another one."""
    return bytes([node_id, generation]) * 8


class RaftWorld(Schedule):
    """One run. `options` say what goes wrong, `rng` when."""

    def __init__(self, rng: Random, options: RaftOptions, ablations: frozenset[str], book: Notebook) -> None:
        super().__init__(rng)
        self.options = options
        self.book = book
        self.is_calm = False
        self.blocked: dict[tuple[int, int], int] = {}
        self.disks: dict[tuple[int, bytes], RaftDisk] = {}
        self.checks = RaftChecks(book, self.disks)
        self._causality = 0
        self.members = {member.node_id: member for member in self._build(ablations)}

    def _build(self, ablations: frozenset[str]) -> list[RaftMember]:
        options, rng = self.options, self.rng
        ids = range(1, options.voter_count + 1)
        voters = tuple(
            Voter(node_id, directory_of(node_id, 0)) if options.knows_directories else Voter(node_id) for node_id in ids
        )
        config = RaftConfig(
            node_id=1,
            directory_id=directory_of(1, 0),
            bootstrap_voters=voters,
            heartbeat_ms=options.heartbeat_ms,
            stickiness_ms=max(options.heartbeat_ms + 1, min(options.election_timeout_ms_min, 2 * options.heartbeat_ms)),
            election_timeout_ms_min=options.election_timeout_ms_min,
            election_timeout_ms_max=options.election_timeout_ms_max,
            hint_delay_ms_min=options.hint_delay_ms_min,
            hint_delay_ms_max=options.hint_delay_ms_max,
            check_quorum_ms=max(2 * options.heartbeat_ms, options.election_timeout_ms_min * 3 // 2),
            disk_stall_ms_max=150,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            catch_up_ms_max=400,
            trailing_entries=options.trailing_entries,
            append_entries_max=options.append_entries_max,
            in_flight_requests_max=options.in_flight_requests_max,
            ablations=ablations,
        )
        members = []
        for node_id in range(1, options.voter_count + options.spare_count + 1):
            own = replace(
                config,
                node_id=node_id,
                directory_id=directory_of(node_id, 0),
                bootstrap_voters=voters if node_id <= options.voter_count else (),
            )
            spread = options.clock_rate_spread
            rate = 1.0 + rng.uniform(-spread, spread) if spread else 1.0
            member = RaftMember(config=own, clock_rate=rate, skew_ms=rng.randint(0, 50))
            self.disks[node_id, own.directory_id] = member.disk
            members.append(member)
        return members

    def local_ms(self, member: RaftMember) -> int:
        """What the node's clock reads."""
        rate = member.clock_rate
        return member.skew_ms + (self.now_ms if rate == 1.0 else int(self.now_ms * rate))

    def next_causality_id(self) -> int:
        self._causality += 1
        return self._causality

    # -- processes -----------------------------------------------------------------------------------------------

    def start(self, member: RaftMember) -> None:
        """Start a process on what its disk holds."""
        if member.node is not None:
            return
        member.incarnation += 1
        member.writes.clear()
        member.held.clear()
        member.inbound.clear()
        member.pending.clear()
        member.is_writing = member.was_leader = member.was_ready = False
        member.applied = member.digest = member.commit_seen = 0
        member.tick_at_ms = None
        self.checks.check_start(member)
        member.term_seen = member.disk.hard_state.term
        member.memory = member.disk.copy()
        persisted = member.disk.persisted()
        member.node = RaftNode(member.config, persisted, rng=Random(self.rng.getrandbits(32)))
        voted_for = persisted.hard_state.voted_for
        if voted_for is not None and voted_for.node_id == member.node_id:
            self.book.probe("core.raft.restarted_after_own_vote")
        self.step(member, Started())

    def kill(self, member: RaftMember, *, power_loss: bool) -> None:
        """End a process: some prefix of its pending writes is on disk, none of them after a power loss."""
        if member.node is None:
            return
        kept = 0 if power_loss else self.below(len(member.writes))
        for write in member.writes[:kept]:
            member.disk.write(write)
        if kept < len(member.writes):
            self.book.probe("core.raft.crash_lost_writes")
        member.node = None
        member.paused_until_ms = 0
        if not self.is_calm and self.rng.random() < self.options.crash_loses_messages:
            member.is_silenced = member.incarnation
        member.incarnation += 1
        for call in member.inbound.values():
            self.at(self.below(5), self._fail, call)
        member.inbound.clear()
        for peer in self.members.values():
            if peer.node is not None and self.rng.random() < 0.5:
                hint = PeerUnreachable(peer_id=member.node_id)
                self.at(self.below(5), self._deliver, peer, peer.incarnation, hint)

    def crash(self, member: RaftMember) -> None:
        """A process dies and comes back after a while."""
        if member.node is not None:
            self.kill(member, power_loss=self.rng.random() < self.options.power_loss)
            self.at(1 + self.below(self.options.restart_ms_max), self.start, member)

    def crash_soon(self, member: RaftMember, probability: float) -> None:
        """Crash at an unlucky moment: right after the running step."""
        if not self.is_calm and probability > 0.0 and self.rng.random() < probability:
            self.at(self.below(3), self._crash_if, member, member.incarnation)

    def _crash_if(self, member: RaftMember, incarnation: int) -> None:
        if member.incarnation == incarnation and not self.is_calm:
            self.crash(member)

    def _deliver(self, member: RaftMember, incarnation: int, event: Input) -> None:
        if member.incarnation != incarnation or member.node is None:
            return
        if member.paused_until_ms > self.now_ms:
            self.at(member.paused_until_ms - self.now_ms, self._deliver, member, incarnation, event)
            return
        self.step(member, event)

    # -- a step --------------------------------------------------------------------------------------------------

    def step(self, member: RaftMember, event: Input) -> list[Effect]:
        """Give a node one input, carry out what it wants, check."""
        node = member.node
        assert node is not None
        book = self.book
        book.steps += 1
        try:
            effects = node.step(event, self.local_ms(member))
            for effect in effects:
                self._execute(member, effect)
            node.check()
        except InvariantViolation as violation:
            book.find("core-invariant", f"n{member.node_id}: {violation}")
            self.crash(member)
            return []
        book.trace.extend(
            (self.now_ms, member.node_id, len(effects), node.term, node.commit_index, node.last_log_index)
        )
        if book.transcript is not None:
            book.transcript.append(f"{self.now_ms:5d} n{member.node_id} {event} -> {node.describe()}")
        self._after_step(member, node)
        return effects

    def _after_step(self, member: RaftMember, node: RaftNode) -> None:
        was_leader, commit_before = member.was_leader, member.commit_seen
        self.checks.after_step(member, node)
        is_leader = node.role_name == "Leader"
        if is_leader:
            if not was_leader:
                member.led_terms += 1
                self.crash_soon(member, self.options.crash_on_election)
            elif member.commit_seen > commit_before:
                self.crash_soon(member, self.options.crash_on_commit)
        elif was_leader and node.role_name == "Resigned":
            self.book.probe("core.raft.leader_resigned_in_its_term")
        member.was_leader = is_leader
        self._arm(member, node)

    def rearm(self, member: RaftMember) -> None:
        """The clock jumped: what was far away may be due."""
        if member.node is not None:
            self._arm(member, member.node)

    def _arm(self, member: RaftMember, node: RaftNode) -> None:
        deadline_ms = node.next_deadline_ms()
        if deadline_ms is None:
            return
        at_ms = deadline_ms - member.skew_ms
        if member.clock_rate != 1.0:
            at_ms = int(at_ms / member.clock_rate) + 1
        at_ms = max(at_ms, self.now_ms)
        if member.tick_at_ms is None or at_ms < member.tick_at_ms:
            member.tick_at_ms = at_ms
            self.at(at_ms - self.now_ms, self._tick, member, member.incarnation, at_ms)

    def _tick(self, member: RaftMember, incarnation: int, at_ms: int) -> None:
        node = member.node
        if member.incarnation != incarnation or node is None or member.tick_at_ms != at_ms:
            return
        member.tick_at_ms = None
        due_ms = node.next_deadline_ms()
        if due_ms is not None and due_ms <= self.local_ms(member):
            self._deliver(member, incarnation, Tick())
        else:
            self._arm(member, node)

    # -- effects -------------------------------------------------------------------------------------------------

    def _execute(self, member: RaftMember, effect: Effect) -> None:
        match effect:
            case Persist():
                self._persist(member, effect)
            case Send(to=to, message=message, causality_id=causality_id):
                self._leave(member, to, message, causality_id)
            case SendAfterDurable():
                member.held.append(effect)
            case Apply(entries=entries):
                self._apply(member, entries)
            case ApplySnapshot(snapshot=snapshot):
                self.checks.on_apply_snapshot(member, snapshot)
            case LeadershipChanged(is_leader=is_leader):
                self._announce(member, is_leader=is_leader)
            case Refused():
                self._refused(member, effect)
            case Accepted():
                pass  # `propose` reads it from the step's effects

    def _apply(self, member: RaftMember, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            self.checks.on_apply(member, entry)
            payload = member.pending.pop(entry.index, None)
            if payload is not None:
                self.checks.on_acked(member, entry.index, payload)

    def _announce(self, member: RaftMember, *, is_leader: bool) -> None:
        """As the driver does: who lost leadership no longer knows what becomes of what it proposed."""
        if member.was_ready and not is_leader:
            if member.pending:
                self.book.probe("core.raft.proposal_outcome_unknown")
            member.pending.clear()
        if is_leader and any(other.was_ready and other.node is not None for other in self.members.values()):
            self.book.probe("core.raft.two_nodes_believe_to_lead")
        member.was_ready = is_leader

    def propose(self, member: RaftMember, payload: bytes) -> None:
        """Ask a node that leads to append `payload`."""
        causality_id = self.next_causality_id()
        before = member.node
        for effect in self.step(member, Propose(payload=payload, causality_id=causality_id)):
            if isinstance(effect, Accepted) and effect.causality_id == causality_id and member.node is before:
                if effect.index <= member.applied:
                    self.checks.on_acked(member, effect.index, payload)
                else:
                    member.pending[effect.index] = payload

    def _persist(self, member: RaftMember, write: Persist) -> None:
        if member.memory.write(write):
            self.book.probe("core.raft.truncated_on_conflict")
            if member.led_terms:
                self.book.probe("core.raft.former_leader_truncated")
        if write.snapshot is not None and write.truncate_from == 1:
            self.book.probe("core.raft.snapshot_installed")
        self.checks.on_persist(member, write)
        member.writes.append(write)
        self._write_next(member)

    def _write_next(self, member: RaftMember) -> None:
        if member.is_writing or not member.writes:
            return
        member.is_writing = True
        options = self.options
        delay_ms = self.below(2 if self.is_calm else options.disk_ms_max)
        if options.disk_stall and not self.is_calm and self.rng.random() < options.disk_stall:
            delay_ms += 100 + self.below(300)
            self.book.probe("core.raft.disk_stalled")
        self.at(delay_ms, self._written, member, member.incarnation, len(member.writes))

    def _written(self, member: RaftMember, incarnation: int, count: int) -> None:
        if member.incarnation != incarnation or member.node is None:
            return
        if member.paused_until_ms > self.now_ms:
            self.at(member.paused_until_ms - self.now_ms, self._written, member, incarnation, count)
            return
        for write in member.writes[:count]:
            member.disk.write(write)
        write_id = member.writes[count - 1].write_id
        del member.writes[:count]
        member.is_writing = False
        member.disk_term_seen = max(member.disk_term_seen, member.disk.hard_state.term)
        while member.held and member.held[0].write_id <= write_id:
            held = member.held.pop(0)
            self._leave(member, held.to, held.message, held.causality_id)
        self.step(member, Persisted(write_id=write_id))
        if member.incarnation == incarnation:
            self._write_next(member)

    # -- network -------------------------------------------------------------------------------------------------

    def _leave(self, member: RaftMember, to: int, message: Request | Response, causality_id: int | None) -> None:
        if causality_id is None:
            assert not isinstance(message, VoteResponse | AppendResponse)
            self.checks.on_leave(member, message, None)
            self._ask(member, to, message)  # type: ignore[arg-type]  # without a causality id it is a request
            return
        call = member.inbound.pop(causality_id, None)
        if call is None:
            return
        self.checks.on_leave(member, message, call.request)
        if isinstance(message, VoteResponse) and message.granted and not message.pre_vote:
            self.crash_soon(member, self.options.crash_on_vote)
        if self.now_ms - call.sent_ms > REQUEST_TIMEOUT_MS or self._is_lost(member.node_id, call.asker_id):
            self.at(self._patience_ms(call), self._fail, call)
        else:
            self.at(self._delay_ms(), self._answer, member, member.incarnation, call, message)

    def _is_lost(self, frm: int, to: int) -> bool:
        if self.is_calm:
            return False
        if self.blocked.get((frm, to), 0) > self.now_ms:
            return True
        drop = self.options.drop
        return drop > 0.0 and self.rng.random() < drop

    def _delay_ms(self) -> int:
        return self.below(2 if self.is_calm else self.options.delay_ms_max)

    def _patience_ms(self, call: Call) -> int:
        return max(1, call.sent_ms + REQUEST_TIMEOUT_MS - self.now_ms)

    def _ask(self, member: RaftMember, to: int, request: Request) -> None:
        call = Call(
            asker_id=member.node_id,
            asker_incarnation=member.incarnation,
            to=to,
            request=request,
            sent_ms=self.now_ms,
        )
        if isinstance(request, SnapshotRequest):
            self.book.probe("core.raft.snapshot_sent")
        elif isinstance(request, TimeoutNowRequest):
            self.book.probe("core.raft.leadership_handed_over")
        if self._is_lost(member.node_id, to):
            self.at(self._patience_ms(call), self._fail, call)
            return
        options = self.options
        delay_ms = self._delay_ms()
        if not self.is_calm:
            if options.late and self.rng.random() < options.late:
                self.at(REQUEST_TIMEOUT_MS + self.below(300), self._arrive, call)
                self.at(self._patience_ms(call), self._fail, call)
                self.book.probe("core.raft.request_very_late")
                return
            if options.duplicate and self.rng.random() < options.duplicate:
                self.at(self._delay_ms(), self._arrive, call)
        self.at(delay_ms, self._arrive, call)

    def _arrive(self, call: Call) -> None:
        asker = self.members[call.asker_id]
        if asker.is_silenced == call.asker_incarnation:
            return
        target = self.members.get(call.to)
        if target is None or target.node is None:
            self._fail(call)
            return
        wait_ms = target.paused_until_ms - self.now_ms
        if wait_ms > 0:
            self.at(wait_ms, self._arrive, call)
            if wait_ms > self._patience_ms(call):
                self.at(self._patience_ms(call), self._fail, call)
            return
        causality_id = self.next_causality_id()
        target.inbound[causality_id] = call
        self.step(target, RequestReceived(request=call.request, causality_id=causality_id))

    def _answer(self, member: RaftMember, incarnation: int, call: Call, response: Response) -> None:
        if member.is_silenced == incarnation:
            self._fail(call)
            return
        asker = self.members[call.asker_id]
        if call.is_done or asker.incarnation != call.asker_incarnation or asker.node is None:
            return
        if asker.paused_until_ms > self.now_ms:
            self.at(asker.paused_until_ms - self.now_ms, self._answer, member, incarnation, call, response)
            return
        call.is_done = True
        self.step(asker, ResponseReceived(peer_id=call.to, request=call.request, response=response))

    def _fail(self, call: Call) -> None:
        asker = self.members[call.asker_id]
        if call.is_done or asker.incarnation != call.asker_incarnation or asker.node is None:
            return
        call.is_done = True
        self._deliver(asker, asker.incarnation, RequestFailed(peer_id=call.to, request=call.request))

    def _refused(self, member: RaftMember, effect: Refused) -> None:
        call = member.inbound.pop(effect.causality_id, None)
        if call is None:
            return
        if effect.reason is RefusalReason.WRONG_DIRECTORY:
            self.book.probe("core.raft.wrong_directory_refused")
        self.at(1, self._fail, call)
