"""Carries a plan out in a world: each fault at its time, on whom has the role then, undone when it is over.

Every fault is a task that waits for its time, binds its targets, applies itself, and lets go. What cannot strike
(nobody has the role, the atlas refuses, there is nothing to damage) is noted in the timeline and counted. Each fault
draws from a stream of its own number, so that leaving one out of a plan leaves the others' choices alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from logcluster.runtime.scope import TaskScope
from logcluster.sim.faults import disk_faults, network_faults, process_faults
from logcluster.sim.faults.atlas import Atlas
from logcluster.sim.faults.kinds import FaultKind
from logcluster.sim.faults.plan import Fault, Plan
from logcluster.sim.faults.ports import FaultWorld
from logcluster.sim.faults.selectors import TargetMissing, resolve
from logcluster.sim.faults.strike import Action, Skipped, Strike, Tools

ACTIONS: Final[Mapping[FaultKind, Action]] = {
    **process_faults.ACTIONS,
    **network_faults.ACTIONS,
    **disk_faults.ACTIONS,
}


class Injector:
    """See the top of the file; used once, in the driver's process.

    Args:
        atlas: what may still be damaged; `Atlas(..., damaged_nodes_max=None)` in mode "beyond".
        workload_clients: names of the client processes there are when a fault asks.
        rng: of all that is drawn when faults strike.
    """

    def __init__(
        self,
        world: FaultWorld,
        plan: Plan,
        atlas: Atlas,
        workload_clients: Callable[[], Iterable[str]],
        rng: random.Random,
    ) -> None:
        self.plan = plan
        self.atlas = atlas
        self.applied: list[int] = []
        """Numbers of the faults that struck, in order."""
        self.skipped: dict[int, str] = {}
        """Why the others did not, by number."""
        self._world = world
        self._tools = Tools(world, atlas, lambda: list(workload_clients()))
        self._stream_seed = rng.getrandbits(64)

    async def run(self) -> None:
        """Carry the plan out; returns after its duration, with everything undone.

        Cancellation: everything is undone.
        """
        start_ms = self._world.now_ms
        self._tools.failpoints.install()
        try:
            async with TaskScope("faults") as scope:
                for fault in self.plan.faults:
                    scope.spawn(self._carry_out(fault, start_ms), name=f"{fault.kind.value}-{fault.number}")
                await self._world.sleep_ms(self.plan.duration_ms)
        finally:
            self.heal_all()

    def heal_all(self) -> None:
        """Restore all links, clocks and disks, let all nodes go on or start, restart stopped log directories.

        Damage stays: repairing it is the cluster's matter. Idempotent.
        """
        tools = self._tools
        tools.failpoints.uninstall()
        tools.links.clear()
        self._world.network.heal_all()
        for node_id, holds in tools.holds.items():
            node = self._world.nodes[node_id]
            node.disk.forget_failures()
            node.store.fail_after(disk_faults.NEVER)
            holds.clear()
            running = tools.view.running(node_id)
            if running is not None and running.logs.failure is not None:
                holds.take_down(-1, power_loss=True)
                holds.down.clear()
        tools.refresh_atlas()
        self._world.timeline.note("healed", damaged=self.atlas.damaged_node_ids)

    def statistics(self) -> dict[str, Any]:
        """Counts for the run's result: faults by kind, skipped ones by kind, failpoints that struck."""
        kinds = {fault.number: fault.kind.value for fault in self.plan.faults}
        return {
            "faults": dict(sorted(Counter(kinds[number] for number in self.applied).items())),
            "faults_skipped": dict(sorted(Counter(kinds[number] for number in self.skipped).items())),
            "failpoints": dict(sorted(self._tools.failpoints.struck.items())),
        }

    async def _carry_out(self, fault: Fault, start_ms: int) -> None:
        await self._world.sleep_ms(start_ms + fault.at_ms - self._world.now_ms)
        strike = Strike(
            tools=self._tools,
            fault=fault,
            rng=random.Random(f"{self._stream_seed}/{fault.number}"),
            end_ms=start_ms + fault.end_ms,
        )
        timeline = self._world.timeline
        self.applied.append(fault.number)
        try:
            strike.node_ids = resolve(fault.targets, self._tools.view, strike.rng, self._tools.slots)
            timeline.note("fault", number=fault.number, what=fault.kind.value, nodes=strike.node_ids)
            await ACTIONS[fault.kind](strike)
        except (TargetMissing, Skipped) as reason:
            self.applied.remove(fault.number)
            self.skipped[fault.number] = str(reason)
            timeline.note("fault_skipped", number=fault.number, what=fault.kind.value, why=str(reason))
        else:
            if fault.duration_ms:
                timeline.note("fault_over", number=fault.number, what=fault.kind.value)
