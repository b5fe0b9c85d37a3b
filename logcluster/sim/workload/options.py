"""What the clients of one run do, drawn from a seed: topics, producers, consumers, admin churn, a hostile client.

Plain values that survive JSON, so that a failing run can be stored, shrunk by leaving clients out, and run again. Swarm
testing (Groce et al. 2012): features are switched off as wholes, because a run with everything on hides what needs
something to be absent. Every run keeps one strict topic (three replicas, two in sync, synced) and one idempotent
producer, so that the strongest promises are always under test.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import msgspec

from logcluster.model.limits import SEGMENT_SIZE_BYTES_MIN

AcksName = Literal["all", "leader", "none"]
SizeProfile = Literal["small", "mixed", "large"]

COMPRESSIONS: Final = ("none", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicOptions:
    """A topic of the run.

    Args:
        is_durable: acknowledged records are on the disks of `min_isr` replicas; not with `flush.mode=async`.
        is_trimmed: its beginning may be deleted, by retention or on request.
        config: settings under Kafka's names.
    """

    name: str
    partitions: int
    replication_factor: int = 3
    min_isr: int = 2
    is_durable: bool = True
    is_trimmed: bool = False
    config: dict[str, str]

    @property
    def has_retention(self) -> bool:
        """Its beginning is deleted by time, which nobody announces."""
        return "retention.ms" in self.config

    @property
    def is_read_by_group(self) -> bool:
        """Topics of the beginning are; those that the admin process makes are not."""
        return self.name.startswith("topic-")

    @classmethod
    def draw(cls, rng: random.Random, name: str, *, brokers: int, is_strict: bool) -> TopicOptions:
        """A topic; `is_strict` for the one that promises most."""
        if is_strict:
            replication_factor, min_isr = min(3, brokers), min(2, brokers)
        else:
            choices = [(3, 2)] * 7 + [(3, 1), (2, 1), (1, 1)]
            replication_factor, min_isr = rng.choice([choice for choice in choices if choice[0] <= brokers])
        is_durable = is_strict or rng.random() >= 0.15
        is_trimmed = not is_strict and rng.random() < 0.25
        config = {
            "min.insync.replicas": str(min_isr),
            # The smallest allowed; segments are short in time instead, which rolls them as well.
            "segment.bytes": str(SEGMENT_SIZE_BYTES_MIN),
            "segment.ms": str(rng.choice([50, 200, 500, 1_500, 100_000])),
        }
        if not is_durable:
            config["flush.mode"] = "async"
        if is_trimmed and rng.random() < 0.5:
            config["retention.ms"] = str(rng.choice([500, 1_500, 4_000]))
        if rng.random() < 0.1:
            config["max.message.bytes"] = str(rng.choice([4_096, 16_384]))
        return cls(
            name=name,
            partitions=rng.choice([1, 1, 2, 2, 3, 4]),
            replication_factor=replication_factor,
            min_isr=min_isr,
            is_durable=is_durable,
            is_trimmed=is_trimmed,
            config=config,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """One producing process.

    Args:
        records_per_s: on average, singles and bursts together.
        burst_records_max: of one burst of `send_nowait`.
        keyed_probability: records with a key go where its hash says, the others where the producer likes.
        renew_after_sends: rounds after which the producer is closed and another one (with a new id) opened.
    """

    name: str
    acks: AcksName = "all"
    idempotent: bool = True
    compression: str = "none"
    linger_ms: int = 2
    batch_size_bytes: int = 16_384
    max_in_flight: int = 5
    delivery_timeout_ms: int = 4_000
    records_per_s: int = 50
    burst_probability: float = 0.4
    burst_records_max: int = 20
    keyed_probability: float = 0.5
    header_probability: float = 0.1
    sizes: SizeProfile = "small"
    renew_after_sends: int = 200

    @classmethod
    def draw(cls, rng: random.Random, name: str, *, records_per_s: int, is_strict: bool) -> ProducerOptions:
        """A producer; `is_strict` for the one that is always idempotent."""
        acks: AcksName = "all"
        idempotent = True
        if not is_strict:
            kind = rng.random()
            if kind < 0.15:
                idempotent = False
            elif kind < 0.27:
                acks, idempotent = "leader", False
            elif kind < 0.33:
                acks, idempotent = "none", False
        return cls(
            name=name,
            acks=acks,
            idempotent=idempotent,
            compression=rng.choice(COMPRESSIONS),
            linger_ms=rng.choice([0, 0, 2, 10, 50]),
            batch_size_bytes=rng.choice([200, 1_000, 4_096, 16_384, 65_536]),
            max_in_flight=rng.choice([1, 2, 5, 5, 5]),
            delivery_timeout_ms=rng.choice([800, 2_000, 4_000, 10_000, 30_000]),
            records_per_s=records_per_s,
            burst_probability=rng.choice([0.0, 0.2, 0.5, 0.8]),
            burst_records_max=rng.choice([3, 10, 30]),
            keyed_probability=rng.choice([0.0, 0.3, 0.7, 1.0]),
            header_probability=rng.choice([0.0, 0.2]),
            sizes=rng.choice(["small", "small", "mixed", "large"]),
            renew_after_sends=rng.choice([20, 100, 100_000]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """One consuming process.

    Args:
        poll_ms_max: how long one poll waits for records.
        polls_max: polls after which the assignment is given up for another one.
        seek_probability: chance of a seek between two polls.
        idle_ms_max: between two assignments; an open consumer fetches all the time, which costs most of a run.
    """

    name: str
    isolation: str = "read_uncommitted"
    max_wait_ms: int = 200
    partition_size_bytes_max: int = 65_536
    buffer_size_bytes: int = 1_048_576
    poll_ms_max: int = 200
    records_per_poll_max: int = 50
    polls_max: int = 20
    seek_probability: float = 0.02
    idle_ms_max: int = 200

    @classmethod
    def draw(cls, rng: random.Random, name: str) -> ConsumerOptions:
        """A consumer."""
        return cls(
            name=name,
            isolation=rng.choice(["read_uncommitted", "read_uncommitted", "read_committed"]),
            max_wait_ms=rng.choice([30, 100, 300, 500]),
            partition_size_bytes_max=rng.choice([1, 1_000, 4_096, 16_384, 65_536, 65_536]),
            buffer_size_bytes=rng.choice([2_000, 65_536, 1_048_576, 1_048_576]),
            poll_ms_max=rng.choice([50, 200, 500]),
            records_per_poll_max=rng.choice([3, 10, 50, 500]),
            polls_max=rng.choice([3, 10, 40]),
            seek_probability=rng.choice([0.0, 0.02, 0.1]),
            idle_ms_max=rng.choice([50, 300, 800]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMemberOptions:
    """One process that is a member of the run's group.

    Args:
        by_pattern: subscribes by a regular expression instead of names.
        instance_id: makes it a static member; empty: a dynamic one.
        reads_max: rounds after which it leaves and joins again.
        handling_ms_max: how long it is busy with what it read.
        commit_probability: share of rounds in which it commits by itself, beside the automatic commits.
    """

    name: str
    by_pattern: bool = False
    instance_id: str = ""
    assignor: Literal["uniform", "range"] = "uniform"
    auto_commit_interval_ms: int = 200
    session_timeout_ms: int = 2_000
    rebalance_timeout_ms: int = 3_000
    max_wait_ms: int = 200
    records_per_read_max: int = 50
    read_ms_max: int = 100
    reads_max: int = 50
    handling_ms_max: int = 50
    commit_probability: float = 0.2
    idle_ms_max: int = 500

    @classmethod
    def draw(cls, rng: random.Random, name: str, *, is_static: bool) -> GroupMemberOptions:
        """A member."""
        return cls(
            name=name,
            by_pattern=rng.random() < 0.3,
            instance_id=f"{name}-instance" if is_static else "",
            assignor=rng.choice(["uniform", "uniform", "range"]),
            auto_commit_interval_ms=rng.choice([30, 200, 1_000]),
            session_timeout_ms=rng.choice([1_000, 2_000, 5_000]),
            rebalance_timeout_ms=rng.choice([500, 3_000]),
            max_wait_ms=rng.choice([50, 200]),
            records_per_read_max=rng.choice([1, 10, 100]),
            read_ms_max=rng.choice([30, 200]),
            reads_max=rng.choice([5, 40, 1_000]),
            handling_ms_max=rng.choice([0, 30, 400]),
            commit_probability=rng.choice([0.0, 0.2, 0.8]),
            idle_ms_max=rng.choice([50, 1_000]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOptions:
    """The process that changes topics.

    Args:
        interval_ms: between two calls, on average.
        actions: what it does, by weight; see `admin.ACTIONS`.
        topics_max: how many topics it may add to the run.
        partitions_max: up to which a topic may grow.
    """

    name: str
    interval_ms: int = 600
    actions: dict[str, int]
    topics_max: int = 2
    partitions_max: int = 5

    @classmethod
    def draw(cls, rng: random.Random, name: str) -> AdminOptions:
        """An admin process; looking up offsets is always among what it does."""
        weights = {
            "create_topic": rng.choice([0, 1, 2]),
            "delete_topic": rng.choice([0, 0, 1]),
            "create_partitions": rng.choice([0, 1, 2]),
            "alter_topic": rng.choice([0, 1, 3]),
            "delete_records": rng.choice([0, 1, 3]),
            "elect_leaders": rng.choice([0, 1]),
            "list_offsets": rng.choice([2, 4]),
        }
        return cls(
            name=name,
            interval_ms=rng.choice([200, 500, 1_200]),
            actions={action: weight for action, weight in weights.items() if weight},
            topics_max=rng.choice([1, 2, 3]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileOptions:
    """The process that speaks the protocol by itself and breaks its rules.

    Args:
        interval_ms: between two requests, on average.
        repeat_delay_ms_max: how much later a request that was answered may come again.
        garbage_probability: share of requests that no broker may take.
        repeat_probability: share of requests that are repetitions.
        stale_probability: share of requests that name a wrong leader epoch or go to a wrong broker.
    """

    name: str
    interval_ms: int = 200
    repeat_delay_ms_max: int = 4_000
    garbage_probability: float = 0.2
    repeat_probability: float = 0.4
    stale_probability: float = 0.2

    @classmethod
    def draw(cls, rng: random.Random, name: str) -> HostileOptions:
        """A hostile client."""
        return cls(
            name=name,
            interval_ms=rng.choice([100, 250, 600]),
            repeat_delay_ms_max=rng.choice([100, 1_000, 6_000]),
            garbage_probability=rng.choice([0.0, 0.1, 0.3]),
            repeat_probability=rng.choice([0.3, 0.5]),
            stale_probability=rng.choice([0.0, 0.2]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """All that the clients of one run do.

    Args:
        crash_probability: chance per second that one client process is killed; it comes back soon after.
        restart_delay_ms_max: how soon.
        pause_probability: chance per second that one member's process stands still for a while, as under SIGSTOP.
    """

    topics: tuple[TopicOptions, ...]
    producers: tuple[ProducerOptions, ...]
    consumers: tuple[ConsumerOptions, ...]
    admin: AdminOptions | None = None
    hostile: HostileOptions | None = None
    crash_probability: float = 0.0
    restart_delay_ms_max: int = 500
    members: tuple[GroupMemberOptions, ...] = ()
    """Of the one group of the run."""
    pause_probability: float = 0.0

    @classmethod
    def draw(cls, rng: random.Random, *, brokers: int = 3) -> WorkloadOptions:
        """Draw everything; `brokers` bounds the replication factors."""
        topic_count = rng.choice([1, 1, 2, 2, 3])
        topics = tuple(
            TopicOptions.draw(rng, f"topic-{index}", brokers=brokers, is_strict=index == 0)
            for index in range(topic_count)
        )
        producer_count = rng.choice([1, 2, 2, 3])
        records_per_s = rng.choice([50, 100, 150, 200]) // producer_count
        producers = tuple(
            ProducerOptions.draw(rng, f"producer-{index}", records_per_s=records_per_s, is_strict=index == 0)
            for index in range(producer_count)
        )
        consumers = tuple(ConsumerOptions.draw(rng, f"consumer-{index}") for index in range(rng.choice([1, 1, 2])))
        admin = AdminOptions.draw(rng, "admin-0") if rng.random() < 0.8 else None
        hostile = HostileOptions.draw(rng, "hostile-0") if rng.random() < 0.5 else None
        crash_probability = rng.choice([0.0, 0.05, 0.1, 0.25])
        restart_delay_ms_max = rng.choice([50, 500, 1_500])
        member_count = rng.choice([0, 0, 0, 2, 3, 4])
        is_static = rng.random() < 0.25
        members = tuple(
            GroupMemberOptions.draw(rng, f"member-{index}", is_static=is_static) for index in range(member_count)
        )
        return cls(
            topics=topics,
            producers=producers,
            consumers=consumers,
            admin=admin,
            hostile=hostile,
            crash_probability=crash_probability,
            restart_delay_ms_max=restart_delay_ms_max,
            members=members,
            pause_probability=rng.choice([0.0, 0.0, 0.1, 0.4]),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WorkloadOptions:
        """What `to_dict` gave, also after JSON.

        Raises:
            ValueError: it is something else; says where.
        """
        return msgspec.convert(data, cls)
