"""The controller as a replicated state machine: `handle` reads and answers, `replay` writes. Pure.

`handle(request)` returns records and a response. The driver proposes the records as one entry of the metadata log,
replays them here at once (so that the next request sees them), and releases the response when the entry is committed.
Standbys and restarts replay the same records from the log. When leadership is lost with anything uncommitted, this
object is thrown away; the next active controller builds one over committed state (see `state`).

What handlers write directly are sessions only: memory of who was heard from, and of what brokers say with every
heartbeat, which belongs to one reign.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import assert_never

from logcluster.core.controller.alter_partitions import alter_partitions, check_broker_epoch
from logcluster.core.controller.brokers import Brokers
from logcluster.core.controller.leaders import Leaders
from logcluster.core.controller.requests import (
    AdminRequest,
    AllocateProducerIds,
    AllocateProducerIdsResult,
    AlterPartitions,
    AlterTopicConfig,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    DrainBroker,
    ElectLeaders,
    FenceBroker,
    Heartbeat,
    RebalanceLeaders,
    RegisterBroker,
    Request,
    Result,
    UnregisterBroker,
)
from logcluster.core.controller.sessions import BrokerSessions
from logcluster.core.controller.state import ControllerState
from logcluster.core.controller.topics import Topics
from logcluster.core.metadata.image import MetadataDelta, MetadataImage
from logcluster.core.metadata.records import MetadataRecord, ProducerIdsRecord
from logcluster.model.limits import PRODUCER_ID_BLOCK_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """What the controller is told.

    Attributes:
        cluster_id: the name a new cluster gets; an existing one keeps its own.
        session_timeout_ms: a broker that is silent this long is fenced.
        disconnect_grace_ms: a broker whose connection broke is fenced after this long.
        leader_rebalance_interval_ms: at most this long after a preferred leader is in sync again, it leads;
            None switches that off.
        trust_synced_logs: a replica with `flush.mode=sync` stays eligible after an unclean stop (see `partitions`).
    """

    cluster_id: str
    session_timeout_ms: int = 1_500
    disconnect_grace_ms: int = 300
    leader_rebalance_interval_ms: int | None = 10_000
    trust_synced_logs: bool = True


class Controller:
    """State machine of one reign of an active controller; single-threaded.

    Args:
        image: committed state at the start of the reign.
        random: draws topic ids and breaks ties in placement.
        now_ms: monotonic time, like every `now_ms` here.
    """

    def __init__(self, image: MetadataImage, *, config: ControllerConfig, random: Random, now_ms: int) -> None:
        self.state = ControllerState(image)
        self.sessions = BrokerSessions(
            image.brokers,
            now_ms=now_ms,
            timeout_ms=config.session_timeout_ms,
            grace_ms=config.disconnect_grace_ms,
        )
        self._config = config
        trust = config.trust_synced_logs
        self._brokers = Brokers(self.state, self.sessions, cluster_id=config.cluster_id, trust_synced_logs=trust)
        damaged = self.sessions.damaged
        self._topics = Topics(self.state, damaged, random, trust_synced_logs=trust)
        self._leaders = Leaders(
            self.state,
            damaged,
            interval_ms=config.leader_rebalance_interval_ms,
            now_ms=now_ms,
            trust_synced_logs=trust,
        )

    @property
    def image(self) -> MetadataImage:
        """The state, uncommitted changes included."""
        return self.state.image

    def handle(self, request: Request, *, now_ms: int, index: int) -> Result:
        """Decide what a request changes and what is answered; changes nothing but sessions.

        Args:
            index: the index that the entry with the records will have in the metadata log.

        Raises:
            LogClusterError: the request as a whole is refused; definite.
        """
        match request:
            case Heartbeat():
                return self._brokers.heartbeat(request, now_ms=now_ms, index=index)
            case AlterPartitions():
                records, results = alter_partitions(
                    request, self.state, trust_synced_logs=self._config.trust_synced_logs
                )
                return Result(records=tuple(records), response=results)
            case RegisterBroker():
                return self._brokers.register(request, now_ms=now_ms, index=index)
            case FenceBroker():
                return self._brokers.fence(request, index=index)
            case AllocateProducerIds():
                return self._allocate_producer_ids(request)
            case _:
                return self._handle_admin(request, now_ms=now_ms)

    def _handle_admin(self, request: AdminRequest, *, now_ms: int) -> Result:
        match request:
            case CreateTopics():
                return self._topics.create(request)
            case DeleteTopics():
                return self._topics.delete(request)
            case CreatePartitions():
                return self._topics.create_partitions(request)
            case AlterTopicConfig():
                return self._topics.alter_config(request)
            case ElectLeaders():
                return self._leaders.elect(request)
            case RebalanceLeaders():
                return self._leaders.rebalance(request)
            case DrainBroker():
                return self._brokers.drain(request)
            case UnregisterBroker():
                return self._brokers.unregister(request, now_ms=now_ms)
            case _:
                assert_never(request)

    def replay(self, records: Iterable[MetadataRecord], *, index: int, term: int) -> MetadataDelta:
        """Apply the records of entry `index`; the only way the state changes.

        Raises:
            InvariantViolation: the records contradict the state.
        """
        return self.state.replay(records, index=index, term=term)

    def due(self, now_ms: int) -> list[Request]:
        """What the passing of time asks for: fencing of lapsed brokers, moves of leaderships. Handle each in turn."""
        requests: list[Request] = list(self._brokers.lapsed(now_ms=now_ms))
        rebalance = self._leaders.due(now_ms)
        if rebalance is not None:
            requests.append(rebalance)
        return requests

    def may_shut_down(self, broker_id: int) -> bool:
        """Do all active brokers know the leaders that replace this one's?"""
        return self._brokers.may_shut_down(broker_id)

    def _allocate_producer_ids(self, request: AllocateProducerIds) -> Result:
        check_broker_epoch(self.state, request.broker_id, request.broker_epoch)
        first = self.state.image.next_producer_id
        record = ProducerIdsRecord(
            broker_id=request.broker_id,
            broker_epoch=request.broker_epoch,
            next_producer_id=first + PRODUCER_ID_BLOCK_SIZE,
        )
        response = AllocateProducerIdsResult(first_producer_id=first, count=PRODUCER_ID_BLOCK_SIZE)
        return Result(records=(record,), response=response)

    def check(self) -> None:
        """Check everything that must hold; linear in the number of partitions.

        Raises:
            InvariantViolation: something does not.
        """
        self.state.check()

    def describe(self) -> str:
        """One line for logs and transcripts."""
        image = self.image
        active = sum(1 for broker in image.brokers.values() if broker.is_active)
        return (
            f"metadata {image.offset}@{image.term}: {active}/{len(image.brokers)} brokers active, "
            f"{len(image.topics)} topics, {self.state.partition_count} partitions, "
            f"{len(self.state.leaderless())} without leader"
        )
