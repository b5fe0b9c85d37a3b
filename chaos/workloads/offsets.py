"""`offsets`: sets, reads and takes away committed offsets of groups that have no members.

A committed offset is a register, and several of these clients may use one group: what one was told must not be
forgotten when another one asks another coordinator. Offsets are numbers that hardly come twice, so that a read says
which write it saw. One partition at a time is written, because a refusal does not say which partitions it is about.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

import msgspec

from chaos.workloads.doubts import DoubtfulCalls
from chaos.workloads.records import key_of
from chaos.workloads.worker import Count, Options, Positive, Worker
from logcluster.client.client import Client
from logcluster.client.group_admin import GroupAdmin
from logcluster.model.errors import LogClusterError

OFFSET_MAX: Final = 1 << 40


class OffsetsOptions(Options, frozen=True, kw_only=True):
    """Options of `offsets`; the weights say how often each thing is done."""

    groups: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("chaos-offsets",)
    interval_ms: Positive = 30
    commit_weight: Count = 50
    fetch_weight: Count = 45
    remove_weight: Count = 4
    delete_group_weight: Count = 1

    def coordinated_groups(self) -> tuple[str, ...]:
        return self.groups

    def problem(self) -> str | None:
        weights = (self.commit_weight, self.fetch_weight, self.remove_weight, self.delete_group_weight)
        return None if any(weights) else "all weights are 0"


class OffsetsWorker(Worker):
    """See the top of the file."""

    options_type: ClassVar[type[Options]] = OffsetsOptions

    @property
    def options(self) -> OffsetsOptions:
        options = self._common
        assert isinstance(options, OffsetsOptions)
        return options

    async def work(self, client: Client) -> None:
        options = self.options
        counts = await self.find_topics(client)
        names = [(topic, partition) for topic, count in counts.items() for partition in range(count)]
        actions = {
            self._commit: options.commit_weight,
            self._fetch: options.fetch_weight,
            self._remove: options.remove_weight,
            self._delete_group: options.delete_group_weight,
        }
        self._voice = self.voice()
        self._doubts = DoubtfulCalls(client)
        self._groups = GroupAdmin(client._open())
        self._groups._coordinators = self._doubts
        try:
            while not self.is_over:
                await self.rest(self.pause_ms(options.interval_ms))
                if not self.is_over:
                    (action,) = self.rng.choices(list(actions), weights=list(actions.values()))
                    self._doubts.begin()
                    await action(self.rng.choice(options.groups), names)
        finally:
            self._voice.abandon("the client was closed")
            self.release(self._voice)

    async def _commit(self, group: str, names: list[tuple[str, int]]) -> None:
        name, offset = self.rng.choice(names), self.rng.randrange(OFFSET_MAX)
        value = {key_of(*name): offset}
        commit = self._voice.invoke("commit", value, group=group)
        try:
            await self._groups.alter_offsets(group, {name: offset}, allow_out_of_range=True)
        except LogClusterError as error:
            self._voice.failed(commit, error, is_doubtful=self._doubts.has_doubt)
        else:
            self._voice.ok(commit, value)

    async def _fetch(self, group: str, names: list[tuple[str, int]]) -> None:
        keys = [key_of(*name) for name in names]
        fetch = self._voice.invoke("fetch_offsets", keys, group=group)
        try:
            found = await self._groups.offsets(group)
        except LogClusterError as error:
            self._voice.refused(fetch, error)
            return
        committed: dict[str, Any] = dict.fromkeys(keys)
        for partition, place in found.items():
            committed[key_of(partition.topic, partition.partition)] = place.offset
        self._voice.ok(fetch, committed)

    async def _remove(self, group: str, names: list[tuple[str, int]]) -> None:
        name = self.rng.choice(names)
        value = {key_of(*name): None}
        reset = self._voice.invoke("reset_offsets", value, group=group)
        try:
            await self._groups.delete_offsets(group, [name])
        except LogClusterError as error:
            self._voice.failed(reset, error, is_doubtful=self._doubts.has_doubt)
        else:
            self._voice.ok(reset, value)

    async def _delete_group(self, group: str, names: list[tuple[str, int]]) -> None:
        reset = self._voice.invoke("reset_offsets", None, group=group)
        try:
            await self._groups.delete(group)
        except LogClusterError as error:
            self._voice.failed(reset, error, is_doubtful=self._doubts.has_doubt)
        else:
            self._voice.ok(reset, None)
