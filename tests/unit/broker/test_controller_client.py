"""Finding the active controller and calling it: redirections, retries, unknown outcomes."""

from __future__ import annotations

import asyncio
from random import Random

import grpc
import pytest

from logcluster.broker.controller_client import ControllerClient
from logcluster.model.errors import Disconnected, InvalidRequest, NotController, StaleBrokerEpoch
from logcluster.model.ids import Endpoint
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2

VOTERS = {node_id: Endpoint("127.0.0.1", 7000 + node_id) for node_id in range(3)}
PROBE = "/logcluster.internal.v1.NodeService/Probe"


class LeapingClock:
    """Sleeping moves time and takes none."""

    def __init__(self):
        self.ms = 0
        self.naps = 0

    def now_ms(self):
        return self.ms

    def monotonic_ms(self):
        return self.ms

    async def sleep_ms(self, delay_ms):
        self.naps += 1
        self.ms += max(1, delay_ms)
        await asyncio.sleep(0)


class FakeChannel:
    """Answers probes by what its node believes; None does not answer."""

    def __init__(self, node_id):
        self.node_id = node_id
        self.view = None
        self.is_up = True
        self.probes = 0

    def unary_unary(self, path, **_details):
        async def call(request, *, timeout=None, metadata=None):
            assert path == PROBE
            self.probes += 1
            await asyncio.sleep(0)
            if not self.is_up:
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
            controller_id, term = self.view or (None, 0)
            return controller_pb2.ProbeResponse(node_id=self.node_id, controller_id=controller_id, term=term)

        return call

    def stream_stream(self, path, **_details):
        return None


class World:
    def __init__(self):
        self.by_endpoint = {endpoint: FakeChannel(node_id) for node_id, endpoint in VOTERS.items()}
        self.nodes = {channel.node_id: channel for channel in self.by_endpoint.values()}
        self.clock = LeapingClock()
        self.client = ControllerClient(
            cluster_id="c", voters=VOTERS, channels=self, clock=self.clock, random=Random(1), broker_id=1
        )

    def channel(self, endpoint):
        return self.by_endpoint[endpoint]


@pytest.fixture
async def world():
    world = World()
    yield world
    await world.client.close()


async def test_the_newest_term_names_the_controller(world):
    world.nodes[0].view = (1, 4)
    world.nodes[1].is_up = False
    world.nodes[2].view = (2, 5)
    assert (await world.client.find()).node_id == 2
    assert world.client.controller_id == 2


async def test_discovery_runs_once_for_all_who_wait(world):
    world.nodes[1].view = (1, 1)
    found = [asyncio.ensure_future(world.client.find()) for _ in range(5)]
    assert {(await one).node_id for one in found} == {1}
    assert all(channel.probes == 1 for channel in world.nodes.values())


async def test_a_redirection_is_followed_at_once_but_a_circle_is_slowed_down(world):
    world.nodes[0].view = (0, 1)
    calls = []

    async def send(channel, timeout):
        calls.append(channel.node_id)
        raise NotController(leader_id=1 - channel.node_id)

    with pytest.raises(NotController):
        await world.client.call(send, timeout_ms=500, retry_unknown=True)
    assert calls[:2] == [0, 1]
    assert len(calls) <= 2 * (world.clock.naps + 1)


async def test_an_unknown_outcome_is_tried_again_only_where_that_does_no_harm(world):
    world.nodes[0].view = (0, 1)
    calls = []

    async def send(channel, timeout):
        calls.append(channel.node_id)
        if len(calls) == 1:
            raise Disconnected
        return "done"

    with pytest.raises(Disconnected):
        await world.client.call(send, timeout_ms=1_000, retry_unknown=False)
    calls.clear()
    assert await world.client.call(send, timeout_ms=1_000, retry_unknown=True) == "done"


async def test_an_answer_of_the_controller_is_not_tried_again(world):
    world.nodes[0].view = (0, 1)
    calls = []

    async def send(channel, timeout):
        calls.append(channel.node_id)
        raise InvalidRequest

    with pytest.raises(InvalidRequest):
        await world.client.call(send, timeout_ms=1_000, retry_unknown=True)
    assert calls == [0]


async def test_an_attempt_of_unknown_outcome_is_not_forgotten_when_the_time_is_over(world):
    world.nodes[0].view = (0, 1)

    async def send(channel, timeout):
        world.nodes[0].view = None
        raise Disconnected

    with pytest.raises(Disconnected) as caught:
        await world.client.call(send, timeout_ms=500, retry_unknown=True)
    assert not caught.value.definite


async def test_without_a_controller_the_refusal_is_definite(world):
    async def send(channel, timeout):
        raise AssertionError("nobody to send to")

    with pytest.raises(NotController) as caught:
        await world.client.call(send, timeout_ms=300, retry_unknown=True)
    assert caught.value.definite
    with pytest.raises(StaleBrokerEpoch):
        await world.client.allocate_producer_ids()


async def test_a_lost_proposal_of_in_sync_replicas_is_not_repeated_behind_its_sender(world):
    """A refusal of the second copy would hide that nobody knows what became of the first."""
    world.nodes[0].view = (0, 1)
    answer_probe = world.nodes[0].unary_unary
    calls = []

    def unary_unary(path, **details):
        if path == PROBE:
            return answer_probe(path, **details)

        async def call(request, *, timeout=None, metadata=None):
            calls.append(request)
            raise Disconnected

        return call

    world.nodes[0].unary_unary = unary_unary
    with pytest.raises(Disconnected):
        await world.client.alter_partitions(controller_pb2.AlterPartitionsRequest(broker_id=1), timeout_ms=1_000)
    assert len(calls) == 1
