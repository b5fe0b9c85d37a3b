"""Targets are bound to whoever has the role when the fault strikes."""

import random
from collections.abc import Sequence

import pytest

from logcluster.core.metadata.image import PartitionRegistration
from logcluster.model.ids import TopicId
from logcluster.sim.faults.selectors import InvalidSelector, TargetMissing, check_selector, resolve


def partition(leader_id: int | None, in_sync: tuple[int, ...]) -> PartitionRegistration:
    return PartitionRegistration(
        topic_id=TopicId(b"t" * 16),
        partition=0,
        replicas=(0, 1, 2),
        in_sync_replicas=in_sync,
        eligible_leader_replicas=(),
        last_known_leaders=(),
        leader_id=leader_id,
        leader_epoch=1,
        partition_epoch=1,
        is_recovering=False,
    )


class Roles:
    node_ids: Sequence[int] = (0, 1, 2, 3, 4)

    def controller_id(self) -> int | None:
        return 4

    def partitions(self) -> Sequence[tuple[str, PartitionRegistration]]:
        return [("a-0", partition(1, (0, 1))), ("b-0", partition(None, (2,)))]


class Nobody(Roles):
    def controller_id(self) -> int | None:
        return None

    def partitions(self) -> Sequence[tuple[str, PartitionRegistration]]:
        return []


def bind(*selectors: str, seed: int = 0, slots: dict[str, int] | None = None) -> list[int]:
    return resolve(selectors, Roles(), random.Random(seed), {} if slots is None else slots)


def seen(selector: str) -> set[int]:
    return {node_id for seed in range(60) for node_id in bind(selector, seed=seed)}


def test_groups() -> None:
    assert bind("all") == [0, 1, 2, 3, 4]
    assert len(bind("minority")) == 2
    assert len(bind("majority")) == 3
    assert len(set(bind("random:3"))) == 3
    assert len(bind("random:9")) == 5
    assert seen("random") == {0, 1, 2, 3, 4}


def test_roles() -> None:
    assert bind("controller") == [4]
    assert seen("not-controller") == {0, 1, 2, 3}
    assert seen("leader") == {1}
    assert bind("leader:a-0") == [1]
    assert seen("follower") == {0, 2}  # of b-0, which nobody leads, all that are in sync
    assert bind("follower:a-0") == [0]
    assert seen("outsider:b-0") == {0, 1}
    assert bind("node:3") == [3]


def test_several_selectors_give_each_node_once() -> None:
    assert bind("leader", "node:1", "node:0") == [1, 0]


def test_a_slot_stays_who_it_was() -> None:
    slots: dict[str, int] = {}
    first = bind("slot:a=leader", slots=slots)
    assert first == [1]
    assert bind("slot:a", slots=slots) == bind("slot:a=controller", slots=slots) == [1]
    others = {bind("slot:b", seed=seed, slots=dict(slots))[0] for seed in range(60)}
    assert others == {0, 2, 3, 4}


@pytest.mark.parametrize(
    "selector",
    ["controller", "leader", "follower", "outsider", "leader:a-0", "node:7"],
)
def test_a_role_that_nobody_has_is_said_so(selector: str) -> None:
    with pytest.raises(TargetMissing):
        resolve([selector], Nobody(), random.Random(0), {})


def test_slots_run_out() -> None:
    with pytest.raises(TargetMissing):
        bind("slot:z", slots={name: number for number, name in enumerate("abcde")})


@pytest.mark.parametrize(
    "text",
    ["", "boss", "node", "node:x", "random:0", "leader:a", "slot:", "slot:A", "slot:a=slot:b", "slot:a=boss", "all:1"],
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(InvalidSelector):
        check_selector(text)
