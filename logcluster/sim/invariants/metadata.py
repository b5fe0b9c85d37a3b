"""The metadata: replayed here once from the quorum's committed entries, and every node's image compared with that.

The replay uses `MetadataImage.apply`, the product's only implementation of what a record means; what is found here is
a node whose state does not follow from the log (a lost entry, a damaged snapshot, an uncommitted change taken for a
committed one) and elections that no rule allows. KIP-966 (eligible replicas), KIP-841, docs/protocol/controller.md.
"""

from __future__ import annotations

from logcluster.core.metadata.image import EMPTY, MetadataDelta, MetadataImage, PartitionRegistration
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.model.errors import LogClusterError
from logcluster.model.invariants import InvariantViolation
from logcluster.sim.invariants.context import Context, Watch
from logcluster.sim.invariants.durability import Durability
from logcluster.sim.invariants.election import Election
from logcluster.sim.invariants.view import PartitionKey, hosted_partitions
from logcluster.wire.records import decode_batch


class Metadata:
    """See the top of the file."""

    def __init__(self, context: Context, durability: Durability, election: Election) -> None:
        self._context = context
        self._durability = durability
        self._election = election
        self._images: dict[int, MetadataImage] = {0: EMPTY}

    # -- the log --------------------------------------------------------------------------------------------------

    def replay(self, index: int, term: int, payload: bytes) -> None:
        """Apply the next committed entry of the metadata log."""
        context = self._context
        before = context.image
        try:
            image, delta = before.apply(decode_batch(payload), offset=index, term=term)
        except (LogClusterError, InvariantViolation) as error:
            context.report(
                "core-check", ("metadata entry", index), f"committed entry {index} cannot be applied: {error}"
            )
            return
        context.image = self._images[index] = image
        self._check_replaced_disks(before, image, delta)
        for registration in delta.changed_partitions:
            known = before.partition(registration.topic_id, registration.partition)
            if known is not None:
                self._check_change(image, known, registration)

    def begin_anew(self) -> None:
        """The log that was replayed is gone with all disks: what comes now is another one."""
        self._images = {0: EMPTY}
        self._context.image = EMPTY
        self._election.begin_anew()

    def adopt(self, image: MetadataImage) -> None:
        """Go on from a node's image: the entries up to it are in nobody's log any more.

        Partitions that got another leader meanwhile are not judged any further: the election may have been an unclean
        one, which only its own entry says.
        """
        before = self._context.image
        if image.offset <= before.offset:
            return
        self._context.image = self._images[image.offset] = image
        for key, history in self._context.histories.items():
            known, now = before.partition(*key), image.partition(*key)
            if known is not None and now is not None and now.leader_epoch > known.leader_epoch:
                history.is_tainted = True

    def _check_change(self, image: MetadataImage, before: PartitionRegistration, after: PartitionRegistration) -> None:
        key = PartitionKey(after.topic_id, after.partition)
        history = self._context.histories.get(key)
        if after.is_recovering and after.leader_epoch > before.leader_epoch:
            self._election.unclean[key] = after.leader_epoch
            if history is not None:
                history.is_tainted = True
        elif after.leader_id is not None and after.leader_epoch > before.leader_epoch:
            self._check_election(image, before, after)
        if history is not None and not history.is_tainted:
            self._check_members(key, before, after)

    def _check_election(
        self, image: MetadataImage, before: PartitionRegistration, after: PartitionRegistration
    ) -> None:
        """unsafe-election: who leads anew was in sync or eligible just before, or the last known leader of a topic
        that syncs before it counts; and it is active. An unclean election says so itself (`is_recovering`).
        """
        leader_id = after.leader_id
        name = self._name(after)
        is_last_resort = (
            not before.in_sync_replicas
            and not before.eligible_leader_replicas
            and leader_id in before.last_known_leaders
            and TopicConfig.from_overrides(image.topics[after.topic_id].config).flush_mode == "sync"
        )
        if (
            leader_id not in before.in_sync_replicas
            and leader_id not in before.eligible_leader_replicas
            and not is_last_resort
        ):
            self._context.report(
                "unsafe-election",
                (name, after.leader_epoch),
                f"{name}: node {leader_id} is elected in epoch {after.leader_epoch}, in sync were "
                f"{before.in_sync_replicas}, eligible {before.eligible_leader_replicas}, last known "
                f"{before.last_known_leaders}",
            )
        broker = None if leader_id is None else image.brokers.get(leader_id)
        if broker is None or not broker.is_active:
            self._context.report(
                "unsafe-election",
                (name, after.leader_epoch, "inactive"),
                f"{name}: node {leader_id} is elected in epoch {after.leader_epoch} and is not active: {broker}",
            )

    def _check_replaced_disks(self, before: MetadataImage, image: MetadataImage, delta: MetadataDelta) -> None:
        """unsafe-election: a broker that comes with another disk holds nothing, so no list may still name it."""
        for broker_id in delta.changed_broker_ids:
            old, new = before.brokers.get(broker_id), image.brokers.get(broker_id)
            if old is None or new is None or old.directory_id == new.directory_id:
                continue
            for topic in image.topics.values():
                for partition in topic.partitions.values():
                    named = (
                        *partition.in_sync_replicas,
                        *partition.eligible_leader_replicas,
                        *partition.last_known_leaders,
                    )
                    if broker_id in named:
                        self._context.report(
                            "unsafe-election",
                            (topic.topic_id, partition.partition, broker_id, new.broker_epoch),
                            f"{topic.name}-{partition.partition}: node {broker_id} has another disk and still counts: "
                            f"{partition}",
                        )

    def _check_members(self, key: PartitionKey, before: PartitionRegistration, after: PartitionRegistration) -> None:
        """isr-member-incomplete: every member committed as in sync or eligible holds all that is exposed so far.

        A leader waits for a newcomer from its proposal on, before the controller commits it; and who leaves while the
        set is too small leaves behind a high watermark that stands still. Copies that faults took from are excused.
        """
        if (before.in_sync_replicas, before.eligible_leader_replicas) == (
            after.in_sync_replicas,
            after.eligible_leader_replicas,
        ):
            return
        history = self._context.histories[key]
        end = history.end_offset
        copies = self._context.copies.get(key, {})
        for member in (*after.in_sync_replicas, *after.eligible_leader_replicas):
            copy = copies.get(member)
            if end == 0 or (copy is not None and self._durability.is_held(copy, end)):
                continue
            reach = 0 if copy is None else self._durability.reach(copy, end)
            self._context.report(
                "isr-member-incomplete",
                (key, after.partition_epoch, member),
                f"{history.name}: node {member} counts (in sync {after.in_sync_replicas}, eligible "
                f"{after.eligible_leader_replicas}, partition epoch {after.partition_epoch}), holds [0, {reach}) of "
                f"[0, {end})",
            )

    def _name(self, registration: PartitionRegistration) -> str:
        topic = self._context.image.topics.get(registration.topic_id)
        return f"{topic.name if topic is not None else registration.topic_id.hex()}-{registration.partition}"

    # -- the nodes ------------------------------------------------------------------------------------------------

    def on_image(self, watch: Watch, before: MetadataImage, image: MetadataImage, who: str) -> None:
        """metadata-regression, metadata-divergence: another image of one process, as broker or as controller.

        A new process begins with nothing, or with a snapshot; that is another `Watch`. An image ahead of what was
        replayed here cannot be compared: its node learnt of the commitment before the event ended.
        """
        if image.offset < before.offset:
            self._context.report(
                "metadata-regression",
                (watch.name, who),
                f"{who} of {watch.name}: from metadata offset {before.offset} to {image.offset}",
            )
        expected = self._images.get(image.offset)
        if expected is not None and expected != image:
            self._context.report(
                "metadata-divergence",
                (watch.name, who),
                f"{who} of {watch.name} at metadata offset {image.offset}: {_difference(expected, image)}",
            )

    def check_topics(self, watch: Watch, image: MetadataImage) -> None:
        """topic-resurrection: as far as the node knows, its replicas with a role are of topics that exist.

        A replica without a role serves nothing; it may outlive its topic on a node whose log directory has stopped.
        """
        for key, partition in hosted_partitions(watch.node).items():
            if partition.leader is None and partition.follower is None:
                continue
            topic_id = image.topic_ids.get(partition.topic)
            if topic_id != key.topic_id or key.topic_id in image.deleted_topic_ids:
                self._context.report(
                    "topic-resurrection",
                    (key, watch.node_id),
                    f"{partition.topic_partition} on {watch.name} has id {key.topic_id.hex()}, the topic's is "
                    f"{topic_id.hex() if topic_id is not None else None} at metadata offset {image.offset}",
                )


def _difference(expected: MetadataImage, found: MetadataImage) -> str:
    """The first field that differs, in the order of their meaning."""
    for field in ("term", "cluster_id", "next_producer_id", "topic_ids", "deleted_topic_ids", "brokers"):
        wanted, has = getattr(expected, field), getattr(found, field)
        if wanted != has:
            return f"{field} is {has}, the log says {wanted}"
    for topic_id, topic in expected.topics.items():
        other = found.topics.get(topic_id)
        if other is None:
            return f"topic {topic.name} is missing"
        if other.config != topic.config:
            return f"settings of {topic.name} are {dict(other.config)}, the log says {dict(topic.config)}"
        for index, partition in topic.partitions.items():
            if other.partitions.get(index) != partition:
                return f"{topic.name}-{index} is {other.partitions.get(index)}, the log says {partition}"
    return "it has more topics than the log says"
