"""What ecosystem tools rely on: the standard health service and server reflection of a running broker."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from logcluster.testing import SyncCluster


async def test_the_standard_health_service_answers(cluster: SyncCluster) -> None:
    async with grpc.aio.insecure_channel(cluster.bootstrap.split(",")[0]) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_names_the_public_services_only(cluster: SyncCluster) -> None:
    async with grpc.aio.insecure_channel(cluster.bootstrap.split(",")[0]) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(timeout=10)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await call.done_writing()
        answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert {"logcluster.v1.DataService", "logcluster.v1.MetadataService", "logcluster.v1.AdminService"} <= names
    assert not any(name.startswith("logcluster.internal") for name in names)
