"""Targets by role, bound when the fault strikes: "the leader of orders-0", "the active controller", "a follower".

    all, minority, majority         every node; a random group below or just above half
    random, random:K                K different random nodes, 1 by default
    node:N                          that node
    controller, not-controller      the active controller; a random other node
    leader, leader:TOPIC-P          leader of a random partition, or of that one
    follower, follower:TOPIC-P      a random in-sync follower
    outsider, outsider:TOPIC-P      a random replica that is not in sync
    slot:NAME, slot:NAME=SELECTOR   whoever was bound to the name at its first use (by the selector, else a random node
                                    that no other slot has), so that several faults can tell one story

Aiming at roles finds more than aiming at nodes (Jepsen's "primaries", Redpanda's chaos suite).
"""

from __future__ import annotations

import random
import re
from collections.abc import MutableMapping, Sequence
from typing import Final, Protocol

from logcluster.core.metadata.image import PartitionRegistration

_PLAIN: Final = ("all", "minority", "majority", "random", "controller", "not-controller")
_OF_PARTITION: Final = ("leader", "follower", "outsider")
_SLOT_NAME: Final = re.compile(r"[a-z][a-z0-9]*")
_PARTITION_NAME: Final = re.compile(r"[\w.-]+-\d+")


class InvalidSelector(ValueError):
    """A selector cannot be read."""


class TargetMissing(Exception):
    """Nobody has the role now."""


class Roles(Protocol):
    """Who is what at this moment."""

    @property
    def node_ids(self) -> Sequence[int]:
        """All nodes, ascending."""
        ...

    def controller_id(self) -> int | None:
        """The node whose controller is active; None when there is none."""
        ...

    def partitions(self) -> Sequence[tuple[str, PartitionRegistration]]:
        """Every partition as "topic-index" with its newest known registration, ordered by name."""
        ...


def check_selector(text: str) -> None:
    """Check that a selector can be read.

    Raises:
        InvalidSelector: it cannot.
    """
    name, colon, rest = text.partition(":")
    if not colon and name in (*_PLAIN, *_OF_PARTITION):
        return
    if colon and name in ("node", "random") and rest.isascii() and rest.isdigit() and (name == "node" or int(rest) > 0):
        return
    if colon and name in _OF_PARTITION and _PARTITION_NAME.fullmatch(rest):
        return
    if colon and name == "slot":
        slot, equals, selector = rest.partition("=")
        if _SLOT_NAME.fullmatch(slot) and not selector.startswith("slot:"):
            if equals:
                check_selector(selector)
            return
    raise InvalidSelector(f"{text!r} is no target; see logcluster/sim/faults/selectors.py")


def resolve(selectors: Sequence[str], roles: Roles, rng: random.Random, slots: MutableMapping[str, int]) -> list[int]:
    """The nodes that the selectors mean now, each once, in the order of the selectors.

    Args:
        slots: bound names; new ones are added.

    Raises:
        TargetMissing: nobody has one of the roles.
    """
    found: dict[int, None] = {}
    for selector in selectors:
        found.update(dict.fromkeys(_resolve_one(selector, roles, rng, slots)))
    return list(found)


def _resolve_one(selector: str, roles: Roles, rng: random.Random, slots: MutableMapping[str, int]) -> list[int]:
    name, _, rest = selector.partition(":")
    node_ids = list(roles.node_ids)
    match name:
        case "all":
            return node_ids
        case "minority":
            return sorted(rng.sample(node_ids, max(1, (len(node_ids) - 1) // 2)))
        case "majority":
            return sorted(rng.sample(node_ids, len(node_ids) // 2 + 1))
        case "random":
            return rng.sample(node_ids, min(len(node_ids), int(rest or 1)))
        case "node":
            if int(rest) not in node_ids:
                raise TargetMissing(f"there is no node {rest}")
            return [int(rest)]
        case "controller":
            return [_controller(roles)]
        case "not-controller":
            controller_id = roles.controller_id()
            return [_choice([node_id for node_id in node_ids if node_id != controller_id], rng, "every other node")]
        case "slot":
            return [_slot(rest, roles, rng, slots)]
        case _:
            return [_of_partition(name, rest, roles, rng)]


def _controller(roles: Roles) -> int:
    controller_id = roles.controller_id()
    if controller_id is None:
        raise TargetMissing("no controller is active")
    return controller_id


def _slot(rest: str, roles: Roles, rng: random.Random, slots: MutableMapping[str, int]) -> int:
    name, _, selector = rest.partition("=")
    if name not in slots:
        if selector:
            slots[name] = _resolve_one(selector, roles, rng, slots)[0]
        else:
            taken = list(slots.values())
            slots[name] = _choice([node_id for node_id in roles.node_ids if node_id not in taken], rng, "a free node")
    return slots[name]


def _of_partition(role: str, name: str, roles: Roles, rng: random.Random) -> int:
    """Draw the partition first, so that busy nodes are not preferred."""
    by_name = {
        partition_name: members
        for partition_name, registration in roles.partitions()
        if (members := _members(role, registration))
    }
    if name:
        return _choice(by_name.get(name, []), rng, f"{role} of {name}")
    partition_name = _choice_of_name(list(by_name), rng, role)
    return _choice(by_name[partition_name], rng, role)


def _members(role: str, registration: PartitionRegistration) -> list[int]:
    leader_id, in_sync = registration.leader_id, registration.in_sync_replicas
    if role == "leader":
        return [] if leader_id is None else [leader_id]
    if role == "follower":
        return [member for member in registration.replicas if member in in_sync and member != leader_id]
    return [member for member in registration.replicas if member not in in_sync]


def _choice(members: Sequence[int], rng: random.Random, what: str) -> int:
    if not members:
        raise TargetMissing(f"nobody is {what}")
    return rng.choice(members)


def _choice_of_name(names: Sequence[str], rng: random.Random, role: str) -> str:
    if not names:
        raise TargetMissing(f"no partition has a {role}")
    return rng.choice(names)
