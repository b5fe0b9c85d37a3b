"""The end of every scenario: all is well again, and the cluster must come round and give everything back.

The same as at the end of a run, with shorter patience: a stage is small. Once something is found, patience is shorter
still, because then only the rest of the damage is looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from logcluster.sim.findings import Finding
from logcluster.sim.invariants import check_at_rest
from logcluster.sim.workload.books import Books
from logcluster.sim.workload.final import DrainingActor, ProbingActor
from logcluster.sim.world import World

CONVERGENCE_TIMEOUT_MS: Final = 6_000
PROBE_TIMEOUT_MS: Final = 4_000
DRAIN_TIMEOUT_MS: Final = 6_000
DAMAGED_SHARE: Final = 0.4
"""Of these times, once something was found."""


class Finale:
    """See the top of the file.

    Args:
        findings: what was found so far; what is found here is added.
    """

    def __init__(self, world: World, books: Books, findings: list[Finding]) -> None:
        self._world = world
        self._books = books
        self._findings = findings

    async def play(self) -> None:
        """Demand convergence, a write to every partition, every record back, and the same bytes everywhere."""
        await self._converge()
        await self._probe()
        await self._drain()
        check_at_rest(self._world)

    def _find(self, name: str, detail: str) -> None:
        self._findings.append(Finding(name, detail, self._world.now_ms, "liveness"))

    async def _wait_for(self, condition: Callable[[], bool], timeout_ms: int) -> bool:
        if self._findings:
            timeout_ms = int(timeout_ms * DAMAGED_SHARE)
        deadline_ms = self._world.now_ms + timeout_ms
        while not condition() and self._world.now_ms < deadline_ms:
            await self._world.sleep_ms(10)
        return condition()

    async def _converge(self) -> None:
        if not await self._wait_for(lambda: self._missing() is None, CONVERGENCE_TIMEOUT_MS):
            self._find("no-convergence", self._missing() or "")

    def _missing(self) -> str | None:
        """What keeps the cluster from rest, or None."""
        for machine in self._world.nodes.values():
            if not machine.is_active:
                return f"{machine.name} is {machine.state}"
        images = [machine.node.loader.image for machine in self._world.nodes.values() if machine.node is not None]
        if len({image.offset for image in images}) > 1:
            return f"metadata offsets differ: {[image.offset for image in images]}"
        for topic in images[0].topics.values():
            for number, partition in topic.partitions.items():
                if sorted(partition.in_sync_replicas) != sorted(partition.replicas):
                    return f"{topic.name}-{number}: in sync are {partition.in_sync_replicas} of {partition.replicas}"
        return None

    async def _probe(self) -> None:
        actor = ProbingActor(self._world, self._books, self._world.stream("probe"), "probe")
        actor.start()
        await self._wait_for(lambda: actor.is_finished, PROBE_TIMEOUT_MS)
        actor.kill("the probe was over")
        for key, reason in actor.missing.items():
            self._find("partition-not-writable", f"{key}: {reason}")

    async def _drain(self) -> None:
        actor = DrainingActor(self._world, self._books, self._world.stream("drain"), "drain")
        actor.start()
        await self._wait_for(lambda: actor.is_finished, DRAIN_TIMEOUT_MS)
        actor.kill("the drain was over")
        if not actor.is_complete:
            for key, reason in actor.missing.items():
                self._find("partition-not-readable", f"{key}: {reason}")
