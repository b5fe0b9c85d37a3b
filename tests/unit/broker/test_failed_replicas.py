"""What a broker remembers of its damaged replicas, and when a new log may take the place of a damaged one."""

from __future__ import annotations

from typing import Any

import pytest

from logcluster.broker.failed_replicas import FailedReplicas
from logcluster.core.metadata.image import PartitionRegistration
from logcluster.model.ids import TopicId, TopicIdPartition

TOPIC_ID = TopicId(b"t" * 16)
KEY = TopicIdPartition(TOPIC_ID, 0)


class Changes:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def registration(leader_id: int | None = 2, **fields: Any) -> PartitionRegistration:
    known: dict[str, Any] = {
        "topic_id": TOPIC_ID,
        "partition": 0,
        "replicas": (1, 2, 3),
        "in_sync_replicas": (2, 3) if leader_id is not None else (),
        "eligible_leader_replicas": (),
        "last_known_leaders": (),
        "leader_id": leader_id,
        "leader_epoch": 5,
        "partition_epoch": 7,
        "is_recovering": False,
    }
    return PartitionRegistration(**{**known, **fields})


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def failed(changes: Changes) -> FailedReplicas:
    return FailedReplicas(broker_id=1, on_change=changes)


def test_the_newest_leader_epoch_is_reported_and_news_is_told_once(failed: FailedReplicas, changes: Changes) -> None:
    failed.note(registration(leader_epoch=5), last_epoch=5)
    assert (dict(failed.reports), changes.count) == ({KEY: 5}, 1)
    failed.note(registration(leader_epoch=5))
    assert changes.count == 1
    failed.note(registration(leader_epoch=6))
    assert (dict(failed.reports), changes.count) == ({KEY: 6}, 2)
    failed.note(registration(leader_epoch=4))
    assert (dict(failed.reports), changes.count) == ({KEY: 6}, 2)


def test_what_is_forgotten_is_told_once(failed: FailedReplicas, changes: Changes) -> None:
    failed.forget(KEY)
    assert changes.count == 0
    failed.note(registration(), last_epoch=5)
    failed.forget(KEY)
    failed.forget(KEY)
    assert (dict(failed.reports), changes.count) == ({}, 2)
    assert failed.may_begin_anew(registration()), "nothing is remembered of the log before"


@pytest.mark.parametrize("counted", ["in_sync_replicas", "eligible_leader_replicas", "last_known_leaders"])
def test_a_replica_that_somebody_counts_on_is_kept(failed: FailedReplicas, counted: str) -> None:
    assert failed.may_begin_anew(registration())
    members = (2, 1) if counted == "in_sync_replicas" else (1,)
    assert not failed.may_begin_anew(registration(**{counted: members}))


def test_nothing_is_replaced_while_there_is_nobody_to_fetch_from(failed: FailedReplicas) -> None:
    assert not failed.may_begin_anew(registration(None))


def test_a_log_used_in_this_leader_epoch_is_replaced_only_in_a_later_one(failed: FailedReplicas) -> None:
    failed.note(registration(leader_epoch=5), last_epoch=5)
    assert not failed.may_begin_anew(registration(leader_epoch=5))
    failed.note(registration(leader_epoch=6, in_sync_replicas=(1, 2)))
    assert failed.may_begin_anew(registration(leader_epoch=6)), "it was never used in epoch 6"


def test_a_log_that_this_process_never_used_is_replaced_at_once(failed: FailedReplicas) -> None:
    failed.note(registration(in_sync_replicas=(1, 2)))
    assert failed.may_begin_anew(registration())
