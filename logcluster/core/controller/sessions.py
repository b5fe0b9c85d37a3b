"""Who was heard from when: the active controller's memory of broker sessions. Never replicated, never durable.

A new active controller starts with every registered broker assumed alive as of now, so that each has a whole session
timeout to come back; what a probe proves in between shortens that. A wrong guess costs a leader change, never data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from logcluster.core.controller.state import PartitionKey
from logcluster.core.metadata.image import BrokerRegistration, PartitionRegistration
from logcluster.model.probes import probe

DamagedReplicas = Mapping[PartitionKey, Mapping[int, int]]
"""By partition: which brokers say that their copy is damaged, each with the leader epoch it speaks of."""


@dataclass(slots=True, kw_only=True)
class Session:
    """What is known of one registered broker process."""

    broker_epoch: int
    last_contact_ms: int
    metadata_offset: int = 0
    is_connected: bool = False
    was_heard: bool = False
    """Whether this controller itself heard from it, or only believes that it lives."""
    dropped_at_ms: int | None = None
    """When its connection broke; None while connected or not known."""
    is_gone: bool = False
    """Proved dead: its port refused, or another process answered there."""
    unfence_offset: int = 0
    """It is trusted again only once it has applied the log up to here: its own fencing included."""
    shutdown_offset: int | None = None
    """Index of the entry by which its controlled shutdown began."""
    is_failed: bool = False
    """It said that its log directory failed."""


class BrokerSessions:
    """Sessions by broker id.

    Attributes:
        damaged: what brokers last said of damaged copies; always the same object.
    """

    def __init__(
        self, brokers: Mapping[int, BrokerRegistration], *, now_ms: int, timeout_ms: int, grace_ms: int
    ) -> None:
        self.damaged: dict[PartitionKey, dict[int, int]] = {}
        self._timeout_ms = timeout_ms
        self._grace_ms = grace_ms
        self._sessions = {
            broker_id: Session(broker_epoch=broker.broker_epoch, last_contact_ms=now_ms)
            for broker_id, broker in brokers.items()
        }

    def get(self, broker_id: int) -> Session | None:
        """The session of a broker, or None."""
        return self._sessions.get(broker_id)

    def start(self, broker_id: int, *, broker_epoch: int, now_ms: int) -> Session:
        """Begin anew for a process that has just registered."""
        session = Session(broker_epoch=broker_epoch, last_contact_ms=now_ms, unfence_offset=broker_epoch)
        session.was_heard = True
        self._sessions[broker_id] = session
        self.note_damaged(broker_id, {})
        return session

    def heard(self, broker_id: int, *, broker_epoch: int, metadata_offset: int, now_ms: int) -> Session:
        """Note a heartbeat of the current registration."""
        session = self._sessions.get(broker_id)
        if session is None or session.broker_epoch != broker_epoch:
            session = self.start(broker_id, broker_epoch=broker_epoch, now_ms=now_ms)
        session.last_contact_ms = now_ms
        session.metadata_offset = max(session.metadata_offset, metadata_offset)
        session.was_heard = True
        session.is_connected = True
        session.is_gone = False
        session.dropped_at_ms = None
        return session

    def dropped(self, broker_id: int, *, broker_epoch: int, now_ms: int) -> None:
        """Note that the connection of this registration broke; a newer registration is not touched."""
        session = self._sessions.get(broker_id)
        if session is not None and session.broker_epoch == broker_epoch:
            session.is_connected = False
            session.dropped_at_ms = now_ms

    def gone(self, broker_id: int, *, broker_epoch: int) -> None:
        """Note proof that the process of this registration no longer runs; an open connection is better proof."""
        session = self._sessions.get(broker_id)
        if session is not None and session.broker_epoch == broker_epoch and not session.is_connected:
            session.is_gone = True

    def forget(self, broker_id: int) -> None:
        """The broker is unregistered."""
        self._sessions.pop(broker_id, None)
        self.note_damaged(broker_id, {})

    def note_damaged(self, broker_id: int, reports: Mapping[PartitionKey, int]) -> bool:
        """Note all that is damaged on a broker, with leader epochs; returns whether anything is sound again."""
        recovered = [key for key, brokers in self.damaged.items() if broker_id in brokers and key not in reports]
        for key in recovered:
            brokers = self.damaged[key]
            del brokers[broker_id]
            if not brokers:
                del self.damaged[key]
        for key, leader_epoch in reports.items():
            self.damaged.setdefault(key, {})[broker_id] = leader_epoch
        return bool(recovered)

    def is_damaged(self, broker_id: int, partition: PartitionRegistration) -> bool:
        """Is the broker's copy of a partition damaged? What is in sync has been fetched again since an old report."""
        leader_epoch = self.damaged.get((partition.topic_id, partition.partition), {}).get(broker_id)
        if leader_epoch is None:
            return False
        return leader_epoch == partition.leader_epoch or broker_id not in partition.in_sync_replicas

    def is_live(self, broker_id: int, *, now_ms: int) -> bool:
        """Is the registered process believed to run? While connected, or until timeout, grace or proof end it."""
        return self.lapse_reason(broker_id, now_ms=now_ms) is None

    def lapse_reason(self, broker_id: int, *, now_ms: int) -> str | None:
        """Say why the session is over, or None while it is not."""
        session = self._sessions.get(broker_id)
        if session is None:
            return "no session"
        if session.is_gone:
            probe("controller.session.process_gone")
            return "its process is gone"
        if now_ms - session.last_contact_ms >= self._timeout_ms:
            probe("controller.session.silent")
            return f"silent for {now_ms - session.last_contact_ms} ms"
        if session.dropped_at_ms is not None and now_ms - session.dropped_at_ms >= self._grace_ms:
            probe("controller.session.disconnected")
            return f"disconnected for {now_ms - session.dropped_at_ms} ms"
        return None
