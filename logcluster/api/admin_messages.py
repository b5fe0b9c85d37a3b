"""Protobuf <-> the controller's requests and results of administration."""

from __future__ import annotations

from logcluster.core.controller.requests import (
    AlterTopicConfig,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    ElectLeaders,
    ElectResult,
    NewTopic,
    TopicResult,
)
from logcluster.wire.gen.logcluster.v1 import admin_pb2 as pb
from logcluster.wire.status import error_detail


def create_topics(request: pb.CreateTopicsRequest) -> CreateTopics:
    """Read a request to create topics."""
    return CreateTopics(
        topics=tuple(
            NewTopic(
                name=topic.name,
                partitions=topic.partitions,
                replication_factor=topic.replication_factor,
                config=dict(topic.config),
                assignments=tuple(tuple(assignment.broker_ids) for assignment in topic.assignments),
            )
            for topic in request.topics
        ),
        validate_only=request.validate_only,
    )


def delete_topics(request: pb.DeleteTopicsRequest) -> DeleteTopics:
    """Read a request to delete topics."""
    return DeleteTopics(names=tuple(request.names), validate_only=request.validate_only)


def create_partitions(request: pb.CreatePartitionsRequest) -> CreatePartitions:
    """Read a request to grow a topic."""
    return CreatePartitions(
        topic=request.topic,
        partitions=request.partitions,
        assignments=tuple(tuple(assignment.broker_ids) for assignment in request.assignments),
        validate_only=request.validate_only,
    )


def alter_topic_config(request: pb.AlterTopicConfigRequest) -> AlterTopicConfig:
    """Read a request to change settings."""
    return AlterTopicConfig(
        topic=request.topic,
        set_values=dict(request.set),
        unset_keys=tuple(request.unset),
        validate_only=request.validate_only,
    )


def elect_leaders(request: pb.ElectLeadersRequest) -> ElectLeaders:
    """Read a request to elect leaders; no partition named means every one that needs it."""
    partitions = tuple((item.topic, item.partition) for item in request.partitions)
    return ElectLeaders(partitions=partitions or None, unclean=request.unclean)


def topic_result(result: TopicResult) -> pb.TopicResult:
    """Write what became of one topic."""
    return pb.TopicResult(
        name=result.name,
        topic_id=result.topic_id or b"",
        partitions=result.partitions,
        replication_factor=result.replication_factor,
        error=None if result.error is None else error_detail(result.error),
    )


def elect_result(result: ElectResult) -> pb.ElectResult:
    """Write the outcome of one election."""
    return pb.ElectResult(
        topic=result.topic,
        partition=result.partition,
        leader_id=result.leader_id,
        error=None if result.error is None else error_detail(result.error),
    )
