"""Plays transcripts: a small quorum whose clock, network and disks move only on command, and which tells all it does.

Commands, one a line: `nodes N [spare=M] [unknown=1] [down=1] [setting=value ...]` (`unknown`: the configuration does
not name the voters' disks; `down`: nobody is started yet), `advance MS [node ...]` (deadlines fall due, only for
the named nodes), `propose N text`, `crash N`, `restart N`, `cut N`, `heal N`, `hold N` and `release N` (its disk),
`lost N PEER` (connection hint), `transfer N TO|best`, `add N VOTER`, `remove N VOTER`, `snapshot N`, `vote N CANDIDATE
term=T last=TERM/INDEX` (a foreign vote request), `wipe N` (crash with a new, empty disk), `state`.
Messages arrive at once, in order; heartbeats and their answers are not shown.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import (
    Accepted,
    Apply,
    ApplySnapshot,
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
    ANY_DIRECTORY,
    AppendRequest,
    AppendResponse,
    CensusRequest,
    CensusResponse,
    Entry,
    EntryKind,
    PersistedState,
    SnapshotRequest,
    SnapshotResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
    Voter,
    VoteRequest,
    VoteResponse,
    VoterId,
)
from logcluster.core.raft.node import RaftNode
from logcluster.core.raft.quorum import decode_voters


class OrderedTimeouts(random.Random):
    """Lower node ids draw shorter timeouts, so that a transcript knows who campaigns first."""

    def __init__(self, node_id: int) -> None:
        super().__init__(0)
        self._node_id = node_id

    def randint(self, a: int, b: int) -> int:
        return min(b, a + 10 * (self._node_id - 1))


def directory_id(node_id: int, generation: int = 0) -> bytes:
    return bytes([node_id, generation]) * 8


def written(disk: PersistedState, write: Persist) -> PersistedState:
    """The disk after a write, as the store does it."""
    entries = disk.entries
    base_index, base_term = disk.base_index, disk.base_term
    if write.truncate_from is not None:
        entries = tuple(entry for entry in entries if entry.index < write.truncate_from)
    if write.base is not None:
        base_index, base_term = write.base
        entries = tuple(entry for entry in entries if entry.index > base_index)
    first = write.entries[0].index if write.entries else None
    if first is not None:
        entries = tuple(entry for entry in entries if entry.index < first) + write.entries
    return PersistedState(
        hard_state=write.hard_state or disk.hard_state,
        snapshot=write.snapshot or disk.snapshot,
        base_index=base_index,
        base_term=base_term,
        entries=entries,
    )


@dataclass
class Actor:
    config: RaftConfig
    disk: PersistedState = field(default_factory=PersistedState)
    node: RaftNode | None = None
    incarnation: int = 0
    writes: list[Persist] = field(default_factory=list)
    held: list[SendAfterDurable] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    applied_index: int = 0
    is_disk_held: bool = False


class Theatre:
    """One transcript's quorum; `play` takes a command and returns what happened, line by line."""

    def __init__(self) -> None:
        self.now = 0
        self.actors: dict[int, Actor] = {}
        self.cut: set[int] = set()
        self.lines: list[str] = []
        self.network: deque[tuple[str, int, int, int, Any, Any]] = deque()
        self.causality = 0
        self.asked: dict[int, tuple[int, int, Any]] = {}

    def play(self, command: str) -> list[str]:
        self.lines = []
        name, *arguments = command.split()
        getattr(self, f"do_{name}")(*arguments)
        self.settle()
        for actor in self.actors.values():
            if actor.node is not None:
                actor.node.check()
        return self.lines

    # Commands.

    def do_nodes(self, count: str, *settings: str) -> None:
        values = {name: int(value) for name, _, value in (setting.partition("=") for setting in settings)}
        spare = values.pop("spare", 0)
        is_unknown, is_down = values.pop("unknown", 0), values.pop("down", 0)
        voters = tuple(
            Voter(node_id, ANY_DIRECTORY if is_unknown else directory_id(node_id))
            for node_id in range(1, int(count) + 1)
        )
        for node_id in range(1, int(count) + spare + 1):
            config = RaftConfig(
                node_id=node_id,
                directory_id=directory_id(node_id),
                bootstrap_voters=voters if node_id <= int(count) else (),
                **{"trailing_entries": 0, **values},  # type: ignore[arg-type]
            )
            self.actors[node_id] = Actor(config)
        for node_id in self.actors:
            if not is_down:
                self.start(node_id)

    def do_advance(self, duration: str, *only: str) -> None:
        names = [int(name) for name in only] or list(self.actors)
        end = self.now + int(duration)
        while True:
            due = [(deadline, node_id) for node_id in names if (deadline := self.deadline(node_id)) is not None]
            if not due or min(due)[0] > end:
                break
            deadline, node_id = min(due)
            self.now = max(self.now, deadline)
            self.step(node_id, Tick())
            self.settle()
        self.now = end

    def do_propose(self, node_id: str, text: str) -> None:
        self.causality += 1
        self.step(int(node_id), Propose(payload=text.encode(), causality_id=self.causality))

    def do_transfer(self, node_id: str, to: str) -> None:
        self.causality += 1
        target = None if to == "best" else int(to)
        self.step(int(node_id), TransferLeadership(to=target, causality_id=self.causality))

    def do_add(self, node_id: str, voter_id: str) -> None:
        self.causality += 1
        voter = Voter(int(voter_id), self.actors[int(voter_id)].config.directory_id)
        self.step(int(node_id), AddVoter(voter=voter, causality_id=self.causality))

    def do_remove(self, node_id: str, voter_id: str) -> None:
        self.causality += 1
        self.step(int(node_id), RemoveVoter(node_id=int(voter_id), causality_id=self.causality))

    def do_snapshot(self, node_id: str) -> None:
        actor = self.actors[int(node_id)]
        payload = ",".join(actor.applied).encode()
        self.step(int(node_id), SnapshotTaken(index=actor.applied_index, payload=payload))

    def do_crash(self, node_id: str) -> None:
        actor = self.actors[int(node_id)]
        actor.node = None
        actor.incarnation += 1

    def do_restart(self, node_id: str) -> None:
        self.start(int(node_id))

    def do_wipe(self, node_id: str) -> None:
        self.do_crash(node_id)
        actor = self.actors[int(node_id)]
        actor.disk = PersistedState()
        actor.config = replace(actor.config, directory_id=directory_id(int(node_id), actor.incarnation))
        self.start(int(node_id))

    def do_cut(self, node_id: str) -> None:
        self.cut.add(int(node_id))

    def do_heal(self, node_id: str) -> None:
        self.cut.discard(int(node_id))

    def do_hold(self, node_id: str) -> None:
        self.actors[int(node_id)].is_disk_held = True

    def do_release(self, node_id: str) -> None:
        self.actors[int(node_id)].is_disk_held = False

    def do_lost(self, node_id: str, peer_id: str) -> None:
        self.step(int(node_id), PeerUnreachable(peer_id=int(peer_id)))

    def do_vote(self, node_id: str, candidate: str, term: str, last: str) -> None:
        last_term, _, last_index = last.removeprefix("last=").partition("/")
        request = VoteRequest(
            term=int(term.removeprefix("term=")),
            candidate=VoterId(int(candidate), directory_id(int(candidate))),
            voter=VoterId(int(node_id), directory_id(int(node_id))),
            last_log_index=int(last_index),
            last_log_term=int(last_term),
            pre_vote=False,
        )
        self.network.append(("request", int(candidate), 0, int(node_id), request, None))

    def do_state(self) -> None:
        for node_id, actor in self.actors.items():
            line = actor.node.describe() if actor.node is not None else f"n{node_id} down"
            self.lines.append(f"{line} state={','.join(actor.applied)}")

    # Engine.

    def start(self, node_id: int) -> None:
        actor = self.actors[node_id]
        actor.incarnation += 1
        actor.writes, actor.held, actor.applied, actor.applied_index = [], [], [], 0
        actor.node = RaftNode(actor.config, actor.disk, rng=OrderedTimeouts(node_id))
        self.step(node_id, Started())

    def deadline(self, node_id: int) -> int | None:
        node = self.actors[node_id].node
        return node.next_deadline_ms() if node is not None else None

    def step(self, node_id: int, event: Any) -> None:
        node = self.actors[node_id].node
        if node is None:
            return
        for effect in node.step(event, self.now):
            self.execute(node_id, effect)

    def settle(self) -> None:
        while True:
            for node_id, actor in self.actors.items():
                if actor.writes and not actor.is_disk_held and actor.node is not None:
                    self.write(node_id, actor)
            if not self.network:
                if not any(actor.writes and not actor.is_disk_held and actor.node for actor in self.actors.values()):
                    return
                continue
            kind, frm, incarnation, to, message, request = self.network.popleft()
            if kind == "request":
                self.arrive(frm, incarnation, to, message)
            elif self.actors[to].incarnation == incarnation:
                self.step(to, ResponseReceived(peer_id=frm, request=request, response=message))

    def write(self, node_id: int, actor: Actor) -> None:
        for write in actor.writes:
            actor.disk = written(actor.disk, write)
        write_id = actor.writes[-1].write_id
        actor.writes = []
        while actor.held and actor.held[0].write_id <= write_id:
            held = actor.held.pop(0)
            self.send(node_id, held.to, held.message, held.causality_id)
        self.step(node_id, Persisted(write_id=write_id))

    def arrive(self, frm: int, incarnation: int, to: int, request: Any) -> None:
        target = self.actors.get(to)
        is_unreachable = target is None or target.node is None or bool({frm, to} & self.cut)
        if is_unreachable:
            if frm in self.actors and self.actors[frm].incarnation == incarnation:
                self.step(frm, RequestFailed(peer_id=to, request=request))
            return
        self.causality += 1
        self.asked[self.causality] = (frm, incarnation, request)
        self.step(to, RequestReceived(request=request, causality_id=self.causality))

    def send(self, frm: int, to: int, message: Any, causality_id: int | None) -> None:
        if causality_id is None:
            self.tell_message(frm, to, message)
            self.network.append(("request", frm, self.actors[frm].incarnation, to, message, None))
            return
        asker, incarnation, request = self.asked.pop(causality_id)
        is_heartbeat = isinstance(request, AppendRequest) and not request.entries
        if not (is_heartbeat and message.success):
            self.tell_message(frm, to, message)
        if asker in self.actors:
            self.network.append(("response", frm, incarnation, asker, message, request))

    def execute(self, node_id: int, effect: Any) -> None:
        actor = self.actors[node_id]
        match effect:
            case Persist():
                self.lines.append(f"n{node_id} persists {describe_write(effect)}")
                actor.writes.append(effect)
            case Send(to=to, message=message, causality_id=causality_id):
                self.send(node_id, to, message, causality_id)
            case SendAfterDurable():
                actor.held.append(effect)
            case Apply(entries=entries):
                self.lines.append(f"n{node_id} applies {describe_entries(entries)}")
                actor.applied.extend(entry.payload.decode() for entry in entries if entry.kind is EntryKind.DATA)
                actor.applied_index = entries[-1].index
            case ApplySnapshot(snapshot=snapshot):
                self.lines.append(f"n{node_id} restores snapshot {snapshot.index}@{snapshot.term}")
                actor.applied = snapshot.payload.decode().split(",")
                actor.applied_index = snapshot.index
            case LeadershipChanged(term=term, leader_id=leader_id, is_leader=is_leader):
                leader = "nobody" if leader_id is None else f"n{leader_id}"
                self.lines.append(f"n{node_id} term {term}: {leader} leads{', active' if is_leader else ''}")
            case FoundingChanged(report=None):
                self.lines.append(f"n{node_id} is founded")
            case FoundingChanged(report=report):
                silent = ",".join(f"n{peer_id}" for peer_id in report.silent)
                words = [f"waits for {silent}"] if silent else []
                words += [f"n{peer_id}: {obstacle}" for peer_id, obstacle in report.obstacles]
                self.lines.append(f"n{node_id} {'; '.join(words) or 'heard of all'}")
            case StrangerNoticed(node_id=peer_id):
                self.lines.append(f"n{node_id} notices n{peer_id}'s new disk")
            case Accepted(index=index, term=term):
                self.lines.append(f"n{node_id} accepts at {index}@{term}")
            case Refused(reason=reason, causality_id=causality_id):
                self.lines.append(f"n{node_id} refuses: {reason}")
                asked = self.asked.pop(causality_id, None)
                if asked is not None:
                    self.step(asked[0], RequestFailed(peer_id=node_id, request=asked[2]))

    def tell_message(self, frm: int, to: int, message: Any) -> None:
        text = describe_message(message)
        if text is not None:
            self.lines.append(f"n{frm} -> n{to} {text}")


