"""Life of brokers: registration, heartbeats, fencing, controlled shutdown, draining, removal.

A broker is registered (fenced), unfenced once it has applied the log up to its own registration, and from then on may
lead. Fencing takes it out of all in-sync replicas and moves its leaderships in the same atomic batch. The broker epoch
is the index of the entry that registered the process, so it grows and names one process.

Every heartbeat names the replicas whose log the broker found damaged. A report in the partition's present leader epoch
takes the replica out of sync and ends that epoch, so the same report can act only once; between two, what was said last
keeps the replica from being elected. A new active controller hears it again with the first heartbeat.

Sources: KIP-631 (lifecycle), KIP-841 (fenced replicas are not in sync), KIP-903 (epochs of processes), KIP-966
(unclean stops), each adapted to a session that is a stream.
"""

from __future__ import annotations

from collections.abc import Mapping

from logcluster.core.controller.alter_partitions import check_broker_epoch
from logcluster.core.controller.partitions import (
    CopyState,
    LiveBrokers,
    PartitionRules,
    Wish,
    change_partition,
    without,
)
from logcluster.core.controller.requests import (
    DrainBroker,
    DrainBrokerResult,
    FenceBroker,
    Heartbeat,
    HeartbeatResult,
    RegisterBroker,
    RegisterBrokerResult,
    Result,
    UnregisterBroker,
)
from logcluster.core.controller.sessions import BrokerSessions
from logcluster.core.controller.state import ControllerState, PartitionKey
from logcluster.core.metadata.image import BrokerRegistration
from logcluster.core.metadata.records import (
    BrokerChangeRecord,
    ClusterRecord,
    MetadataRecord,
    RegisterBrokerRecord,
    UnregisterBrokerRecord,
)
from logcluster.model.errors import (
    DuplicateBrokerRegistration,
    InconsistentClusterId,
    InvalidRequest,
    NotFound,
    Overloaded,
)
from logcluster.model.ids import TopicId
from logcluster.model.limits import BROKERS_MAX
from logcluster.model.probes import probe

FailedEpochs = Mapping[PartitionKey, int]
"""What one broker says of its damaged replicas: the leader epoch each report speaks of."""


