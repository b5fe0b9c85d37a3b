"""What a run's clients do is drawn from a seed, survives JSON, and always keeps the strictest promises under test."""

from __future__ import annotations

import json
import random

import pytest

from logcluster.core.metadata.topic_config import validate_overrides
from logcluster.sim.workload.administering import AdministeringActor
from logcluster.sim.workload.options import WorkloadOptions

SEEDS = range(200)


def drawn(seed: int, *, brokers: int = 3) -> WorkloadOptions:
    return WorkloadOptions.draw(random.Random(seed), brokers=brokers)


def test_options_survive_json() -> None:
    for seed in SEEDS:
        options = drawn(seed)
        assert WorkloadOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_what_is_no_workload_is_refused() -> None:
    data = drawn(1).to_dict()
    data["producers"][0]["records_per_s"] = "many"
    with pytest.raises(ValueError, match="records_per_s"):
        WorkloadOptions.from_dict(data)


def test_the_same_seed_draws_the_same() -> None:
    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)


def test_every_run_has_a_strict_topic_and_an_idempotent_producer() -> None:
    for seed in SEEDS:
        options = drawn(seed)
        topic, producer = options.topics[0], options.producers[0]
        assert (topic.replication_factor, topic.min_isr, topic.is_durable, topic.is_trimmed) == (3, 2, True, False)
        assert (producer.acks, producer.idempotent) == ("all", True)
        assert options.consumers


def test_a_topic_is_what_its_config_says() -> None:
    for seed in SEEDS:
        for topic in drawn(seed).topics:
            validate_overrides(topic.config)
            assert topic.config["min.insync.replicas"] == str(topic.min_isr)
            assert topic.is_durable == ("flush.mode" not in topic.config)
            assert topic.is_trimmed or "retention.ms" not in topic.config


@pytest.mark.parametrize("brokers", [1, 2, 3, 5])
def test_no_topic_wants_more_replicas_than_there_are_brokers(brokers: int) -> None:
    for seed in SEEDS:
        for topic in drawn(seed, brokers=brokers).topics:
            assert topic.min_isr <= topic.replication_factor <= brokers


def test_the_swarm_varies() -> None:
    runs = [drawn(seed) for seed in SEEDS]
    producers = [producer for run in runs for producer in run.producers]
    assert {producer.acks for producer in producers} == {"all", "leader", "none"}
    assert {producer.compression for producer in producers} == {"none", "gzip", "snappy", "lz4", "zstd"}
    assert {producer.idempotent for producer in producers} == {True, False}
    assert {run.hostile is None for run in runs} == {run.admin is None for run in runs} == {True, False}
    assert {run.crash_probability > 0 for run in runs} == {True, False}
    topics = [topic for run in runs for topic in run.topics]
    assert {topic.is_durable for topic in topics} == {topic.is_trimmed for topic in topics} == {True, False}
    assert all(producer.idempotent is False for producer in producers if producer.acks != "all")


def test_every_admin_action_is_known_and_comes_up() -> None:
    drawn_actions = {action for seed in SEEDS if (admin := drawn(seed).admin) for action in admin.actions}
    known = {name.removeprefix("_") for name in vars(AdministeringActor)}
    assert drawn_actions <= known
    assert len(drawn_actions) == 7
