"""A controller at the bench: requests are handled and replayed at once, as if committed."""

from __future__ import annotations

from random import Random

from logcluster.core.controller.controller import Controller, ControllerConfig
from logcluster.core.controller.requests import (
    AlterPartition,
    AlterPartitions,
    CreateTopics,
    FenceBroker,
    Heartbeat,
    IsrMember,
    NewTopic,
    RegisterBroker,
)
from logcluster.core.metadata.image import EMPTY, MetadataImage

CLUSTER_ID = "cluster"


class Bench:
    """Brokers are given by number; the clock stands unless a test moves `now_ms`."""

    def __init__(self, brokers: int = 0, *, seed: int = 1, image: MetadataImage = EMPTY, **options) -> None:
        self.now_ms = 0
        self.index = image.offset
        self.log = []
        config = ControllerConfig(cluster_id=CLUSTER_ID, **options)
        self.controller = Controller(image, config=config, random=Random(seed), now_ms=0)
        for broker_id in range(brokers):
            self.join(broker_id)

    @property
    def image(self) -> MetadataImage:
        return self.controller.image

    def do(self, request):
        result = self.controller.handle(request, now_ms=self.now_ms, index=self.index + 1)
        if result.records:
            self.index += 1
            self.controller.replay(result.records, index=self.index, term=1)
            self.log.append((self.index, result.records))
            self.controller.check()
        return result.response

    def register(self, broker_id, *, incarnation=b"a", directory=None, previous=None, cluster_id=CLUSTER_ID, rack=""):
        return self.do(
            RegisterBroker(
                cluster_id=cluster_id,
                broker_id=broker_id,
                incarnation_id=incarnation,
                directory_id=directory or b"disk%d" % broker_id,
                host="127.0.0.1",
                grpc_port=1,
                lane_port=2,
                http_port=3,
                rack=rack,
                previous_broker_epoch=previous,
            )
        ).broker_epoch

    def epoch(self, broker_id):
        return self.image.brokers[broker_id].broker_epoch

    def beat(self, broker_id, *, offset=None, **options):
        return self.do(
            Heartbeat(
                broker_id=broker_id,
                broker_epoch=self.epoch(broker_id),
                metadata_offset=self.index if offset is None else offset,
                **options,
            )
        )

    def join(self, broker_id, **options):
        self.register(broker_id, **options)
        self.beat(broker_id)

    def fence(self, broker_id):
        self.do(FenceBroker(broker_id=broker_id, broker_epoch=self.epoch(broker_id), reason="test"))

    def crash(self, broker_id):
        """The process dies and the controller has proof of it."""
        self.controller.sessions.dropped(broker_id, broker_epoch=self.epoch(broker_id), now_ms=self.now_ms)
        self.controller.sessions.gone(broker_id, broker_epoch=self.epoch(broker_id))
        self.run_due()

    def restart(self, broker_id, *, clean=False, incarnation=b"b", directory=None):
        previous = self.epoch(broker_id) if clean else None
        self.register(broker_id, incarnation=incarnation, directory=directory, previous=previous)
        self.beat(broker_id)

    def run_due(self):
        for request in self.controller.due(self.now_ms):
            self.do(request)

    def topic(self, name="t", *, assignments=((0, 1, 2),), **config):
        (result,) = self.do(
            CreateTopics(
                topics=(
                    NewTopic(
                        name=name,
                        assignments=assignments,
                        config={key.replace("_", "."): value for key, value in config.items()},
                    ),
                )
            )
        )
        assert result.error is None, result.error
        return result.topic_id

    def part(self, name="t", index=0):
        return self.image.topic_by_name(name).partitions[index]

    def alter(self, in_sync, *, name="t", sender=None, epochs=None, **changes):
        """Propose in-sync replicas as the leader would; `epochs` replaces broker epochs of members."""
        part = self.part(name)
        sender = part.leader_id if sender is None else sender
        members = tuple(
            IsrMember(
                broker_id=member,
                broker_epoch=(epochs or {}).get(member, self.epoch(member) if member in self.image.brokers else 0),
            )
            for member in in_sync
        )
        fields = {
            "topic_id": part.topic_id,
            "partition": part.partition,
            "leader_epoch": part.leader_epoch,
            "partition_epoch": part.partition_epoch,
            "new_in_sync_replicas": members,
            **changes,
        }
        (result,) = self.do(
            AlterPartitions(broker_id=sender, broker_epoch=self.epoch(sender), partitions=(AlterPartition(**fields),))
        )
        return result
