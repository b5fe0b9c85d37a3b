"""A quorum of pure nodes on simulated time, network and disks, driven by one seed and checked after every event.

Faults: messages are dropped, delayed, duplicated and so reordered; nodes are cut off; nodes crash and lose what their
disk had not finished, or keep a prefix of it. Checks (Raft paper, figure 3): election safety, log matching, leader
completeness, state machine safety; and that neither the term nor the commit index of a running node goes down, nor
a stored term.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import (
    Apply,
    ApplySnapshot,
    Persist,
    Refused,
    Send,
    SendAfterDurable,
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
from logcluster.core.raft.messages import Entry, PersistedState, Voter, VoteResponse
from logcluster.core.raft.node import RaftNode


class SafetyViolation(Exception):
    """A property that every run must keep was broken."""


@dataclass(frozen=True)
class Weather:
    """How bad it is; probabilities per message or per action."""

    drop: float = 0.05
    duplicate: float = 0.05
    delay_ms_max: int = 15
    disk_ms_max: int = 8
    crash: float = 0.03
    cut: float = 0.04
    crash_on_commit: float = 0.0
    crash_on_election: float = 0.0
    crash_on_vote: float = 0.0
    crash_loses_messages: float = 0.3
    restart_ms_max: int = 200
    duration_ms: int = 2_500
    action_ms_max: int = 12


@dataclass
class SimulatedNode:
    """One node: its disk outlives it, everything else dies in a crash."""

    config: RaftConfig
    disk: PersistedState = field(default_factory=PersistedState)
    node: RaftNode | None = None
    incarnation: int = 0
    writes: list[Persist] = field(default_factory=list)
    held: list[SendAfterDurable] = field(default_factory=list)
    is_writing: bool = False
    state: list[bytes] = field(default_factory=list)
    applied: int = 0
    commit_seen: int = 0
    term_seen: int = 0
    was_leader: bool = False
    tick_at: int | None = None


def directory_id(node_id: int) -> bytes:
    return bytes([node_id]) * 16


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


class Simulation:
    """One run; `run` raises SafetyViolation, or an invariant's violation, if a property is broken."""

    def __init__(
        self,
        seed: int,
        *,
        voter_count: int = 3,
        spare_count: int = 0,
        weather: Weather = Weather(),
        ablations: frozenset[str] = frozenset(),
        **settings: Any,
    ) -> None:
        self.rng = random.Random(seed)
        self.weather = weather
        self.now = 0
        self.sequence = 0
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.cut: set[int] = set()
        self.silenced: set[tuple[int, int]] = set()
        self.entries: dict[tuple[int, int], tuple[int, Entry]] = {}
        self.committed: dict[int, int] = {}
        self.leaders: dict[int, int] = {}
        self.applied: dict[int, bytes] = {}
        self.causality = 0
        self.asked: dict[int, tuple[int, int, Any]] = {}
        self.proposals = 0
        self.is_calm = False
        self.trace: list[str] = []
        voters = tuple(Voter(node_id, directory_id(node_id)) for node_id in range(1, voter_count + 1))
        config = RaftConfig(
            node_id=1,
            directory_id=directory_id(1),
            bootstrap_voters=voters,
            **{
                "heartbeat_ms": 15,
                "stickiness_ms": 40,
                "election_timeout_ms_min": 70,
                "election_timeout_ms_max": 140,
                "hint_delay_ms_min": 2,
                "hint_delay_ms_max": 20,
                "check_quorum_ms": 110,
                "request_timeout_ms": 60,
                "catch_up_ms_max": 500,
                "trailing_entries": 3,
                "append_entries_max": 4,
                "ablations": ablations,
                **settings,
            },
        )
        self.nodes = {
            node_id: SimulatedNode(
                replace(
                    config,
                    node_id=node_id,
                    directory_id=directory_id(node_id),
                    bootstrap_voters=voters if node_id <= voter_count else (),
                )
            )
            for node_id in range(1, voter_count + spare_count + 1)
        }

    # Time.

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.queue, (self.now + delay_ms, self.sequence, action))

    def run(self) -> None:
        """Faults for a while, then calm weather in which the quorum must agree again."""
        for node_id in self.nodes:
            self.start(node_id)
        self.at(1, self.act)
        self.run_until(self.weather.duration_ms)
        self.is_calm = True
        self.cut.clear()
        for node_id, simulated in self.nodes.items():
            if simulated.node is None:
                self.start(node_id)
        self.run_until(self.now + 1_500)
        self.check_convergence()

    def run_until(self, end_ms: int) -> None:
        while self.queue and self.queue[0][0] <= end_ms:
            self.now, _, action = heapq.heappop(self.queue)
            action()
        self.now = end_ms

    # Nodes.

    def start(self, node_id: int) -> None:
        simulated = self.nodes[node_id]
        simulated.incarnation += 1
        simulated.writes.clear()
        simulated.held.clear()
        simulated.is_writing = False
        simulated.state = []
        simulated.applied = 0
        simulated.commit_seen = 0
        simulated.was_leader = False
        simulated.tick_at = None
        simulated.term_seen = simulated.disk.hard_state.term
        seed = self.rng.getrandbits(32)
        simulated.node = RaftNode(simulated.config, simulated.disk, rng=random.Random(seed))
        self.step(node_id, Started())

    def crash(self, node_id: int) -> None:
        simulated = self.nodes[node_id]
        if simulated.node is None:
            return
        for write in simulated.writes[: self.rng.randint(0, len(simulated.writes))]:
            simulated.disk = written(simulated.disk, write)
        simulated.node = None
        if not self.is_calm and self.rng.random() < self.weather.crash_loses_messages:
            self.silenced.add((node_id, simulated.incarnation))
        simulated.incarnation += 1
        for peer_id, peer in self.nodes.items():
            if peer.node is not None and self.rng.random() < 0.5:
                self.at(self.rng.randint(0, 5), self.of_now(peer_id, PeerUnreachable(peer_id=node_id)))

    def of_now(self, node_id: int, event: Any) -> Callable[[], None]:
        incarnation = self.nodes[node_id].incarnation

        def deliver() -> None:
            if self.nodes[node_id].incarnation == incarnation:
                self.step(node_id, event)

        return deliver

    def step(self, node_id: int, event: Any) -> list[Any]:
        simulated = self.nodes[node_id]
        node = simulated.node
        assert node is not None
        if isinstance(event, Tick):
            simulated.tick_at = None
        effects = node.step(event, self.now)
        for effect in effects:
            self.execute(node_id, effect)
        self.check(node_id)
        self.arm(node_id)
        return effects

    def arm(self, node_id: int) -> None:
        simulated = self.nodes[node_id]
        assert simulated.node is not None
        deadline = simulated.node.next_deadline_ms()
        if deadline is None or (simulated.tick_at is not None and simulated.tick_at <= deadline):
            return
        simulated.tick_at = deadline
        incarnation = simulated.incarnation

        def tick() -> None:
            current = simulated.node
            if simulated.incarnation != incarnation or current is None or simulated.tick_at != deadline:
                return
            due = current.next_deadline_ms()
            if due is not None and due <= self.now:
                self.step(node_id, Tick())
            else:
                simulated.tick_at = None
                self.arm(node_id)

        self.at(max(0, deadline - self.now), tick)

    # Effects.

    def execute(self, node_id: int, effect: Any) -> None:
        simulated = self.nodes[node_id]
        match effect:
            case Persist():
                self.note_entries(node_id, effect)
                simulated.writes.append(effect)
                self.write_next(node_id)
            case Send(to=to, message=message, causality_id=causality_id):
                self.send(node_id, to, message, causality_id)
            case SendAfterDurable():
                simulated.held.append(effect)
            case Apply(entries=entries):
                for entry in entries:
                    self.apply(node_id, entry)
            case ApplySnapshot(snapshot=snapshot):
                simulated.state = snapshot.payload.split(b",")
                simulated.applied = snapshot.index
            case Refused(causality_id=causality_id) if causality_id in self.asked:
                frm, incarnation, request = self.asked.pop(causality_id)
                if self.nodes[frm].incarnation == incarnation:
                    self.at(1, self.of_now(frm, RequestFailed(peer_id=node_id, request=request)))
            case _:
                pass

    def write_next(self, node_id: int) -> None:
        simulated = self.nodes[node_id]
        if simulated.is_writing or not simulated.writes:
            return
        simulated.is_writing = True
        count = len(simulated.writes)
        incarnation = simulated.incarnation

        def done() -> None:
            if simulated.incarnation != incarnation:
                return
            for write in simulated.writes[:count]:
                simulated.disk = written(simulated.disk, write)
            write_id = simulated.writes[count - 1].write_id
            del simulated.writes[:count]
            simulated.is_writing = False
            while simulated.held and simulated.held[0].write_id <= write_id:
                held = simulated.held.pop(0)
                self.send(node_id, held.to, held.message, held.causality_id)
            self.step(node_id, Persisted(write_id=write_id))
            self.write_next(node_id)

        self.at(self.rng.randint(0, self.weather.disk_ms_max), done)

    def send(self, frm: int, to: int, message: Any, causality_id: int | None) -> None:
        if causality_id is None:
            self.send_request(frm, to, message)
            return
        asked = self.asked.pop(causality_id, None)
        if asked is None:
            return
        asker, incarnation, request = asked
        if isinstance(message, VoteResponse) and message.granted and not message.pre_vote:
            self.crash_soon(frm, self.weather.crash_on_vote)
        self.deliver_response(frm, asker, incarnation, request, message)

    def is_lost(self, frm: int, to: int) -> bool:
        if self.is_calm:
            return False
        return bool({frm, to} & self.cut) or self.rng.random() < self.weather.drop

    def delay(self) -> int:
        return self.rng.randint(0, 2 if self.is_calm else self.weather.delay_ms_max)

    def send_request(self, frm: int, to: int, request: Any) -> None:
        incarnation = self.nodes[frm].incarnation
        if self.is_lost(frm, to):
            self.at(self.rng.randint(1, 80), self.of_now(frm, RequestFailed(peer_id=to, request=request)))
            return
        copies = 2 if not self.is_calm and self.rng.random() < self.weather.duplicate else 1

        def arrive() -> None:
            if (frm, incarnation) in self.silenced:
                return
            target = self.nodes.get(to)
            if target is None or target.node is None:
                if self.nodes[frm].incarnation == incarnation:
                    self.step(frm, RequestFailed(peer_id=to, request=request))
                return
            self.causality += 1
            self.asked[self.causality] = (frm, incarnation, request)
            self.step(to, RequestReceived(request=request, causality_id=self.causality))

        for _ in range(copies):
            self.at(self.delay(), arrive)

    def deliver_response(self, frm: int, to: int, incarnation: int, request: Any, response: Any) -> None:
        if self.nodes[to].incarnation != incarnation:
            return
        if self.is_lost(frm, to):
            self.at(self.rng.randint(1, 80), self.of_now(to, RequestFailed(peer_id=frm, request=request)))
            return
        self.at(self.delay(), self.of_now(to, ResponseReceived(peer_id=frm, request=request, response=response)))

    # Actions from outside.

    def act(self) -> None:
        if self.is_calm:
            return
        draw = self.rng.random()
        weather = self.weather
        node_id = self.rng.choice(list(self.nodes))
        if draw < weather.crash:
            self.crash(node_id)
            self.at(self.rng.randint(1, weather.restart_ms_max), lambda: self.restart(node_id))
        elif draw < weather.crash + weather.cut:
            if len(self.cut) < 2:
                self.cut.add(node_id)
                self.at(self.rng.randint(20, 400), lambda: self.cut.discard(node_id))
        else:
            self.command(self.rng.random())
        self.at(self.rng.randint(1, weather.action_ms_max), self.act)

    def restart(self, node_id: int) -> None:
        if self.nodes[node_id].node is None:
            self.start(node_id)

    def command(self, draw: float) -> None:
        leaders = [node_id for node_id, one in self.nodes.items() if one.node is not None and one.node.is_leader]
        if not leaders:
            return
        leader = self.rng.choice(leaders)
        self.causality += 1
        if draw < 0.85:
            self.proposals += 1
            payload = b"p%d" % self.proposals
            self.step(leader, Propose(payload=payload, causality_id=self.causality))
        elif draw < 0.90:
            self.take_snapshot(self.rng.choice(list(self.nodes)))
        elif draw < 0.93:
            to = self.rng.choice([None, *self.nodes])
            self.step(leader, TransferLeadership(to=to, causality_id=self.causality))
        else:
            self.change_voters(leader)

    def take_snapshot(self, node_id: int) -> None:
        simulated = self.nodes[node_id]
        if simulated.node is not None and simulated.applied > 0:
            payload = b",".join(simulated.state)
            self.step(node_id, SnapshotTaken(index=simulated.applied, payload=payload))

    def change_voters(self, leader: int) -> None:
        node = self.nodes[leader].node
        assert node is not None
        present = [voter.node_id for voter in node.voters]
        absent = [node_id for node_id in self.nodes if node_id not in present]
        if absent and (len(present) <= 3 or self.rng.random() < 0.5):
            joining = self.rng.choice(absent)
            voter = Voter(joining, directory_id(joining))
            self.step(leader, AddVoter(voter=voter, causality_id=self.causality))
        elif len(present) > 3:
            self.step(leader, RemoveVoter(node_id=self.rng.choice(present), causality_id=self.causality))

    # Checks.

    def require(self, condition: bool, what: str, **facts: Any) -> None:
        if not condition:
            raise SafetyViolation(f"{what} at {self.now} ms: {facts}")

    def note_entries(self, node_id: int, write: Persist) -> None:
        """Log matching: an (index, term) always stands for the same entry on the same predecessor."""
        node = self.nodes[node_id].node
        assert node is not None
        for entry in write.entries:
            previous = node._state.log.term_at(entry.index - 1)
            known = self.entries.setdefault((entry.index, entry.term), (previous, entry))
            self.require(known == (previous, entry), "log matching", node=node_id, seen=known, got=(previous, entry))

    def apply(self, node_id: int, entry: Entry) -> None:
        """State machine safety: nobody applies another entry at an index, and nobody skips one."""
        simulated = self.nodes[node_id]
        self.require(entry.index == simulated.applied + 1, "entries are applied in order", node=node_id, entry=entry)
        simulated.applied = entry.index
        content = b"%d/%d/%s" % (entry.term, entry.kind, entry.payload)
        known = self.applied.setdefault(entry.index, content)
        self.require(known == content, "state machine safety", node=node_id, seen=known, got=content)
        simulated.state.append(b"%d" % entry.index)

    def check(self, node_id: int) -> None:
        simulated = self.nodes[node_id]
        node = simulated.node
        assert node is not None
        node.check()
        self.require(node.term >= simulated.term_seen, "terms never go down", node=node_id)
        self.require(node.commit_index >= simulated.commit_seen, "commits never go down", node=node_id)
        simulated.term_seen = node.term
        self.note_commits(node_id, node, simulated)
        is_leader = node.role_name == "Leader"
        if is_leader:
            leader = self.leaders.setdefault(node.term, node_id * 1_000_000 + simulated.incarnation)
            own = node_id * 1_000_000 + simulated.incarnation
            self.require(leader == own, "election safety", term=node.term, leaders=(leader, own))
            if not simulated.was_leader:
                self.check_completeness(node_id, node)
                self.crash_soon(node_id, self.weather.crash_on_election)
        simulated.was_leader = is_leader

    def note_commits(self, node_id: int, node: RaftNode, simulated: SimulatedNode) -> None:
        log = node._state.log
        for index in range(max(simulated.commit_seen, log.base_index) + 1, node.commit_index + 1):
            term = log.term_at(index)
            known = self.committed.setdefault(index, term)
            self.require(known == term, "committed entries never change", node=node_id, index=index)
        if node.commit_index > simulated.commit_seen and node.role_name == "Leader":
            self.crash_soon(node_id, self.weather.crash_on_commit)
        simulated.commit_seen = node.commit_index

    def crash_soon(self, node_id: int, probability: float) -> None:
        """Crash at an unlucky moment: right after the running step."""
        incarnation = self.nodes[node_id].incarnation
        if self.is_calm or probability == 0.0 or self.rng.random() >= probability:
            return

        def crash() -> None:
            if self.nodes[node_id].incarnation == incarnation and not self.is_calm:
                self.crash(node_id)
                self.at(self.rng.randint(1, self.weather.restart_ms_max), lambda: self.restart(node_id))

        self.at(self.rng.randint(0, 3), crash)

    def check_completeness(self, node_id: int, node: RaftNode) -> None:
        """Leader completeness: a new leader holds everything that was ever committed."""
        log = node._state.log
        for index, term in self.committed.items():
            if index > log.base_index:
                self.require(log.term_at(index) == term, "leader completeness", node=node_id, index=index, term=term)

    def check_convergence(self) -> None:
        """In calm weather there is one leader, it can commit, and all voters hold what it holds."""
        leaders = [node_id for node_id, one in self.nodes.items() if one.node is not None and one.node.is_leader]
        self.require(len(leaders) == 1, "one leader in calm weather", nodes=self.describe())
        leader = self.nodes[leaders[0]]
        assert leader.node is not None
        self.causality += 1
        self.step(leaders[0], Propose(payload=b"last", causality_id=self.causality))
        index = leader.node.last_log_index
        self.run_until(self.now + 200)
        self.require(leader.applied >= index, "a proposal commits in calm weather", nodes=self.describe())
        for voter in leader.node.voters:
            other = self.nodes[voter.node_id]
            self.require(other.applied >= index, "voters catch up", nodes=self.describe())
            self.require(other.state == leader.state, "states are equal", node=voter.node_id)

    def describe(self) -> list[str]:
        return [
            one.node.describe() if one.node is not None else f"n{node_id} down" for node_id, one in self.nodes.items()
        ]
