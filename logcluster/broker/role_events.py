"""What a broker tells of its replicas' roles: who leads, who follows whom, who is in sync and why.

Roles change in batches, with one image of the metadata. Of a small batch each change is told at INFO; of a large one
only the sums are, so that a failover of thousands of partitions does not wait for its own log.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from logcluster.broker.partition import Partition
from logcluster.core.metadata.image import EMPTY, MetadataImage, PartitionRegistration
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicId
from logcluster.runtime.clock import Clock
from logcluster.runtime.event_log import FEW, get_logger

log = get_logger("replicas")


class RoleEvents:
    """Of one replica manager."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: MetadataImage = EMPTY
        self._image: MetadataImage = EMPTY
        self._of = 1
        self._led = self._followed = self._without_leader = self._in_sync_changed = 0

    @contextmanager
    def batch(self, before: MetadataImage, image: MetadataImage, of: int) -> Iterator[None]:
        """For the time of a batch of at most `of` changes of roles, which make `image` of `before`."""
        self._before, self._image, self._of = before, image, of
        self._led = self._followed = self._without_leader = self._in_sync_changed = 0
        started_ms = self._clock.monotonic_ms()
        try:
            yield
        finally:
            self._before, self._of = image, 1
        if of > FEW and (self._led or self._followed or self._without_leader or self._in_sync_changed):
            log.info(
                "roles_taken",
                led=self._led,
                followed=self._followed,
                without_leader=self._without_leader,
                in_sync_changed=self._in_sync_changed,
                duration_ms=self._clock.monotonic_ms() - started_ms,
            )

    def led(self, partition: Partition) -> None:
        """A leadership has begun."""
        self._led += 1
        leader = partition.leader
        if leader is None:
            return
        if log.tells_each(self._of):
            log.each(
                "partition_led",
                of=self._of,
                partition=str(partition.topic_partition),
                leader_epoch=leader.leader_epoch,
                start_offset=leader.epoch_start_offset,
                high_watermark=leader.high_watermark,
                in_sync_replicas=leader.in_sync_replicas,
            )
        earlier = self._before.partition(partition.topic_id, partition.index)
        if earlier is not None and earlier.in_sync_replicas != leader.in_sync_replicas:
            # Whoever is active and out with a new leadership has found its copy damaged.
            self._in_sync_changed += 1
            tell_in_sync_change(
                partition,
                earlier.in_sync_replicas,
                of=self._of,
                why_out=lambda member: self._why_out(member, "damaged"),
            )

    def led_on(self, partition: Partition, in_sync_before: Sequence[int]) -> None:
        """A leadership goes on, perhaps with another in-sync set."""
        leader = partition.leader
        if leader is not None and leader.in_sync_replicas != in_sync_before:
            self._in_sync_changed += 1
            tell_in_sync_change(
                partition, in_sync_before, of=self._of, why_out=lambda member: self._why_out(member, "lagging")
            )

    def followed(self, partition: Partition) -> None:
        """A leader is followed, in an epoch that is new here."""
        self._followed += 1
        follower = partition.follower
        if follower is None or not log.tells_each(self._of):
            return
        log.each(
            "partition_followed",
            of=self._of,
            partition=str(partition.topic_partition),
            leader_id=follower.leader_id,
            leader_epoch=follower.leader_epoch,
            log_end_offset=partition.log.log_end_offset,
        )

    def without_leader(self, partition: Partition, leader_epoch: int) -> None:
        """Nobody leads the partition."""
        self._without_leader += 1
        if log.tells_each(self._of):
            log.each(
                "partition_without_leader",
                of=self._of,
                partition=str(partition.topic_partition),
                leader_epoch=leader_epoch,
            )

    def not_taken(self, registration: PartitionRegistration, error: LogClusterError) -> None:
        """A replica cannot take the role that the metadata gives it."""
        log.error(
            "role_not_taken",
            partition=self.name(registration.topic_id, registration.partition),
            leader_id=registration.leader_id,
            leader_epoch=registration.leader_epoch,
            error=error.message,
        )

    def name(self, topic_id: TopicId, index: int) -> str:
        """A partition's name, as far as the newest metadata knows it."""
        topic = self._image.topics.get(topic_id)
        return f"{topic_id.hex() if topic is None else topic.name}-{index}"

    def _why_out(self, broker_id: int, otherwise: str) -> str:
        broker = self._image.brokers.get(broker_id)
        if broker is None:
            return "unregistered"
        if broker.in_controlled_shutdown:
            return "shutting down"
        return "fenced" if broker.is_fenced else otherwise


def tell_in_sync_change(partition: Partition, before: Sequence[int], *, of: int, why_out: Callable[[int], str]) -> None:
    """Tell who has left or joined the in-sync set of a partition that is led here.

    Args:
        of: how many sets change at once.
        why_out: why a broker is not in sync any more.
    """
    leader = partition.leader
    if leader is None or not log.tells_each(of):
        return
    after = leader.in_sync_replicas
    removed = [member for member in before if member not in after]
    added = [member for member in after if member not in before]
    if removed:
        log.each(
            "in_sync_shrunk",
            of=of,
            partition=str(partition.topic_partition),
            leader_epoch=leader.leader_epoch,
            in_sync_replicas=after,
            removed=removed,
            reason=", ".join(dict.fromkeys(why_out(member) for member in removed)),
        )
    if added:
        log.each(
            "in_sync_expanded",
            of=of,
            partition=str(partition.topic_partition),
            leader_epoch=leader.leader_epoch,
            in_sync_replicas=after,
            added=added,
            reason="caught up",
        )


def tell_directory_failed(path: str, error: LogClusterError) -> None:
    """The log directory has stopped, and this broker with it."""
    is_full = error.facts.get("errno") in {errno.ENOSPC, errno.EDQUOT}
    log.error(
        "log_directory_failed",
        path=path,
        reason="disk full" if is_full else "disk failed",
        error=error.message,
        hint=error.hint,
    )
