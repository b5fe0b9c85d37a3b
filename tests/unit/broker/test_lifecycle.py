"""A broker's registration and session against a controller that the test plays."""

from __future__ import annotations

import asyncio

import pytest

from logcluster.broker.lifecycle import BrokerIdentity, BrokerLifecycle
from logcluster.broker.metadata_loader import MetadataLoader
from logcluster.core.metadata.records import BrokerChangeRecord, ClusterRecord, RegisterBrokerRecord
from logcluster.model.errors import DuplicateBrokerRegistration, InconsistentClusterId, StaleBrokerEpoch
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.model.invariants import InvariantViolation
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2 as pb
from logcluster.wire.records import encode_batch


class LeapingClock:
    """Sleeping moves time and takes none."""

    def __init__(self):
        self.ms = 0

    def now_ms(self):
        return self.ms

    def monotonic_ms(self):
        return self.ms

    async def sleep_ms(self, delay_ms):
        self.ms += delay_ms
        await asyncio.sleep(0)


class SessionCall:
    """One session, answered by a script: each heartbeat is handed to it and gives messages or an error."""

    def __init__(self, requests, script):
        self.requests = requests
        self.script = script

    async def __aiter__(self):
        async for request in self.requests:
            answer = self.script(request)
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                yield answer

    def cancel(self):
        pass


class FakeClient:
    """Plays controller client and channel."""

    def __init__(self):
        self.broker_epoch = None
        self.controller_id = 3
        self.registrations = []
        self.outcomes = []
        self.script = lambda request: None
        self.noted = []

    async def register(self, request):
        self.registrations.append(request)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def find(self):
        return self

    def note_failure(self, error):
        self.noted.append(error)

    def unary_unary(self, path, **_details):
        return None

    def stream_stream(self, path, **_details):
        return lambda requests: SessionCall(requests, self.script)


class World:
    def __init__(self):
        self.client = FakeClient()
        self.loader = MetadataLoader()
        self.fatal = []
        self.clock = LeapingClock()
        self.ended = asyncio.Event()
        identity = BrokerIdentity(
            cluster_id="c",
            broker_id=1,
            incarnation_id=b"i",
            directory_id=b"d",
            host="h",
            grpc_port=1,
            lane_port=2,
            http_port=3,
        )
        self.lifecycle = BrokerLifecycle(
            identity=identity,
            previous_broker_epoch=5,
            client=self.client,
            loader=self.loader,
            clock=self.clock,
            on_fatal=self.on_fatal,
            heartbeat_interval_ms=1,
        )

    def on_fatal(self, error):
        self.fatal.append(error)
        self.ended.set()


REGISTERED = RegisterBrokerRecord(
    broker_id=1,
    broker_epoch=8,
    incarnation_id=b"i",
    directory_id=b"d",
    host="h",
    grpc_port=1,
    lane_port=2,
    http_port=3,
)


def entry(index, *records):
    return pb.MetadataEntry(index=index, term=1, payload=encode_batch(records))


async def test_a_broker_of_another_cluster_ends_at_once():
    world = World()
    world.client.outcomes = [InconsistentClusterId()]
    async with world.lifecycle:
        await world.ended.wait()
    assert len(world.client.registrations) == 1
    assert isinstance(world.fatal[0], InconsistentClusterId)


async def test_a_duplicate_waits_for_its_predecessor_and_gives_up_after_some_seconds():
    world = World()
    world.client.outcomes = [DuplicateBrokerRegistration()]
    async with world.lifecycle:
        await world.ended.wait()
    assert isinstance(world.fatal[0], DuplicateBrokerRegistration)
    assert 5_000 <= world.clock.ms <= 7_000


async def test_a_restarted_broker_becomes_active_once_it_has_applied_the_log():
    world = World()
    world.client.outcomes = [DuplicateBrokerRegistration(), 8]
    offsets = []

    def script(request):
        offsets.append(request.metadata_offset)
        if request.metadata_offset < 8:
            return pb.BrokerSessionResponse(
                entries=[entry(7, ClusterRecord(cluster_id="c")), entry(8, REGISTERED)], is_fenced=True
            )
        return pb.BrokerSessionResponse(
            entries=[entry(9, BrokerChangeRecord(broker_id=1, broker_epoch=8, fenced=False))], is_fenced=False
        )

    world.client.script = script
    async with world.lifecycle:
        assert await world.lifecycle.wait_active(timeout_ms=5_000)
        assert world.lifecycle.is_connected
    assert offsets[:2] == [0, 8]
    assert world.client.registrations[0].previous_broker_epoch == 5
    assert world.client.broker_epoch == 8
    assert not world.loader.image.brokers[1].is_fenced
    assert world.fatal == []