class Brokers:
    """Handlers of everything about brokers; they read the state and write to sessions only."""

    def __init__(
        self, state: ControllerState, sessions: BrokerSessions, *, cluster_id: str, trust_synced_logs: bool
    ) -> None:
        self._state = state
        self._sessions = sessions
        self._cluster_id = cluster_id
        self._trust_synced_logs = trust_synced_logs

    def register(self, request: RegisterBroker, *, now_ms: int, index: int) -> Result:
        """Register a process, or amend the registration of the same process.

        Raises:
            InconsistentClusterId: the broker belongs to another cluster.
            DuplicateBrokerRegistration: another process under this id is believed to run.
        """
        known_cluster_id = self._state.image.cluster_id or self._cluster_id
        if request.cluster_id != known_cluster_id:
            raise InconsistentClusterId(
                f"broker {request.broker_id} belongs to cluster {request.cluster_id!r}, this is {known_cluster_id!r}",
                cluster_id=known_cluster_id,
            )
        before = self._state.broker(request.broker_id)
        if before is not None and before.incarnation_id == request.incarnation_id:
            probe("controller.register.same_process_again")
            return self._amend(request, before)
        if before is None and len(self._state.image.brokers) >= BROKERS_MAX:
            raise Overloaded(f"the cluster has {BROKERS_MAX} brokers, the most there can be")
        if before is not None and self._sessions.is_live(request.broker_id, now_ms=now_ms):
            probe("controller.register.refused_while_earlier_lives")
            raise DuplicateBrokerRegistration(
                f"another process is registered as broker {request.broker_id} at {before.host}:{before.lane_port}",
                broker_id=request.broker_id,
                broker_epoch=before.broker_epoch,
            )
        records: list[MetadataRecord] = []
        if not self._state.image.cluster_id:
            records.append(ClusterRecord(cluster_id=self._cluster_id))
        records.append(_registration(request, broker_epoch=index, fenced=True))
        if before is not None:
            copy = _copy_after_restart(request, before)
            records += self._leave(
                request.broker_id, copy=copy, reason=f"broker {request.broker_id} registered again ({copy.value})"
            )
        self._sessions.start(request.broker_id, broker_epoch=index, now_ms=now_ms)
        return Result(records=tuple(records), response=RegisterBrokerResult(broker_epoch=index))

    def _amend(self, request: RegisterBroker, before: BrokerRegistration) -> Result:
        record = _registration(request, broker_epoch=before.broker_epoch, fenced=before.is_fenced)
        response = RegisterBrokerResult(broker_epoch=before.broker_epoch)
        if record == _registration_of(before):
            return Result(records=(), response=response)
        records: list[MetadataRecord] = [record]
        if before.in_controlled_shutdown:
            records.append(
                BrokerChangeRecord(
                    broker_id=before.broker_id, broker_epoch=before.broker_epoch, in_controlled_shutdown=True
                )
            )
        return Result(records=tuple(records), response=response)

    def heartbeat(self, request: Heartbeat, *, now_ms: int, index: int) -> Result:
        """Note that a broker lives, and act on what it says.

        Raises:
            StaleBrokerEpoch: another process has registered under its id, or nobody.
        """
        broker = check_broker_epoch(self._state, request.broker_id, request.broker_epoch)
        session = self._sessions.heard(
            request.broker_id,
            broker_epoch=request.broker_epoch,
            metadata_offset=request.metadata_offset,
            now_ms=now_ms,
        )
        session.is_failed = session.is_failed or request.log_directory_failed
        failed = {(item.topic_id, item.partition): item.leader_epoch for item in request.failed_replicas}
        has_recovered = self._sessions.note_damaged(broker.broker_id, failed)
        records: list[MetadataRecord] = []
        is_fenced = broker.is_fenced
        if session.is_failed:
            if not broker.is_fenced:
                probe("controller.fence.log_directory_failed")
                # Back after a repair, it holds what it had synced: the same as after an unclean stop.
                reason = f"broker {broker.broker_id}'s log directory failed"
                records = self._fence(broker, copy=CopyState.UNCLEAN_STOP, reason=reason)
                is_fenced = True
        elif request.want_shutdown and not broker.in_controlled_shutdown:
            probe("controller.shutdown.begun")
            records = self._begin_shutdown(broker)
            session.shutdown_offset = index
        else:
            if request.want_shutdown:
                if session.shutdown_offset is None:
                    probe("controller.shutdown.inherited")
                    # Begun under an earlier controller: everything known now includes it.
                    session.shutdown_offset = self._state.image.offset
            elif broker.is_fenced and session.metadata_offset >= max(session.unfence_offset, broker.broker_epoch):
                probe("controller.broker.unfenced")
                records = self._unfence(broker, failed)
                is_fenced = False
            elif has_recovered:
                live = self._live()
                records = self._fill_vacancies(broker.broker_id, failed, live, f"broker {broker.broker_id} is repaired")
            records += self._step_aside(broker.broker_id, failed)
        may_shut_down = request.want_shutdown and self.may_shut_down(request.broker_id)
        if may_shut_down:
            probe("controller.shutdown.granted")
        response = HeartbeatResult(is_fenced=is_fenced, may_shut_down=may_shut_down)
        return Result(records=tuple(records), response=response)

    def may_shut_down(self, broker_id: int) -> bool:
        """Have all active brokers applied the entry by which this one's controlled shutdown began?"""
        session = self._sessions.get(broker_id)
        if session is None or session.shutdown_offset is None:
            return False
        for other_id, other in self._state.image.brokers.items():
            if other_id == broker_id or not other.is_active:
                continue
            other_session = self._sessions.get(other_id)
            if other_session is None or other_session.metadata_offset < session.shutdown_offset:
                return False
        return True

    def fence(self, request: FenceBroker, *, index: int) -> Result:
        """Fence a broker that was found dead; nothing happens when it has registered again or is fenced."""
        broker = self._state.broker(request.broker_id)
        if broker is None or broker.is_fenced or broker.broker_epoch != request.broker_epoch:
            probe("controller.fence.overtaken")
            return Result(records=(), response=None)
        session = self._sessions.get(request.broker_id)
        if session is not None:
            session.unfence_offset = index
        reason = f"broker {request.broker_id} fenced: {request.reason}"
        return Result(records=tuple(self._fence(broker, copy=CopyState.CLEAN, reason=reason)), response=None)

    def drain(self, request: DrainBroker) -> Result:
        """Move leaderships off a broker where another replica is in sync, or take a drain back.

        Raises:
            NotFound: no such broker.
        """
        broker = self._find(request.broker_id)
        records: list[MetadataRecord] = []
        lasts = broker.is_draining and not broker.is_drain_until_restart
        until_restart = request.drain and request.until_restart
        is_wanted = (broker.is_draining, broker.is_drain_until_restart) == (request.drain, until_restart)
        if not is_wanted and not (request.until_restart and lasts):
            records.append(
                BrokerChangeRecord(
                    broker_id=broker.broker_id,
                    broker_epoch=broker.broker_epoch,
                    draining=request.drain,
                    drain_until_restart=until_restart,
                )
            )
        led = [part for part in self._state.hosted_by(broker.broker_id) if part.leader_id == broker.broker_id]
        remaining = len(led)
        if request.drain:
            live = self._live(drained=broker.broker_id)
            for partition in led:
                record = change_partition(
                    partition,
                    in_sync=partition.in_sync_replicas,
                    live=live,
                    rules=self._rules(partition.topic_id),
                    wish=Wish(avoid=broker.broker_id),
                    reason=f"broker {broker.broker_id} drains",
                )
                if record is not None:
                    records.append(record)
                    remaining -= 1
        return Result(records=tuple(records), response=DrainBrokerResult(leaders_remaining=remaining))

    def unregister(self, request: UnregisterBroker, *, now_ms: int) -> Result:
        """Forget a broker.

        Raises:
            NotFound: no such broker.
            InvalidRequest: it is alive, or hosts replicas.
        """
        broker = self._find(request.broker_id)
        session = self._sessions.get(request.broker_id)
        is_connected = session is not None and session.is_connected
        if not broker.is_fenced or is_connected or (self._sessions.is_live(request.broker_id, now_ms=now_ms)):
            raise InvalidRequest(f"broker {request.broker_id} is alive", hint="stop it first")
        hosted = self._state.hosted_count(request.broker_id)
        if hosted:
            raise InvalidRequest(
                f"broker {request.broker_id} hosts {hosted} replicas",
                hint="move them to other brokers first: `logcluster partition move`",
                replicas=hosted,
            )
        self._sessions.forget(request.broker_id)
        record = UnregisterBrokerRecord(broker_id=broker.broker_id, broker_epoch=broker.broker_epoch)
        return Result(records=(record,), response=None)

    def lapsed(self, *, now_ms: int) -> list[FenceBroker]:
        """Unfenced brokers whose session is over, each with why."""
        found: list[FenceBroker] = []
        for broker_id, broker in self._state.image.brokers.items():
            if broker.is_fenced:
                continue
            reason = self._sessions.lapse_reason(broker_id, now_ms=now_ms)
            if reason is not None:
                found.append(FenceBroker(broker_id=broker_id, broker_epoch=broker.broker_epoch, reason=reason))
        return found

    def _find(self, broker_id: int) -> BrokerRegistration:
        broker = self._state.broker(broker_id)
        if broker is None:
            raise NotFound(
                f"broker {broker_id} is not registered", hint="see `logcluster broker ls`", broker_id=broker_id
            )
        return broker

    def _rules(self, topic_id: TopicId) -> PartitionRules:
        return PartitionRules.of(self._state.config_of(topic_id), trust_synced_logs=self._trust_synced_logs)

    def _begin_shutdown(self, broker: BrokerRegistration) -> list[MetadataRecord]:
        change = BrokerChangeRecord(
            broker_id=broker.broker_id, broker_epoch=broker.broker_epoch, in_controlled_shutdown=True
        )
        reason = f"broker {broker.broker_id} shuts down"
        return [change, *self._leave(broker.broker_id, copy=CopyState.CLEAN, reason=reason)]

    def _fence(self, broker: BrokerRegistration, *, copy: CopyState, reason: str) -> list[MetadataRecord]:
        change = BrokerChangeRecord(broker_id=broker.broker_id, broker_epoch=broker.broker_epoch, fenced=True)
        return [change, *self._leave(broker.broker_id, copy=copy, reason=reason)]

    def _unfence(self, broker: BrokerRegistration, failed: FailedEpochs) -> list[MetadataRecord]:
        """Trust a broker, and let it lead what has no leader and may be led by it."""
        broker_id = broker.broker_id
        change = BrokerChangeRecord(broker_id=broker_id, broker_epoch=broker.broker_epoch, fenced=False)
        live = self._live(activated=None if broker.in_controlled_shutdown else broker_id)
        return [change, *self._fill_vacancies(broker_id, failed, live, f"broker {broker_id} is back")]

    def _fill_vacancies(
        self, broker_id: int, failed: FailedEpochs, live: LiveBrokers, reason: str
    ) -> list[MetadataRecord]:
        """Elect leaders where there is none and the broker has a sound replica; `_step_aside` sees to the others."""
        records: list[MetadataRecord] = []
        for partition in self._state.leaderless():
            if broker_id not in partition.replicas or (partition.topic_id, partition.partition) in failed:
                continue
            record = change_partition(
                partition,
                in_sync=partition.in_sync_replicas,
                live=live,
                rules=self._rules(partition.topic_id),
                reason=reason,
            )
            if record is not None:
                probe("controller.vacancy.filled")
                records.append(record)
        return records

    def _step_aside(self, broker_id: int, failed: FailedEpochs) -> list[MetadataRecord]:
        """Take damaged replicas out of sync, and elect leaders in their place; reports of other epochs are ignored.

        Also where the replica is not in sync: its leader may be about to propose it, for what it once reported.
        """
        if not failed:
            return []
        live = self._live(deactivated=broker_id)
        records: list[MetadataRecord] = []
        for (topic_id, index), leader_epoch in failed.items():
            partition = self._state.image.partition(topic_id, index)
            if partition is None or partition.leader_epoch != leader_epoch or broker_id not in partition.replicas:
                probe("controller.damage.report_overtaken")
                continue
            probe("controller.damage.replica_stepped_aside")
            record = change_partition(
                partition,
                in_sync=without(partition.in_sync_replicas, broker_id),
                live=live,
                rules=self._rules(topic_id),
                leaving=broker_id,
                leaving_copy=CopyState.DAMAGED,
                reason=f"broker {broker_id}'s log is damaged",
            )
            if record is not None:
                records.append(record)
        return records

    def _live(
        self, *, activated: int | None = None, deactivated: int | None = None, drained: int | None = None
    ) -> LiveBrokers:
        return LiveBrokers.of(
            self._state.image.brokers,
            damaged=self._sessions.damaged,
            activated=activated,
            deactivated=deactivated,
            drained=drained,
        )

    def _leave(self, broker_id: int, *, copy: CopyState, reason: str) -> list[MetadataRecord]:
        """Take a broker out of the in-sync replicas of all it hosts, and elect leaders in its place."""
        live = self._live(deactivated=broker_id)
        records: list[MetadataRecord] = []
        for partition in self._state.hosted_by(broker_id):
            if not (
                broker_id in partition.in_sync_replicas
                or broker_id in partition.eligible_leader_replicas
                or broker_id in partition.last_known_leaders
            ):
                continue
            is_damaged = copy is CopyState.CLEAN and self._sessions.is_damaged(broker_id, partition)
            record = change_partition(
                partition,
                in_sync=without(partition.in_sync_replicas, broker_id),
                live=live,
                rules=self._rules(partition.topic_id),
                leaving=broker_id,
                leaving_copy=CopyState.DAMAGED if is_damaged else copy,
                reason=reason,
            )
            if record is not None:
                records.append(record)
        return records


