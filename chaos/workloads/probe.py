"""`probe`: one write to every partition each second, so that availability can be said per partition.

Each probe is a `send` with `acks=all` and `probe` in its meta: its outcome and how long that took are the difference of
its two events. Probes of one partition do not wait for one another; those that were due while this process stood still
are left out, because they say nothing about the cluster.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from chaos.workloads.recording import Voice
from chaos.workloads.records import key_of
from chaos.workloads.worker import Options, Positive, Worker
from logcluster.client.client import Client
from logcluster.client.producer import Producer
from logcluster.model.errors import LogClusterError
from logcluster.runtime.scope import TaskScope

META: Final[dict[str, Any]] = {"acks": "all", "idempotent": True, "probe": True}
LOOK_INTERVAL_MS: Final = 5_000
"""How often partitions are looked for that were added."""


class ProbeOptions(Options, frozen=True, kw_only=True):
    """Options of `probe`. `delivery_timeout_ms`: then a probe has failed, or its outcome is unknown."""

    interval_ms: Positive = 1_000
    delivery_timeout_ms: Positive = 10_000


class ProbeWorker(Worker):
    """See the top of the file."""

    options_type: ClassVar[type[Options]] = ProbeOptions

    @property
    def options(self) -> ProbeOptions:
        options = self._common
        assert isinstance(options, ProbeOptions)
        return options

    async def work(self, client: Client) -> None:
        options = self.options
        probed: set[tuple[str, int]] = set()
        async with (
            client.producer(
                compression="none", linger_ms=0, delivery_timeout_ms=options.delivery_timeout_ms
            ) as producer,
            TaskScope("probe", on_fault=self.crashed) as scope,
        ):
            while not self.is_over:
                found = [
                    (topic, partition)
                    for topic, count in (await self._look(client)).items()
                    for partition in range(count)
                    if (topic, partition) not in probed
                ]
                for number, name in enumerate(found):
                    probed.add(name)
                    # Spread over the interval: not all partitions are asked at one moment.
                    delay_ms = options.interval_ms * number // len(found)
                    scope.spawn(self._probe(scope, producer, *name, delay_ms), name=key_of(*name))
                await self.rest(LOOK_INTERVAL_MS if probed else options.interval_ms)
            await self.settle()

    async def _look(self, client: Client) -> dict[str, int]:
        """Topics and their partition counts; none while the cluster does not say: probing goes on meanwhile."""
        try:
            return await self.find_topics(client)
        except LogClusterError:
            return {}

    async def _probe(self, scope: TaskScope, producer: Producer, topic: str, partition: int, delay_ms: int) -> None:
        voice = self.voice()
        interval_ms = self.options.interval_ms
        due_ms = self.clock.monotonic_ms() + delay_ms
        while True:
            await self.rest(due_ms - self.clock.monotonic_ms())
            if self.is_over:
                return
            scope.spawn(self._write(producer, voice, topic, partition), name="write")
            late_ms = self.clock.monotonic_ms() - due_ms
            due_ms += interval_ms * (1 + max(0, late_ms) // interval_ms)

    async def _write(self, producer: Producer, voice: Voice, topic: str, partition: int) -> None:
        record = self.records.make()
        key = key_of(topic, partition)
        send = voice.invoke("send", [key, None, record.value], **META)
        try:
            acked = await producer.send(topic, record.payload, partition=partition, timestamp_ms=record.timestamp_ms)
        except LogClusterError as error:
            voice.failed(send, error)
        else:
            voice.ok(send, [key, acked.offset, record.value])