async def test_a_stale_epoch_makes_the_broker_register_again_with_the_epoch_it_had():
    world = World()
    world.client.outcomes = [8, 12]

    def script(request):
        if request.broker_epoch == 8:
            return StaleBrokerEpoch()
        return pb.BrokerSessionResponse(is_fenced=False)

    world.client.script = script
    async with world.lifecycle:
        assert await world.lifecycle.wait_active(timeout_ms=5_000)
    assert [request.previous_broker_epoch for request in world.client.registrations] == [5, 8]
    assert world.lifecycle.broker_epoch == 12


async def test_metadata_that_cannot_be_applied_is_fatal():
    world = World()
    world.client.outcomes = [8]
    world.client.script = lambda request: pb.BrokerSessionResponse(
        entries=[pb.MetadataEntry(index=1, term=1, payload=b"\xff\xff")]
    )
    async with world.lifecycle:
        await world.ended.wait()
    assert isinstance(world.fatal[0], InvariantViolation)


async def test_a_shutdown_waits_for_the_controllers_word():
    world = World()
    world.client.outcomes = [8]
    world.client.script = lambda request: pb.BrokerSessionResponse(may_shut_down=request.want_shutdown)
    async with world.lifecycle:
        await world.lifecycle.wait_active(timeout_ms=5_000)
        assert await world.lifecycle.shut_down(timeout_ms=5_000)
    mute = World()
    mute.client.outcomes = [8]
    mute.client.script = lambda request: pb.BrokerSessionResponse()
    async with mute.lifecycle:
        await mute.lifecycle.wait_active(timeout_ms=5_000)
        assert not await mute.lifecycle.shut_down(timeout_ms=50)


async def test_a_broker_without_its_log_directory_waits_for_nobody():
    world = World()
    world.client.outcomes = [8]
    world.client.script = lambda request: pb.BrokerSessionResponse(is_fenced=request.log_directory_failed)
    async with world.lifecycle:
        await world.lifecycle.wait_active(timeout_ms=5_000)
        world.lifecycle.report_log_directory_failure()
        async with asyncio.timeout(5):
            assert await world.lifecycle.shut_down(timeout_ms=60_000)


async def test_the_loader_skips_what_it_has_and_tells_all_followers_in_order():
    class Follower:
        def __init__(self):
            self.seen = []

        def on_metadata(self, image, delta):
            self.seen.append((image.offset, delta.changed_broker_ids))

    loader, early, late = MetadataLoader(), Follower(), Follower()
    loader.subscribe(early)
    loader.apply_entries([entry(3, REGISTERED)])
    loader.subscribe(late)
    loader.apply_entries([entry(2, ClusterRecord(cluster_id="x")), entry(3, REGISTERED)])
    loader.apply_entries([entry(4, ClusterRecord(cluster_id="c")), entry(6, ClusterRecord(cluster_id="c"))])
    assert early.seen == [(3, (1,)), (6, ())]
    assert late.seen == early.seen
    assert loader.image.cluster_id == "c"
    old = pb.MetadataSnapshotTransfer(index=5, term=1)
    loader.load_snapshot(old)
    assert loader.image.offset == 6
    assert await loader.wait_until(lambda image: image.offset >= 6, timeout_ms=1)
    assert not await loader.wait_until(lambda image: image.offset > 6, timeout_ms=1)


@pytest.mark.parametrize("failed", [True, False])
async def test_a_failed_log_directory_is_told_with_every_heartbeat(failed):
    world = World()
    world.client.outcomes = [8]
    told = asyncio.Event()

    def script(request):
        if request.log_directory_failed == failed:
            told.set()
        return pb.BrokerSessionResponse(is_fenced=True)

    world.client.script = script
    if failed:
        world.lifecycle.report_log_directory_failure()
    async with world.lifecycle:
        await told.wait()
    assert not world.fatal


async def test_damaged_replicas_are_told_at_once_and_with_every_heartbeat():
    world = World()
    world.client.outcomes = [8]
    key = TopicIdPartition(TopicId(b"t" * 16), 3)
    failed = {}
    heard = []
    enough = asyncio.Event()

    def script(request):
        heard.append([(item.topic_id, item.partition, item.leader_epoch) for item in request.failed_replicas])
        if len(heard) == 1:
            failed[key] = 7
            lifecycle.heartbeat_soon()
        elif len(heard) == 3:
            del failed[key]
            lifecycle.heartbeat_soon()
        elif len(heard) == 4:
            enough.set()
        else:
            lifecycle.heartbeat_soon()
        return pb.BrokerSessionResponse(is_fenced=True)

    world.client.script = script
    # With an interval this long, whatever comes was asked for.
    lifecycle = BrokerLifecycle(
        identity=world.lifecycle._identity,
        previous_broker_epoch=None,
        client=world.client,
        loader=world.loader,
        clock=world.clock,
        on_fatal=world.on_fatal,
        failed_replicas=lambda: failed,
        heartbeat_interval_ms=60_000,
        session_timeout_ms=60_000,
    )
    async with lifecycle:
        await enough.wait()
    assert heard == [[], [(b"t" * 16, 3, 7)], [(b"t" * 16, 3, 7)], []]
