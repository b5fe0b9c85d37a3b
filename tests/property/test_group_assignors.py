"""Assignors for any members, subscriptions and former assignments.

Every partition that somebody reads has one reader, who subscribed to it; the order of the input means nothing. Uniform:
no chain of moves makes the loads more even; equal members differ by one at most, and lose no more than they must; an
assignment that is even already stays. Range: contiguous ranges in one order of members, which stays.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from logcluster.core.coordinators.groups.assignors.ranges import range_assign
from logcluster.core.coordinators.groups.assignors.reader import Reader
from logcluster.core.coordinators.groups.assignors.uniform import uniform
from logcluster.model.ids import TopicId, TopicIdPartition

TOPICS = [TopicId(name) for name in (b"t", b"u", b"v", b"w")]
MEMBERS = "abcdefg"
PARTITIONS_MAX = 9

Cases = tuple[dict[str, Reader], dict[TopicId, int]]


@st.composite
def cases(draw, *, equal: bool = False) -> Cases:
    sizes = draw(st.dictionaries(st.sampled_from(TOPICS), st.integers(1, PARTITIONS_MAX)))
    members = draw(st.lists(st.sampled_from(MEMBERS), unique=True))
    everything = draw(st.frozensets(st.sampled_from(TOPICS)))
    # Former assignments of any kind, also of partitions that are gone, not subscribed, or two members'.
    partition = st.builds(TopicIdPartition, st.sampled_from(TOPICS), st.integers(0, PARTITIONS_MAX + 1))
    readers = {
        member_id: Reader(
            topics=everything if equal else draw(st.frozensets(st.sampled_from(TOPICS))),
            has=draw(st.frozensets(partition, max_size=20)),
        )
        for member_id in members
    }
    return readers, sizes


def check_assignment(case: Cases, target) -> None:
    readers, sizes = case
    assert sorted(target) == sorted(readers)
    given_out = [item for partitions in target.values() for item in partitions]
    assert len(given_out) == len(set(given_out)), "a partition was given twice"
    for member_id, partitions in target.items():
        assert {item.topic_id for item in partitions} <= readers[member_id].topics
    subscribed = {topic_id for reader in readers.values() for topic_id in reader.topics}
    wanted = {
        TopicIdPartition(topic_id, number)
        for topic_id, size in sizes.items()
        if topic_id in subscribed
        for number in range(size)
    }
    assert set(given_out) == wanted


def keeps(readers: dict[str, Reader], sizes: dict[TopicId, int]) -> dict[str, set[TopicIdPartition]]:
    """What each member had and could keep; what two had is the first one's."""
    taken = set()
    result = {}
    for member_id in sorted(readers):
        reader = readers[member_id]
        result[member_id] = {
            item
            for item in reader.has - taken
            if item.topic_id in reader.topics and item.partition < sizes.get(item.topic_id, 0)
        }
        taken |= result[member_id]
    return result


@pytest.mark.parametrize("assignor", [uniform, range_assign])
@given(case=cases())
def test_every_partition_has_one_reader_who_subscribed_to_it(assignor, case):
    check_assignment(case, assignor(*case))


@pytest.mark.parametrize("assignor", [uniform, range_assign])
@given(case=cases(), random=st.randoms(use_true_random=False))
def test_the_order_of_the_input_means_nothing(assignor, case, random):
    readers, sizes = case

    def shuffled(values):
        items = list(values.items())
        random.shuffle(items)
        return dict(items)

    assert assignor(shuffled(readers), shuffled(sizes)) == assignor(readers, sizes)


@given(case=cases())
@settings(max_examples=300)
def test_no_chain_of_moves_makes_uniform_more_even(case):
    readers, sizes = case
    target = uniform(readers, sizes)
    loads = {member_id: len(partitions) for member_id, partitions in target.items()}
    for giver in sorted(target):
        reached, todo = {giver}, [giver]
        while todo:
            source = todo.pop()
            movable = {item.topic_id for item in target[source]}
            for member_id in sorted(target):
                if member_id not in reached and movable & readers[member_id].topics:
                    reached.add(member_id)
                    todo.append(member_id)
        assert loads[giver] - min(loads[member_id] for member_id in reached) <= 1


