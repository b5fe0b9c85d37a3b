"""Brokers, a controller and producers around one partition, on simulated time; no event loop.

The world carries messages: it delays, loses and cuts. What goes wrong when is decided in `replication_faults`; what
must hold is in `replication_checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from logcluster.core.controller.requests import AlterPartitions, Request, Response
from logcluster.core.metadata.image import MetadataImage
from logcluster.model.errors import LogClusterError, RequestTimedOut
from logcluster.sim.cores.controller_host import ControllerHost, partition_of
from logcluster.sim.cores.replication_ablations import WorldAblations
from logcluster.sim.cores.replication_checks import ReplicationChecks
from logcluster.sim.cores.replication_options import ReplicationOptions
from logcluster.sim.cores.result import Notebook
from logcluster.sim.cores.schedule import Schedule
from logcluster.sim.cores.sim_broker import SimBroker
from logcluster.sim.cores.sim_producer import SimProducer

CONTROLLER_ID = 0
CONTROLLER_TIMEOUT_MS = 80


class ReplicationWorld(Schedule):
    """One run."""

    def __init__(self, rng: Random, options: ReplicationOptions, ablations: WorldAblations, book: Notebook) -> None:
        super().__init__(rng)
        self.options = options
        self.ablations = ablations
        self.book = book
        self.is_calm = True
        self.blocked: dict[tuple[int, int], int] = {}
        self.brokers: dict[int, SimBroker] = {}
        self.copies_lost: dict[SimBroker, None] = {}
        """Brokers that lost a copy and are not in sync again."""
        self.on_expand: Callable[[SimBroker], None] | None = None
        """Told of a newcomer that its leader proposes for the in-sync set: a moment to fail."""
        self.acked_count = 0
        self._values = 0
        self.checks = ReplicationChecks(self)
        self.controller = ControllerHost(self, options, book, self._on_commit)
        for broker_id in range(1, options.broker_count + 1):
            self.brokers[broker_id] = SimBroker(self, broker_id)
        self.producer_ids = list(range(100, 100 + options.producer_count))
        self.producers = [
            SimProducer(self, number, producer_id)
            for number, producer_id in enumerate([*self.producer_ids, *[-1] * options.plain_producer_count])
        ]

    def next_value(self) -> int:
        """A value that no other batch has."""
        self._values += 1
        return self._values

    def next_producer_id(self) -> int:
        """A producer id that nobody has had."""
        self.producer_ids.append(self.producer_ids[-1] + 1)
        return self.producer_ids[-1]

    # -- the network ---------------------------------------------------------------------------------------------

    def delay_ms(self) -> int:
        """How long a message travels."""
        if self.is_calm:
            return self.below(2)
        if self.chance(self.options.slow_message):
            return self.options.delay_ms_max + self.below(60)
        return self.below(self.options.delay_ms_max)

    def is_blocked(self, frm: int, to: int) -> bool:
        """Whether a direction is cut; the controller is 0, clients are -1."""
        return not self.is_calm and self.blocked.get((frm, to), 0) > self.now_ms

    def is_lost(self, frm: int, to: int) -> bool:
        """Whether a request or its answer gets lost."""
        return not self.is_calm and (self.is_blocked(frm, to) or self.chance(self.options.drop))

    def call_controller(
        self, broker: SimBroker, request: Request, answer: Callable[[Response | LogClusterError], None]
    ) -> None:
        """One request of a broker to the controller; `answer` is called once, in the broker's process if it lives."""
        incarnation = broker.incarnation
        is_answered = False

        def reply(response: Response | LogClusterError) -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                broker.deliver(incarnation, answer, response)

        def come_back(response: Response | LogClusterError) -> None:
            if not self.is_lost(CONTROLLER_ID, broker.broker_id):
                self.at(self.delay_ms(), reply, response)

        self.at(CONTROLLER_TIMEOUT_MS, reply, RequestTimedOut("the controller did not answer"))
        if self.is_lost(broker.broker_id, CONTROLLER_ID):
            return
        delay_ms = self.delay_ms()
        if not self.is_calm and isinstance(request, AlterPartitions) and self.chance(self.options.late):
            self.at(CONTROLLER_TIMEOUT_MS + self.below(600), self.controller.submit, request, come_back)
            self.book.probe("core.controller.change_arrived_late")
            if self.chance(0.5):
                return  # late only
            # Twice, because somebody on the way sent it again; he had no answer to the first copy, so there is none.
            self.at(delay_ms, self.controller.submit, request, _ignore)
            return
        self.at(delay_ms, self.controller.submit, request, come_back)

    def _on_commit(self, before: MetadataImage, image: MetadataImage) -> None:
        self.book.trace.extend((self.now_ms, -1, image.offset))
        if self.book.transcript is not None:
            self.book.transcript.append(f"{self.now_ms:5d} committed {image.offset}: {partition_of(image)}")
        self.checks.on_image(before, image)
        if self.controller.topic_id is None and image.topics:
            self.controller.topic_id = next(iter(image.topics))
        for broker in list(self.copies_lost):
            if self._is_back(broker, image):
                del self.copies_lost[broker]
        for broker in self.brokers.values():
            if not self.is_lost(CONTROLLER_ID, broker.broker_id):
                self.at(self.delay_ms(), broker.deliver, broker.incarnation, broker.on_image, image)

    def _is_back(self, broker: SimBroker, image: MetadataImage) -> bool:
        """Whether a broker that lost its copy is in sync again, with the disk and the process it has now."""
        partition = partition_of(image)
        registered = image.brokers.get(broker.broker_id)
        return (
            partition is not None
            and registered is not None
            and broker.broker_id in partition.in_sync_replicas
            and registered.directory_id == broker.directory_id
            and registered.broker_epoch == broker.broker_epoch
        )

    def tell_dropped(self, broker_id: int, broker_epoch: int) -> None:
        """The controller notices a broken connection."""
        controller = self.controller.controller
        if controller is not None and not self.is_blocked(broker_id, CONTROLLER_ID):
            controller.sessions.dropped(broker_id, broker_epoch=broker_epoch, now_ms=self.now_ms)
            if self.chance(0.5):
                controller.sessions.gone(broker_id, broker_epoch=broker_epoch)

    def lose_session(self, broker_id: int, broker_epoch: int) -> None:
        """The connection between a broker and the controller breaks, and nobody knows more."""
        controller = self.controller.controller
        if controller is not None:
            self.book.probe("core.controller.session_lost")
            controller.sessions.dropped(broker_id, broker_epoch=broker_epoch, now_ms=self.now_ms)

    def believed_leader(self) -> tuple[int, int] | None:
        """Whom a client takes for the leader, from the metadata of some broker; and in which epoch."""
        alive = [broker for broker in self.brokers.values() if broker.is_alive]
        if not alive:
            return None
        partition = partition_of(alive[self.below(len(alive) - 1)].image)
        if partition is None or partition.leader_id is None:
            return None
        return partition.leader_id, partition.leader_epoch

    # -- after every step ----------------------------------------------------------------------------------------

    def after_step(self, broker: SimBroker) -> None:
        """Every core's own invariants, and the trace."""
        book, log = self.book, broker.log
        book.steps += 1
        epoch = 0
        if broker.leader is not None:
            broker.leader.check()
            epoch = broker.leader.leader_epoch
        elif broker.follower is not None:
            broker.follower.check(log.log_end_offset)
            epoch = -broker.follower.leader_epoch
        book.trace.extend(
            (self.now_ms, broker.broker_id, epoch, log.log_end_offset, log.flushed_offset, broker.high_watermark)
        )
        if book.steps % 64 == 0:
            broker.producers.check()
            self.checks.check_producers(broker)
        if book.transcript is not None:
            role = broker.leader or broker.follower
            book.transcript.append(
                f"{self.now_ms:5d} b{broker.broker_id} {'no role' if role is None else role.describe()} "
                f"log={log.log_start_offset}..{log.flushed_offset}/{log.log_end_offset}"
            )


def _ignore(response: Response | LogClusterError) -> None:
    """An answer that gets lost."""
    del response
