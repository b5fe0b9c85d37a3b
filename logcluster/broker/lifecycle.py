"""Life of this broker in the cluster: registration, the session with the active controller, controlled shutdown.

The session is one stream: heartbeats out, committed metadata in. When it breaks, or goes silent for a session timeout,
the broker looks for the active controller at once and goes on from its own position. `StaleBrokerEpoch` means that the
registration is not the current one: it registers again. Two refusals end the broker: another live process under its
id (after some seconds of patience, since its own predecessor may still count as alive), and another cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import grpc

from logcluster.broker.controller_client import ControllerClient
from logcluster.broker.metadata_loader import MetadataLoader
from logcluster.model.errors import (
    Disconnected,
    DuplicateBrokerRegistration,
    InconsistentClusterId,
    LogClusterError,
    RequestTimedOut,
    StaleBrokerEpoch,
)
from logcluster.model.ids import TopicIdPartition
from logcluster.model.invariants import InvariantViolation
from logcluster.model.probes import probe
from logcluster.runtime.clock import Clock
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.failpoints import failpoint
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2, controller_pb2_grpc
from logcluster.wire.status import error_from_rpc

log = get_logger("lifecycle")

RECONNECT_PAUSE_MS: Final = 20
REGISTER_PAUSE_MS: Final = 100
DUPLICATE_PATIENCE_MS: Final = 6_000
UNANSWERED_MAX: Final = 1_000
"""Heartbeats whose time of sending is remembered until the controller answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerIdentity:
    """Who this broker is and where it listens; `incarnation_id` is random per process."""

    cluster_id: str
    broker_id: int
    incarnation_id: bytes
    directory_id: bytes
    host: str
    grpc_port: int
    lane_port: int
    http_port: int
    rack: str = ""


