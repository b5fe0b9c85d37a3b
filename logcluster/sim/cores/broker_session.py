"""A simulated broker's dealings with the controller: registration and heartbeats, as `broker.lifecycle` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from logcluster.core.controller.requests import (
    Heartbeat,
    HeartbeatResult,
    RegisterBroker,
    RegisterBrokerResult,
    Response,
)
from logcluster.model.errors import LogClusterError, StaleBrokerEpoch
from logcluster.sim.cores.controller_host import HEARTBEAT_MS

if TYPE_CHECKING:
    from logcluster.sim.cores.sim_broker import SimBroker

REGISTER_RETRY_MS: Final = 50


class BrokerSession:
    """The session of one broker process; `previous_broker_epoch` is what its clean-shutdown marker said."""

    def __init__(self, broker: SimBroker, *, previous_broker_epoch: int | None) -> None:
        self._broker = broker
        self._previous_broker_epoch = previous_broker_epoch

    def register(self) -> None:
        """Ask for a registration, until there is one."""
        request = RegisterBroker(
            cluster_id="c",
            broker_id=self._broker.broker_id,
            incarnation_id=b"%d-%d" % (self._broker.broker_id, self._broker.incarnation),
            directory_id=self._broker.directory_id,
            host="h",
            grpc_port=1,
            lane_port=2,
            http_port=3,
            previous_broker_epoch=self._previous_broker_epoch,
        )
        self._broker.world.call_controller(self._broker, request, self._on_registered)

    def _on_registered(self, response: Response | LogClusterError) -> None:
        if isinstance(response, RegisterBrokerResult):
            self._broker.broker_epoch = response.broker_epoch
            self._heartbeat()
        elif self._broker.broker_epoch is None:
            self._broker.later(REGISTER_RETRY_MS, self.register)

    def beat_later(self) -> None:
        """Heartbeats from now on."""
        self._broker.later(HEARTBEAT_MS, self._heartbeat_turn)

    def _heartbeat_turn(self) -> None:
        self.beat_later()
        self._heartbeat()

    def _heartbeat(self) -> None:
        if self._broker.broker_epoch is None:
            return
        request = Heartbeat(
            broker_id=self._broker.broker_id,
            broker_epoch=self._broker.broker_epoch,
            metadata_offset=self._broker.image.offset,
            want_shutdown=self._broker.is_stopping,
        )
        self._broker.world.call_controller(self._broker, request, self._on_heartbeat)

    def _on_heartbeat(self, response: Response | LogClusterError) -> None:
        if isinstance(response, StaleBrokerEpoch):
            self._broker.world.book.probe("core.replication.registered_again")
            self._previous_broker_epoch = self._broker.broker_epoch or self._previous_broker_epoch
            self._broker.broker_epoch = None
            self.register()
        elif isinstance(response, HeartbeatResult):
            before = self._broker.image.offset
            self._broker.on_image(self._broker.world.controller.committed)
            if response.may_shut_down and self._broker.may_stop is not None:
                self._broker.finish_stop()
            elif self._broker.image.offset != before and response.is_fenced:
                self._heartbeat()
