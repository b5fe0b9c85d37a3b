"""A client that lives in a process of its own, can be killed at any moment, and comes back.

The actor is the driver's object and survives; its process, the client in it and all their tasks do not. Whatever must
be known after a kill is kept here or in the books. A subclass says in `work` what the client does once connected.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

from logcluster.client.client import Client
from logcluster.client.context import ClientOptions
from logcluster.model.errors import LogClusterError
from logcluster.runtime.scope import TaskScope
from logcluster.sim.workload.books import Books, Speaker

if TYPE_CHECKING:
    from logcluster.sim.process import Process
    from logcluster.sim.world import World

RECONNECT_DELAY_MS_MAX: Final = 200
REST_SLICE_MS: Final = 250
CLIENT_OPTIONS: Final = ClientOptions(
    connect_timeout_ms=1_000,
    request_timeout_ms=5_000,
    topic_wait_ms=1_000,
    metadata_age_ms_max=2_000,
    stall_ms=500,
)
"""Shorter than the defaults, because a run lasts seconds."""


class Actor:
    """One client of the workload.

    Args:
        name: of the client in the history; its processes are called "client-NAME".
        rng: the only source of what it chooses.
    """

    options: ClientOptions = CLIENT_OPTIONS

    def __init__(self, world: World, books: Books, rng: random.Random, name: str) -> None:
        self.world = world
        self.books = books
        self.rng = rng
        self.name = name
        self.process: Process | None = None
        self.incarnation = 0
        self.is_stopping = False
        self.is_finished = True
        """Nothing of it runs: it was never started, has ended, or was killed."""
        self._speakers: list[Speaker] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def process_name(self) -> str:
        return f"client-{self.name}"

    # -- life, in the driver --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin another life in a new process; call in the driver's process."""
        self.incarnation += 1
        self.is_finished = False
        self.process = process = self.world.process(self.process_name)
        self._task = process.spawn(self._live(process), name=self.name)
        self._task.add_done_callback(self._ended)

    def kill(self, reason: str) -> None:
        """End the process at once; what is open will never be known."""
        process, self.process, self._task = self.process, None, None
        if process is not None:
            process.kill()
        self.is_finished = True
        self.abandon(reason)

    def abandon(self, reason: str) -> int:
        """Give every open operation the outcome `info`; returns how many there were."""
        speakers, self._speakers = self._speakers, []
        return sum(speaker.abandon(reason) for speaker in speakers)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is not self._task:
            return  # it had been killed before it could say so
        self.is_finished = True
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.note_fault(self.name, error)
            self.abandon(f"the client failed: {error!r}")

    # -- life, in the client's process ----------------------------------------------------------------------------

    def speaker(self) -> Speaker:
        """Another sequential voice of this incarnation."""
        speaker = Speaker(self.books, self.name)
        self._speakers.append(speaker)
        return speaker

    def release(self, speaker: Speaker) -> None:
        """A voice that has said all it had to say."""
        self._speakers.remove(speaker)

    @property
    def has_open_operations(self) -> bool:
        """Whether some operation of this incarnation waits for its outcome."""
        return any(speaker.open_count for speaker in self._speakers)

    async def _live(self, process: Process) -> None:
        self._speakers = []
        self.begin()
        while not self.is_stopping:
            try:
                async with self.world.connect(process, options=self.options) as client:
                    try:
                        await self.work(client, process)
                    finally:
                        self.look_at(client._scope)
            except LogClusterError as error:
                self.books.count("client", type(error).__name__)
                await process.clock.sleep_ms(self.rng.randrange(20, RECONNECT_DELAY_MS_MAX))

    def begin(self) -> None:
        """A new incarnation: make its speakers."""

    async def work(self, client: Client, process: Process) -> None:
        """Do what this client does until `is_stopping`, or until it wants another connection.

        Raises:
            LogClusterError: go on with a new connection.
        """
        raise AssertionError(f"{type(self).__name__} does nothing: {client} {process}")

    def note_fault(self, name: str, error: BaseException) -> None:
        """A task of the client failed with what is no answer of the cluster: a bug. A fault handler of scopes."""
        self.books.find("client-failed", f"{name}: {type(error).__name__}: {error}", "crash")

    # -- help for subclasses --------------------------------------------------------------------------------------

    def pause_ms(self, mean_ms: float) -> int:
        """An exponentially distributed pause, never longer than eight times the mean."""
        return int(min(self.rng.expovariate(1.0), 8.0) * mean_ms)

    def look_at(self, scope: TaskScope | None) -> None:
        """Report a background task of the client library that has failed, which nobody may have noticed."""
        if scope is not None and scope.failure is not None:
            self.note_fault(scope.name, scope.failure)

    async def rest(self, process: Process, delay_ms: int) -> None:
        """Sleep in the client's process, not much longer than until `is_stopping`."""
        while delay_ms > 0 and not self.is_stopping:
            slice_ms = min(delay_ms, REST_SLICE_MS)
            await process.clock.sleep_ms(slice_ms)
            delay_ms -= slice_ms

    def pick_weighted(self, weights: dict[str, int]) -> str:
        """One of the names, as likely as its weight says."""
        names: list[Any] = list(weights)
        return str(self.rng.choices(names, weights=list(weights.values()))[0])