@given(case=cases())
def test_members_with_equal_subscriptions_differ_by_one_at_most(case):
    readers, sizes = case
    target = uniform(readers, sizes)
    for one in readers:
        for other in readers:
            if readers[one].topics == readers[other].topics:
                assert abs(len(target[one]) - len(target[other])) <= 1


@given(case=cases(equal=True))
@settings(max_examples=300)
def test_equal_members_lose_no_more_than_they_must(case):
    readers, sizes = case
    target = uniform(readers, sizes)
    if not readers:
        return
    had = keeps(readers, sizes)
    lost = sum(len(had[member_id] - target[member_id]) for member_id in readers)
    share, rest = divmod(sum(map(len, target.values())), len(readers))
    counts = sorted(map(len, had.values()), reverse=True)
    quotas = [share + 1] * rest + [share] * (len(readers) - rest)
    assert lost == sum(max(0, count - quota) for count, quota in zip(counts, quotas, strict=True))


@pytest.mark.parametrize("assignor", [uniform, range_assign])
@given(case=cases())
def test_an_assignment_stays_when_nothing_changes(assignor, case):
    readers, sizes = case
    first = assignor(readers, sizes)
    if assignor is range_assign and len({reader.topics for reader in readers.values()}) > 1:
        # With different subscriptions the order may have to be found in two steps.
        first = assignor(with_target(readers, first), sizes)
    again = assignor(with_target(readers, first), sizes)
    if assignor is uniform or len({reader.topics for reader in readers.values()}) <= 1:
        assert again == first
    check_assignment((readers, sizes), again)


def with_target(readers, target):
    return {member_id: Reader(topics=reader.topics, has=target[member_id]) for member_id, reader in readers.items()}


@given(case=cases(equal=True), newcomer=st.sampled_from("AZz"))
def test_a_newcomer_takes_only_its_share_and_nothing_moves_between_others(case, newcomer):
    readers, sizes = case
    if not readers:
        return
    settled = with_target(readers, uniform(readers, sizes))
    topics = next(iter(readers.values())).topics
    target = uniform({**settled, newcomer: Reader(topics=topics)}, sizes)
    for member_id, reader in settled.items():
        assert target[member_id] <= reader.has


@given(case=cases(equal=True), data=st.data())
def test_when_a_member_leaves_the_others_keep_what_they_have(case, data):
    readers, sizes = case
    if len(readers) < 2:
        return
    settled = with_target(readers, uniform(readers, sizes))
    del settled[data.draw(st.sampled_from(sorted(settled)))]
    target = uniform(settled, sizes)
    for member_id, reader in settled.items():
        assert target[member_id] >= reader.has


@given(case=cases())
def test_ranges_are_contiguous_even_and_in_one_order(case):
    readers, sizes = case
    target = range_assign(readers, sizes)
    before = set()
    for topic_id, size in sizes.items():
        subscribed = [member_id for member_id in readers if topic_id in readers[member_id].topics]
        ranges = {
            member_id: sorted(item.partition for item in target[member_id] if item.topic_id == topic_id)
            for member_id in subscribed
        }
        for numbers in ranges.values():
            assert numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True
            assert len(numbers) - size // len(subscribed) in (0, 1)
        order = sorted((member_id for member_id in subscribed if ranges[member_id]), key=ranges.__getitem__)
        counts = [len(ranges[member_id]) for member_id in order]
        assert counts == sorted(counts, reverse=True)
        before |= {(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, len(order))}
    assert not {(one, other) for one, other in before if (other, one) in before}, "two orders"


@given(case=cases(equal=True), size=st.integers(1, PARTITIONS_MAX))
def test_topics_of_one_size_are_assigned_alike_by_range(case, size):
    readers, sizes = case
    sizes = dict.fromkeys(sizes, size)
    target = range_assign(readers, sizes)
    for partitions in target.values():
        by_topic = {
            topic_id: sorted(item.partition for item in partitions if item.topic_id == topic_id)
            for topic_id in sizes
            if any(topic_id in reader.topics for reader in readers.values())
        }
        assert all(one == other for one, other in pairwise(by_topic.values()))
