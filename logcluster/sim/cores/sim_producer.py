"""A producer of the replication simulator: keeps order and sequence as `client.accumulator` does, and retries.

Idempotent: at most `pipeline_max` batches under way, one only until a first one was accepted; after a failure the
oldest is sent again alone, under its sequence, and nothing new while a retry is under way. When that is refused as out
of order, the broker does not know what it once acknowledged: allowed only after records were deleted or lost in an
unclean election. The producer then takes a new identity and gives up what might have been written. Plain (no producer
id): one batch at a time, sent again only after a definite refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from logcluster.model.errors import Disconnected, LogClusterError, OutOfOrderSequenceNumber, RequestTimedOut

if TYPE_CHECKING:
    from logcluster.sim.cores.replication_world import ReplicationWorld

REQUEST_TIMEOUT_MS = 120
BACKOFF_MS = 15
CLIENT_ID = -1


@dataclass(slots=True, eq=False)
class Sending:
    """One batch that is not resolved yet."""

    value: int
    count: int
    base_sequence: int
    attempt: int = 0
    is_in_flight: bool = False
    is_in_doubt: bool = False


class Connection:
    """One connection of a producer to a broker: when the last message each way arrives, and what waits on it."""

    __slots__ = ("down_ms", "in_flight", "is_open", "up_ms")

    def __init__(self) -> None:
        self.is_open = True
        self.up_ms = 0
        self.down_ms = 0
        self.in_flight: list[tuple[Sending, int]] = []


class SimProducer:
    """One producer; `producer_id` below 0 is a plain one."""

    def __init__(self, world: ReplicationWorld, client_id: int, producer_id: int) -> None:
        self._world = world
        self._client_id = client_id
        self._producer_id = producer_id
        self._sequence = 0
        self._is_accepted = False
        self._leader_epoch = 0
        """The newest one known: metadata never goes back."""
        self.unresolved: list[Sending] = []
        self.given_up = 0
        self._connections: dict[int, Connection] = {}
        self._is_pump_due = False

    def offer(self) -> None:
        """Write one more batch, if there is room."""
        world = self._world
        if len(self.unresolved) < (world.options.pipeline_max if self._producer_id >= 0 else 1):
            count = 1 + world.below(2)
            self.unresolved.append(Sending(world.next_value(), count, self._sequence))
            self._sequence += count
            self.pump()

    def pump(self) -> None:
        """Send what may be sent."""
        self._is_pump_due = False
        world = self._world
        leader = world.believed_leader()
        if leader is None or leader[1] < self._leader_epoch:
            self._pump_later()
            return
        if leader[1] > self._leader_epoch:
            self._leader_epoch = leader[1]
            for broker_id, connection in list(self._connections.items()):
                if connection.in_flight:  # a silent old leader does not hold batches
                    self._break(broker_id, connection)
            if any(each.is_in_flight for each in self.unresolved):
                self._pump_later()
                return
        is_retrying = any(each.attempt > (1 if each.is_in_flight else 0) for each in self.unresolved)
        for position, sending in enumerate(self.unresolved):
            if sending.is_in_flight:
                continue
            if position > 0 and (is_retrying or not self._is_accepted or self._producer_id < 0):
                return
            self._send(sending, *leader)

    def _pump_later(self) -> None:
        if not self._is_pump_due:
            self._is_pump_due = True
            self._world.at(BACKOFF_MS, self.pump)

    def _send(self, sending: Sending, broker_id: int, leader_epoch: int) -> None:
        """Requests and answers of one connection stay in order; what is lost takes the connection along."""
        world = self._world
        sending.is_in_flight = True
        sending.attempt += 1
        attempt = sending.attempt
        broker = world.brokers[broker_id]
        connection = self._connections.get(broker_id)
        if connection is None:
            connection = self._connections[broker_id] = Connection()
        connection.in_flight.append((sending, attempt))
        if world.is_lost(CLIENT_ID, broker_id):
            self._break(broker_id, connection)
            return
        world.at(REQUEST_TIMEOUT_MS, self._answered, sending, attempt, RequestTimedOut("no answer"))
        connection.up_ms = max(connection.up_ms, world.now_ms + world.delay_ms())

        def answer(outcome: int | LogClusterError) -> None:
            if world.is_lost(broker_id, CLIENT_ID):
                self._break(broker_id, connection)
            elif connection.is_open:
                connection.down_ms = max(connection.down_ms, world.now_ms + world.delay_ms())
                world.at(connection.down_ms - world.now_ms, self._answered, sending, attempt, outcome, connection)

        incarnation = broker.incarnation

        def arrive() -> None:
            if broker.incarnation != incarnation:
                self._break(broker_id, connection)
                return
            producer_id, base_sequence = self._producer_id, sending.base_sequence
            if producer_id < 0:
                base_sequence = -1
            broker.deliver(
                incarnation,
                broker.produce,
                producer_id,
                base_sequence,
                sending.count,
                sending.value,
                leader_epoch,
                answer,
            )

        world.at(connection.up_ms - world.now_ms, arrive)

    def _break(self, broker_id: int, connection: Connection) -> None:
        """Everything under way on a connection has an unknown outcome now; what had left may still arrive."""
        if not connection.is_open:
            return
        connection.is_open = False
        if self._connections.get(broker_id) is connection:
            del self._connections[broker_id]
        for sending, attempt in connection.in_flight:
            self._world.at(5, self._answered, sending, attempt, Disconnected("the connection broke"))

    def _answered(
        self, sending: Sending, attempt: int, outcome: int | LogClusterError, connection: Connection | None = None
    ) -> None:
        if sending.attempt != attempt or not sending.is_in_flight:
            return
        if connection is not None:
            if not connection.is_open:
                return
            connection.in_flight.remove((sending, attempt))
        sending.is_in_flight = False
        if sending not in self.unresolved:
            return
        if isinstance(outcome, int):
            self._world.checks.on_acked(outcome, sending.value)
            self._world.acked_count += 1
            self._is_accepted = True
            self.unresolved.remove(sending)
        elif self._producer_id < 0 and not outcome.definite:
            self.unresolved.remove(sending)
            self.given_up += 1
        else:
            sending.is_in_doubt = sending.is_in_doubt or not outcome.definite
            if isinstance(outcome, OutOfOrderSequenceNumber) and sending is self.unresolved[0]:
                self._begin_anew(sending)
        self._pump_later()

    def _begin_anew(self, refused: Sending) -> None:
        world = self._world
        world.book.probe("core.replication.producer_began_anew")
        if not world.checks.may_have_forgotten:
            world.book.find("sequence-refused", f"producer {self._producer_id}: {refused}")
        self.given_up += sum(each.is_in_doubt or each.is_in_flight for each in self.unresolved)
        kept = [each for each in self.unresolved if not each.is_in_doubt and not each.is_in_flight]
        self.unresolved = [Sending(each.value, each.count, 0) for each in kept]
        self._producer_id = world.next_producer_id()
        self._is_accepted = False
        self._sequence = 0
        for each in self.unresolved:
            each.base_sequence = self._sequence
            self._sequence += each.count
