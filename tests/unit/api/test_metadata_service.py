"""What a broker says of the cluster, and when it says nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from logcluster.api.metadata_service import MetadataServicer
from logcluster.core.metadata.image import EMPTY
from logcluster.core.metadata.records import RegisterBrokerRecord
from logcluster.model.errors import NotReady
from logcluster.wire.gen.logcluster.v1 import metadata_pb2


def servicer(image: Any) -> MetadataServicer:
    return MetadataServicer(
        loader=cast("Any", SimpleNamespace(image=image)),
        client=cast("Any", SimpleNamespace(controller_id=1)),
        describe_quorum=lambda: None,
        node_status=metadata_pb2.GetNodeStatusResponse,
    )


async def test_a_broker_without_metadata_refuses_rather_than_to_name_no_topics() -> None:
    # Found by the simulator: clients took the empty answer of a starting broker for the deletion of all topics.
    with pytest.raises(NotReady) as refusal:
        await servicer(EMPTY).GetMetadata(metadata_pb2.GetMetadataRequest(all_topics=True), cast("Any", None))
    assert refusal.value.retriable


async def test_a_broker_with_metadata_answers() -> None:
    image, _ = EMPTY.apply(
        [
            RegisterBrokerRecord(
                broker_id=1,
                broker_epoch=1,
                incarnation_id=b"i" * 16,
                directory_id=b"d" * 16,
                host="a",
                grpc_port=1,
                lane_port=2,
                http_port=3,
                rack="",
            )
        ],
        offset=1,
        term=1,
    )
    answer = await servicer(image).GetMetadata(metadata_pb2.GetMetadataRequest(all_topics=True), cast("Any", None))
    assert [broker.broker_id for broker in answer.brokers] == [1]