def describe_message(message: Any) -> str | None:
    match message:
        case VoteRequest(pre_vote=pre_vote, term=term, last_log_index=index, last_log_term=last_term):
            return f"{'pre-vote' if pre_vote else 'vote'}? term={term} last={last_term}/{index}"
        case VoteResponse(pre_vote=pre_vote, granted=granted, term=term):
            return f"{'pre-vote' if pre_vote else 'vote'} {'granted' if granted else 'refused'} term={term}"
        case AppendRequest(entries=()):
            return None
        case AppendRequest(term=term, prev_log_index=index, prev_log_term=prev_term, entries=entries):
            return f"append term={term} after={prev_term}/{index} {describe_entries(entries)}"
        case AppendResponse(success=True, match_index=match_index):
            return f"appended match={match_index}"
        case AppendResponse(term=term, conflict_term=conflict_term, conflict_index=index):
            return f"conflict term={term} at={conflict_term}/{index}"
        case SnapshotRequest(snapshot=snapshot):
            return f"snapshot {snapshot.index}@{snapshot.term}"
        case SnapshotResponse(match_index=match_index):
            return f"installed match={match_index}"
        case TimeoutNowRequest(term=term):
            return f"timeout-now term={term}"
        case TimeoutNowResponse():
            return None
        case CensusRequest(voters=voters):
            return f"census? accepted={describe_disks(voters)}"
        case CensusResponse(term=term, voter=voter, voters=voters):
            return f"census term={term} disk={describe_disks((voter,))} accepted={describe_disks(voters)}"
    raise AssertionError(message)


