"""What happens to the brokers from outside: faults, operators, and the calm at the end.

The atlas, that is what replication promises to survive: messages lost, late and cut in one direction; in-sync changes
that arrive twice, late, or whose answer is lost; any number of process crashes; with `flush.mode=sync` power losses of
any number of brokers at once; one lost copy at a time (an empty disk; with `async` also a power loss) while every
record is promised on two; failovers of the controller that drop what was not committed.
"""

from __future__ import annotations

from logcluster.core.controller.requests import DrainBroker, ElectLeaders
from logcluster.core.metadata.image import PartitionRegistration
from logcluster.sim.cores.controller_host import partition_of
from logcluster.sim.cores.replication_world import CONTROLLER_ID, ReplicationWorld
from logcluster.sim.cores.sim_broker import SimBroker

CONVERGENCE_MS_MAX = 6_000
_TURN_MS = 50
_START_MS_MAX = 3_000


class ReplicationStorm:
    """Drives one world: start, storm, calm."""

    def __init__(self, world: ReplicationWorld) -> None:
        self._world = world
        self._draining: int | None = None
        world.on_expand = self._on_expand

    def run(self) -> None:
        """The whole run; findings are in the book."""
        world = self._world
        for broker in world.brokers.values():
            broker.start()
        if not self._wait(self._all_active, _START_MS_MAX):
            world.book.find("no-progress", f"brokers did not become active: {world.controller.committed.brokers}")
            return
        world.controller.create_topic()
        if not self._wait(self._has_leader, _START_MS_MAX):
            world.book.find("no-progress", "the new partition found no leader")
            return
        world.is_calm = False
        world.at(1, self._produce)
        world.at(1, self._act)
        world.run_until(world.now_ms + world.options.duration_ms)
        self._heal()
        self._converge()

    def _wait(self, is_done: object, limit_ms: int) -> bool:
        assert callable(is_done)
        world = self._world
        end_ms = world.now_ms + limit_ms
        while world.now_ms < end_ms:
            world.run_until(world.now_ms + 10)
            if is_done():
                return True
        return False

    def _all_active(self) -> bool:
        registered = self._world.controller.committed.brokers
        return len(registered) == len(self._world.brokers) and all(each.is_active for each in registered.values())

    def _has_leader(self) -> bool:
        return any(broker.leader is not None for broker in self._world.brokers.values())

    # -- the storm -----------------------------------------------------------------------------------------------

    def _produce(self) -> None:
        world = self._world
        if not world.is_calm:
            world.producers[world.below(len(world.producers) - 1)].offer()
            world.at(1 + world.below(2 * world.options.produce_interval_ms), self._produce)

    def _act(self) -> None:
        world = self._world
        if world.is_calm:
            return
        options = world.options
        draw = world.rng.random()
        for probability, fault in (
            (options.crash, self._crash),
            (options.blackout, self._blackout),
            (options.clean_stop, self._stop_cleanly),
            (options.disk_lost, self._lose_disk),
            (options.cut, self._cut),
            (options.controller_cut, self._cut_from_controller),
            (options.pause, self._pause),
            (options.controller_failover, self._fail_controller_over),
            (options.elect, self._elect),
            (options.double_failover, self._fail_over_twice),
            (options.stream_reset, self._reset_stream),
            (options.delete_records, self._delete_records),
        ):
            draw -= probability
            if draw < 0:
                fault()
                break
        world.at(1 + world.below(options.action_ms_max), self._act)

    def _leader(self) -> SimBroker | None:
        partition = self._partition
        if partition is None or partition.leader_id is None:
            return None
        return self._world.brokers[partition.leader_id]

    @property
    def _partition(self) -> PartitionRegistration | None:
        return self._world.controller.partition

    def _target(self) -> SimBroker:
        """Half of the time the leader, where it hurts; otherwise any broker."""
        world = self._world
        leader = self._leader()
        if leader is not None and world.chance(0.5):
            return leader
        return world.brokers[1 + world.below(len(world.brokers) - 1)]

    def _may_lose_a_copy(self) -> bool:
        return self._world.options.min_in_sync >= 2 and not self._world.copies_lost

    def _crash(self) -> None:
        self._kill(self._target())

    def _kill(self, broker: SimBroker) -> None:
        world = self._world
        if not broker.is_alive:
            return
        power_loss = world.chance(world.options.power_loss)
        if power_loss and not world.options.is_synced:
            if self._may_lose_a_copy():
                world.copies_lost[broker] = None
            else:
                power_loss = False
        broker.crash(power_loss=power_loss)
        world.at(1 + world.below(world.options.restart_ms_max), broker.start)

    def _blackout(self) -> None:
        """All brokers lose their power at once; with `async` only their processes die."""
        world = self._world
        world.book.probe("core.replication.all_crashed")
        for broker in world.brokers.values():
            if broker.is_alive:
                broker.crash(power_loss=world.options.is_synced)
                world.at(1 + world.below(world.options.restart_ms_max), broker.start)

    def _stop_cleanly(self) -> None:
        world = self._world
        broker = self._target()
        if broker.is_alive and not broker.is_stopping:
            broker.stop_cleanly(
                lambda: world.at(1 + world.below(world.options.restart_ms_max), broker.start),
            )

    def _lose_disk(self) -> None:
        self._empty(self._target())

    def _empty(self, broker: SimBroker) -> None:
        world = self._world
        if self._may_lose_a_copy() and broker.is_alive:
            world.copies_lost[broker] = None
            broker.crash(power_loss=True)
            broker.lose_disk()
            world.book.probe("core.replication.disk_lost")
            world.at(1 + world.below(world.options.restart_ms_max), broker.start)

    def _on_expand(self, newcomer: SimBroker) -> None:
        world = self._world
        if not world.is_calm and world.chance(world.options.crash_on_expand):
            world.book.probe("core.replication.newcomer_died")
            world.at(world.below(10), self._empty if world.chance(0.6) else self._kill, newcomer)
        elif not world.is_calm and world.options.fence_on_expand and world.chance(world.options.fence_on_expand):
            world.blocked[newcomer.broker_id, CONTROLLER_ID] = world.now_ms + 60 + world.below(200)
            if newcomer.broker_epoch is not None:
                world.at(world.below(20), world.lose_session, newcomer.broker_id, newcomer.broker_epoch)

    def _cut(self) -> None:
        world = self._world
        victim = self._target().broker_id
        others = [broker_id for broker_id in world.brokers if broker_id != victim]
        draw = world.below(3)
        if draw == 0:
            pairs = [(victim, others[world.below(len(others) - 1)])]
        elif draw == 1:
            pairs = [(victim, other) for other in others]
        elif draw == 2:
            pairs = [(other, victim) for other in others]
        else:
            pairs = [pair for other in others for pair in ((victim, other), (other, victim))]
        self._block(pairs)

    def _cut_from_controller(self) -> None:
        victim = self._target().broker_id
        draw = self._world.below(2)
        pairs = [(victim, CONTROLLER_ID), (CONTROLLER_ID, victim)]
        self._block(pairs if draw == 2 else [pairs[draw]])

    def _block(self, pairs: list[tuple[int, int]]) -> None:
        world = self._world
        until_ms = world.now_ms + 50 + world.below(600)
        for pair in pairs:
            world.blocked[pair] = until_ms

    def _pause(self) -> None:
        world = self._world
        broker = self._target()
        if broker.is_alive and not broker.is_paused:
            broker.pause()
            world.at(20 + world.below(700), broker.resume)
            if broker.leader is not None:
                world.book.probe("core.replication.leader_paused")

    def _fail_controller_over(self) -> None:
        world = self._world
        fail = world.controller.fail_over_soon if world.chance(0.5) else world.controller.fail_over
        fail(world.below(150))

    def _elect(self) -> None:
        """An operator moves the leadership: back to the preferred leader, or off a broker that drains."""
        controller = self._world.controller
        if self._draining is not None:
            controller.submit(DrainBroker(broker_id=self._draining, drain=False), _ignore)
            self._draining = None
        elif self._world.chance(0.5):
            controller.submit(ElectLeaders(partitions=None), _ignore)
        else:
            leader = self._leader()
            if leader is not None:
                self._draining = leader.broker_id
                controller.submit(DrainBroker(broker_id=leader.broker_id, drain=True), _ignore)

    def _fail_over_twice(self) -> None:
        """The leader dies, and soon after the one that followed it."""
        leader = self._leader()
        if leader is not None:
            self._world.book.probe("core.replication.double_failover")
            self._kill(leader)
            self._world.at(20 + self._world.below(450), self._kill_leader)

    def _kill_leader(self) -> None:
        leader = self._leader()
        if leader is not None and not self._world.is_calm:
            self._kill(leader)

    def _reset_stream(self) -> None:
        """A connection between two replicas breaks."""
        world = self._world
        links = [slot.link for broker in world.brokers.values() for slot in broker.slots.values()]
        if links:
            links[world.below(len(links) - 1)].break_off()

    def _delete_records(self) -> None:
        leader = self._leader()
        if leader is not None and leader.is_alive and not leader.is_paused:
            leader.delete_records()
            self._world.checks.on_deleted(leader.log.log_start_offset)

    # -- the calm ------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self._world
        world.is_calm = True
        world.blocked.clear()
        world.controller.heal()
        if self._draining is not None:
            world.controller.submit(DrainBroker(broker_id=self._draining, drain=False), _ignore)
        for broker in world.brokers.values():
            broker.resume()
            broker.start()

    def _converge(self) -> None:
        """Everything offered is acknowledged, all replicas are in sync and equal, within the bound."""
        world = self._world
        start_ms = world.now_ms
        problem: str | None = "nothing looked at"
        last = False
        while world.now_ms - start_ms <= CONVERGENCE_MS_MAX and len(world.book.findings) < 8:
            world.run_until(world.now_ms + _TURN_MS)
            for broker in world.brokers.values():
                broker.start()  # a clean stop may end during the calm
            self._elect_unclean_if_allowed()
            problem = self._unfinished()
            if problem is None and last:
                break
            if problem is None:
                last = True
                for producer in world.producers:
                    producer.offer()
        if problem is not None:
            world.book.find("no-progress", f"{problem} after {world.now_ms - start_ms} ms of calm")
        leader = self._leader()
        if leader is not None:
            world.checks.check_order(leader.log.batches)
            missing = world.checks.missing(leader)
            if missing:
                world.book.find("exposed-lost", f"at the end leader {leader.broker_id} lacks {missing[:3]}")
        for broker in world.brokers.values():
            world.checks.check_producers(broker)

    def _elect_unclean_if_allowed(self) -> None:
        """With `async` every copy may count as doubtful; then an operator decides."""
        world, partition = self._world, self._partition
        if partition is None or partition.leader_id is not None or world.options.is_synced:
            return
        if not partition.in_sync_replicas and not partition.eligible_leader_replicas:
            world.controller.submit(ElectLeaders(partitions=None, unclean=True), _ignore)
            world.book.probe("core.controller.operator_elected_unclean")

    def _unfinished(self) -> str | None:
        world = self._world
        partition = self._partition
        leader = self._leader()
        if partition is None or leader is None or leader.leader is None:
            return f"no leader: {partition}"
        waiting = [len(producer.unresolved) for producer in world.producers if producer.unresolved]
        if waiting:
            return f"unacknowledged writes: {waiting}; {leader.leader.describe()}"
        if len(partition.in_sync_replicas) < len(partition.replicas):
            return f"not all in sync: {partition}; {leader.leader.describe()}"
        if leader.high_watermark != leader.log.log_end_offset:
            return f"uncommitted records: {leader.leader.describe()}"
        for broker_id in partition.replicas:
            broker = world.brokers[broker_id]
            if partition_of(broker.image) != partition:
                return f"broker {broker_id} does not know the newest metadata"
            start = max(leader.log.log_start_offset, broker.log.log_start_offset)
            ours = [each for each in leader.log.batches if each.next_offset > start]
            if [each for each in broker.log.batches if each.next_offset > start] != ours:
                return f"broker {broker_id}'s log differs from the leader's"
        return None


def _ignore(response: object) -> None:
    """Nobody waits for this."""
    del response
