"""The workload of one run: starts and ends its clients, kills and revives them, reads the run out at its end.

    prepare()             the topics exist, before any fault
    start() ... stop()    clients at work; after `stop` every operation has its outcome, `info` where nobody knows
    probe_liveness()      after the faults: every partition takes a write
    drain()               fresh clients read everything; then the history is complete

All methods are called in the driver's process. Everything is drawn from streams of its own per client, so that leaving
out one client does not change what the others do. Times are virtual milliseconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from logcluster.check.history import Event, Recorder
from logcluster.model.errors import LogClusterError
from logcluster.sim.findings import Finding
from logcluster.sim.workload.actor import Actor
from logcluster.sim.workload.administering import AdministeringActor, create_topic
from logcluster.sim.workload.books import Books
from logcluster.sim.workload.consuming import ConsumingActor
from logcluster.sim.workload.excuses import without_topics
from logcluster.sim.workload.final import DrainingActor, ProbingActor
from logcluster.sim.workload.group_books import GroupBooks
from logcluster.sim.workload.grouping import GroupActor
from logcluster.sim.workload.hostile import HostileActor
from logcluster.sim.workload.offset_watching import OffsetWatchingActor
from logcluster.sim.workload.options import WorkloadOptions
from logcluster.sim.workload.producing import ProducingActor

if TYPE_CHECKING:
    import asyncio

    from logcluster.sim.process import Process
    from logcluster.sim.world import World

SUPERVISE_INTERVAL_MS: Final = 100
WAIT_INTERVAL_MS: Final = 20
DRAIN_CLIENT_AGE_MS_MAX: Final = 10_000
PREPARE_TIMEOUT_MS: Final = 15_000
GROUP: Final = "group-0"
PAUSE_MS: Final = (200, 4_000)


class Pauses:
    """Lets processes stand still now and then, long enough for some to lose their membership.

    Args:
        probability: that one process is paused at one tick.
    """

    def __init__(self, rng: random.Random, probability: float) -> None:
        self._rng = rng
        self._probability = probability
        self._paused: list[tuple[int, Process]] = []

    def tick(self, processes: Iterable[Process], now_ms: int) -> int:
        """Wake those whose time is over, pause some others; returns how many."""
        for _, process in [entry for entry in self._paused if entry[0] <= now_ms]:
            process.resume()
        self._paused = [entry for entry in self._paused if entry[0] > now_ms]
        before = len(self._paused)
        for process in processes if self._probability else ():
            if not process.is_paused and self._rng.random() < self._probability:
                process.pause()
                self._paused.append((now_ms + self._rng.randint(*PAUSE_MS), process))
        return len(self._paused) - before

    def end(self) -> None:
        """Wake everybody, and pause nobody any more."""
        self._probability = 0.0
        for _, process in self._paused:
            process.resume()
        self._paused.clear()


class Workload:
    """See the top of the file.

    Args:
        recorder: gets the history; its clock is the world's.
        stream: a random generator by name; by default the world's.
    """

    def __init__(
        self,
        world: World,
        options: WorkloadOptions,
        recorder: Recorder,
        stream: Callable[[str], random.Random] | None = None,
    ) -> None:
        self.world = world
        self.options = options
        self.books = Books(recorder, lambda: world.now_ms)
        self._stream = stream or world.stream
        self._rng = self._stream("workload")
        self._actors: dict[str, Actor] = {}
        self._revivals: list[tuple[int, Actor]] = []
        self._supervisor: asyncio.Task[None] | None = None
        self._drain_number = 0
        self._is_calm = False
        """Nobody is killed any more."""
        self._pauses = Pauses(self._stream("workload/pauses"), options.pause_probability * SUPERVISE_INTERVAL_MS / 1000)
        self._group_books = GroupBooks(GROUP, self.books)
        for actor in self._make_actors():
            self._actors[actor.name] = actor

    def _make_actors(self) -> list[Actor]:
        world, books, options = self.world, self.books, self.options
        actors: list[Actor] = []
        for producer in options.producers:
            actors.append(ProducingActor(world, books, self._stream(f"workload/{producer.name}"), producer))
        for consumer in options.consumers:
            actors.append(ConsumingActor(world, books, self._stream(f"workload/{consumer.name}"), consumer))
        for member in options.members:
            actors.append(GroupActor(world, books, self._stream(f"workload/{member.name}"), member, self._group_books))
        if options.members:
            rng = self._stream("workload/offsets-0")
            actors.append(OffsetWatchingActor(world, books, rng, "offsets-0", self._group_books))
        if options.admin is not None:
            rng = self._stream(f"workload/{options.admin.name}")
            actors.append(AdministeringActor(world, books, rng, options.admin, brokers=len(world.nodes)))
        if options.hostile is not None:
            actors.append(HostileActor(world, books, self._stream(f"workload/{options.hostile.name}"), options.hostile))
        return actors

    # -- facts ----------------------------------------------------------------------------------------------------

    @property
    def findings(self) -> list[Finding]:
        """What was noticed so far beside the history: by the hostile client, in clients that failed.

        What `probe_liveness` and `drain` return is not among it.
        """
        excused = self.books.excused_topics()
        return self.books.findings + [found for topic, found in self.books.topic_findings if topic not in excused]

    @property
    def statistics(self) -> dict[str, Any]:
        """Counts by operation and outcome ("send.ok"), client crashes, records read, open operations."""
        counts = dict(sorted(self.books.counts.items()))
        return {**counts, "records_read": self.books.read_record_count, "events": len(self.books.recorder.events)}

    def clients(self) -> list[str]:
        """Names of the client processes that run now, as the network knows them."""
        return [actor.process_name for actor in self._actors.values() if not actor.is_finished]

    def client_process(self, name: str) -> Process | None:
        """The process that runs now under this name."""
        return self._find(name).process

    def kill_client(self, name: str) -> None:
        """Kill a client's process as `kill -9`; another one takes its place soon.

        Args:
            name: of the process or of the client.

        Raises:
            KeyError: there is no such client.
        """
        actor = self._find(name)
        if actor.is_finished:
            return
        actor.kill("the client was killed")
        self.books.count("client", "killed")
        delay_ms = self._rng.randint(1, max(1, self.options.restart_delay_ms_max))
        self._revivals.append((self.world.now_ms + delay_ms, actor))

    def _find(self, name: str) -> Actor:
        return self._actors[name.removeprefix("client-")]

    def excuse(self, *, power_loss: bool, disk_damage: bool) -> list[str]:
        """Say which faults there were; returns the topics of which nothing is promised after them.

        Call before `probe_liveness` and `drain`, which leave these topics out, as `checked_events` does.
        """
        self.books.power_loss, self.books.disk_damage = power_loss, disk_damage
        return self.books.excused_topics()

    def checked_events(self, *, is_drained: bool = True) -> list[Event]:
        """The history for the checker, without excused topics.

        Args:
            is_drained: whether `drain` was asked to read everything; only it says what retention has deleted.
        """
        excused = self.books.excused_topics()
        if not is_drained:
            excused += [topic.name for topic in self.books.topics.values() if topic.options.has_retention]
        return without_topics(self.books.recorder.events, excused)

    # -- the run --------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Create the topics of the options; the cluster is well.

        Raises:
            LogClusterError: that did not work.
        """
        process = self.world.process("client-setup")
        task = process.spawn(self._create_topics(process), name="setup")
        await task

    async def _create_topics(self, process: Process) -> None:
        actor = Actor(self.world, self.books, self._rng, "setup")
        voice = actor.speaker()
        deadline_ms = self.world.now_ms + PREPARE_TIMEOUT_MS
        async with self.world.connect(process, options=actor.options) as client:
            for options in self.options.topics:
                topic = self.books.add_topic(options)
                while not topic.is_created:
                    try:
                        await create_topic(client, voice, topic, exist_ok=True)
                    except LogClusterError:
                        if self.world.now_ms >= deadline_ms:
                            raise

    async def start(self) -> None:
        """Start the clients."""
        for actor in self._actors.values():
            actor.start()
        self._supervisor = self.world.driver.spawn(self._supervise(), name="workload")

    async def _supervise(self) -> None:
        """Kill clients now and then, and bring them back; let members stand still."""
        probability = self.options.crash_probability * SUPERVISE_INTERVAL_MS / 1000
        while True:
            await self.world.sleep_ms(SUPERVISE_INTERVAL_MS)
            now_ms = self.world.now_ms
            due = [actor for due_ms, actor in self._revivals if due_ms <= now_ms]
            self._revivals = [entry for entry in self._revivals if entry[0] > now_ms]
            for actor in due:
                actor.start()
            for _ in range(self._pauses.tick(self._member_processes(), now_ms)):
                self.books.count("member", "paused")
            for name in self.clients() if probability and not self._is_calm else ():
                if self._rng.random() < probability:
                    self.kill_client(name)

    def _member_processes(self) -> list[Process]:
        members = (self._actors[options.name] for options in self.options.members)
        return [actor.process for actor in members if actor.process is not None]

    async def stop(self, timeout_ms: int = 15_000) -> None:
        """Begin nothing new, wait for outcomes; what is left then becomes `info` and its client is killed."""
        if self._supervisor is not None:
            self._supervisor.cancel()
        self._pauses.end()
        self._revivals.clear()
        for actor in self._actors.values():
            actor.is_stopping = True
        deadline_ms = self.world.now_ms + timeout_ms
        while self.clients() and self.world.now_ms < deadline_ms:
            await self.world.sleep_ms(WAIT_INTERVAL_MS)
        for actor in self._actors.values():
            if not actor.is_finished:
                self.books.count("client", "stuck")
            actor.kill("the run was over before the outcome was known")

    # -- the end --------------------------------------------------------------------------------------------------

    async def probe_liveness(self, timeout_ms: int = 20_000) -> list[Finding]:
        """Write to every partition; a finding for each that did not take it in time."""
        actor = ProbingActor(self.world, self.books, self._stream("workload/probe"), "probe")
        actor.start()
        await self._wait(actor, timeout_ms)
        actor.kill("the probe was over")
        return self._unfinished("partition-not-writable", actor.missing)

    async def catch_up_groups(self, timeout_ms: int = 30_000) -> list[Finding]:
        """Let the group go on until it has handled everything; a finding for each partition that is behind.

        Call before `stop`, after the faults. The other clients begin nothing new.
        """
        self._is_calm = True
        self._pauses.end()
        for actor in self._actors.values():
            if isinstance(actor, GroupActor):
                actor.is_hurrying = True
            else:
                actor.is_stopping = True
        if not self.options.members:
            return []
        deadline_ms = self.world.now_ms + timeout_ms
        while missing := self._group_books.behind():
            if self.world.now_ms >= deadline_ms:
                return self._unfinished("group-behind", missing)
            await self.world.sleep_ms(WAIT_INTERVAL_MS)
        return []

    async def drain(self, timeout_ms: int = 60_000) -> list[Finding]:
        """Read every partition from its beginning to its end; a finding for each that could not be read in time."""
        deadline_ms = self.world.now_ms + timeout_ms
        while True:
            self._drain_number += 1
            actor = DrainingActor(
                self.world,
                self.books,
                self._stream(f"workload/drain/{self._drain_number}"),
                f"drain-{self._drain_number}",
            )
            actor.start()
            await self._wait(actor, min(DRAIN_CLIENT_AGE_MS_MAX, deadline_ms - self.world.now_ms))
            actor.kill("the drain goes on with another client")
            if actor.is_complete:
                return []
            if self.world.now_ms >= deadline_ms:
                break
        return self._unfinished("partition-not-readable", actor.missing)

    def _unfinished(self, name: str, missing: dict[str, str]) -> list[Finding]:
        return [Finding(name, f"{key}: {reason}", self.world.now_ms, "liveness") for key, reason in missing.items()]

    async def _wait(self, actor: Actor, timeout_ms: int) -> None:
        deadline_ms = self.world.now_ms + timeout_ms
        while not actor.is_finished and self.world.now_ms < deadline_ms:
            await self.world.sleep_ms(WAIT_INTERVAL_MS)
