"""One fault being carried out: its targets as they were bound, its random stream, and the tools it works with."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from logcluster.sim.faults.atlas import Atlas, Damage, DamageClass, DamagedBytes
from logcluster.sim.faults.cluster_view import ClusterView
from logcluster.sim.faults.damage import is_still_there
from logcluster.sim.faults.failpoint_arms import FailpointArms
from logcluster.sim.faults.holds import LinkHolds, NodeHolds, holds_of
from logcluster.sim.faults.plan import Fault
from logcluster.sim.faults.ports import ClientNames, FaultNode, FaultWorld


class Skipped(Exception):
    """The fault cannot or may not strike now; the text says why."""


class Tools:
    """What all faults of a run share."""

    def __init__(self, world: FaultWorld, atlas: Atlas, clients: ClientNames) -> None:
        self.world = world
        self.atlas = atlas
        self.clients = clients
        self.view = ClusterView(world)
        self.holds: dict[int, NodeHolds] = holds_of(world.nodes)
        self.links = LinkHolds(world.network)
        self.failpoints = FailpointArms()
        self.slots: dict[str, int] = {}
        self.counts: Counter[str] = Counter()

    def refresh_atlas(self) -> None:
        """Tell the atlas what has been repaired: the damaged bytes are gone, and all replicas are in sync again."""
        outstanding = self.atlas.outstanding
        if not outstanding:
            return
        is_in_sync = self.view.is_fully_in_sync()
        for damage in outstanding:
            is_derived = damage.damage_class is DamageClass.DERIVED
            if not is_derived and not is_in_sync:
                continue
            if not is_still_there(self.world.nodes[damage.node_id].disk, damage.evidence):
                self.atlas.repaired(damage)
                self.world.timeline.note("damage_repaired", node=damage.node_id, what=damage.damage_class.value)


@dataclass(slots=True)
class Strike:
    """See the top of the file.

    Args:
        rng: this fault's own; other faults do not change what it draws.
        node_ids: the bound targets.
        end_ms: virtual time at which the fault is over.
    """

    tools: Tools
    fault: Fault
    rng: random.Random
    end_ms: int
    node_ids: Sequence[int] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.fault.number

    @property
    def left_ms(self) -> int:
        """Virtual milliseconds until it is over, at least 0."""
        return max(0, self.end_ms - self.tools.world.now_ms)

    @property
    def nodes(self) -> list[FaultNode]:
        return [self.tools.world.nodes[node_id] for node_id in self.node_ids]

    async def last(self) -> None:
        """Wait until the fault is over."""
        await self.tools.world.sleep_ms(self.left_ms)

    async def sleep(self, delay_ms: int) -> None:
        """Wait so long, but not beyond the end."""
        await self.tools.world.sleep_ms(min(delay_ms, self.left_ms))

    def note(self, kind: str, **facts: object) -> None:
        """Add a line to the timeline."""
        self.tools.world.timeline.note(kind, number=self.number, **facts)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def take_down(self, node_id: int, *, power_loss: bool = False, tear_probability: float | None = None) -> None:
        """End a node; it stays down until `let_up`."""
        self.tools.holds[node_id].take_down(self.number, power_loss=power_loss, tear_probability=tear_probability)

    def let_up(self, node_id: int) -> None:
        """Let the node start, unless another fault holds it down."""
        self.tools.holds[node_id].down.release(self.number)

    def restart_if_failed(self, node_id: int, repair: str) -> None:
        """Bring a node back whose log directory has stopped, in one of the ways of `kinds.REPAIRS`."""
        node = self.tools.view.running(node_id)
        if node is None or node.logs.failure is None:
            return
        if repair == "disk" and self.refusal([node_id], DamageClass.DISK_LOST) is not None:
            repair = "machine"
        self.note("repair", node=node_id, by=repair)
        self.take_down(node_id, power_loss=repair != "process")
        if repair == "disk":
            self.wipe(node_id)
        self.let_up(node_id)

    def wipe(self, node_id: int) -> None:
        """Give a node that is down an empty disk."""
        self.tools.world.nodes[node_id].wipe()
        self.note_damage(node_id, DamageClass.DISK_LOST)

    # -- links -----------------------------------------------------------------------------------------------------

    def others(self, *, clients: bool, nodes: bool = True) -> list[str]:
        """Names of the processes that are not targets."""
        world = self.tools.world
        names = [world.nodes[node_id].name for node_id in sorted(world.nodes) if node_id not in self.node_ids]
        return (names if nodes else []) + (self.tools.clients() if clients else [])

    # -- damage ----------------------------------------------------------------------------------------------------

    def refusal(self, node_ids: Iterable[int], damage_class: DamageClass) -> str | None:
        """Why the atlas does not allow this damage now; None when it does."""
        self.tools.refresh_atlas()
        return self.tools.atlas.refusal(node_ids, damage_class)

    def ask_atlas(self, damage_class: DamageClass) -> None:
        """Go on only if all targets may be damaged so.

        Raises:
            Skipped: they may not.
        """
        why = self.refusal(self.node_ids, damage_class)
        if why is not None:
            raise Skipped(f"atlas: {why}")

    def note_damage(self, node_id: int, damage_class: DamageClass, evidence: tuple[DamagedBytes, ...] = ()) -> None:
        """Damage was done."""
        self.tools.atlas.note(Damage(node_id, damage_class, self.tools.world.now_ms, evidence))
        where = [f"{item.path}@{item.position}+{len(item.found)}" for item in evidence]
        self.note("damage", node=node_id, what=damage_class.value, where=", ".join(where))


Action = Callable[[Strike], Awaitable[None]]
"""Applies a fault, waits, undoes it, also when cancelled; raises Skipped before it has done anything."""
