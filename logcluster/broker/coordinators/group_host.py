"""Groups on one broker: what the API calls, carried to the shard that has the group, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

from logcluster.broker.coordinators.end_offsets import EndOffsets
from logcluster.broker.coordinators.group_events import tell_rebalances
from logcluster.broker.coordinators.internal_topic import InternalTopic, Metadata
from logcluster.broker.coordinators.runtime import CoordinatorRuntime
from logcluster.broker.coordinators.shard import Shard
from logcluster.broker.coordinators.watchers import Watchers
from logcluster.core.coordinators.groups.coordinator import GroupCoordinator
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.offsets import locate
from logcluster.core.coordinators.groups.records import GroupStateRecord
from logcluster.core.coordinators.groups.requests import (
    CommitItem,
    CommitOffsets,
    CommitResult,
    DeleteOffsets,
    FetchedOffset,
    FetchOffsets,
    GroupDescription,
    GroupEvents,
    GroupListing,
    Heartbeat,
    HeartbeatResult,
    Topics,
)
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import (
    CoordinatorNotAvailable,
    LogClusterError,
    NotCoordinator,
    UnknownMemberId,
)
from logcluster.model.hashing import partition_of
from logcluster.model.ids import TopicIdPartition
from logcluster.runtime.clock import Clock

CONNECT_TIMEOUT_MS: Final = 5_000
LIST_TIMEOUT_MS: Final = 10_000
SWEEP_INTERVAL_MS: Final = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorPlace:
    """Who coordinates a group."""

    group: str
    broker_id: int
    host: str
    grpc_port: int
    lane_port: int
    topic: str
    partition: int
    leader_epoch: int


class LocalGroupHost:
    """See the top of the file; also the runtime's listener.

    Args:
        topics: what the coordinator knows of topics now.
        sweep_interval_ms: how often offsets that have grown old are looked for.
    """

    def __init__(
        self,
        coordinator: GroupCoordinator,
        runtime: CoordinatorRuntime,
        *,
        topic: InternalTopic,
        metadata: Metadata,
        topics: Any,
        end_offsets: EndOffsets,
        clock: Clock,
        sweep_interval_ms: int = SWEEP_INTERVAL_MS,
    ) -> None:
        self._coordinator = coordinator
        self._runtime = runtime
        self._topic = topic
        self._metadata = metadata
        self._topics = topics
        self._end_offsets = end_offsets
        self._clock = clock
        self._sweep_interval_ms = sweep_interval_ms
        self._watchers = Watchers()
        self.committed_count = 0
        """Offsets of partitions that were committed."""
        runtime.listener = self
        runtime.on_records = tell_rebalances

    # -- where groups are -----------------------------------------------------------------------------------------

    async def locate(self, groups: Sequence[str]) -> list[CoordinatorPlace | LogClusterError]:
        """Who coordinates these groups, in their order; makes the internal topic when it is first asked for.

        Raises:
            CoordinatorNotAvailable: there is no internal topic, and it cannot be made now.
        Cancellation: the topic may be made.
        """
        await self._topic.ensure()
        return [self._locate(group) for group in groups]

    def _locate(self, group: str) -> CoordinatorPlace | LogClusterError:
        image = self._metadata.image
        topic = image.topic_by_name(self._topic.name)
        if topic is None:
            return CoordinatorNotAvailable(f"{self._topic.name} is gone")
        try:
            self._coordinator.check_group_id(group)
        except LogClusterError as error:
            return error
        index = partition_of(group, len(topic.partitions))
        registration = topic.partitions[index]
        broker = None if registration.leader_id is None else image.brokers.get(registration.leader_id)
        if broker is None or broker.is_fenced:
            return CoordinatorNotAvailable(f"{topic.name}-{index} has no leader", topic=topic.name, partition=index)
        return CoordinatorPlace(
            group=group,
            broker_id=broker.broker_id,
            host=broker.host,
            grpc_port=broker.grpc_port,
            lane_port=broker.lane_port,
            topic=topic.name,
            partition=index,
            leader_epoch=registration.leader_epoch,
        )

    # -- members ---------------------------------------------------------------------------------------------------

    async def heartbeat(self, request: Heartbeat, *, timeout_ms: int) -> HeartbeatResult:
        """Let a member join, stay or leave.

        Raises: as `CoordinatorRuntime.submit` and `GroupCoordinator.heartbeat`.
        """

        def handle(group: Group, now_ms: int, wall_ms: int) -> Result[GroupStateRecord, HeartbeatResult]:
            return self._coordinator.heartbeat(group, request, now_ms, wall_ms)

        self._coordinator.check_group_id(request.group)
        return cast(HeartbeatResult, await self._runtime.submit(request.group, handle, timeout_ms=timeout_ms))

    async def watch(self, group: str, member_id: str) -> AsyncIterator[None]:
        """Yield whenever the member should send a heartbeat at once; closing it tells that the connection is lost.

        Raises:
            UnknownMemberId: it is no member (any more).
            NotCoordinator, CoordinatorNotAvailable, CoordinatorLoadInProgress: ask again, perhaps elsewhere.
        """

        def connect(entity: Group, _now_ms: int, _wall_ms: int) -> Result[GroupStateRecord, None]:
            self._coordinator.connected(entity, member_id)
            return Result(response=None)

        def disconnect(entity: Group, now_ms: int, _wall_ms: int) -> Result[GroupStateRecord, None]:
            return Result(response=None, on_appended=partial(self._coordinator.disconnected, entity, member_id, now_ms))

        self._coordinator.check_group_id(group)
        watcher = self._watchers.add(group, member_id)
        try:
            await self._runtime.submit(group, connect, timeout_ms=CONNECT_TIMEOUT_MS)
            try:
                while True:
                    await watcher.wait()
                    yield
            finally:
                self._runtime.post(group, disconnect)
        finally:
            self._watchers.remove(group, member_id, watcher)

    def on_committed(self, key: str, entity: Any, wake: tuple[str, ...]) -> None:
        """Wake members that are to be told, and end the streams of those that are members no more."""
        for member_id in wake:
            self._watchers.wake(key, member_id)
        for member_id in self._watchers.members(key):
            if member_id not in entity.members:
                self._watchers.end(
                    key, member_id, UnknownMemberId(f"group {key!r} has no member {member_id}", member_id=member_id)
                )

    def on_leadership_ended(self, index: int) -> None:
        """Members of the shard's groups have to look for their coordinator."""
        for key in self._watchers.keys():  # noqa: SIM118 - not a mapping
            try:
                is_concerned = self._runtime.shard_index(key) == index
            except LogClusterError:
                is_concerned = True
            if is_concerned:
                for member_id in self._watchers.members(key):
                    self._watchers.end(key, member_id, NotCoordinator("the group has another coordinator now"))

    # -- offsets ---------------------------------------------------------------------------------------------------

    async def commit(self, request: CommitOffsets, *, timeout_ms: int) -> CommitResult:
        """Keep offsets; errors of single partitions are in the result.

        Raises: as `CoordinatorRuntime.submit` and `GroupCoordinator.commit`.
        """
        self._coordinator.check_group_id(request.group)
        self._runtime.shard_of(request.group)
        if not request.allow_out_of_range:
            request = await self._with_ends(request)

        def handle(group: Group, now_ms: int, wall_ms: int) -> Result[GroupStateRecord, CommitResult]:
            return self._coordinator.commit(group, request, now_ms, wall_ms)

        result = cast(CommitResult, await self._runtime.submit(request.group, handle, timeout_ms=timeout_ms))
        self.committed_count += sum(error is None for error in result.errors)
        return result

    async def _with_ends(self, request: CommitOffsets) -> CommitOffsets:
        """The request with the ends of those logs that may not reach as far as the committed offset."""
        topics: Topics = self._topics()
        keys = [_partition(item, topics) for item in request.items]
        pairs = [(key, item.offset) for key, item in zip(keys, request.items, strict=True) if key is not None]
        ends = await self._end_offsets.beyond(pairs)
        if not ends:
            return request
        items = tuple(
            item if key is None or key not in ends else replace(item, end_offset=ends[key])
            for key, item in zip(keys, request.items, strict=True)
        )
        return replace(request, items=items)

    async def fetch(self, request: FetchOffsets, *, timeout_ms: int) -> tuple[FetchedOffset, ...]:
        """Read offsets; never older than what was acknowledged before the call.

        Raises: as `CoordinatorRuntime.submit` and `GroupCoordinator.fetch`.
        """

        self._coordinator.check_group_id(request.group)

        def handle(group: Group, _now_ms: int, _wall_ms: int) -> Result[GroupStateRecord, tuple[FetchedOffset, ...]]:
            return self._coordinator.fetch(group, request)

        response = await self._runtime.submit(request.group, handle, timeout_ms=timeout_ms, is_linearizable=True)
        return cast(tuple[FetchedOffset, ...], response)

    async def delete_offsets(self, request: DeleteOffsets, *, timeout_ms: int) -> CommitResult:
        """Forget offsets.

        Raises: as `CoordinatorRuntime.submit` and `GroupCoordinator.delete_offsets`.
        """

        self._coordinator.check_group_id(request.group)

        def handle(group: Group, now_ms: int, wall_ms: int) -> Result[GroupStateRecord, CommitResult]:
            return self._coordinator.delete_offsets(group, request, now_ms, wall_ms)

        return cast(CommitResult, await self._runtime.submit(request.group, handle, timeout_ms=timeout_ms))

    # -- people ----------------------------------------------------------------------------------------------------

    async def describe(self, group: str, *, timeout_ms: int) -> GroupDescription:
        """Show a group.

        Raises: as `CoordinatorRuntime.submit`; GroupIdNotFound.
        """

        self._coordinator.check_group_id(group)

        def handle(entity: Group, now_ms: int, _wall_ms: int) -> Result[GroupStateRecord, GroupDescription]:
            return self._coordinator.describe(entity, now_ms)

        response = await self._runtime.submit(group, handle, timeout_ms=timeout_ms, is_linearizable=True)
        return cast(GroupDescription, response)

    async def delete(self, group: str, *, timeout_ms: int) -> None:
        """Forget a group.

        Raises: as `CoordinatorRuntime.submit`; GroupIdNotFound, NonEmptyGroup.
        """

        self._coordinator.check_group_id(group)

        def handle(entity: Group, _now_ms: int, _wall_ms: int) -> Result[GroupStateRecord, None]:
            return self._coordinator.delete(entity)

        await self._runtime.submit(group, handle, timeout_ms=timeout_ms)

    async def events(self, group: str, after_sequence: int, count_max: int, *, timeout_ms: int) -> GroupEvents:
        """What happened in a group.

        Raises: as `CoordinatorRuntime.submit`; GroupIdNotFound.
        """

        self._coordinator.check_group_id(group)

        def handle(entity: Group, _now_ms: int, _wall_ms: int) -> Result[GroupStateRecord, GroupEvents]:
            return self._coordinator.events(entity, after_sequence, count_max)

        response = await self._runtime.submit(group, handle, timeout_ms=timeout_ms, is_linearizable=True)
        return cast(GroupEvents, response)

    async def list_groups(self) -> tuple[list[GroupListing], list[int]]:
        """Groups that this broker coordinates, by name, and shards that cannot answer yet.

        Raises:
            LogClusterError: a shard could not be read.
        """
        listings: list[GroupListing] = []
        loading: list[int] = []
        for shard in list(self._runtime.shards):
            if shard.state == "loading":
                loading.append(shard.index)
            elif shard.state == "active":
                try:
                    listings.extend(await self._list_shard(shard))
                except NotCoordinator:
                    continue  # it has moved, and its groups are listed there
        return sorted(listings, key=lambda listing: listing.group), sorted(loading)

    async def _list_shard(self, shard: Shard) -> list[GroupListing]:
        found: list[GroupListing] = []
        for key in await self._runtime.entities(shard):
            listing = await self._runtime.submit(key, self._listing, timeout_ms=LIST_TIMEOUT_MS)
            if listing is not None:
                found.append(cast(GroupListing, listing))
        return found

    def _listing(self, entity: Group, _now_ms: int, _wall_ms: int) -> Result[GroupStateRecord, GroupListing | None]:
        return Result(response=self._coordinator.listing(entity))

    # -- offsets that grow old -----------------------------------------------------------------------------------------

    async def run_sweeps(self) -> None:
        """Forget old offsets, from time to time, for ever."""
        while True:
            await self._clock.sleep_ms(self._sweep_interval_ms)
            for shard in list(self._runtime.shards):
                if shard.state == "active":
                    for key in await self._runtime.entities(shard):
                        self._runtime.post(key, self._sweep)

    def _sweep(self, entity: Group, _now_ms: int, wall_ms: int) -> Result[GroupStateRecord, int]:
        return self._coordinator.offsets_to_expire(entity, wall_ms)


def _partition(item: CommitItem, topics: Topics) -> TopicIdPartition | None:
    """The partition that is meant; None when the coordinator will refuse it anyway."""
    try:
        return locate(item.topic, item.topic_id, item.partition, topics)[0]
    except LogClusterError:
        return None
