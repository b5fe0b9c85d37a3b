"""The one owner of a voter's state: term, vote, log, commit, role, and the effects of the running step.

The rules (elections, following, leading) are functions over this object. Persistence is collected during a step
and leaves as at most one `Persist`, ahead of everything else. Invariants: applied <= committed <= last index;
term, committed and applied index never go down; a committed entry is never truncated.
"""

from __future__ import annotations

import random

from logcluster.core.raft.census import FoundingReport, census_of, needs_founding
from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import (
    Apply,
    ApplySnapshot,
    Effect,
    FoundingChanged,
    LeadershipChanged,
    Persist,
    RefusalReason,
    Refused,
    Send,
    SendAfterDurable,
)
from logcluster.core.raft.log import Durability, RaftLog
from logcluster.core.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    PersistedState,
    Request,
    Response,
    Snapshot,
    Voter,
    VoterId,
)
from logcluster.core.raft.quorum import VoterHistory, decode_voters
from logcluster.core.raft.roles import TRANSITIONS, Candidate, Follower, Leader, PreCandidate, Resigned, Role
from logcluster.model.invariants import InvariantViolation, invariant
from logcluster.model.probes import probe


class ReplicaState:
    """State of one voter; changed only inside `RaftNode.step`."""

    def __init__(self, *, config: RaftConfig, persisted: PersistedState, rng: random.Random) -> None:
        self.config = config
        self.rng = rng
        self.now_ms = 0
        self.hard_state = persisted.hard_state
        self.snapshot = persisted.snapshot
        self.log = RaftLog(base_index=persisted.base_index, base_term=persisted.base_term, entries=persisted.entries)
        self.durability = Durability(durable_index=self.log.last_index)
        self.voters = _voters_of(config, persisted)
        self.census = census_of(config, persisted, rng)
        self.strangers: dict[int, bytes] = {}
        self.commit_index = self.snapshot.index if self.snapshot is not None else 0
        self.applied_index = 0
        self.last_leader_contact_ms: int | None = None
        self.is_leader_suspected = False
        self.lost_rounds = 0
        self.role: Role = self._first_role()
        self._effects: list[Effect] = []
        self._announced: LeadershipChanged | None = None
        self._reported: FoundingReport | None = None
        self._hard_state_dirty = False
        self._truncate_from: int | None = None
        self._base_dirty = False
        self._snapshot_dirty = False
        self._appended_from: int | None = None
        self._dirty = False

    def _first_role(self) -> Role:
        voted_for = self.hard_state.voted_for
        if voted_for is not None and voted_for.node_id == self.config.node_id:
            return Resigned(election_deadline_ms=None)
        return Follower(leader_id=None, election_deadline_ms=None)

    # Facts.

    @property
    def node_id(self) -> int:
        return self.config.node_id

    @property
    def own_id(self) -> VoterId:
        return VoterId(self.config.node_id, self.config.directory_id)

    @property
    def term(self) -> int:
        return self.hard_state.term

    @property
    def may_campaign(self) -> bool:
        """Whether this node may try to lead: a voter, or one that is removed by an entry not known to be committed.

        The latter may be the only one that holds that entry, and the voters' logs are then too old for its vote
        (Raft dissertation §4.2.2, figure 4.6). Its own vote counts for nothing. Before the first voters are known to
        agree, nobody may.
        """
        if self.census is not None:
            return False
        if self.is_voter:
            return True
        return self.voters.current_index > self.commit_index and any(
            voter.node_id == self.node_id and voter.accepts_directory(self.config.directory_id)
            for voter in self.voters.previous
        )

    @property
    def is_voter(self) -> bool:
        """Whether this node, with this disk, is in the voter set in force."""
        own = self.voters.find(self.node_id)
        return own is not None and own.accepts_directory(self.config.directory_id)

    @property
    def leader_id(self) -> int | None:
        match self.role:
            case Leader():
                return self.node_id
            case Follower(leader_id=leader_id):
                return leader_id
            case _:
                return None

    @property
    def is_ready_leader(self) -> bool:
        """Whether this node leads and has applied its own term's first entry."""
        return isinstance(self.role, Leader) and self.role.noop_index <= self.applied_index

    @property
    def durable_index(self) -> int:
        if "append-durability" in self.config.ablations:
            return self.log.last_index
        return self.durability.durable_index

    # Roles and terms.

    def become(self, role: Role) -> None:
        """Change the role.

        Raises:
            InvariantViolation: the table of transitions does not allow it.
        """
        if type(role) not in TRANSITIONS[type(self.role)]:
            raise InvariantViolation(
                "the transition is in the table", frm=type(self.role).__name__, to=type(role).__name__
            )
        self.role = role

    def become_follower(self, *, term: int, leader_id: int | None) -> None:
        """Follow in `term`, which is not below the own one; a higher one forgets the vote."""
        if isinstance(self.role, Leader):
            probe("raft.leader.deposed")
        if term != self.term:
            self.set_hard_state(term=term, voted_for=None)
        if leader_id is not None:
            self.last_leader_contact_ms = self.now_ms
            self.is_leader_suspected = False
            self.lost_rounds = 0
        self.become(Follower(leader_id=leader_id, election_deadline_ms=self.election_deadline_ms()))

    def resign(self) -> None:
        """Stop leading in the own term, without another leader in sight."""
        self.become(Resigned(election_deadline_ms=self.election_deadline_ms()))

    def set_hard_state(self, *, term: int, voted_for: VoterId | None) -> None:
        """Set term and vote; both leave with this step's write."""
        old = self.hard_state
        invariant(term >= old.term, "a term never goes down", term=term, old=old.term)
        invariant(
            term > old.term or old.voted_for in (None, voted_for),
            "a vote is never changed",
            term=term,
            old=old.voted_for,
        )
        self.hard_state = HardState(term=term, voted_for=voted_for)
        self.census = None
        self._hard_state_dirty = True
        self._dirty = True

    def election_deadline_ms(self) -> int | None:
        """A fresh randomised deadline; None for who may not campaign. A sole voter need not wait for anybody."""
        if not self.may_campaign:
            return None
        if len(self.voters.current) == 1 and self.is_voter:
            return self.now_ms
        config = self.config
        return self.now_ms + self.rng.randint(config.election_timeout_ms_min, config.election_timeout_ms_max)

    # Log.

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Append entries; VOTERS among them take effect now."""
        if not entries:
            return
        self.log.append(entries)
        for entry in entries:
            if entry.kind is EntryKind.VOTERS:
                self.voters.append(entry.index, decode_voters(entry.payload))
        if self._appended_from is None or entries[0].index < self._appended_from:
            self._appended_from = entries[0].index
        self._dirty = True

    def truncate_from(self, index: int) -> None:
        """Cut the log before `index`, above everything committed."""
        invariant(index > self.commit_index, "a committed entry stays", index=index, commit=self.commit_index)
        self.log.truncate_from(index)
        self.voters.truncate_from(index)
        self.durability.truncated_from(index)
        self._truncate_from = index if self._truncate_from is None else min(self._truncate_from, index)
        if self._appended_from is not None and self._appended_from > index:
            self._appended_from = index
        self._dirty = True

    def install_snapshot(self, snapshot: Snapshot) -> None:
        """Replace log and state by a snapshot that is ahead of everything committed here."""
        invariant(snapshot.index > self.commit_index, "a snapshot moves forward", index=snapshot.index)
        self.log.reset(base_index=snapshot.index, base_term=snapshot.term)
        self.voters = VoterHistory(index=snapshot.index, voters=snapshot.voters)
        self.durability.truncated_from(1)
        self._truncate_from = 1
        self._appended_from = None
        self.snapshot = snapshot
        self.commit_index = snapshot.index
        self._base_dirty = self._snapshot_dirty = self._dirty = True

    def accept_voters(self, voters: tuple[Voter, ...]) -> None:
        """Keep these as the first voters of a cluster without history; a disk does so once."""
        invariant(self.term == 0 and not self.voters.current, "a disk accepts its first voters once", term=self.term)
        self.voters = VoterHistory(index=0, voters=voters)
        self.snapshot = Snapshot(index=0, term=0, voters=self.voters.current, payload=b"")
        self._snapshot_dirty = self._dirty = True

    def compact(self, *, index: int, payload: bytes) -> None:
        """Keep the application's state as of the applied entry `index` and cut the log behind it."""
        invariant(index <= self.applied_index, "a snapshot holds applied entries", index=index)
        if self.snapshot is not None and index <= self.snapshot.index:
            return
        term = self.log.term_at(index)
        invariant(term is not None, "a snapshot ends in the log", index=index)
        assert term is not None
        self.snapshot = Snapshot(index=index, term=term, voters=self.voters.at(index), payload=payload)
        self._snapshot_dirty = self._dirty = True
        base_index = index - self.config.trailing_entries
        if base_index > self.log.base_index:
            probe("raft.log.compacted")
            self.log.compact(base_index)
            self._base_dirty = True
        self.voters.compact(min(index, self.commit_index))

    def commit_to(self, index: int) -> None:
        """Take note that everything up to `index` is committed; an older index changes nothing."""
        if index <= self.commit_index:
            return
        invariant(index <= self.log.last_index, "what is committed is in the log", index=index)
        self.commit_index = index

    # Effects.

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def refuse(self, causality_id: int, reason: RefusalReason) -> None:
        self.emit(Refused(causality_id=causality_id, reason=reason, leader_id=self.leader_id))

    def send(self, to: int, message: Request | Response, causality_id: int | None = None) -> None:
        """Send without waiting for the disk: the message relies on nothing that is not there yet."""
        self.emit(Send(to=to, message=message, causality_id=causality_id))

    def send_after_durable(self, to: int, message: Request | Response, causality_id: int | None = None) -> None:
        """Send once everything decided so far is on disk."""
        write_id = self.barrier()
        if write_id is None:
            self.send(to, message, causality_id)
        else:
            self.emit(SendAfterDurable(write_id=write_id, to=to, message=message, causality_id=causality_id))

    def barrier(self) -> int | None:
        """The write after which everything decided so far is on disk; None if it is already."""
        if "append-durability" in self.config.ablations and not self._hard_state_dirty:
            return None
        if self._dirty:
            return self.durability.last_write_id + 1
        return self.durability.last_write_id if self.durability.is_pending else None

    def finish_step(self) -> list[Effect]:
        """Apply what became committed and durable, announce leadership, and hand over the step's effects."""
        self._apply()
        leadership = LeadershipChanged(term=self.term, leader_id=self.leader_id, is_leader=self.is_ready_leader)
        if leadership != self._announced:
            self._announced = leadership
            self.emit(leadership)
        report = self.census.report() if self.census is not None else None
        if report != self._reported:
            self._reported = report
            self.emit(FoundingChanged(report=report))
        effects = self._effects
        self._effects = []
        persist = self._take_persist()
        if persist is not None:
            effects.insert(0, persist)
        return effects

    def _apply(self) -> None:
        limit = min(self.commit_index, self.durable_index)
        snapshot = self.snapshot
        if snapshot is not None and self.applied_index < snapshot.index <= limit:
            self.emit(ApplySnapshot(snapshot=snapshot))
            self.applied_index = snapshot.index
        if self.applied_index < limit and self.applied_index >= self.log.base_index:
            self.emit(Apply(entries=self.log.entries_from(self.applied_index + 1, end=limit + 1)))
            self.applied_index = limit

    def _take_persist(self) -> Persist | None:
        if not self._dirty:
            return None
        persist = Persist(
            write_id=self.durability.issue(last_index=self.log.last_index, now_ms=self.now_ms),
            hard_state=self._stored_hard_state() if self._hard_state_dirty else None,
            truncate_from=self._truncate_from,
            base=(self.log.base_index, self.log.base_term) if self._base_dirty else None,
            snapshot=self.snapshot if self._snapshot_dirty else None,
            entries=self.log.entries_from(self._appended_from) if self._appended_from is not None else (),
        )
        self._dirty = self._hard_state_dirty = self._base_dirty = self._snapshot_dirty = False
        self._truncate_from = self._appended_from = None
        return persist

    def _stored_hard_state(self) -> HardState:
        if "vote-persistence" in self.config.ablations:
            return HardState(term=self.term)
        return self.hard_state

    def check(self) -> None:
        """Check what must hold between two steps."""
        log = self.log
        invariant(self.applied_index <= self.commit_index, "only committed entries are applied")
        invariant(self.commit_index <= log.last_index, "what is committed is in the log", commit=self.commit_index)
        invariant(log.last_term <= self.term, "no entry is of a later term", last=log.last_term, term=self.term)
        invariant(self.durability.durable_index <= log.last_index, "no more is durable than there is")
        invariant(not self._dirty, "a step leaves nothing to persist behind")
        invariant(self.census is None or (self.term == 0 and log.last_index == 0), "a census precedes all history")
        if log.base_index > 0:
            snapshot = self.snapshot
            invariant(snapshot is not None and snapshot.index >= log.base_index, "a snapshot covers what was cut")
        if isinstance(self.role, Leader):
            for progress in self.role.peers.values():
                progress.check(log.last_index)
        if isinstance(self.role, Candidate | Leader):
            voted_for = self.hard_state.voted_for
            invariant(voted_for is not None and voted_for == self.own_id, "who campaigns voted for itself")

    def describe(self) -> str:
        """One line for transcripts and logs."""
        role = self.role
        words = [f"n{self.node_id} {type(role).__name__} term={self.term}"]
        match role:
            case Follower(leader_id=leader_id) if leader_id is not None:
                words.append(f"leader=n{leader_id}")
            case PreCandidate(ballot=ballot) | Candidate(ballot=ballot):
                words.append(f"granted={ballot.granted_count(self.voters.current)}/{len(self.voters.current)}")
            case _:
                pass
        log = self.log
        words.append(f"log=({log.base_index}..{log.last_index}]@{log.last_term}")
        words.append(f"commit={self.commit_index} applied={self.applied_index} durable={self.durability.durable_index}")
        words.append("voters=" + ",".join(str(voter.node_id) for voter in self.voters.current))
        if isinstance(role, Leader):
            words.extend(f"[{progress.describe()}]" for progress in role.peers.values())
        return " ".join(words)


def _voters_of(config: RaftConfig, persisted: PersistedState) -> VoterHistory:
    snapshot = persisted.snapshot
    start = snapshot.index if snapshot is not None else 0
    voters: tuple[Voter, ...]
    if snapshot is not None:
        voters = snapshot.voters
    elif needs_founding(config):
        voters = ()  # Until the founding, or the log of a leader that adds this node, says who they are.
    else:
        voters = config.bootstrap_voters
    history = VoterHistory(index=start, voters=voters)
    for entry in persisted.entries:
        if entry.kind is EntryKind.VOTERS and entry.index > start:
            history.append(entry.index, decode_voters(entry.payload))
    return history
