"""What happens to the quorum from outside: faults, commands, and the calm at the end.

The atlas, that is what the quorum promises to survive: any loss, delay, duplication and reordering of messages; cuts
in one direction; any number of crashes and power losses; pauses; clocks that run unevenly or jump ahead; one lost disk
at a time, replaced by an operator (remove the voter, add it with its new disk), once voters' disks are known by id.
"""

from __future__ import annotations

from dataclasses import replace

from logcluster.core.raft.effects import Effect, RefusalReason, Refused
from logcluster.core.raft.inputs import AddVoter, Input, RemoveVoter, SnapshotTaken, TransferLeadership
from logcluster.core.raft.messages import ANY_DIRECTORY, Voter
from logcluster.core.raft.node import RaftNode
from logcluster.sim.cores.raft_checks import encode_state
from logcluster.sim.cores.raft_disk import RaftDisk
from logcluster.sim.cores.raft_member import RaftMember
from logcluster.sim.cores.raft_world import RaftWorld, directory_of

CONVERGENCE_MS_MAX = 6_000
"""In calm weather the quorum commits and agrees within this time: some 25 election timeouts."""
_TURN_MS = 40


class RaftStorm:
    """Drives one world through its storm and into the calm."""

    def __init__(self, world: RaftWorld) -> None:
        self._world = world
        self._proposals = 0
        self._generations = dict.fromkeys(world.members, 0)

    def run(self) -> None:
        """The whole run; findings are in the book."""
        world = self._world
        for member in world.members.values():
            world.start(member)
        world.at(1, self._act)
        world.run_until(world.options.duration_ms)
        self._heal()
        self._converge()

    # -- the storm -----------------------------------------------------------------------------------------------

    def _act(self) -> None:
        world = self._world
        if world.is_calm:
            return
        options = world.options
        draw = world.rng.random()
        for probability, fault in (
            (options.crash, self._crash),
            (options.blackout, self._blackout),
            (options.cut, self._cut),
            (options.pause, self._pause),
            (options.clock_jump, self._jump_clock),
            (options.wipe, self._wipe),
            (options.snapshot, self._take_snapshot),
            (options.transfer, self._transfer),
            (options.membership, self._change_voters),
        ):
            draw -= probability
            if draw < 0:
                fault()
                break
        else:
            self._propose()
        world.at(1 + world.below(options.action_ms_max), self._act)

    def _any_member(self) -> RaftMember:
        members = list(self._world.members.values())
        return members[self._world.below(len(members) - 1)]

    def _leaders(self) -> list[tuple[RaftMember, RaftNode]]:
        now_ms = self._world.now_ms
        return [
            (member, member.node)
            for member in self._world.members.values()
            if member.node is not None and member.node.is_leader and member.paused_until_ms <= now_ms
        ]

    def _any_leader(self) -> tuple[RaftMember, RaftNode] | None:
        leaders = self._leaders()
        return leaders[self._world.below(len(leaders) - 1)] if leaders else None

    def _target(self) -> RaftMember:
        """Half of the time the leader, where it hurts."""
        leaders = self._leaders()
        if leaders and self._world.rng.random() < 0.5:
            return leaders[0][0]
        return self._any_member()

    def _crash(self) -> None:
        self._world.crash(self._target())

    def _blackout(self) -> None:
        """Every node loses its power at once."""
        world = self._world
        for member in world.members.values():
            if member.node is not None:
                world.kill(member, power_loss=True)
                world.at(1 + world.below(world.options.restart_ms_max), world.start, member)
        world.book.probe("core.raft.all_lost_power")

    def _cut(self) -> None:
        """Cut one direction of a link, a node's inbound or outbound side, a node, or the quorum in two."""
        world = self._world
        until_ms = world.now_ms + 20 + world.below(400)
        ids = list(world.members)
        victim = self._target().node_id
        others = [node_id for node_id in ids if node_id != victim]
        draw = world.below(4)
        if draw == 0 and others:
            pairs = [(victim, others[world.below(len(others) - 1)])]
        elif draw == 1:
            pairs = [(victim, other) for other in others]
        elif draw == 2:
            pairs = [(other, victim) for other in others]
        elif draw == 3:
            pairs = [(victim, other) for other in others] + [(other, victim) for other in others]
        else:
            side = [node_id for node_id in ids if world.rng.random() < 0.5]
            pairs = [(a, b) for a in ids for b in ids if (a in side) != (b in side)]
        for pair in pairs:
            world.blocked[pair] = until_ms

    def _pause(self) -> None:
        world = self._world
        member = self._target()
        if member.node is not None:
            if member.node.is_leader:
                world.book.probe("core.raft.leader_paused")
            member.paused_until_ms = world.now_ms + 30 + world.below(600)

    def _jump_clock(self) -> None:
        world = self._world
        member = self._target()
        member.skew_ms += world.below(500)
        if member.node is not None:
            world.rearm(member)

    def _wipe(self) -> None:
        """A voter loses its disk; at most one at a time, and only once all others know its disk by its id."""
        world = self._world
        if world.options.voter_count < 3 or any(member.is_wiped for member in world.members.values()):
            return
        leader = self._any_leader()
        if leader is None:
            return
        voters = leader[1].voters
        committed_on_all = all(
            each.directory_id != ANY_DIRECTORY
            and all(
                world.members[voter.node_id].disk.last_index >= leader[1].commit_index
                for voter in voters
                if voter.node_id != each.node_id
            )
            for each in voters
        )
        member = world.members[voters[world.below(len(voters) - 1)].node_id]
        if len(voters) < 3 or not committed_on_all:
            return
        world.kill(member, power_loss=True)
        self._generations[member.node_id] += 1
        member.config = replace(
            member.config, directory_id=directory_of(member.node_id, self._generations[member.node_id])
        )
        member.disk = RaftDisk()
        member.disk_term_seen = 0
        member.is_wiped = True
        world.disks[member.node_id, member.directory_id] = member.disk
        world.book.probe("core.raft.disk_wiped")
        world.at(1 + world.below(world.options.restart_ms_max), world.start, member)
        world.at(100, self._replace_wiped)

    def _replace_wiped(self) -> None:
        """The operator: take the lost disk's voter out, then add the new one."""
        world = self._world
        wiped = [member for member in world.members.values() if member.is_wiped]
        leader = self._any_leader()
        if wiped and leader is not None:
            member, (leading, node) = wiped[0], leader
            own = next((voter for voter in node.voters if voter.node_id == member.node_id), None)
            if own is None:
                voter = Voter(member.node_id, member.directory_id)
                self._command(leading, AddVoter(voter=voter, causality_id=world.next_causality_id()))
            elif own.directory_id != member.directory_id:
                self._command(leading, RemoveVoter(node_id=member.node_id, causality_id=world.next_causality_id()))
            elif node.commit_index >= node.last_log_index:
                member.is_wiped = False
                world.book.probe("core.raft.wiped_voter_replaced")
        if wiped:
            world.at(60, self._replace_wiped)

    # -- commands ------------------------------------------------------------------------------------------------

    def _command(self, member: RaftMember, event: Input) -> list[Effect]:
        effects = self._world.step(member, event)
        for effect in effects:
            if isinstance(effect, Refused) and effect.reason is not RefusalReason.NOT_LEADER:
                self._world.book.probe(f"core.raft.refused: {effect.reason.value}")
        return effects

    def _propose(self) -> None:
        leader = self._any_leader()
        if leader is not None:
            self._proposals += 1
            self._world.propose(leader[0], b"p%d" % self._proposals)

    def _take_snapshot(self) -> None:
        world = self._world
        member = self._any_member()
        if member.node is not None and member.applied > 0 and member.paused_until_ms <= world.now_ms:
            payload = encode_state(member.applied, member.digest)
            world.step(member, SnapshotTaken(index=member.applied, payload=payload))

    def _transfer(self) -> None:
        world = self._world
        leader = self._any_leader()
        if leader is not None:
            to = None if world.rng.random() < 0.3 else self._any_member().node_id
            self._command(leader[0], TransferLeadership(to=to, causality_id=world.next_causality_id()))

    def _change_voters(self) -> None:
        """Voters come and go, one at a time; not below three, and not while a lost disk is being replaced."""
        world = self._world
        leader = self._any_leader()
        if leader is None or any(member.is_wiped for member in world.members.values()):
            return
        member, node = leader
        present = [voter.node_id for voter in node.voters]
        absent = [node_id for node_id in world.members if node_id not in present]
        smallest = min(3, world.options.voter_count)
        if absent and (len(present) <= smallest or world.rng.random() < 0.5):
            joining = world.members[absent[world.below(len(absent) - 1)]]
            voter = Voter(joining.node_id, joining.directory_id)
            self._command(member, AddVoter(voter=voter, causality_id=world.next_causality_id()))
            world.book.probe("core.raft.voter_joining")
        elif len(present) > smallest:
            leaving = present[world.below(len(present) - 1)]
            self._command(member, RemoveVoter(node_id=leaving, causality_id=world.next_causality_id()))
            world.book.probe("core.raft.leader_left" if leaving == member.node_id else "core.raft.voter_left")

    # -- the calm ------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self._world
        world.is_calm = True
        world.blocked.clear()
        for member in world.members.values():
            member.paused_until_ms = 0
            world.start(member)

    def _converge(self) -> None:
        """One leader commits a last proposal, and every voter applies it, within the bound."""
        world = self._world
        start_ms = world.now_ms
        target: tuple[RaftMember, int, int] | None = None
        problem: str | None = "no leader"
        while world.now_ms - start_ms <= CONVERGENCE_MS_MAX and len(world.book.findings) < 8:
            world.run_until(world.now_ms + _TURN_MS)
            leader = self._any_leader()
            if leader is None:
                target, problem = None, "no leader"
                continue
            member, node = leader
            if target is None or target[0] is not member or target[1] != member.incarnation:
                self._propose_last(member)
                target = (member, member.incarnation, node.last_log_index)
                continue
            problem = self._unfinished(node, target[2])
            if problem is None:
                return
        nodes = "; ".join(
            member.node.describe() if member.node is not None else f"n{member.node_id} down"
            for member in world.members.values()
        )
        world.book.find("no-progress", f"{problem} after {world.now_ms - start_ms} ms of calm: {nodes}")

    def _propose_last(self, member: RaftMember) -> None:
        self._proposals += 1
        self._world.propose(member, b"p%d" % self._proposals)

    def _unfinished(self, node: RaftNode, index: int) -> str | None:
        world = self._world
        if len(self._leaders()) != 1:
            return "several leaders"
        if node.applied_index < index or node.commit_index < node.last_log_index:
            return "the last proposal is not committed"
        voters = [
            world.members[voter.node_id]
            for voter in node.voters
            if voter.accepts_directory(world.members[voter.node_id].directory_id)
        ]
        return world.checks.check_agreement(voters)