def describe_disks(voters: tuple[VoterId, ...]) -> str:
    """Node ids, with the generation of a disk that is not the first."""
    names = (f"{node_id}{'' if disk[1] == 0 else f'#{disk[1]}'}" for node_id, disk in voters)
    return ",".join(names) or "-"


def describe_entries(entries: tuple[Entry, ...]) -> str:
    return " ".join(f"{entry.index}@{entry.term}:{describe_payload(entry)}" for entry in entries)


def describe_payload(entry: Entry) -> str:
    if entry.kind is EntryKind.VOTERS:
        return "voters=" + ",".join(str(voter.node_id) for voter in decode_voters(entry.payload))
    return entry.payload.decode() or "noop"


def describe_write(write: Persist) -> str:
    words = []
    if write.hard_state is not None:
        voted_for = write.hard_state.voted_for
        words.append(f"term={write.hard_state.term} vote={f'n{voted_for.node_id}' if voted_for else '-'}")
    if write.truncate_from is not None:
        words.append(f"cut-from={write.truncate_from}")
    if write.base is not None:
        words.append(f"base={write.base[0]}@{write.base[1]}")
    if write.snapshot is not None:
        words.append(f"snapshot={write.snapshot.index}@{write.snapshot.term}")
    if write.entries:
        words.append(describe_entries(write.entries))
    return " ".join(words)
