"""What all workloads have in common: options, topics, a connection that is made again, and how they come to an end.

A workload is a subclass of `Worker` in a file of its own, with its options beside it, and a line in
`chaos.workloads.WORKLOADS`. `work` is called with an open client, again and again until the client is told to stop or
the workload `is_complete`; it raises `LogClusterError` when it wants another connection.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from contextlib import suppress
from typing import Annotated, ClassVar, Final, Literal

import msgspec

import logcluster
from chaos.workloads.recording import HistoryWriter, Voice, monotonic_ns
from chaos.workloads.records import RecordMaker
from logcluster.client.client import Client
from logcluster.client.metadata_cache import TopicFacts
from logcluster.model.errors import LogClusterError, UnknownTopicOrPartition
from logcluster.runtime.clock import SystemClock

RECONNECT_DELAY_MS_MAX: Final = 200
REST_SLICE_MS: Final = 100
TOPIC_PAUSE_MS: Final = 100

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A topic that the workload makes if it is not there; one that is there is taken as it is."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    partitions: Positive = 3
    replication_factor: Positive = 3
    config: dict[str, str] = msgspec.field(default_factory=lambda: {"min.insync.replicas": "2"})


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of every workload. Times in ms; short, because runs last minutes and failovers seconds."""

    topics: tuple[str | TopicSpec, ...] = (TopicSpec(name="chaos"),)
    """A plain name is of a topic that somebody else makes."""
    carrier: Literal["lane", "grpc"] = "lane"
    connect_timeout_ms: Positive = 1_000
    request_timeout_ms: Positive = 5_000
    topic_wait_ms: Positive = 1_000
    metadata_age_ms_max: Positive = 2_000

    def problem(self) -> str | None:
        """What is impossible about the options together; None: nothing."""
        return None

    def coordinated_groups(self) -> tuple[str, ...]:
        """Groups whose coordinators the worker talks to, so that faults can be aimed at these."""
        return ()


class Worker:
    """One client process at work.

    Args:
        name: of the client; unique among those that run at a time.
        rng: the only source of what it chooses.
    """

    options_type: ClassVar[type[Options]]

    def __init__(
        self, *, name: str, bootstrap: str, rng: random.Random, writer: HistoryWriter, options: Options
    ) -> None:
        self.name = name
        self.rng = rng
        self.writer = writer
        self.clock = SystemClock()
        self.life = f"{name}.{monotonic_ns() // 1_000_000:x}"
        """Unique for each process, also when it has the name of one before."""
        self.is_complete = False
        """It has done all there is to do."""
        self.exit_code = 0
        self.crash_count = 0
        self._bootstrap = bootstrap
        self._common = options
        self._stop = asyncio.Event()
        self._voices: list[Voice] = []
        self.records = RecordMaker(self.life, rng, self.clock)

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until told to stop, or complete.

        Raises: whatever is not an answer of the cluster: a bug.
        """
        while not self.is_over:
            try:
                async with self._connect() as client:
                    await self.work(client)
            except LogClusterError as error:
                self.writer.append(
                    self.writer.new_process(), "fail", "connection", None, f"{type(error).__name__}: {error.message}"
                )
                await self.rest(self.rng.randrange(20, RECONNECT_DELAY_MS_MAX))

    async def work(self, client: Client) -> None:
        """Do what this workload does.

        Raises:
            LogClusterError: go on with a new connection.
        """
        raise AssertionError(f"{type(self).__name__} does nothing with {client}")

    def stop(self) -> None:
        """Begin nothing new."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def is_over(self) -> bool:
        """Nothing new may begin."""
        return self.is_stopping or self.is_complete

    @property
    def time_limit_ms(self) -> int | None:
        """When it is to stop, unless it was told to stop earlier; None: only when told."""
        return None

    async def wait_stopped(self) -> None:
        """Wait until `stop`. Cancellation: atomic."""
        await self._stop.wait()

    def crashed(self, what: str, error: BaseException | None) -> None:
        """The client library, or this program, failed with what is no answer of the cluster. A fault handler of scopes.

        It is written down, and the client comes to its end with another exit code.
        """
        self.crash_count += 1
        trace = "" if error is None else "".join(traceback.format_exception(error))
        self.writer.note("crash", {"what": what, "trace": trace}, repr(error))
        self.stop()

    def abandon(self, reason: str) -> int:
        """Give every open operation the outcome `info`; returns how many there were."""
        return sum(voice.abandon(reason) for voice in self._voices)

    # -- help for subclasses --------------------------------------------------------------------------------------

    def voice(self) -> Voice:
        """Another voice of this client."""
        voice = Voice(self.writer)
        self._voices.append(voice)
        return voice

    def release(self, voice: Voice) -> None:
        """A voice that has said all it had to say."""
        self._voices.remove(voice)

    @property
    def open_count(self) -> int:
        """Operations that wait for their outcome."""
        return sum(voice.open_count for voice in self._voices)

    async def settle(self) -> None:
        """Wait until every operation has its outcome."""
        while self.open_count:
            await self.clock.sleep_ms(10)

    async def rest(self, delay_ms: float) -> None:
        """Sleep, not much longer than until `is_over`."""
        deadline_ms = self.clock.monotonic_ms() + delay_ms
        while not self.is_over and (left_ms := deadline_ms - self.clock.monotonic_ms()) > 0:
            await self.clock.sleep_ms(max(1, int(min(left_ms, REST_SLICE_MS))))

    def pause_ms(self, mean_ms: float) -> float:
        """An exponentially distributed pause, never longer than eight times the mean."""
        return min(self.rng.expovariate(1.0), 8.0) * mean_ms

    async def find_topics(self, client: Client) -> dict[str, int]:
        """Make the topics that this workload makes, wait for the others; returns how many partitions each has.

        Raises:
            LogClusterError: that did not work.
        """
        found: dict[str, int] = {}
        for topic in self._common.topics:
            facts = await (
                self._find(client, topic) if isinstance(topic, TopicSpec) else client.admin.describe_topic(topic)
            )
            found[facts.name] = len(facts.partitions)
        return found

    async def _find(self, client: Client, topic: TopicSpec) -> TopicFacts:
        # Asked first, because making it anew is refused while brokers are missing, even if it is there.
        with suppress(UnknownTopicOrPartition):
            return await client.admin.describe_topic(topic.name)
        return await client.admin.create_topic(
            topic.name,
            partitions=topic.partitions,
            replication_factor=topic.replication_factor,
            config=topic.config,
            exist_ok=True,
        )

    def _connect(self) -> Client:
        options = self._common
        return logcluster.connect(
            self._bootstrap,
            transport=options.carrier,
            connect_timeout_ms=options.connect_timeout_ms,
            request_timeout_ms=options.request_timeout_ms,
            topic_wait_ms=options.topic_wait_ms,
            metadata_age_ms_max=options.metadata_age_ms_max,
        )
