"""A simulated operating-system process: a node's incarnation or a client, killed and paused from outside.

Owns the context that marks its callbacks, its view of the network and its clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

from logcluster.runtime.entropy import SeededEntropy
from logcluster.sim.clock import SimulatedClock
from logcluster.sim.event_loop import CURRENT_PROCESS, Schedulable, SimulatedEventLoop
from logcluster.sim.loopback import LoopbackNetwork

Result = TypeVar("Result")


class Process(Schedulable):
    """One process; made by `World`.

    Args:
        host: its name on the network; a restarted node has the same one.
        clock: the machine's; by default one of its own.
    """

    def __init__(
        self,
        loop: SimulatedEventLoop,
        network: LoopbackNetwork,
        *,
        name: str,
        number: int,
        entropy_seed: str,
        clock: SimulatedClock | None = None,
    ) -> None:
        super().__init__(name, number)
        self._loop = loop
        self._network = network
        self.network = network.node(name)
        self.clock = clock or SimulatedClock(loop)
        self.entropy = SeededEntropy(entropy_seed)
        self.client_count = 0
        self.context: Context = copy_context()
        self.context.run(CURRENT_PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Result], *, name: str) -> asyncio.Task[Result]:
        """Run `work` as a task of this process; its failure is the world's to notice (`World.on_task_failure`)."""
        return self._loop.create_task(work, name=f"{self.name}/{name}", context=self.context.copy())

    def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call `function` at once, with what it schedules belonging to this process."""
        return self.context.copy().run(function, *args)

    def kill(self) -> None:
        """End it at once, as `kill -9`: nothing of it runs again, its peers see resets."""
        if self.is_alive:
            self._loop.kill(self)
            self._network.crash(self.name)

    def pause(self) -> None:
        """Stop it where it is, as SIGSTOP; what is sent to it waits in its sockets."""
        self._loop.pause(self)

    def resume(self) -> None:
        """Let it go on, as SIGCONT."""
        self._loop.resume(self)
