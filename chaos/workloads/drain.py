"""`drain`: reads every partition from its beginning past its end, once, and is done.

For the end of a run, when the faults are over. How far a partition must be readable says the log's end at that moment,
and `ends`, what the histories know (`chaos.histories.promised_ends`). A consumer that comes no further is replaced by
another one that begins again, which rules out that only a client is stuck. When time is over before everything is
read, `drain` ends in `fail`, an event `undrained` names what is missing, and the exit code is 1.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from chaos.workloads.recording import Operation, Voice
from chaos.workloads.records import key_of, names_of, polled, positions_of
from chaos.workloads.worker import Count, Options, Positive, Worker
from logcluster.client.client import Client
from logcluster.client.consumer import Consumer
from logcluster.model.errors import LogClusterError

POLL_MS: Final = 200
RECORDS_PER_POLL_MAX: Final = 1_000
STUCK_MS: Final = 10_000


class DrainOptions(Options, frozen=True, kw_only=True):
    """Options of `drain`.

    All topics that exist are read; `topics` must be among them, and with `is_only` no others are looked at. `ends`: by
    partition ("topic-0"), the offset up to which it must be readable at least. `trimmed_topics`: their beginnings may
    be gone, by retention or on request. `timeout_ms`: for everything; `--duration-ms` ends it, too.
    """

    topics: tuple[str, ...] = ()
    is_only: bool = False
    ends: dict[str, Count] = msgspec.field(default_factory=dict)
    trimmed_topics: tuple[str, ...] = ()
    timeout_ms: Positive = 60_000


class DrainWorker(Worker):
    """See the top of the file."""

    options_type: ClassVar[type[Options]] = DrainOptions

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._voice = self.voice()
        self._missing: dict[str, str] = {"everything": "not looked at"}
        self._drain: Operation | None = None

    @property
    def options(self) -> DrainOptions:
        options = self._common
        assert isinstance(options, DrainOptions)
        return options

    async def work(self, client: Client) -> None:
        if self._drain is None:
            self._drain = self._voice.invoke("drain", {})
        ends = await self._find_ends(client)
        if ends and not await self._read(client, ends):
            return
        for topic in self.options.trimmed_topics:
            starts = await client.admin.list_offsets(topic, "earliest")
            value = {key_of(topic, partition): start for partition, start in enumerate(starts)}
            self._voice.ok(self._voice.invoke("delete_records", value, retention=True), value)
        self._voice.ok(self._drain, ends)
        self.is_complete = True

    @property
    def time_limit_ms(self) -> int | None:
        return self.options.timeout_ms

    def stop(self) -> None:
        """It is too late: say what is missing."""
        if not self.is_over:
            reason = "stopped, or out of time, before everything was read"
            self.exit_code = 1
            self.writer.note("undrained", self._missing, reason)
            if self._drain is not None:
                self._voice.refused(self._drain, reason)
        super().stop()

    async def _find_ends(self, client: Client) -> dict[str, int]:
        """Up to where each partition must be readable."""
        topics = [*self.options.topics, *(topic for topic, _ in names_of(list(self.options.ends)))]
        if not self.options.is_only:
            topics += await client.admin.list_topics()
        ends: dict[str, int] = {}
        for topic in dict.fromkeys(topics):
            found = await client.admin.list_offsets(topic, "latest")
            ends |= {key_of(topic, partition): end for partition, end in enumerate(found)}
        return ends | {key: max(end, ends.get(key, 0)) for key, end in self.options.ends.items()}

    async def _read(self, client: Client, ends: dict[str, int]) -> bool:
        """Whether everything was read."""
        voice = self._voice
        names = names_of(list(ends))
        assign = voice.invoke("assign", dict.fromkeys(ends, "earliest"), drain=True)
        try:
            async with client.consumer(
                *dict.fromkeys(topic for topic, _ in names), partitions=names, start="earliest", max_wait_ms=POLL_MS
            ) as consumer:
                voice.ok(assign, positions_of(consumer))
                return await self._poll_until_past(consumer, voice, ends)
        except LogClusterError as error:
            voice.refused(assign, error)
            raise

    async def _poll_until_past(self, consumer: Consumer, voice: Voice, ends: dict[str, int]) -> bool:
        stuck_at_ms = self.clock.monotonic_ms() + STUCK_MS
        while not self._is_past(consumer, ends):
            now_ms = self.clock.monotonic_ms()
            if self.is_over or now_ms >= stuck_at_ms:
                return False
            poll = voice.invoke("poll", {}, drain=True)
            try:
                records = await consumer.read(RECORDS_PER_POLL_MAX, timeout_ms=POLL_MS)
            except LogClusterError as error:
                voice.refused(poll, error)
                raise
            voice.ok(poll, polled(records))
            if records:
                stuck_at_ms = now_ms + STUCK_MS
        # Also partitions where nothing was have been drained.
        voice.ok(voice.invoke("poll", {}, drain=True), {key: [] for key in ends})
        return True

    def _is_past(self, consumer: Consumer, ends: dict[str, int]) -> bool:
        positions = positions_of(consumer)
        self._missing = {
            key: f"at {positions.get(key)} of {end}" for key, end in ends.items() if positions.get(key, -1) < end
        }
        return not self._missing