class BrokerLifecycle:
    """See the top of the file. `async with` runs it; leaving the block ends the session without a controlled shutdown.

    Args:
        previous_broker_epoch: from the clean-shutdown marker; None after an unclean stop.
        on_fatal: told when this broker can never be a member, or cannot go on; the node should stop.
        failed_replicas: replicas whose log is damaged, with leader epochs; every heartbeat carries them. Call
            `heartbeat_soon` when they change.
    """

    def __init__(
        self,
        *,
        identity: BrokerIdentity,
        previous_broker_epoch: int | None,
        client: ControllerClient,
        loader: MetadataLoader,
        clock: Clock,
        on_fatal: Callable[[BaseException], None],
        failed_replicas: Callable[[], Mapping[TopicIdPartition, int]] = dict,
        heartbeat_interval_ms: int = 200,
        session_timeout_ms: int = 1_500,
    ) -> None:
        self.broker_epoch: int | None = None
        """Of the current registration; None until registered."""
        self.is_fenced = True
        """As the controller last said."""
        self.is_connected = False
        """Is there a session with an active controller?"""
        self._identity = identity
        self._previous_broker_epoch = previous_broker_epoch
        self._client = client
        self._loader = loader
        self._clock = clock
        self._on_fatal = on_fatal
        self._failed_replicas = failed_replicas
        self._heartbeat_interval_ms = heartbeat_interval_ms
        self._session_timeout_ms = session_timeout_ms
        self._is_log_directory_failed = False
        self._wants_shutdown = False
        self._may_shut_down = asyncio.Event()
        self._active = asyncio.Event()
        self._heartbeat_now = asyncio.Event()
        self._sequence = 0
        self._sent_ms: dict[int, int] = {}
        self._confirmed_ms: int | None = None
        self._scope = TaskScope("lifecycle", on_fault=lambda _, error: on_fatal(error))

    async def __aenter__(self) -> BrokerLifecycle:
        self._scope.spawn(self._run(), name="session")
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._scope.close()

    async def wait_active(self, *, timeout_ms: int) -> bool:
        """Wait until the broker is registered and unfenced; False when that did not happen in time."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._active.wait()
        except TimeoutError:
            return False
        return True

    async def shut_down(self, *, timeout_ms: int) -> bool:
        """Give away leaderships and leave all in-sync replicas.

        Returns whether the controller let the broker go in time; otherwise it may stop all the same, and others
        find out by themselves. Cancellation: the shutdown goes on at the controller.
        """
        if self._is_log_directory_failed:
            return True  # it leads nothing and is in sync nowhere; the controller has no leave to give to such a broker
        failpoint("broker.shutdown.before_request")
        started_ms = self._clock.monotonic_ms()
        log.info("controlled_shutdown_begun", broker_epoch=self.broker_epoch, timeout_ms=timeout_ms)
        self._wants_shutdown = True
        self._heartbeat_now.set()
        if self.broker_epoch is None:
            return True
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._may_shut_down.wait()
        except TimeoutError:
            log.warning("controlled_shutdown_timed_out", broker_epoch=self.broker_epoch, timeout_ms=timeout_ms)
            return False
        failpoint("broker.shutdown.after_granted")
        duration_ms = self._clock.monotonic_ms() - started_ms
        log.info("controlled_shutdown_ended", broker_epoch=self.broker_epoch, duration_ms=duration_ms)
        return True

    @property
    def silence_ms(self) -> int | None:
        """Time since the newest heartbeat that was answered was sent; None when none of this registration was.

        The controller cannot have fenced this broker for its silence while this is below the session timeout.
        """
        return None if self._confirmed_ms is None else self._clock.monotonic_ms() - self._confirmed_ms

    def report_log_directory_failure(self) -> None:
        """Tell the controller that this broker can hold nothing any more."""
        self._is_log_directory_failed = True
        self._heartbeat_now.set()

    def heartbeat_soon(self) -> None:
        """Send the next heartbeat at once: there is news for the controller."""
        self._heartbeat_now.set()

    async def _run(self) -> None:
        while True:
            try:
                if self.broker_epoch is None:
                    await self._register()
                    if self.broker_epoch is None:
                        return
                await self._session()
            except StaleBrokerEpoch as error:
                probe("broker.lifecycle.registers_again")
                log.warning("registration_lost", broker_epoch=self.broker_epoch, error=error.message)
                self._previous_broker_epoch = self.broker_epoch or self._previous_broker_epoch
                self.broker_epoch = None
                self._client.broker_epoch = None
                self._confirmed_ms = None
                self._set_fenced(True)
            except LogClusterError as error:
                if self.is_connected:
                    log.info("session_ended", broker_epoch=self.broker_epoch, error=error.message)
                else:
                    log.debug("session_refused", broker_epoch=self.broker_epoch, error=error.message)
                self._client.note_failure(error)
            finally:
                self.is_connected = False
            await self._clock.sleep_ms(RECONNECT_PAUSE_MS)

    async def _register(self) -> None:
        """Register, however long it takes; leaves `broker_epoch` None when it can never be."""
        request = self._registration()
        give_up_ms: int | None = None
        told: type[LogClusterError] | None = None
        while True:
            try:
                failpoint("broker.register.before")
                self.broker_epoch = await self._client.register(request)
                failpoint("broker.register.after")
            except InconsistentClusterId as error:
                self._on_fatal(error)
                return
            except DuplicateBrokerRegistration as error:
                now_ms = self._clock.monotonic_ms()
                if give_up_ms is None:
                    give_up_ms = now_ms + DUPLICATE_PATIENCE_MS
                    probe("broker.lifecycle.waits_for_predecessor")
                    log.info("registration_waits_for_earlier_process", error=error.message)
                elif now_ms >= give_up_ms:
                    self._on_fatal(error)
                    return
            except LogClusterError as error:
                give_up_ms = None
                if told is not type(error):  # not at every attempt: there are ten in a second
                    told = type(error)
                    log.warning("registration_failed", error=error.message)
            else:
                self._client.broker_epoch = self.broker_epoch
                log.info("registered", broker_id=self._identity.broker_id, broker_epoch=self.broker_epoch)
                return
            await self._clock.sleep_ms(REGISTER_PAUSE_MS)

    def _registration(self) -> controller_pb2.RegisterBrokerRequest:
        identity = self._identity
        return controller_pb2.RegisterBrokerRequest(
            cluster_id=identity.cluster_id,
            broker_id=identity.broker_id,
            incarnation_id=identity.incarnation_id,
            directory_id=identity.directory_id,
            host=identity.host,
            grpc_port=identity.grpc_port,
            lane_port=identity.lane_port,
            http_port=identity.http_port,
            rack=identity.rack,
            previous_broker_epoch=self._previous_broker_epoch,
        )

    async def _session(self) -> None:
        """Hold one session until it breaks; always raises."""
        channel = await self._client.find()
        if channel is None:
            raise Disconnected("there is no active controller")
        self._sent_ms.clear()
        stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
        call = stub.BrokerSession(self._heartbeats())
        try:
            async with asyncio.timeout(None) as silence:
                self._expect_answer(silence)
                async for message in call:
                    self._expect_answer(silence)
                    self._take(message)
        except grpc.aio.AioRpcError as failure:
            raise error_from_rpc(failure) from failure
        except TimeoutError as error:
            probe("broker.lifecycle.controller_silent")
            raise RequestTimedOut(f"the controller was silent for {self._session_timeout_ms} ms") from error
        finally:
            call.cancel()
        raise Disconnected("the controller ended the session")

    def _expect_answer(self, silence: asyncio.Timeout) -> None:
        silence.reschedule(asyncio.get_running_loop().time() + self._session_timeout_ms / 1000)

    def _take(self, message: controller_pb2.BrokerSessionResponse) -> None:
        if not self.is_connected:
            log.info("session_opened", broker_epoch=self.broker_epoch, controller_id=self._client.controller_id)
        self.is_connected = True
        self._note_answered(message.sequence)
        before = self._loader.image.offset
        failpoint("broker.metadata.before_apply")
        try:
            if message.HasField("snapshot"):
                self._loader.load_snapshot(message.snapshot)
            if message.entries:
                self._loader.apply_entries(message.entries)
        except LogClusterError as error:
            # Trying again would not help: the fault handler stops the node.
            raise InvariantViolation("committed metadata can be applied", cause=repr(error)) from error
        self._set_fenced(message.is_fenced)
        if message.may_shut_down:
            self._may_shut_down.set()
        if self._loader.image.offset != before and self._is_position_awaited():
            self._heartbeat_now.set()

    def _note_answered(self, sequence: int) -> None:
        """The controller had heard this heartbeat, and all before it, when it spoke."""
        sent_ms = self._sent_ms.get(sequence)
        if sent_ms is None:
            return
        self._confirmed_ms = sent_ms
        self._sent_ms = {number: sent for number, sent in self._sent_ms.items() if number > sequence}

    def _is_position_awaited(self) -> bool:
        """Does somebody wait for this broker's progress? It, to be unfenced, or another, to be let go."""
        return self.is_fenced or any(
            broker.in_controlled_shutdown and not broker.is_fenced for broker in self._loader.image.brokers.values()
        )

    def _set_fenced(self, is_fenced: bool) -> None:
        if is_fenced != self.is_fenced:
            failpoint("broker.lifecycle.before_fenced_changes")
            log.info("own_fencing_changed", broker_epoch=self.broker_epoch, is_fenced=is_fenced)
        self.is_fenced = is_fenced
        if is_fenced:
            self._active.clear()
        else:
            self._active.set()

    async def _heartbeats(self) -> AsyncIterator[controller_pb2.BrokerSessionRequest]:
        """One heartbeat now, then at every interval, or sooner when there is something to say."""
        while self.broker_epoch is not None:
            self._heartbeat_now.clear()
            self._sequence += 1
            if len(self._sent_ms) < UNANSWERED_MAX:
                self._sent_ms[self._sequence] = self._clock.monotonic_ms()
            image = self._loader.image
            yield controller_pb2.BrokerSessionRequest(
                broker_id=self._identity.broker_id,
                broker_epoch=self.broker_epoch,
                metadata_offset=image.offset,
                metadata_term=image.term,
                want_shutdown=self._wants_shutdown,
                log_directory_failed=self._is_log_directory_failed,
                sequence=self._sequence,
                failed_replicas=[
                    controller_pb2.FailedReplica(
                        topic_id=key.topic_id, partition=key.partition, leader_epoch=leader_epoch
                    )
                    for key, leader_epoch in self._failed_replicas().items()
                ],
            )
            try:
                async with asyncio.timeout(self._heartbeat_interval_ms / 1000):
                    await self._heartbeat_now.wait()
            except TimeoutError:
                continue
