"""The metadata quorum: Raft's safety properties over all nodes (Raft paper, figure 3), and what is on their disks.

Committed entries are remembered when the first node learns of them; every other node, and every later process, must
hold the same ones. Terms and votes count once they are durable: what a crash takes from a node before it spoke of it
was never promised.

Legal and therefore not reported: a restarted node that commits again from its snapshot on; a stale leader of an older
term that lacks what a newer term committed; a node with a replaced disk, which is another voter and forgot everything;
a new history, once every disk that held something of the old one is gone (mode "beyond").
"""

from __future__ import annotations

from typing import NamedTuple

from logcluster.core.raft.messages import Entry, EntryKind, HardState
from logcluster.core.raft.quorum import majority
from logcluster.core.raft.roles import Leader
from logcluster.core.raft.state import ReplicaState
from logcluster.sim.invariants.context import Context, Watch
from logcluster.sim.invariants.metadata import Metadata
from logcluster.sim.invariants.view import has_unsynced, raft_state, stored_base, stored_entry_term


class CommittedEntry(NamedTuple):
    """An entry when the first node learnt that it is committed."""

    entry: Entry
    seen_in_term: int
    """Term of that node then; the entry was committed in this term or before."""


class Quorum:
    """See the top of the file."""

    def __init__(self, context: Context, metadata: Metadata) -> None:
        self._context = context
        self._metadata = metadata
        self._committed: dict[int, CommittedEntry] = {}
        self._last_index = 0
        self._promised: dict[tuple[int, bytes], HardState] = {}
        self._leaders: dict[int, Watch] = {}
        self._stores: dict[int, object] = {}
        self._wiped: dict[int, None] = {}
        self._keepers: dict[int, object] = {}
        """By node, the store that was last known to hold something of this history."""

    def on_change(self, watch: Watch, state: ReplicaState) -> None:
        """Term, vote, role or commit index of a voter are others than before."""
        nodes = self._context.world.nodes
        if self._keepers and all(nodes[node_id].store is not store for node_id, store in self._keepers.items()):
            self._begin_anew()
        if state.commit_index > 0 or isinstance(state.role, Leader):
            self._keepers[watch.node_id] = nodes[watch.node_id].store
        if state.hard_state is not watch.hard_state:
            self._on_hard_state(watch, state)
        if state.commit_index != watch.commit_index:
            self._on_commit(watch, state)
        if state.role is not watch.role:
            watch.role = state.role
            if isinstance(state.role, Leader):
                self._on_leader(watch, state)

    def _begin_anew(self) -> None:
        """Every store that held something of the history has been replaced: nobody can contradict a new one."""
        self._committed.clear()
        self._last_index = 0
        self._promised.clear()
        self._leaders.clear()
        self._keepers.clear()
        self._metadata.begin_anew()

    # -- terms and votes ------------------------------------------------------------------------------------------

    def _on_hard_state(self, watch: Watch, state: ReplicaState) -> None:
        """epoch-regression: of what was once durable, the term never falls and the vote of a term never changes."""
        hard_state = state.hard_state
        voter = state.own_id
        promised = self._promised.get(voter)
        if promised is not None and (
            hard_state.term < promised.term
            or (
                hard_state.term == promised.term
                and promised.voted_for is not None
                and hard_state.voted_for is not None
                and hard_state.voted_for != promised.voted_for
            )
        ):
            self._context.report(
                "epoch-regression",
                ("vote", watch.node_id, hard_state.term),
                f"{watch.name} promised {promised} and is now at {hard_state}",
            )
        if not state.durability.is_pending:
            watch.hard_state = hard_state
            if promised is None or hard_state.term > promised.term or hard_state.voted_for is not None:
                self._promised[voter] = hard_state

    # -- commitment -----------------------------------------------------------------------------------------------

    def _on_commit(self, watch: Watch, state: ReplicaState) -> None:
        """raft-commit-regression, raft-log-matching: what is committed here is what was committed everywhere."""
        before, after = watch.commit_index, state.commit_index
        watch.commit_index = after
        if after < before:
            self._context.report(
                "raft-commit-regression",
                watch.name,
                f"{watch.name}: from commit index {before} to {after} in term {state.term}",
            )
            return
        base = state.log.base_index
        if base > self._last_index:
            self._catch_up(watch, state)
        for entry in state.log.entries_from(max(before, base) + 1, end=after + 1):
            self._take(watch, state, entry)
        if before >= 0 and isinstance(state.role, Leader):
            self._check_durable(watch, state, after)

    def _take(self, watch: Watch, state: ReplicaState, entry: Entry) -> None:
        index = entry.index
        if index == self._last_index + 1:
            self._committed[index] = CommittedEntry(entry, state.term)
            self._last_index = index
            if entry.kind is EntryKind.DATA:
                self._metadata.replay(index, entry.term, entry.payload)
            return
        known = self._committed.get(index)
        if known is not None and known.entry != entry:
            self._context.report(
                "raft-log-matching",
                index,
                f"{watch.name} committed at index {index} {_brief(entry)}, another node {_brief(known.entry)}",
            )

    def _catch_up(self, watch: Watch, state: ReplicaState) -> None:
        """The node has compacted entries that nobody was seen to commit: find them in the log of another node.

        A log that has the entry at the end of what is missing has all of it (Raft paper §5.3).
        """
        base, term = state.log.base_index, state.log.base_term
        for machine in self._context.world.nodes.values():
            other = None if machine.node is None else raft_state(machine.node)
            if other is None or other.log.base_index > self._last_index or other.log.term_at(base) != term:
                continue
            for entry in other.log.entries_from(self._last_index + 1, end=base + 1):
                self._take(watch, state, entry)
            return
        self._adopt(watch, base)

    def _adopt(self, watch: Watch, base: int) -> None:
        """Nobody's log holds the entries up to `base` any more: go on from what this node made of them.

        It may have made something of later ones, too; those are known as committed then, but not looked at.
        """
        controller = watch.node.controller
        image = None if controller is None else controller.committed
        self._last_index = base if image is None else max(base, image.offset)
        if image is not None:
            self._metadata.adopt(image)

    def _check_durable(self, watch: Watch, state: ReplicaState, index: int) -> None:
        """raft-commit-not-durable: a majority of the voters has the entry in its store, synced (Raft paper §5.2).

        A voter whose disk was replaced after it acknowledged counts until it has the entry again.
        """
        term = state.log.term_at(index)
        voters = state.voters.current
        holders = [voter.node_id for voter in voters if self._holds(voter.node_id, index, term)]
        if len(holders) < majority(len(voters)):
            self._context.report(
                "raft-commit-not-durable",
                index,
                f"{watch.name} commits entry {index} of term {term}, which is in the stores of {holders} only",
            )

    def _holds(self, node_id: int, index: int, term: int | None) -> bool:
        machine = self._context.world.nodes.get(node_id)
        if machine is None:
            return False
        store = machine.store
        if self._stores.setdefault(node_id, store) is not store:
            self._stores[node_id] = store
            self._wiped[node_id] = None
        found = stored_entry_term(store, index)
        if (found == term or stored_base(store) >= index) and not has_unsynced(store):
            self._wiped.pop(node_id, None)
            return True
        return node_id in self._wiped

    # -- leaders --------------------------------------------------------------------------------------------------

    def _on_leader(self, watch: Watch, state: ReplicaState) -> None:
        """split-brain: one leader per term. raft-leader-completeness: it has what earlier terms committed."""
        term = state.term
        known = self._leaders.setdefault(term, watch)
        if known.process is not watch.process:
            self._context.report(
                "split-brain", ("raft", term), f"{watch.name} and {known.name} lead the quorum in term {term}"
            )
        index = self._last_index
        while index > 0 and index in self._committed and self._committed[index].seen_in_term >= term:
            index -= 1
        committed = self._committed.get(index)
        if committed is None or state.log.base_index >= index:
            return
        found = state.log.term_at(index)
        if found != committed.entry.term:
            self._context.report(
                "raft-leader-completeness",
                term,
                f"{watch.name} leads in term {term}, its log ({state.log.base_index}..{state.log.last_index}] has "
                f"term {found} at index {index}, committed was term {committed.entry.term}",
            )


def _brief(entry: Entry) -> str:
    return f"{entry.kind.name} of term {entry.term}, {len(entry.payload)} bytes"
