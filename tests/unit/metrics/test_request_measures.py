"""Calls are counted, timed and sized on both carriers, however they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from logcluster.metrics.catalogue import CATALOGUE
from logcluster.metrics.exposition import Sink
from logcluster.metrics.requests import MeasuringInterceptor, RequestMeasures
from logcluster.model.errors import NotLeaderOrFollower
from logcluster.model.ids import Endpoint
from logcluster.rpc.channels import ChannelPool
from logcluster.rpc.grpc_carrier import build_grpc_server
from logcluster.rpc.interceptors import answered_directly_by
from logcluster.rpc.lane.server import LaneServer
from logcluster.runtime.clock import SystemClock
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb, data_pb2_grpc, groups_pb2, groups_pb2_grpc


class Data(data_pb2_grpc.DataServiceServicer):
    """Answers Produce directly, refuses or never answers Fetch, has a bug in ListOffsets."""

    @answered_directly_by("produce_directly")
    async def Produce(self, request: Any, context: Any) -> Any:
        return pb.ProduceResponse()

    def produce_directly(self, request: Any, answer: Callable[[Any], None]) -> None:
        answer(pb.ProduceResponse())

    async def Fetch(self, request: Any, context: Any) -> Any:
        if request.max_wait_ms:
            await asyncio.Event().wait()
        raise NotLeaderOrFollower("broker 2 leads it", leader_id=2)

    async def ListOffsets(self, request: Any, context: Any) -> Any:
        raise RuntimeError("a bug")


class Groups(groups_pb2_grpc.GroupServiceServicer):
    """Streams three messages."""

    async def WatchMembership(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for _ in range(3):
            yield groups_pb2.WatchMembershipResponse()


@contextlib.asynccontextmanager
async def served(transport: Any) -> AsyncIterator[tuple[Any, RequestMeasures]]:
    clock, measures = SystemClock(), RequestMeasures(transport)
    server: Any
    if transport == "lane":
        server = LaneServer(clock=clock)
        server.measures = measures
    else:
        server = build_grpc_server(clock=clock, interceptors=(MeasuringInterceptor(measures),))
    data_pb2_grpc.add_DataServiceServicer_to_server(Data(), server)
    groups_pb2_grpc.add_GroupServiceServicer_to_server(Groups(), server)
    port = await server.start("127.0.0.1", 0)
    pool = ChannelPool(clock=clock, transport=transport)
    try:
        yield pool.channel(Endpoint("127.0.0.1", port)), measures
    finally:
        await pool.close()
        await server.stop(0)


def samples(measures: RequestMeasures) -> dict[tuple[str, ...], float]:
    """Values by name and labels other than the transport, without the buckets."""
    sink = Sink(CATALOGUE.values())
    measures.collect(sink)
    found = {}
    for family in sink.families:
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                labels = {name: value for name, value in sample.labels.items() if name != "transport"}
                found[sample.name.removeprefix("logcluster_broker_"), *labels.values()] = sample.value
    return found


@pytest.mark.parametrize("transport", ["lane", "grpc"])
async def test_answers_refusals_bugs_and_cancellations_are_told_apart(transport: str) -> None:
    async with served(transport) as (channel, measures):
        stub: Any = data_pb2_grpc.DataServiceStub(channel)
        request = pb.ProduceRequest(partitions=[pb.PartitionProduce(topic="t", batch=b"x" * 1000)])
        for _ in range(3):
            await stub.Produce(request, timeout=5)
        for call in (stub.Fetch(pb.FetchRequest(), timeout=5), stub.ListOffsets(pb.ListOffsetsRequest(), timeout=5)):
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        waiting = stub.Fetch(pb.FetchRequest(max_wait_ms=5), timeout=5)
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.sleep(0.1)
        found = samples(measures)
    assert found["requests_total", "Produce", "OK"] == 3
    assert found["request_bytes_total", "Produce"] == 3 * request.ByteSize()
    assert found["response_bytes_total", "Produce"] == 0
    assert found["request_duration_seconds_count", "Produce"] == 3
    assert 0 < found["request_duration_seconds_sum", "Produce"] < 3
    assert found["requests_total", "Fetch", "FAILED_PRECONDITION"] == 1
    assert found["requests_total", "Fetch", "CANCELLED"] == 1
    assert found["requests_total", "ListOffsets", "INTERNAL"] == 1
    assert found["request_duration_seconds_count", "Fetch"] == 0, "only answers are timed"


@pytest.mark.parametrize("transport", ["lane", "grpc"])
async def test_streams_are_counted_and_neither_timed_nor_sized(transport: str) -> None:
    async with served(transport) as (channel, measures):
        stub: Any = groups_pb2_grpc.GroupServiceStub(channel)
        request = groups_pb2.WatchMembershipRequest(group="billing", member_id="m")
        assert len([one async for one in stub.WatchMembership(request, timeout=5)]) == 3
        await asyncio.sleep(0.05)
        found = samples(measures)
    assert found["requests_total", "WatchMembership", "OK"] == 1
    assert ("request_bytes_total", "WatchMembership") not in found
    assert ("request_duration_seconds_count", "WatchMembership") not in found


async def test_a_deadline_that_passed_is_no_success() -> None:
    async with served("lane") as (channel, measures):
        stub: Any = data_pb2_grpc.DataServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Fetch(pb.FetchRequest(max_wait_ms=5), timeout=0.05)
        await asyncio.sleep(0.1)
        found = samples(measures)
    refused = {key[2]: value for key, value in found.items() if key[:2] == ("requests_total", "Fetch")}
    assert refused.pop("OK") == 0
    assert sum(refused.values()) == 1 and set(refused) <= {"DEADLINE_EXCEEDED", "CANCELLED"}


async def test_a_method_that_is_not_implemented_counts_as_such() -> None:
    async with served("grpc") as (channel, measures):
        stub: Any = data_pb2_grpc.DataServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.InitProducerId(pb.InitProducerIdRequest(), timeout=5)
        assert samples(measures)["requests_total", "InitProducerId", "UNIMPLEMENTED"] == 1
