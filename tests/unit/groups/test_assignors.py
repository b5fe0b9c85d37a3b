"""Examples of assignments; what must hold for all of them is in tests/property/test_group_assignors.py."""

from __future__ import annotations

import pytest

from logcluster.core.coordinators.groups.assignors.ranges import range_assign
from logcluster.core.coordinators.groups.assignors.reader import Reader
from logcluster.core.coordinators.groups.assignors.registry import check_assignor, wished_assignor
from logcluster.core.coordinators.groups.assignors.uniform import uniform
from logcluster.model.errors import UnsupportedAssignor
from logcluster.model.ids import TopicId, TopicIdPartition


def assign(assignor, sizes: dict[str, int], members: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Topics and members by letters: `{"a": ("tu", "t0 u1")}` reads t and u, and has t0 and u1."""
    readers = {
        member_id: Reader(topics=frozenset(map(topic, topics)), has=frozenset(map(part, has.split())))
        for member_id, (topics, has) in members.items()
    }
    target = assignor(readers, {topic(name): size for name, size in sizes.items()})
    return {
        member_id: " ".join(f"{item.topic_id.decode()}{item.partition}" for item in sorted(partitions))
        for member_id, partitions in target.items()
    }


def topic(name: str) -> TopicId:
    return TopicId(name.encode())


def part(word: str) -> TopicIdPartition:
    return TopicIdPartition(topic(word[0]), int(word[1:]))


@pytest.mark.parametrize("assignor", [uniform, range_assign])
def test_nobody_and_nothing(assignor):
    assert assign(assignor, {"t": 3}, {}) == {}
    assert assign(assignor, {}, {"a": ("t", "t0")}) == {"a": ""}
    assert assign(assignor, {"t": 1}, {"a": ("", "t0"), "b": ("t", "")}) == {"a": "", "b": "t0"}


def test_uniform_deals_like_cards():
    members = {"a": ("tu", ""), "b": ("tu", "")}
    assert assign(uniform, {"t": 3, "u": 3}, members) == {"a": "t0 t2 u1", "b": "t1 u0 u2"}


def test_uniform_moves_only_what_a_newcomer_needs():
    members = {"a": ("t", "t0 t3 t5"), "b": ("t", "t1 t2 t4"), "c": ("t", "")}
    assert assign(uniform, {"t": 6}, members) == {"a": "t0 t3", "b": "t1 t2", "c": "t4 t5"}


def test_uniform_takes_from_the_topics_of_which_a_member_has_most():
    members = {"a": ("tu", "t0 t1 t2 t3 u0 u1"), "b": ("tu", "")}
    assert assign(uniform, {"t": 4, "u": 2}, members) == {"a": "t0 t1 u0", "b": "t2 t3 u1"}


def test_uniform_leaves_the_one_more_to_who_has_it():
    members = {"a": ("t", "t0"), "b": ("t", "t1 t2"), "c": ("t", "")}
    assert assign(uniform, {"t": 4}, members) == {"a": "t0", "b": "t1 t2", "c": "t3"}


def test_uniform_moves_along_a_chain_when_no_direct_move_helps():
    # `c` reads only v, of which `b` has all; `b` can make up for it from `a`, which has too much.
    members = {"a": ("t", "t0 t1 t2 t3 t4 t5"), "b": ("tv", "v0 v1 v2"), "c": ("v", "")}
    target = assign(uniform, {"t": 6, "v": 3}, members)
    assert sorted(len(text.split()) for text in target.values()) == [3, 3, 3]
    assert target["c"] == "v0 v1 v2"


def test_uniform_is_as_even_as_subscriptions_allow():
    members = {"a": ("t", ""), "b": ("tu", ""), "c": ("u", "")}
    target = assign(uniform, {"t": 8, "u": 1}, members)
    assert (len(target["a"].split()), len(target["b"].split()), target["c"]) == (4, 4, "u0")


def test_what_is_not_there_or_not_subscribed_any_more_is_dropped():
    members = {"a": ("t", "t0 t9 u0 x0"), "b": ("u", "t1")}
    assert assign(uniform, {"t": 2, "u": 1}, members) == {"a": "t0 t1", "b": "u0"}


def test_a_partition_that_two_have_stays_with_the_first():
    members = {"a": ("t", "t0"), "b": ("t", "t0 t1")}
    assert assign(uniform, {"t": 2}, members) == {"a": "t0", "b": "t1"}


def test_ranges_are_contiguous_and_go_together_over_topics():
    members = {"a": ("tu", ""), "b": ("tu", ""), "c": ("tu", "")}
    assert assign(range_assign, {"t": 5, "u": 3}, members) == {"a": "t0 t1 u0", "b": "t2 t3 u1", "c": "t4 u2"}


def test_ranges_are_made_of_subscribers_only():
    members = {"a": ("t", ""), "b": ("tu", ""), "c": ("u", "")}
    assert assign(range_assign, {"t": 3, "u": 4}, members) == {"a": "t0 t1", "b": "t2 u0 u1", "c": "u2 u3"}


def test_a_newcomers_range_is_the_last_one_whatever_its_name():
    members = {"b": ("t", "t0 t1"), "c": ("t", "t2 t3"), "a": ("t", "")}
    assert assign(range_assign, {"t": 6}, members) == {"b": "t0 t1", "c": "t2 t3", "a": "t4 t5"}


def test_assignors_by_name():
    check_assignor("")
    check_assignor("uniform")
    check_assignor("range")
    with pytest.raises(UnsupportedAssignor):
        check_assignor("Uniform")


@pytest.mark.parametrize(
    ("wishes", "present", "chosen"),
    [
        ([], "range", "range"),
        (["", ""], "uniform", "uniform"),
        (["range"], "uniform", "range"),
        (["range", "uniform"], "range", "range"),
        (["range", "uniform"], "uniform", "uniform"),
        (["range", "uniform", "uniform"], "range", "uniform"),
        ([], "of a newer version", "uniform"),
        (["of a newer version"], "range", "range"),
        (["range", "uniform"], "of a newer version", "range"),
    ],
)
def test_the_most_wished_for_assignor(wishes, present, chosen):
    assert wished_assignor(wishes, present) == chosen