def _copy_after_restart(request: RegisterBroker, before: BrokerRegistration) -> CopyState:
    if request.directory_id != before.directory_id:
        probe("controller.register.other_disk")
        return CopyState.LOST
    if request.previous_broker_epoch == before.broker_epoch:
        probe("controller.register.after_clean_stop")
        return CopyState.CLEAN
    probe("controller.register.after_unclean_stop")
    return CopyState.UNCLEAN_STOP


def _registration(request: RegisterBroker, *, broker_epoch: int, fenced: bool) -> RegisterBrokerRecord:
    return RegisterBrokerRecord(
        broker_id=request.broker_id,
        broker_epoch=broker_epoch,
        incarnation_id=request.incarnation_id,
        directory_id=request.directory_id,
        host=request.host,
        grpc_port=request.grpc_port,
        lane_port=request.lane_port,
        http_port=request.http_port,
        rack=request.rack,
        fenced=fenced,
    )


def _registration_of(broker: BrokerRegistration) -> RegisterBrokerRecord:
    return RegisterBrokerRecord(
        broker_id=broker.broker_id,
        broker_epoch=broker.broker_epoch,
        incarnation_id=broker.incarnation_id,
        directory_id=broker.directory_id,
        host=broker.host,
        grpc_port=broker.grpc_port,
        lane_port=broker.lane_port,
        http_port=broker.http_port,
        rack=broker.rack,
        fenced=broker.is_fenced,
    )
