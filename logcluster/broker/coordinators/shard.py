"""One shard: a hosted partition of an internal topic, on standby or leading.

    standby --leader--> loading --the store has come to the epoch's start--> active --another epoch--> standby

While loading, requests wait. Everything a load finds out carries the leader epoch that it was begun for, so a load that
ends late changes nothing (KAFKA-4362). When a leadership ends, its entities in memory are thrown away, and with them
what was not committed. The store holds committed records only, so that an entity which is not in memory is read from
there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any, Final, Literal, Protocol

from logcluster.broker.coordinators.requests import Held, Request
from logcluster.broker.coordinators.rewriting import Rewriter
from logcluster.broker.coordinators.standby import Standby
from logcluster.broker.coordinators.turn import Times, Turn
from logcluster.broker.partition import Partition
from logcluster.core.coordinators.machine import Coordinator, RecordCodec, Result
from logcluster.model.errors import LogClusterError, NotCoordinator, Overloaded, StorageFailure
from logcluster.model.limits import COORDINATOR_QUEUE_LENGTH_MAX
from logcluster.model.probes import probe
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.failpoints import failpoint
from logcluster.runtime.scope import TaskScope
from logcluster.storage.shard_store import ShardStore

log = get_logger("coordinators")

State = Literal["standby", "loading", "active"]
STANDBY_PAUSE_MS: Final = 50
"""Committed records are gathered for so long before they go to the store, except while a load waits for them."""
RETRY_PAUSE_MS: Final = 200
REQUESTS_PER_TURN_MAX: Final = 500
ENTITIES_PER_PIECE: Final = 100
INTERNAL_TIMEOUT_MS: Final = 10_000


class ShardHost(Protocol):
    """What a shard asks of the runtime."""

    coordinator: Coordinator[Any, Any]
    codec: RecordCodec[Any]
    store: ShardStore
    clock: Clock
    disk: DiskExecutor
    rewrite_size_bytes_min: int

    def delete_records(self, topic: str, index: int, before_offset: int | None) -> int:
        """As `ReplicaManager.delete_records`."""

    def on_committed(self, key: str, entity: Any, wake: tuple[str, ...]) -> None:
        """An entity's change is committed, and these of its members are to be told."""

    def on_leadership_ended(self, index: int) -> None:
        """Who watches entities of this shard must look for their next coordinator."""

    def count_keys(self, change: int) -> None:
        """Entities in memory have more (or fewer) keys."""

    def has_too_many_keys(self) -> bool:
        """Should entities at rest be forgotten?"""


