"""The stage of a scripted history: a simulated cluster, and a vocabulary in which bug reports can be retold.

Owns the world, its invariants, the history of the clients and the verdict. Nodes are named by their number; clients by
the name the script gave them. Whatever the script cuts, pauses or switches off is undone by `finish`, which then asks
of the cluster what every run is asked: converge, take a write, and give back everything that was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from logcluster.broker.partition import Partition
from logcluster.check.checker import check
from logcluster.check.history import Recorder
from logcluster.client.client import Client
from logcluster.client.records import Point
from logcluster.core.metadata.image import MetadataImage, PartitionRegistration
from logcluster.node import Node
from logcluster.sim.event_loop import SimulationError
from logcluster.sim.faults.failpoint_arms import Arm, FailpointArms
from logcluster.sim.findings import Finding, Source
from logcluster.sim.invariants import Invariants
from logcluster.sim.loopback import Link
from logcluster.sim.scenarios.actors import CLIENT_OPTIONS, Reader, Sent, Writer
from logcluster.sim.scenarios.finale import Finale
from logcluster.sim.scenarios.power import LOSSES, Loss
from logcluster.sim.simulated_node import SimulatedNode
from logcluster.sim.workload.books import Books, Speaker
from logcluster.sim.workload.options import TopicOptions
from logcluster.sim.world import World, WorldOptions
from logcluster.storage.kv_store import Batch

Result = TypeVar("Result")
Place = int | str
"""A node by its number, or a client by its name on the network."""

WAIT_TIMEOUT_MS: Final = 10_000
ADMIN: Final = "client-admin"
"""The name on the network of whoever asks for what `Stage.ask` says."""
SETTINGS: Final[Mapping[str, Any]] = {
    "broker.leader_rebalance_interval_ms": 600_000,  # leaders move when the script says so
    "broker.replica_lag_time_max_ms": 600_000,  # and so do in-sync sets
}


class OffScript(SimulationError):
    """The cluster is not where the script needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """What the cluster of a scenario is made of.

    Args:
        brokers: nodes, each broker and controller.
        settings: configuration keys, over those of every stage.
    """

    brokers: int = 3
    settings: Mapping[str, Any] = field(default_factory=dict)


