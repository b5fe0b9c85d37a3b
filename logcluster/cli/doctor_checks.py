"""What `logcluster doctor` concludes from what it has seen of a cluster: pure, one function for each check.

A result says what was found and what to do next. Nothing here asks anybody; `doctor_network` does that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from logcluster.client.descriptions import QuorumFacts
    from logcluster.client.metadata_cache import BrokerFacts, TopicFacts

NAMES_SHOWN_MAX: Final = 5
VOTER_SILENCE_MS_MAX: Final = 2_000
"""Voters are heard from ten times a second; three election timeouts without a word are no hiccup."""


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    subject: str
    """What was looked at: an address, a broker, a path; empty for the cluster as a whole."""
    status: Status
    found: str
    next_step: str = ""
    """What to do about it; empty when there is nothing to do."""

    def row(self) -> dict[str, object]:
        """As JSON shows it."""
        return {
            "check": self.name,
            "subject": self.subject,
            "status": self.status.value,
            "found": self.found,
            "next": self.next_step,
        }


def passed(name: str, subject: str, found: str) -> Check:
    """All is well."""
    return Check(name, subject, Status.OK, found)


def warned(name: str, subject: str, found: str, next_step: str) -> Check:
    """It works, and somebody should look."""
    return Check(name, subject, Status.WARNING, found, next_step)


def failed(name: str, subject: str, found: str, next_step: str) -> Check:
    """It does not work."""
    return Check(name, subject, Status.FAILED, found, next_step)


def advertised_host(subject: str, broker: BrokerFacts, addresses: Sequence[str], *, is_far: bool) -> Check:
    """Whether the address that a broker tells its clients can be meant for them.

    Args:
        addresses: what its host resolves to here.
        is_far: some bootstrap address lies outside of this machine, so the cluster does too.
    """
    name = "advertised-dns"
    shown = f"{broker.host} is {', '.join(addresses)}" if list(addresses) != [broker.host] else broker.host
    step = f"set listeners.advertised_host of broker {broker.broker_id} to a name that clients and brokers can reach"
    parsed = [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]
    if any(address.is_unspecified for address in parsed):
        return failed(name, subject, f"{shown}: an address to listen on, not one to connect to", step)
    if is_far and any(address.is_loopback for address in parsed):
        return failed(name, subject, f"{shown}: every client would connect to itself", step)
    return passed(name, subject, shown)


def cluster_ids(found: Mapping[str, str]) -> Check:
    """Whether all say the same id of the cluster.

    Args:
        found: what each one said, by broker or address; empty while it does not know.
    """
    name = "cluster-id"
    if not found:
        return not_checked(name)
    by_id: dict[str, list[str]] = {}
    for who, cluster_id in found.items():
        by_id.setdefault(cluster_id, []).append(who)
    if len(by_id) == 1 and "" not in by_id:
        return passed(name, "", f"{next(iter(by_id))}, on {count(len(found), 'answer')}")
    told = "; ".join(f"{cluster_id or 'none yet'}: {names(who)}" for cluster_id, who in sorted(by_id.items()))
    if "" in by_id and len(by_id) <= 2:
        return warned(name, "", told, "a broker that has just started learns the id from the others: ask again")
    return failed(
        name, "", f"different clusters answer: {told}", "correct --bootstrap, cluster.id and quorum.voters of the nodes"
    )


def quorum(before: QuorumFacts, now: QuorumFacts, unreachable: Mapping[int, str]) -> list[Check]:
    """Whether the metadata quorum has a leader, and each voter follows it.

    Args:
        before: an earlier look, by which a voter that stands still is told from one that is just a moment behind.
        unreachable: why a voter did not answer from here, by node id. Alone it is no proof, because voters may have
            addresses for one another that are closed to us.
    """
    if now.leader_id is None:
        step = "start more than half of the voters in quorum.voters, and see that they reach each other's lane port"
        return [failed("quorum-leader", "", "no leader: nothing about the cluster can be changed", step)]
    results = [passed("quorum-leader", "", f"node {now.leader_id} in term {now.term}")]
    earlier = {voter.node_id: voter for voter in before.voters}
    for voter in now.voters:
        subject, address = f"node {voter.node_id}", f"{voter.host}:{voter.port}"
        problem = unreachable.get(voter.node_id, "")
        step = f"start node {voter.node_id}, or see that {address} is reachable from node {now.leader_id}"
        then = earlier.get(voter.node_id, voter)
        behind = now.commit_index - voter.match_index
        if voter.node_id == now.leader_id:
            results.append(passed("quorum-voter", subject, "leads"))
        elif voter.last_contact_ms is not None and voter.last_contact_ms > VOTER_SILENCE_MS_MAX:
            heard = f"not heard from for {voter.last_contact_ms / 1000:.1f} s"
            results.append(failed("quorum-voter", subject, heard, step))
        elif voter.match_index < before.commit_index and voter.match_index <= then.match_index:
            found = f"does not follow: stands still {count(behind, 'entry', 'entries')} behind"
            results.append(failed("quorum-voter", subject, f"{found}; {problem}" if problem else found, step))
        elif voter.match_index < before.commit_index:
            found = f"follows, {count(behind, 'entry', 'entries')} behind"
            results.append(warned("quorum-voter", subject, found, "it should catch up by itself: ask again"))
        elif problem:
            step += "; when only nodes are meant to reach it, all is well"
            found = f"has all entries, but does not answer from here at {address}: {problem}"
            results.append(warned("quorum-voter", subject, found, step))
        else:
            results.append(passed("quorum-voter", subject, "follows"))
    return results


def broker_states(brokers: Iterable[BrokerFacts]) -> list[Check]:
    """Whether each broker is trusted with partitions."""
    results = []
    for broker in brokers:
        subject = f"broker {broker.broker_id}"
        if broker.is_active:
            results.append(passed("broker-state", subject, broker.state))
        elif broker.state == "shutting-down":
            step = "nothing while it restarts; it must come back by itself"
            results.append(warned("broker-state", subject, broker.state, step))
        else:
            step = "start it, or see that it reaches the voters; its /readyz says why it is not ready"
            results.append(failed("broker-state", subject, broker.state, step))
    return results


def partitions(topics: Iterable[TopicFacts], min_in_sync: Mapping[str, int]) -> list[Check]:
    """Whether each partition has a leader, enough replicas in sync to be written to, and all of them.

    Args:
        min_in_sync: `min.insync.replicas` of the topics with replicas out of sync; one that is missing counts as 1.
    """
    offline, short, behind, total = [], [], [], 0
    for topic in topics:
        for partition in topic.partitions:
            total += 1
            name = f"{topic.name}-{partition.partition}"
            in_sync = len(partition.in_sync_replicas)
            if partition.leader_id is None:
                offline.append(f"{name} (replicas {', '.join(map(str, partition.replicas))})")
            if in_sync < min(min_in_sync.get(topic.name, 1), len(partition.replicas)):
                short.append(name)
            elif in_sync < len(partition.replicas) and partition.leader_id is not None:
                missing = sorted(set(partition.replicas) - set(partition.in_sync_replicas))
                behind.append(f"{name} (without {', '.join(map(str, missing))})")
    return [
        _partition_check(
            "partitions-offline", offline, total, "have no leader", "start one of the brokers with a replica in sync"
        ),
        _partition_check(
            "partitions-under-min-isr", short, total, "refuse writes with acks=all",
            "start the brokers that are out of sync: `logcluster partition ls --unhealthy`",
        ),
        _partition_check(
            "partitions-under-replicated", behind, total, "have replicas out of sync",
            "start the missing brokers, or wait until they have caught up", status=Status.WARNING,
        ),
    ]  # fmt: skip


def _partition_check(
    name: str, bad: Sequence[str], total: int, what: str, step: str, *, status: Status = Status.FAILED
) -> Check:
    if not bad:
        return passed(name, "", f"none of {total}")
    return Check(name, "", status, f"{len(bad)} of {total} {what}: {names(bad)}", step)


def needs_min_in_sync(topics: Iterable[TopicFacts]) -> list[str]:
    """The topics whose `min.insync.replicas` matters: those with a replica out of sync."""
    return [
        topic.name
        for topic in topics
        if any(len(partition.in_sync_replicas) < len(partition.replicas) for partition in topic.partitions)
    ]


def not_checked(name: str, why: str = "no broker answered") -> Check:
    """A check for which something is missing that another check has already found to fail."""
    return warned(name, "", f"not checked: {why}", "repair what failed first")


def names(values: Sequence[str]) -> str:
    """The first few, and how many more."""
    left = len(values) - NAMES_SHOWN_MAX
    return ", ".join(values[:NAMES_SHOWN_MAX]) + (f" and {left} more" if left > 0 else "")


def count(number: int, noun: str, plural: str = "") -> str:
    """A number and what it counts."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
