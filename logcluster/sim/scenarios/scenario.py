"""What a scripted history is: one story, the safeguard it is about, and what must be found when that is taken away.

A scenario is told twice. With every safeguard in place nothing may be found; with its safeguard removed the names in
`expected` must be. The second half is the proof that the first one means something.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from logcluster.model.errors import LogClusterError
from logcluster.sim import ablations
from logcluster.sim.event_loop import SimulationDeadlock, SimulationError, SimulationTimeUp
from logcluster.sim.findings import Finding
from logcluster.sim.log_capture import captured
from logcluster.sim.scenarios.stage import OffScript, Stage, StageOptions

Story = Callable[[Stage], Coroutine[Any, Any, None]]

OFF_SCRIPT: Final = "off-script"
"""The finding for a story that could not be told: the cluster never came to where the script goes on."""
VIRTUAL_MS_MAX: Final = 120_000
SEED: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One real bug as a script.

    Args:
        name: in kebab case; what `logcluster sim scenario` takes.
        title: what happened, and where.
        source: the report or proposal it comes from.
        safeguard: what protects this system, in one sentence.
        ablation: name of the safeguard that is taken away: a name in `ablations`, unless there is a `patch`.
        expected: names of findings; at least one must be found without the safeguard.
        play: the script.
        options: of the stage.
        patch: gives the block in which the safeguard is off, where the catalogue has no ablation for it.
    """

    name: str
    title: str
    source: str
    safeguard: str
    ablation: str
    expected: frozenset[str]
    play: Story
    options: StageOptions = field(default_factory=StageOptions)
    patch: Callable[[], AbstractContextManager[None]] | None = None

    def run(self, ablated: bool, *, seed: int = SEED) -> list[Finding]:
        """Play it to the end; returns what was found, in the order it was noticed.

        Args:
            ablated: without the safeguard.
            seed: of delays and turns; the story must not depend on it.

        Raises:
            KeyError: there is no ablation of this name.
            AblationDoesNotFit: the product has changed under it.
        """
        with ExitStack() as stack:
            if ablated:
                stack.enter_context(self._without_safeguard())
            stage = Stage(seed, self.options)
            stack.enter_context(captured(stage.world))
            self._drive(stage)
            stage.close()
        if ablated:
            # A cluster that went another way because of the damage still has to show the damage.
            return [finding for finding in stage.findings if finding.name != OFF_SCRIPT]
        return stage.findings

    def _without_safeguard(self) -> AbstractContextManager[None]:
        return ablations.apply(self.ablation) if self.patch is None else self.patch()

    def _drive(self, stage: Stage) -> None:
        try:
            stage.world.run(lambda: self._told(stage), time_ms_max=VIRTUAL_MS_MAX)
        except (OffScript, LogClusterError) as error:
            stage.find(OFF_SCRIPT, str(error), "liveness")
        except SimulationDeadlock as error:
            stage.find("deadlock", str(error), "liveness")
        except SimulationTimeUp as error:
            stage.find("time-up", str(error), "liveness")
        except SimulationError as error:
            stage.find("stuck", str(error), "liveness")
        stage.judge()

    async def _told(self, stage: Stage) -> None:
        await stage.begin()
        await self.play(stage)
        await stage.finish()