class Stage:
    """See the top of the file.

    Attributes:
        findings: what was found wrong so far, by whomever.
    """

    def __init__(self, seed: int, options: StageOptions) -> None:
        self.world = World(
            seed,
            WorldOptions(
                brokers=options.brokers,
                settings={**SETTINGS, **options.settings},
                link_delay_ms=(0.1, 0.5),
                disk_latency_ms=(0.1, 0.5),
            ),
        )
        self.findings: list[Finding] = []
        self._invariants = Invariants(self.world, on_finding=self.findings.append)
        self.world.observers.append(self._invariants)
        self.world.on_unexpected = self._on_unexpected
        self._recorder = Recorder(lambda: int(self.world.loop.time() * 1e9))
        self.books = Books(self._recorder, lambda: self.world.now_ms)
        self._deletions: list[tuple[int, str]] = []
        """Up to which event of the history a topic of this name was the one that was deleted then."""
        self._failpoints = FailpointArms()
        self._failpoints.install()

    # -- beginning and end ----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start the cluster."""
        await self.world.start()

    async def finish(self) -> None:
        """Undo everything, then demand convergence, a write to every partition, and every record back."""
        self.heal()
        for machine in self.world.nodes.values():
            machine.resume()
            machine.disk_latency_ms = self.world.options.disk_latency_ms
            machine.start()
        await Finale(self.world, self.books, self.findings).play()

    def judge(self) -> None:
        """Check the history of the clients."""
        self.findings += self.books.findings
        self._tell_incarnations_apart()
        for anomaly in check(self._recorder.events).anomalies:
            self.find(anomaly.name, f"{anomaly.key}: {anomaly.detail}", "history")

    def _tell_incarnations_apart(self) -> None:
        """Note with every event which of several topics of one name it is about."""
        names = dict.fromkeys(name for _, name in self._deletions)
        for event in self._recorder.events if names else ():
            event.meta["topic_id"] = {
                name: str(sum(1 for until, deleted in self._deletions if deleted == name and event.index >= until))
                for name in names
            }

    def close(self) -> None:
        """Give back what belongs to the interpreter."""
        self._failpoints.uninstall()

    def find(self, name: str, detail: str, source: Source) -> None:
        """Note that something is wrong."""
        self.findings.append(Finding(name, detail, self.world.now_ms, source))

    def expect(self, condition: bool, name: str, detail: str) -> None:
        """Note the finding `name` unless `condition` holds."""
        if not condition:
            self.find(name, detail, "history")

    def _on_unexpected(self, what: str, error: BaseException | None) -> None:
        self.find("unexpected-error", f"{what}: {error!r}", "crash")

    async def _wait_for(self, condition: Callable[[], bool], timeout_ms: int) -> bool:
        deadline_ms = self.world.now_ms + timeout_ms
        while not condition() and self.world.now_ms < deadline_ms:
            await self.world.sleep_ms(1)
        return condition()

    # -- what stands in the metadata ------------------------------------------------------------------------------

    def _running(self) -> list[Node]:
        return [machine.node for machine in self.world.nodes.values() if machine.node is not None]

    @property
    def image(self) -> MetadataImage:
        """The newest metadata that any running node has applied."""
        return max((node.loader.image for node in self._running()), key=lambda image: image.offset)

    def partition(self, topic: str, number: int = 0) -> PartitionRegistration:
        """How the metadata has a partition.

        Raises:
            OffScript: it is not there.
        """
        found = self.image.topic_by_name(topic)
        if found is None or number not in found.partitions:
            raise OffScript(f"{topic}-{number} is not in the metadata")
        return found.partitions[number]

    def leader_of(self, topic: str, number: int = 0) -> int | None:
        """The leader, as the metadata says."""
        return self.partition(topic, number).leader_id

    def in_sync(self, topic: str, number: int = 0) -> tuple[int, ...]:
        """The in-sync set, as the metadata says, in ascending order."""
        return tuple(sorted(self.partition(topic, number).in_sync_replicas))

    def controller(self) -> int:
        """The node that is the active controller.

        Raises:
            OffScript: there is none.
        """
        for machine in self.world.nodes.values():
            node = machine.node
            if node is not None and node.controller is not None and node.controller._reign is not None:
                return machine.node_id
        raise OffScript("there is no active controller")

    def others(self, *nodes: int) -> list[int]:
        """All nodes but these, in ascending order."""
        return [node_id for node_id in self.world.nodes if node_id not in nodes]

    def replica(self, node: int, topic: str, number: int = 0) -> Partition:
        """The replica that a running node hosts.

        Raises:
            OffScript: it hosts none.
        """
        running = self.machine(node).node
        if running is not None:
            for partition in running.replicas.partitions:
                if (partition.topic, partition.index) == (topic, number):
                    return partition
        raise OffScript(f"node-{node} hosts no replica of {topic}-{number}")

    def log_end(self, node: int, topic: str, number: int = 0) -> int:
        """How far the log of a running node's replica reaches; 0 when it hosts none."""
        try:
            return self.replica(node, topic, number).log.log_end_offset
        except OffScript:
            return 0

    # -- clients --------------------------------------------------------------------------------------------------

    async def create_topic(
        self, name: str, replicas: Sequence[int], *, absent: Sequence[int] = (), **config: object
    ) -> None:
        """Create a topic of one partition, and wait until every replica that is not `absent` has its role.

        The first replica leads. Settings have `_` where Kafka's have `.`.
        """
        present = [node for node in replicas if node not in absent]
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        min_isr = int(settings.setdefault("min.insync.replicas", str(min(2, len(replicas)))))
        topic = self.books.add_topic(
            TopicOptions(
                name=name,
                partitions=1,
                replication_factor=len(replicas),
                min_isr=min_isr,
                is_durable=settings.get("flush.mode") != "async",
                config=settings,
            )
        )
        topic.grow(1)

        async def create(client: Client) -> None:
            await client.admin.create_topic(name, assignments=[list(replicas)], config=settings)

        await self.ask(create)
        topic.is_created = True
        await self.wait_until(
            lambda: (
                self.in_sync(name) == tuple(sorted(present)) and all(self.log_is_there(node, name) for node in present)
            ),
            f"{name} is there",
        )

    async def delete_topic(self, name: str) -> None:
        """Delete a topic; what the history says of its name from now on is about another one."""

        async def delete(client: Client) -> None:
            await client.admin.delete_topic(name)

        voice = Speaker(self.books, "admin")
        operation = voice.invoke("delete_topic", name)
        await self.ask(delete)
        voice.ok(operation, name)
        self._deletions.append((len(self._recorder.events), name))
        self.books.topics[name].is_deleted = True
        await self.wait_until(
            lambda: all(node.loader.image.topic_by_name(name) is None for node in self._running()), f"{name} is gone"
        )

    def log_is_there(self, node: int, topic: str, number: int = 0) -> bool:
        """Whether the node hosts a replica now, and in a role."""
        try:
            return self.replica(node, topic, number).leader_epoch is not None
        except OffScript:
            return False

    async def ask(self, question: Callable[[Client], Coroutine[Any, Any, Result]]) -> Result:
        """Let a client of its own ask one thing.

        Raises:
            LogClusterError: the answer was an error.
        """
        process = self.world.process(ADMIN)

        async def work() -> Result:
            async with self.world.connect(process, options=CLIENT_OPTIONS) as client:
                return await question(client)

        return await process.spawn(work(), name="ask")

    async def writer(self, name: str = "writer", **options: Any) -> Writer:
        """A producer that is connected; options as of `Client.producer`."""
        writer = Writer(self.world, self.books, name, options)
        await writer.open()
        return writer

    async def reader(self, name: str, topic: str, start: Point = "earliest", partition: int = 0) -> Reader:
        """A consumer of one partition that is connected."""
        reader = Reader(self.world, self.books, name, topic, partition, start)
        await reader.open()
        return reader

    async def send(self, writer: Writer, topic: str, count: int = 1, *, size_bytes: int = 0) -> list[Sent]:
        """Send records one after the other, each when the one before is acknowledged.

        Raises:
            OffScript: one was not.
        """
        sent = []
        for _ in range(count):
            record = writer.send(topic, size_bytes=size_bytes)
            await self.acked([record])
            sent.append(record)
        return sent

    async def acked(self, sent: Sequence[Sent], *, timeout_ms: int = WAIT_TIMEOUT_MS) -> None:
        """Wait until all are acknowledged.

        Raises:
            OffScript: that did not happen.
        """
        await self.wait_until(lambda: all(record.is_done for record in sent), "an outcome", timeout_ms=timeout_ms)
        for record in sent:
            if record.error is not None:
                raise OffScript(f"{record.value} was not acknowledged: {record.error!r}")

    # -- time -----------------------------------------------------------------------------------------------------

    async def sleep(self, delay_ms: int) -> None:
        """Let time pass."""
        await self.world.sleep_ms(delay_ms)

    async def wait_until(self, condition: Callable[[], bool], what: str, *, timeout_ms: int = WAIT_TIMEOUT_MS) -> None:
        """Look every millisecond until `condition` holds.

        Raises:
            OffScript: it does not in time.
        """
        if not await self._wait_for(condition, timeout_ms):
            raise OffScript(f"waited {timeout_ms} ms in vain for: {what}")

    # -- mishaps --------------------------------------------------------------------------------------------------

    def machine(self, node: int) -> SimulatedNode:
        """The machine of a node."""
        return self.world.nodes[node]

    def crash(self, *nodes: int) -> None:
        """Kill processes; the operating systems live on, so that everything written stays."""
        for node in nodes:
            self.machine(node).keep_down = True
            self.machine(node).crash()

    def power_off(self, *nodes: int, loses: Loss = "all") -> None:
        """Take the power away; `loses` says what of the unsynced data is gone."""
        for node in nodes:
            machine = self.machine(node)
            machine.keep_down = True
            generator, machine._disk_rng = machine._disk_rng, LOSSES[loses]()
            machine.crash(power_loss=True)
            machine._disk_rng = generator

    def write_back(self, *nodes: int) -> None:
        """Let operating systems write what the quorum's stores hold so far, as they do sooner or later unasked."""
        for node in nodes:
            self.machine(node).store.write(Batch(), sync=True)

    def crash_at(self, node: int, failpoint: str, *, power_loss: bool = False, hits: int = 1) -> None:
        """Kill the node when it comes to this failpoint, and keep it down."""
        strike = self.power_off if power_loss else self.crash
        self._failpoints.arm(Arm(self.machine(node).name, failpoint, hits, lambda: strike(node)))

    def start(self, *nodes: int) -> None:
        """Start nodes that are down; they are running a little later."""
        for node in nodes:
            self.machine(node).start()

    async def running(self, *nodes: int) -> None:
        """Start nodes and wait until each is a member of the cluster again.

        Raises:
            OffScript: one is not.
        """
        self.start(*nodes)
        await self.wait_until(lambda: all(self.machine(node).is_active for node in nodes), f"nodes {nodes} are active")

    def slow_disk(self, node: int, delay_ms: float) -> None:
        """From now on let every operation of a disk take as long."""
        self.machine(node).disk_latency_ms = (delay_ms, delay_ms)

    def link(self, source: Place, target: Place) -> Link:
        """The way from one place to another."""
        return self.world.network.link(_host(source), _host(target))

    def slow_link(self, source: Place, target: Place, delay_ms: float) -> None:
        """From now on let everything on this way take as long."""
        link = self.link(source, target)
        link.delay_ms_min = link.delay_ms_max = delay_ms

    def cut(self, source: Place, target: Place) -> None:
        """Let nothing through, in either direction; what is sent is held, as by a router that comes back."""
        self.world.cut(_host(source), _host(target))
        self.world.cut(_host(target), _host(source))

    def hold(self, source: Place, target: Place) -> None:
        """Hold what the first sends to the second; answers of the second go through."""
        self.world.cut(_host(source), _host(target))

    def release(self, source: Place, target: Place) -> None:
        """Undo `hold`, or one direction of `cut`."""
        self.world.heal(_host(source), _host(target))

    def join(self, source: Place, target: Place) -> None:
        """Undo `cut`."""
        self.release(source, target)
        self.release(target, source)

    def isolate(self, node: int) -> None:
        """Cut a node off all others, though not off the clients."""
        for other in self.others(node):
            self.cut(node, other)

    def heal(self) -> None:
        """Let everything through again, as fast as ever."""
        self.world.heal_all()
        low, high = self.world.options.link_delay_ms
        for link in self.world.network._links.values():
            link.delay_ms_min, link.delay_ms_max = low, high


def _host(place: Place) -> str:
    return f"node-{place}" if isinstance(place, int) else place
