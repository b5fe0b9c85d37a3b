"""`Group.check` finds what must not be, and `replay` does not depend on the order of records."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from group_bench import Bench

from logcluster.core.coordinators.groups.records import (
    CurrentRecord,
    EventRecord,
    GroupRecord,
    MemberRecord,
    TargetRecord,
)
from logcluster.model.invariants import InvariantViolation


@pytest.fixture
def bench():
    """`a` has t-0 and t-1, `b` t-2 and t-3, both in epoch 2."""
    bench = Bench(t=4)
    bench.join("a", "t", instance_id="i")
    bench.join("b", "t", instance_id="j")
    bench.settle()
    return bench


def current(bench, member_id, **changes):
    value = replace(bench.group.currents[member_id], **changes)
    bench.group.replay(CurrentRecord(group="g", member_id=member_id, value=value))


def damages(bench):
    group = bench.group
    a, b = group.currents["a"], group.currents["b"]
    t0, t2 = bench.part("t-0"), bench.part("t-2")
    away = {"is_away": True, "state": "revoking", "assigned": {}, "revoking": a.assigned}
    return {
        "no group": lambda: group.replay(GroupRecord(group="g", value=None)),
        "target ahead": lambda: group.replay(GroupRecord(group="g", value=replace(group.value, assignment_epoch=3))),
        "target behind a member": lambda: group.replay(
            GroupRecord(group="g", value=replace(group.value, assignment_epoch=1))
        ),
        "empty with members": lambda: group.replay(
            GroupRecord(group="g", value=replace(group.value, empty_since_ms=5))
        ),
        "no target": lambda: group.replay(TargetRecord(group="g", member_id="a", value=None)),
        "no current": lambda: group.replay(CurrentRecord(group="g", member_id="a", value=None)),
        "no member": lambda: group.replay(MemberRecord(group="g", member_id="a", value=None)),
        "two holders": lambda: current(bench, "b", assigned={**b.assigned, t0: 2}),
        "two holders one gives up": lambda: current(bench, "b", revoking={t0: 2}, state="revoking"),
        "assigned and given up": lambda: current(bench, "a", revoking={t0: 1}, state="revoking"),
        "member epoch": lambda: current(bench, "a", member_epoch=3),
        "previous member epoch": lambda: current(bench, "a", previous_member_epoch=3),
        "assignment epoch": lambda: current(bench, "a", assigned=dict.fromkeys(a.assigned, 3)),
        "assignment epoch of nobody": lambda: current(bench, "a", assigned=dict.fromkeys(a.assigned, 0)),
        "revokes nothing": lambda: current(bench, "a", state="revoking"),
        "stable while revoking": lambda: current(bench, "a", assigned={}, revoking=a.assigned),
        "away while revoking": lambda: current(bench, "a", **away),
        "stable without its target": lambda: current(bench, "a", assigned={}),
        "waits for nothing": lambda: current(bench, "a", state="waiting"),
        "more than the target": lambda: group.replay(
            TargetRecord(group="g", member_id="a", value=replace(group.targets["a"], partitions=frozenset({t0})))
        ),
        "two targets": lambda: group.replay(
            TargetRecord(group="g", member_id="b", value=replace(group.targets["b"], partitions=frozenset({t0, t2})))
        ),
        "two instances": lambda: group.replay(
            MemberRecord(group="g", member_id="b", value=replace(group.members["b"], instance_id="i"))
        ),
        "event gap": lambda: group.replay(EventRecord(group="g", sequence=2, value=None)),
        "newest event lost": lambda: group.replay(EventRecord(group="g", sequence=6, value=None)),
        "index of holders": lambda: group.holders.pop(t0),
        "index of instances": lambda: group.instances.pop("i"),
        "index of unsettled": lambda: group.unsettled.add("a"),
    }


NAMES = """no group, target ahead, target behind a member, empty with members, no target, no current, no member,
two holders, two holders one gives up, assigned and given up, member epoch, previous member epoch, assignment epoch,
assignment epoch of nobody, revokes nothing, stable while revoking, away while revoking, stable without its target,
waits for nothing, more than the target, two targets, two instances, event gap, newest event lost, index of holders,
index of instances, index of unsettled"""


@pytest.mark.parametrize("name", NAMES.replace("\n", " ").split(", "))
def test_what_must_not_be_is_found(bench, name):
    bench.group.check()
    damages(bench)[name]()
    with pytest.raises(InvariantViolation):
        bench.group.check()


def test_every_damage_is_tried(bench):
    assert sorted(damages(bench)) == sorted(NAMES.replace("\n", " ").split(", "))


def test_replay_of_the_newest_records_gives_the_same_group_in_any_order(bench):
    bench.join("c", "t")
    bench.beat("a", owned="t-0 t-1")
    bench.commit("b", "t-2", 5)
    live = bench.group
    records = [record for record in bench.store.values() if not isinstance(record, EventRecord)]
    by_kind = [[record for record in records if type(record) is kind] for kind in {type(item) for item in records}]
    for order in permutations(by_kind):
        group = bench.coordinator.new_entity("g")
        for record in [item for kind in order for item in reversed(kind)]:
            group.replay(record)
        assert (group.holders, group.instances, group.unsettled) == (live.holders, live.instances, live.unsettled)
        assert group.describe() == live.describe()


def test_replaying_twice_changes_nothing(bench):
    bench.join("c", "t")
    before = bench.group.describe()
    for record in bench.batches[-1]:
        bench.group.replay(record)
    bench.group.check()
    assert bench.group.describe() == before


def test_a_copy_is_apart(bench):
    twin = bench.group.copy()
    twin.replay(MemberRecord(group="g", member_id="a", value=None))
    twin.replay(CurrentRecord(group="g", member_id="a", value=None))
    bench.group.check()
    assert bench.group.sessions.get("a") is not None
    assert "a" not in twin.members
