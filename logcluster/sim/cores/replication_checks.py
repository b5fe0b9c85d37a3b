"""What every run of the replication cores must keep.

Exposed means: below the high watermark of a leader; a reader may have seen it, a producer may have been told.

| finding | what was broken |
|---|---|
| acked-lost | a record that a producer was told of is missing from the log of a later leader |
| exposed-lost | the same for a record that only readers may have seen |
| exposed-changed | two replicas expose different records at one offset |
| acked-not-exposed | a producer was told of a record that is not below any high watermark |
| high-watermark-above-in-sync | a leader exposed what a member of the committed in-sync set does not hold durably |
| in-sync-outside-maximal | the committed in-sync set has a member that the leader does not wait for |
| in-sync-lacks-exposed | a replica joined the committed in-sync set without all that was exposed |
| two-leaders | two brokers led in one leader epoch |
| high-watermark-regressed | within a leader epoch |
| latest-regressed | a leader answers "latest" below what an earlier leader had exposed |
| truncated-exposed | a replica cut records that were exposed, and that it held rightly |
| report-ahead | a follower reported more than it was sent |
| sequence-refused | the oldest batch of an idempotent producer is refused as out of order |
| duplicate, reordered | a batch of an idempotent producer is twice in the log, or batches are out of sequence |
| producer-state | a replica's producer state is not what replaying its log gives |
| core-invariant | an invariant inside a core |
| no-progress | in calm weather writes were not acknowledged, or replicas did not become equal, in time |

With `flush.mode=async` an unclean election may lose records, and says so: what its leader lacks is forgotten here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from logcluster.core.metadata.image import MetadataImage, PartitionRegistration
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import OffsetNotAvailable
from logcluster.sim.cores.controller_host import partition_of
from logcluster.sim.cores.partition_log import Batch, describe_batches

if TYPE_CHECKING:
    from logcluster.sim.cores.replication_world import ReplicationWorld
    from logcluster.sim.cores.sim_broker import SimBroker

REPLICATION_FINDINGS: Final = (
    "acked-lost",
    "exposed-lost",
    "exposed-changed",
    "acked-not-exposed",
    "high-watermark-above-in-sync",
    "in-sync-outside-maximal",
    "in-sync-lacks-exposed",
    "two-leaders",
    "high-watermark-regressed",
    "latest-regressed",
    "truncated-exposed",
    "report-ahead",
    "sequence-refused",
    "duplicate",
    "reordered",
    "producer-state",
    "core-invariant",
    "no-progress",
)


class ReplicationChecks:
    """Global knowledge of one run: what was exposed, what was acknowledged, who led."""

    def __init__(self, world: ReplicationWorld) -> None:
        self._world = world
        self._book = world.book
        self.exposed: dict[int, Batch] = {}
        """By base offset, without gaps from the first one deleted on."""
        self.exposed_end = 0
        self.deleted_below = 0
        self._acked: set[int] = set()
        self._leaders: dict[int, int] = {}
        self._watermarks: dict[int, int] = {}
        self._latest: dict[int, int] = {}
        """By leader epoch: the largest answer to "latest"."""
        self._unclean_epoch = 0
        """Of the newest unclean election: what is said in earlier epochs no longer counts."""
        self.may_have_forgotten = False
        """Records were deleted, or lost in an unclean election: brokers may know less of producers than they told."""

    # -- exposure ------------------------------------------------------------------------------------------------

    def on_exposed(self, broker: SimBroker, before: int, high_watermark: int) -> None:
        """A leader's high watermark moved."""
        leader = broker.leader
        assert leader is not None
        if leader.leader_epoch < self._unclean_epoch:
            return
        known = self._watermarks.get(leader.leader_epoch, 0)
        if high_watermark < known:
            self._book.find("high-watermark-regressed", f"{broker.broker_id}: {high_watermark} after {known}")
        self._watermarks[leader.leader_epoch] = high_watermark
        self._compare(broker, before, high_watermark, is_leader=True)
        registration = self._world.controller.partition
        if registration is not None and registration.leader_epoch == leader.leader_epoch:
            self._check_held(broker, registration, high_watermark)
        try:
            latest = leader.latest_offset()
        except OffsetNotAvailable:
            self._book.probe("core.replication.latest_not_available")
            return
        epoch = leader.leader_epoch
        earlier = max((each for known, each in self._latest.items() if known < epoch), default=0)
        if latest < earlier:
            self._book.find("latest-regressed", f"{broker.broker_id}: {latest} after {earlier}")
        self._latest[epoch] = latest

    def on_follower_learned(self, broker: SimBroker, before: int, high_watermark: int) -> None:
        """A follower's high watermark moved: what lies below it must be what was exposed."""
        assert broker.follower is not None
        if broker.follower.leader_epoch < self._unclean_epoch:
            return
        if high_watermark > self.exposed_end:
            self._book.find(
                "exposed-changed", f"follower {broker.broker_id}: {high_watermark} beyond {self.exposed_end}"
            )
        self._compare(broker, before, high_watermark, is_leader=False)

    def _compare(self, broker: SimBroker, before: int, high_watermark: int, *, is_leader: bool) -> None:
        log = broker.log
        offset = max(before, log.log_start_offset)
        while offset < high_watermark:
            batch = log.batch_at(offset)
            if batch is None:
                self._book.find("exposed-changed", f"{broker.broker_id} exposes {offset}, which it does not have")
                return
            known = self.exposed.get(batch.base_offset)
            if known is None and is_leader and batch.base_offset >= self.exposed_end:
                self.exposed[batch.base_offset] = batch
                self.exposed_end = batch.next_offset
            elif known != batch and batch.base_offset >= self.deleted_below:
                self._book.find("exposed-changed", f"{broker.broker_id}: {describe_batches([batch])}, not {known}")
                return
            offset = batch.next_offset

    def _holds(self, broker: SimBroker, offset: int) -> bool:
        """Whether a replica holds everything exposed below `offset`, as durably as the topic promises."""
        log = broker.log
        held = log.flushed_offset if self._world.options.is_synced else log.log_end_offset
        if held < offset:
            return False
        last = log.batch_at(offset - 1)
        return last is None or last.base_offset < self.deleted_below or self.exposed.get(last.base_offset) == last

    def _is_known(self, broker: SimBroker, image: MetadataImage) -> bool:
        """Whether the controller knows the broker's disk, and of the copy that it may have lost."""
        registered = image.brokers.get(broker.broker_id)
        if registered is None or registered.directory_id != broker.directory_id:
            return False
        return broker not in self._world.copies_lost or registered.broker_epoch == broker.broker_epoch

    def _check_held(self, leader: SimBroker, registration: PartitionRegistration, high_watermark: int) -> None:
        image = self._world.controller.committed
        for member in registration.in_sync_replicas:
            broker = self._world.brokers[member]
            if self._is_known(broker, image) and not self._holds(broker, high_watermark):
                self._book.find(
                    "high-watermark-above-in-sync",
                    f"{leader.broker_id} exposes {high_watermark}; {member} holds "
                    f"{broker.log.flushed_offset}/{broker.log.log_end_offset}; {registration}",
                )

    # -- the controller ------------------------------------------------------------------------------------------

    def on_image(self, before: MetadataImage, image: MetadataImage) -> None:
        """An entry was committed: look at who is in sync now."""
        registration = partition_of(image)
        earlier = partition_of(before)
        if registration is None or registration == earlier:
            return
        if registration.eligible_leader_replicas:
            self._book.probe("core.controller.eligible_leader_replicas")
        for member in registration.in_sync_replicas:
            if earlier is None or member in earlier.in_sync_replicas or registration.is_recovering:
                continue
            broker = self._world.brokers[member]
            if member == registration.leader_id or not self._is_known(broker, image):
                continue  # who is elected is judged when it leads
            if not self._holds(broker, self.exposed_end):
                self._book.find("in-sync-lacks-exposed", f"{member} of {registration}, {self.exposed_end} exposed")
        if registration.leader_id is not None:
            leader = self._world.brokers[registration.leader_id].leader
            if leader is not None and leader.leader_epoch == registration.leader_epoch:
                outside = [
                    member for member in registration.in_sync_replicas if member not in leader.maximal_in_sync_replicas
                ]
                if outside:
                    self._book.find("in-sync-outside-maximal", f"{outside} of {registration}; {leader.describe()}")

    def on_new_leader(self, broker: SimBroker, registration: PartitionRegistration) -> None:
        """A broker begins to lead: it must hold everything that was exposed."""
        epoch = registration.leader_epoch
        if self._leaders.setdefault(epoch, broker.broker_id) != broker.broker_id:
            self._book.find("two-leaders", f"epoch {epoch}: {self._leaders[epoch]} and {broker.broker_id}")
        current = self._world.controller.partition
        if current is None or current.leader_epoch != epoch:
            self._book.probe("core.replication.outdated_leader_began")
            return
        lost = self.missing(broker)
        end = broker.log.log_end_offset
        if registration.is_recovering and not self._world.options.is_synced:
            if lost or end < self.exposed_end:
                self._book.probe("core.replication.unclean_election_lost_records")
                self._forget(min([end, *(batch.base_offset for batch in lost[:1])]))
            self._unclean_epoch = epoch
            self._compare(broker, 0, broker.high_watermark, is_leader=True)
            return
        if end < self.exposed_end and not lost:  # all of it was deleted, yet its offsets must not be given out again
            self._book.find("exposed-lost", f"leader {broker.broker_id} epoch {epoch} ends at {end}")
        if not lost:
            return
        name = "acked-lost" if any(batch.base_offset in self._acked for batch in lost) else "exposed-lost"
        self._book.find(name, f"leader {broker.broker_id} epoch {epoch} lacks {describe_batches(lost[:5])}")

    def missing(self, broker: SimBroker) -> list[Batch]:
        """What was exposed and is not in a replica's log."""
        log = broker.log
        below = max(log.log_start_offset, self.deleted_below)
        return [
            batch
            for batch in self.exposed.values()
            if batch.next_offset > below and log.batch_at(batch.base_offset) != batch
        ]

    def _forget(self, offset: int) -> None:
        for base_offset in [each for each in self.exposed if each >= offset]:
            del self.exposed[base_offset]
            self._acked.discard(base_offset)
        self.exposed_end = min(self.exposed_end, offset)
        self.deleted_below = min(self.deleted_below, offset)
        self._latest.clear()
        self.may_have_forgotten = True

    # -- replicas and producers ----------------------------------------------------------------------------------

    def on_truncated(self, broker: SimBroker, cut: list[Batch]) -> None:
        """A follower cut its log."""
        self._book.probe("core.replication.truncated")
        rightly_held = [
            batch
            for batch in cut
            if batch.base_offset >= self.deleted_below and self.exposed.get(batch.base_offset) == batch
        ]
        if rightly_held:
            self._book.find("truncated-exposed", f"{broker.broker_id} cut {describe_batches(rightly_held[:5])}")

    def on_producers_loaded(self, broker: SimBroker) -> None:
        """After a start or a truncation: what was rebuilt is what the whole log says."""
        self.check_producers(broker)

    def check_producers(self, broker: SimBroker) -> None:
        """The producer state equals a replay of the log, as far as the log goes back."""
        if broker.log.log_start_offset > 0:
            return
        expected = broker.log.replay_producers()
        if _summary(broker.producers, self._world) != _summary(expected, self._world):
            self._book.find(
                "producer-state", f"{broker.broker_id}: {broker.producers.describe()}, not {expected.describe()}"
            )

    def on_deleted(self, offset: int) -> None:
        """An operator deleted records below `offset`."""
        if offset > self.deleted_below:
            self.deleted_below = offset
            self.may_have_forgotten = True

    def on_acked(self, base_offset: int, value: int) -> None:
        """A producer was told that its batch is committed."""
        batch = self.exposed.get(base_offset)
        if batch is None and base_offset < self.deleted_below:
            return
        if batch is None or batch.value != value:
            if self._unclean_epoch:
                return  # the answer was on its way when the record was lost
            self._book.find("acked-not-exposed", f"v{value} at {base_offset} is {batch}")
        self._acked.add(base_offset)

    def check_order(self, batches: list[Batch]) -> None:
        """Each idempotent producer's batches are in the log once, in sequence."""
        values: dict[int, Batch] = {}
        following: dict[int, int] = {}
        for batch in batches:
            if batch.producer_id < 0:
                continue
            if batch.value in values:
                self._book.find("duplicate", describe_batches([values[batch.value], batch]))
                continue
            values[batch.value] = batch
            expected = following.get(batch.producer_id)
            if expected is not None and batch.base_sequence != expected:
                self._book.find("reordered", f"producer {batch.producer_id}: {batch}, expected sequence {expected}")
            following[batch.producer_id] = batch.base_sequence + batch.record_count


def _summary(producers: ProducerStates, world: ReplicationWorld) -> list[object]:
    return [
        (producer_id, entry.producer_epoch, entry.batches)
        for producer_id in world.producer_ids
        if (entry := producers.get(producer_id)) is not None
    ]
