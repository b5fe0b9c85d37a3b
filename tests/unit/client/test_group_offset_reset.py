"""Setting the offsets of a group to a place in the logs, against coordinators in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from fake_cluster import lost
from group_cluster import FIRST_RECORD_MS, after, cluster_with_records, committed

from logcluster.client.group_descriptions import Shift
from logcluster.client.group_reset import normalize_reset_point
from logcluster.client.records import Timestamp
from logcluster.model import errors


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("beginning", {0: 2, 1: 0}),
        ("end", {0: 30, 1: 10}),
        (5, {0: 5, 1: 5}),
        (20, {0: 20, 1: 10}),
        (0, {0: 2, 1: 0}),
        (Shift(-3), {0: 5, 1: 1}),
        ("+4", {0: 12, 1: 8}),
        ("-100", {0: 2, 1: 0}),
        (Timestamp(FIRST_RECORD_MS + 6_500), {0: 7, 1: 7}),
        (datetime.fromtimestamp(FIRST_RECORD_MS / 1000 + 25, UTC), {0: 25, 1: 10}),
    ],
)
async def test_reset_leads_to_the_place_or_the_nearest_one_in_the_log(to: Any, expected: dict[int, int]) -> None:
    cluster = cluster_with_records(30, 10, 10)
    cluster.topics["t"][0].log_start_offset = 2
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 8)
    cluster.commit("g", "t", 1, 4)

    async with cluster.client() as client:
        preview = await client.admin.groups.reset("g", to=to, dry_run=True)
        assert committed(cluster) == {0: 8, 1: 4}
        changes = await client.admin.groups.reset("g", to=to)

    assert changes == preview
    assert [change.before for change in changes] == [8, 4]
    assert after(changes) == committed(cluster) == expected


async def test_reset_says_which_places_lie_outside_of_the_log() -> None:
    cluster = cluster_with_records(30, 10)
    cluster.add_group("g")

    async with cluster.client() as client:
        changes = await client.admin.groups.reset("g", to=20, topics=["t"])

    assert [(change.partition, change.before, change.after, change.is_clamped) for change in changes] == [
        (0, None, 20, False),
        (1, None, 10, True),
    ]


async def test_reset_of_named_partitions_leaves_the_others_and_may_make_the_group() -> None:
    cluster = cluster_with_records(30, 10, 10)

    async with cluster.client() as client:
        await client.admin.groups.reset("new", to="end", topics={"t": [2, 0]})
        with pytest.raises(errors.GroupIdNotFound):
            await client.admin.groups.reset("newer", to="end")

    assert committed(cluster, "new") == {0: 30, 2: 10}
    assert "newer" not in cluster.groups


async def test_reset_leaves_offsets_of_a_deleted_topic_alone() -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4, topic_id=b"x" * 16)

    async with cluster.client() as client:
        assert await client.admin.groups.reset("g", to="beginning") == []
    assert cluster.count("CommitOffsets") == 0


@pytest.mark.parametrize("dry_run", [True, False])
async def test_reset_of_a_group_with_members_is_refused(dry_run: bool) -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)
    cluster.add_member("g", "m1", "t", [0])

    async with cluster.client() as client:
        with pytest.raises(errors.NonEmptyGroup, match="1 members"):
            await client.admin.groups.reset("g", to="end", dry_run=dry_run)
    assert committed(cluster) == {0: 4}


async def test_member_that_joins_during_a_reset_keeps_its_offsets() -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)

    async def join(broker_id: int, method: str, request: Any) -> None:
        if method == "CommitOffsets":
            cluster.add_member("g", "m1", "t", [0])

    async with cluster.client() as client:
        cluster.before = join
        with pytest.raises(errors.NonEmptyGroup):
            await client.admin.groups.reset("g", to="end")
    assert committed(cluster) == {0: 4}


async def test_refusal_after_an_attempt_that_may_have_set_offsets_is_not_called_definite() -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    losses = 0

    async def lose_one_then_join(broker_id: int, method: str, request: Any) -> None:
        nonlocal losses
        if method == "CommitOffsets" and not losses:
            losses += 1
            cluster.add_member("g", "m1", "t", [0])
            raise lost()

    async with cluster.client() as client:
        cluster.after = lose_one_then_join
        with pytest.raises(errors.RequestTimedOut) as caught:
            await client.admin.groups.alter_offsets("g", {("t", 0): 4})
    assert not caught.value.definite
    assert committed(cluster) == {0: 4}


@pytest.mark.parametrize(
    ("options", "error_type"),
    [
        ({"to": "end", "topics": ["nowhere"]}, errors.UnknownTopicOrPartition),
        ({"to": "end", "topics": {"t": [0, 7]}}, errors.UnknownTopicOrPartition),
        ({"to": "end", "topics": "t"}, errors.InvalidRequest),
        ({"to": Shift(1), "topics": {"t": [1]}}, errors.InvalidRequest),
        ({"to": "tomorrow"}, errors.InvalidRequest),
        ({"to": -1}, errors.InvalidRequest),
        ({"to": True}, errors.InvalidRequest),
        ({"to": None}, errors.InvalidRequest),
    ],
)
async def test_impossible_reset_changes_nothing(options: Any, error_type: type[Exception]) -> None:
    cluster = cluster_with_records(10, 10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)

    async with cluster.client() as client:
        with pytest.raises(error_type):
            await client.admin.groups.reset("g", **options)
    assert committed(cluster) == {0: 4}


def test_texts_and_numbers_become_places() -> None:
    assert normalize_reset_point("beginning") == "earliest"
    assert normalize_reset_point("end") == "latest"
    assert isinstance(normalize_reset_point("+3"), Shift)
    assert not isinstance(normalize_reset_point(3), Shift)
