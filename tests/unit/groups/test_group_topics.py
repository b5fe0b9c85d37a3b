"""What members read, and what happens when that, or the topics, change."""

from __future__ import annotations

import pytest
from group_bench import Bench

from logcluster.core.coordinators.groups.requests import Subscription
from logcluster.model.errors import InvalidRegularExpression, InvalidRequest


def test_an_expression_matches_whole_names_and_no_internal_topics():
    bench = Bench(orders=1, orders_eu=2, suborders=1)
    bench.topics.create("__orders", 3)
    assert bench.join("a", regex="orders.*").assignment == bench.parts("orders-0 orders_eu-0 orders_eu-1")
    assert bench.join("b", regex=".*").assignment == bench.parts("suborders-0")


def test_names_and_an_expression_add_up():
    bench = Bench(t=1, u=1, v=1)
    assert bench.join("a", "t", "u", regex="u|v").assignment == bench.parts("t-0 u-0 v-0")


def test_equal_subscriptions_are_matched_once():
    bench = Bench(t=8)
    for member_id in "abcd":
        bench.join(member_id, regex="t+")
    bench.topics.matched.clear()
    bench.look_at_topics()
    assert bench.topics.matched == ["t+"]


def test_a_new_topic_that_matches_or_is_named_is_read():
    bench = Bench(t=1)
    bench.join("a", regex="t.*")
    bench.join("b", "later")
    bench.topics.create("t2", 1)
    bench.topics.create("later", 1)
    bench.topics.create("other", 1)
    bench.look_at_topics()
    assert bench.wake == ("a", "b")
    assert bench.beat("a").assignment == bench.parts("t-0 t2-0")
    assert bench.beat("b").assignment == bench.parts("later-0")
    assert bench.events("topics-changed") == ["later is new, t2 is new"]
    assert bench.events("rebalanced")[-1] == "later is new, t2 is new"


def test_topics_that_nobody_reads_change_nothing():
    bench = Bench(t=1, u=1)
    bench.join("a", "t")
    records = len(bench.batches)
    bench.topics.grow("u", 5)
    bench.topics.create("v", 1)
    bench.look_at_topics()
    assert len(bench.batches) == records
    assert bench.wake == ()


def test_new_partitions_are_read():
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.settle()
    bench.topics.grow("t", 4)
    bench.look_at_topics()
    assert bench.group.value.group_epoch == 3
    assert bench.events("topics-changed") == ["t has 4 partitions, had 2"]
    bench.settle()
    assert len(bench.parts(f"{bench.has('a')} {bench.has('b')}")) == 4


def test_a_deleted_topic_is_given_up_and_one_of_the_same_name_is_another():
    bench = Bench(t=1)
    bench.join("a", "t")
    old = bench.parts("t-0")
    bench.topics.delete("t")
    bench.look_at_topics()
    assert bench.events("topics-changed") == ["t is gone"]
    bench.topics.create("t", 1)
    bench.look_at_topics()
    assert bench.beat("a").assignment == frozenset()
    answer = bench.beat("a", owned="")
    assert answer.assignment == bench.parts("t-0")
    assert answer.assignment != old


def test_a_topic_that_is_deleted_and_created_again_between_two_looks_is_another():
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.topics.delete("t")
    bench.topics.create("t", 1)
    bench.look_at_topics()
    assert bench.events("topics-changed") == ["t is gone, t is new"]
    assert bench.beat("a").assignment == frozenset()


def test_many_changes_are_not_all_named():
    bench = Bench(t=1)
    bench.join("a", regex=".*")
    for number in range(8):
        bench.topics.create(f"u{number}", 1)
    bench.look_at_topics()
    assert bench.events("topics-changed") == [
        "u0 is new, u1 is new, u2 is new, u3 is new, u4 is new, and 3 more changes"
    ]


def test_a_group_without_members_does_not_care_for_topics():
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.leave("a")
    bench.topics.grow("t", 3)
    records = len(bench.batches)
    bench.look_at_topics()
    bench.fail_over()
    assert bench.group.next_deadline_ms() is None
    assert len(bench.batches) == records
    Bench(t=1).look_at_topics()


def test_after_a_failover_topics_are_looked_at_by_itself():
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.topics.grow("t", 3)
    bench.fail_over()
    assert bench.group.next_deadline_ms() <= bench.now_ms
    bench.expire()
    assert bench.wake == ("a",)
    assert bench.group.next_deadline_ms() == bench.now_ms + 10_000
    assert bench.events("topics-changed") == ["t has 3 partitions, had 1"]


def test_a_look_that_was_not_appended_is_taken_again():
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.fail_over()
    bench.coordinator.expire(bench.group, bench.now_ms, bench.wall_ms)
    assert bench.group.next_deadline_ms() <= bench.now_ms
    bench.look_at_topics()
    assert bench.group.next_deadline_ms() == bench.now_ms + 10_000


def test_a_changed_subscription_begins_a_new_epoch_and_the_same_one_does_not():
    bench = Bench(t=2, u=2)
    bench.join("a", "t", "u")
    bench.join("b", "t", "u")
    bench.settle()
    records = len(bench.batches)
    bench.beat("a", subscription=Subscription(topics=("u", "t", "u")))
    assert len(bench.batches) == records
    answer = bench.beat("a", subscription=Subscription(topics=("u",)))
    assert answer.group_epoch == 3
    assert bench.events("subscribed") == ["member a changed its subscription"]
    bench.settle()
    assert bench.has("b") == "t-0 t-1"
    assert bench.has("a") == "u-0 u-1"


def test_impossible_new_subscriptions_are_refused_and_the_old_one_stays():
    bench = Bench(t=2)
    bench.join("a", "t")
    with pytest.raises(InvalidRequest):
        bench.beat("a", subscription=Subscription())
    with pytest.raises(InvalidRegularExpression):
        bench.beat("a", subscription=Subscription(topic_regex="("))
    assert bench.group.members["a"].topics == ("t",)


def test_what_else_a_member_says_of_itself_is_noted_without_a_new_epoch():
    bench = Bench(t=2)
    bench.join("a", "t", client_id="c", rack_id="r")
    bench.beat("a", client_id="c2", session_timeout_ms=20_000, rebalance_timeout_ms=7, client_host="h")
    member = bench.group.members["a"]
    assert (member.client_id, member.rack_id, member.client_host) == ("c2", "r", "h")
    assert (member.session_timeout_ms, member.rebalance_timeout_ms) == (20_000, 7)
    assert bench.group.value.group_epoch == 1
    assert bench.beat("a").session_timeout_ms == 20_000


def test_the_group_uses_the_assignor_that_most_members_wish_for():
    bench = Bench(t=4, u=2)
    bench.join("a", "t", "u")
    assert bench.group.value.assignor == "uniform"
    bench.join("b", "t", "u", assignor="range")
    assert bench.group.value.assignor == "range"
    bench.settle()
    assert (bench.has("a"), bench.has("b")) == ("t-0 t-1 u-0", "t-2 t-3 u-1")
    # A tie leaves it; nobody's wish leaves it, too.
    bench.join("c", "t", "u", assignor="uniform")
    assert bench.group.value.assignor == "range"
    bench.beat("b", assignor="uniform")
    assert bench.group.value.assignor == "uniform"
    bench.beat("b", assignor="range")
    bench.beat("c", assignor="range")
    assert bench.group.value.assignor == "range"
    bench.leave("b")
    bench.leave("c")
    assert bench.group.value.assignor == "range"