class Shard:
    """See the top of the file; `follow` it in a task of its own.

    Attributes:
        epoch: leader epoch that is being loaded or served; None on standby.
    """

    def __init__(self, partition: Partition, host: ShardHost, *, writes: asyncio.Lock, scope: TaskScope) -> None:
        self.partition = partition
        self.index = partition.index
        self.epoch: int | None = None
        self.state: State = "standby"
        self.held: dict[str, Held[Any]] = {}
        self.standby = Standby(partition, host.store, host.disk, writes)
        self._host = host
        self.scope = scope
        self._waiting: deque[Request] = deque()
        self._ready: deque[Request] = deque()
        self._reading: dict[str, list[Request]] = {}
        self._reading_count = 0
        self._load_target = 0
        self._has_turn = False
        self._deadlines: list[tuple[int, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._rewriter = Rewriter(self, host)
        self.on_state: Callable[[Shard], None] | None = None
        self.on_records: Callable[[str, Iterable[Any]], None] | None = None
        """Told the shard's name and every list of records that is committed."""
        self._load_started_ms = 0

    # -- life ----------------------------------------------------------------------------------------------------

    async def follow(self, is_hosted: Callable[[], bool]) -> None:
        """Keep the store in step, and lead when the partition does, as long as `is_hosted` says so.

        Raises:
            StorageFailure: the store cannot be used.
        Cancellation: the shard is ended.
        """
        try:
            await self.standby.open()
            while is_hosted():
                await self._step()
        finally:
            self._end_leadership("the broker does not host the shard any more")

    async def _step(self) -> None:
        """Take over what is committed and look at the role; then wait until something has happened."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        readers = self.partition.readers
        readers[woken] = None
        try:
            self.look_at_role()
            try:
                has_read = await self.standby.catch_up()
                if self.state == "loading" and not has_read:
                    await self._activate()
            except StorageFailure:
                if self.partition.log.failure is None:
                    raise
                await self._host.clock.sleep_ms(RETRY_PAUSE_MS)  # the directory has stopped, and its owner knows
                return
            except LogClusterError:
                probe("coordinator.standby.cannot_read")
                await self._host.clock.sleep_ms(RETRY_PAUSE_MS)
                return
            if self.state != "loading" and has_read:
                await self._host.clock.sleep_ms(STANDBY_PAUSE_MS)
            elif not has_read:
                self._rewriter.look()
                await woken
        finally:
            self.partition.readers.pop(woken, None)

    def look_at_role(self) -> None:
        """Begin or end a leadership, as the partition's role says now."""
        leader = self.partition.leader
        epoch = None if leader is None else leader.leader_epoch
        if epoch == self.epoch:
            return
        self._end_leadership("the shard has another leader now")
        if leader is not None:
            self.epoch = epoch
            self._load_target = leader.epoch_start_offset
            self._load_started_ms = self._host.clock.monotonic_ms()
            self._enter("loading")

    def _enter(self, state: State) -> None:
        self.state = state
        if self.on_state is not None:
            self.on_state(self)

    def _end_leadership(self, why: str) -> None:
        if self.epoch is None:
            return
        partition = str(self.partition.topic_partition)
        log.info("shard_unloaded", partition=partition, leader_epoch=self.epoch, state=self.state, reason=why)
        self.epoch = None
        self._enter("standby")
        error = NotCoordinator(why)
        waiting = [*self._waiting, *self._ready, *(item for items in self._reading.values() for item in items)]
        self._waiting.clear()
        self._ready.clear()
        self._reading.clear()
        self._reading_count = 0
        for request in waiting:
            request.fail(NotCoordinator(error.message))
        self._host.count_keys(-sum(held.key_count for held in self.held.values()))
        self.held.clear()
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._host.on_leadership_ended(self.index)

    async def _activate(self) -> None:
        """Load what lives, and begin to serve; nothing when the epoch is over meanwhile."""
        epoch = self.epoch
        if self.partition.high_watermark < self._load_target or self.standby.is_behind:
            return
        failpoint("coordinator.load.before")
        live = await self._host.disk.run(self._find_live)
        loaded: dict[str, Held[Any]] = {}
        for count, (key, pairs) in enumerate(live, 1):
            loaded[key] = self._build(key, pairs)
            if count % ENTITIES_PER_PIECE == 0:
                await self._host.clock.sleep_ms(0)
        if not self.leads(epoch):
            probe("coordinator.load.ended_late")
            return
        failpoint("coordinator.load.after")
        now_ms = self._host.clock.monotonic_ms()
        for key, held in loaded.items():
            self._hold(key, held)
            held.entity.on_loaded(now_ms)
            self._note_deadline(key, held)
        self._enter("active")
        log.info(
            "shard_loaded",
            partition=str(self.partition.topic_partition),
            leader_epoch=epoch,
            records=self.standby.position.key_count,
            entities=len(loaded),
            duration_ms=now_ms - self._load_started_ms,
        )
        self._ready.extend(self._waiting)
        self._waiting.clear()
        self._want_turn()

    def leads(self, epoch: int | None) -> bool:
        """Is this still the leadership of `epoch`, here and in the partition?"""
        leader = self.partition.leader
        return epoch is not None and self.epoch == epoch and leader is not None and leader.leader_epoch == epoch

    def _find_live(self) -> list[tuple[str, list[tuple[bytes, bytes]]]]:
        """Every entity that needs looking after, with its records. Blocks."""
        store, codec, shard = self._host.store, self._host.codec, self.partition.topic_id_partition
        found: list[tuple[str, list[tuple[bytes, bytes]]]] = []
        start = b""
        while (first := store.first_key(shard, start)) is not None:
            key = codec.entity_of(first)
            prefix = codec.prefix(key)
            mark = codec.live_mark(key)
            if store.first_key(shard, mark, mark + b"\xff" * 8) is not None:
                found.append((key, store.read(shard, prefix)))
            start = prefix + b"\xff" * 8
        return found

    def _build(self, key: str, pairs: list[tuple[bytes, bytes]]) -> Held[Any]:
        entity = self._host.coordinator.new_entity(key)
        for stored_key, value in pairs:
            record = self._host.codec.decode(stored_key, value)
            if record is not None:
                entity.replay(record)
        return Held(entity)

    # -- requests ------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Take a request; it is answered through its future.

        Raises:
            NotCoordinator: this broker does not lead the shard.
            Overloaded: too many requests wait.
        """
        self.look_at_role()
        if self.epoch is None:
            raise NotCoordinator(
                "this broker does not coordinate it",
                leader_id=self.partition.leader_id,
                leader_epoch=self.partition.leader_epoch,
            )
        waiting_count = len(self._waiting) + len(self._ready) + self._reading_count + len(self.partition.waiters)
        if waiting_count >= COORDINATOR_QUEUE_LENGTH_MAX:
            probe("coordinator.queue.full")
            raise Overloaded("too many requests wait for this coordinator")
        if self.state == "loading":
            probe("coordinator.request.waits_for_load")
            self._waiting.append(request)
            return
        self._ready.append(request)
        self._want_turn()

    def post(self, key: str, handler: Callable[[Any, int, int], Result[Any, Any]]) -> None:
        """Let a handler of the runtime's own run, if the shard is served; nobody hears of its outcome."""
        if self.state == "active":
            deadline_ms = self._host.clock.monotonic_ms() + INTERNAL_TIMEOUT_MS
            self._ready.append(Request(key, handler, deadline_ms=deadline_ms, future=None))
            self._want_turn()

    def _want_turn(self) -> None:
        if not self._has_turn and self._ready:
            self._has_turn = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._has_turn = False
        self.look_at_role()
        if self.state != "active":
            return
        clock = self._host.clock
        turn = Turn(self, self._host.codec, Times(now_ms=clock.monotonic_ms(), wall_ms=clock.now_ms()))
        touched: dict[str, Held[Any]] = {}
        for _ in range(min(REQUESTS_PER_TURN_MAX, len(self._ready))):
            request = self._ready.popleft()
            if request.is_over:
                continue
            held = self.held.get(request.key)
            if held is None:
                self._read_first(request)
            else:
                turn.handle(request, held)
                touched[request.key] = held
        turn.finish()
        for key, held in touched.items():
            if held.last_offset == 0 and held.entity.key_count == 0:
                self._forget(key, held)  # asked after, but not there
        self._trim()
        self._want_turn()

    def _read_first(self, request: Request) -> None:
        """The entity is not in memory: read it, and let the requests to it wait, in their order."""
        self._reading_count += 1
        waiting = self._reading.get(request.key)
        if waiting is not None:
            waiting.append(request)
            return
        self._reading[request.key] = [request]
        self.scope.spawn(self._read(request.key, self.epoch), name=f"read-{self.index}")

    async def _read(self, key: str, epoch: int | None) -> None:
        store, shard = self._host.store, self.partition.topic_id_partition
        prefix = self._host.codec.prefix(key)
        pairs = await self._host.disk.run(lambda: store.read(shard, prefix))
        if not self.leads(epoch) or self.state != "active":
            return  # whoever waited has been told
        self._hold(key, self._build(key, pairs))
        waiting = self._reading.pop(key, [])
        self._reading_count -= len(waiting)
        self._ready.extendleft(reversed(waiting))
        self._want_turn()

    # -- entities in memory ------------------------------------------------------------------------------------------

    def _hold(self, key: str, held: Held[Any]) -> None:
        self.held[key] = held
        held.key_count = held.entity.key_count + 1
        self._host.count_keys(held.key_count)

    def _forget(self, key: str, held: Held[Any]) -> None:
        if self.held.pop(key, None) is not None:
            self._host.count_keys(-held.key_count)

    def _trim(self) -> None:
        """Forget entities at rest, those that were used least recently first, while there are too many keys."""
        if not self._host.has_too_many_keys():
            return
        stored_to = self.standby.position.next_offset
        for key, held in list(self.held.items()):
            if held.entity.is_at_rest() and held.last_offset <= stored_to:
                probe("coordinator.entity.forgotten")
                self._forget(key, held)
                if not self._host.has_too_many_keys():
                    return

    def on_changed(self, request: Request, held: Held[Any]) -> None:
        """The entity may have changed: its deadline, its size, its place among the recently used."""
        key = request.key
        if self.held.pop(key, None) is not held:
            return
        self.held[key] = held
        key_count = held.entity.key_count + 1
        self._host.count_keys(key_count - held.key_count)
        held.key_count = key_count
        self._note_deadline(key, held)

    def on_keys_appended(self, keys: list[bytes]) -> None:
        """These keys have a newer value in the log now."""
        self._rewriter.note_appended(keys)

    def on_committed(self, key: str, result: Result[Any, Any]) -> None:
        """What the result shows is committed."""
        if result.records and self.on_records is not None:
            self.on_records(str(self.partition.topic_partition), result.records)
        held = self.held.get(key)
        if held is not None and (result.records or result.wake):
            self._host.on_committed(key, held.entity, result.wake)

    def on_append_refused(self, request: Request) -> None:
        """Look at the entity again after a pause: what was due is due still."""
        held = self.held.get(request.key)
        if held is not None:
            self._note_deadline(request.key, held, not_before_ms=self._host.clock.monotonic_ms() + RETRY_PAUSE_MS)

    # -- time ----------------------------------------------------------------------------------------------------

    def _note_deadline(self, key: str, held: Held[Any], *, not_before_ms: int = 0) -> None:
        deadline_ms = held.entity.next_deadline_ms()
        if deadline_ms is None:
            return
        deadline_ms = max(deadline_ms, not_before_ms)
        if held.noted_ms is None or deadline_ms < held.noted_ms:
            held.noted_ms = deadline_ms
            heappush(self._deadlines, (deadline_ms, key))
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._deadlines:
            delay_ms = max(0, self._deadlines[0][0] - self._host.clock.monotonic_ms())
            self._timer = asyncio.get_running_loop().call_later(delay_ms / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now_ms = self._host.clock.monotonic_ms()
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            noted_ms, key = heappop(self._deadlines)
            held = self.held.get(key)
            if held is None or held.noted_ms != noted_ms:
                continue
            held.noted_ms = None
            deadline_ms = held.entity.next_deadline_ms()
            if deadline_ms is not None and deadline_ms <= now_ms:
                self.post(key, self._host.coordinator.expire)
                # In case that nothing comes of it.
                self._note_deadline(key, held, not_before_ms=now_ms + RETRY_PAUSE_MS)
            else:
                self._note_deadline(key, held)
        self._arm()

    def on_metadata_changed(self) -> None:
        """Topics have changed: let every entity that lives have a look."""
        for key, held in self.held.items():
            if not held.entity.is_at_rest():
                self.post(key, self._host.coordinator.on_metadata_changed)

    # -- self-check ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check every entity in memory.

        Raises:
            InvariantViolation: something that must hold does not.
        """
        for held in self.held.values():
            held.entity.check()
