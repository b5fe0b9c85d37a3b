"""Stories of disks: rot, torn tails, lost files, and data deleted because something did not mention it (P8).

The studies behind them found the same mistakes again and again: damage taken for the end of a log, damage copied to
others, and metadata believed where it is silent.
"""

from __future__ import annotations

from typing import Final

from logcluster.sim.ablations.editing import Edit, Patch
from logcluster.sim.faults.disk_map import DiskMap
from logcluster.sim.scenarios.scenario import Scenario
from logcluster.sim.scenarios.stage import OffScript, Stage, StageOptions
from logcluster.storage.checkpoints import LEADER_EPOCHS_FILE
from logcluster.storage.recovery import LogRecovery

RECORD_SIZE_BYTES: Final = 300


def _segment(stage: Stage, node: int, topic: str) -> str:
    """Path of the first segment of a topic's only partition."""
    for path in DiskMap(stage.machine(node).disk).segment_paths():
        if path.split("/")[-2].startswith(f"{topic}-"):
            return path
    raise OffScript(f"node-{node} has no segment of {topic}")


def _flip_a_bit(stage: Stage, node: int, topic: str, *, record: int) -> bytes:
    """Damage one record in the middle of a log whose records have all the same size; returns some bytes of it."""
    disk = stage.machine(node).disk
    path = _segment(stage, node, topic)
    size_bytes = int.from_bytes(disk.content(path)[8:12]) + 12
    position = record * size_bytes + size_bytes - 50
    disk.flip_bit(path, 8 * position)
    return disk.content(path)[position - 20 : position + 20]


async def _rot_in_the_middle(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower])
    writer = await stage.writer(compression="none")
    await stage.send(writer, "orders", 10, size_bytes=RECORD_SIZE_BYTES)
    stage.crash(leader)
    await stage.wait_until(lambda: stage.leader_of("orders") == follower, "the follower leads")
    stage.crash(follower)
    _flip_a_bit(stage, follower, "orders", record=3)
    await stage.running(follower)
    await stage.sleep(500)
    await stage.running(leader)
    await stage.sleep(500)


async def _rot_spreads(stage: Stage) -> None:
    leader, follower, newcomer = stage.others()
    await stage.create_topic("orders", [leader, follower, newcomer])
    writer = await stage.writer(compression="none")
    await stage.send(writer, "orders", 10, size_bytes=RECORD_SIZE_BYTES)
    stage.crash(newcomer)
    stage.machine(newcomer).wipe()
    damage = _flip_a_bit(stage, leader, "orders", record=3)
    await stage.running(newcomer)
    await stage.wait_until(lambda: newcomer in stage.in_sync("orders"), "the newcomer is in sync")
    copied = stage.machine(newcomer).disk.content(_segment(stage, newcomer, "orders"))
    stage.expect(damage not in copied, "script-damage-copied", "the newcomer has stored the damaged record")


async def _absence_is_no_deletion(stage: Stage) -> None:
    replicas = stage.others()
    await stage.create_topic("orders", replicas)
    writer = await stage.writer()
    await stage.send(writer, "orders", 5)
    stage.crash(*replicas)
    await stage.running(*replicas)


async def _name_used_again(stage: Stage) -> None:
    leader, absent = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, absent])
    writer = await stage.writer("before")
    await stage.send(writer, "orders", 5)
    writer.kill()
    stage.crash(absent)
    await stage.delete_topic("orders")
    await stage.create_topic("orders", [leader, absent], absent=[absent], min_insync_replicas=1)
    again = await stage.writer("after")
    await stage.send(again, "orders", 2)
    await stage.running(absent)
    await stage.wait_until(lambda: len(stage.in_sync("orders")) == 2, "the other one is in sync")
    stage.crash(leader)
    await stage.wait_until(lambda: stage.leader_of("orders") == absent, "the other one leads")
    await stage.send(again, "orders")


async def _tail_torn(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower])
    writer = await stage.writer(compression="none")
    await stage.send(writer, "orders", 3, size_bytes=RECORD_SIZE_BYTES)
    hasty = await stage.writer("hasty", acks=1, compression="none")
    for node in (leader, follower):
        stage.slow_disk(node, 5_000)
    await stage.send(hasty, "orders", 2, size_bytes=RECORD_SIZE_BYTES)
    await stage.wait_until(lambda: stage.log_end(follower, "orders") == 5, "both have written five records")
    for node in (leader, follower):
        stage.power_off(node, loses="first")
        stage.slow_disk(node, 0.2)
    await stage.running(leader, follower)


async def _write_torn(stage: Stage) -> None:
    leader, _ = stage.others(stage.controller())
    await stage.create_topic("orders", [leader])
    writer = await stage.writer(compression="none")
    await stage.send(writer, "orders", 3)
    stage.slow_disk(leader, 5_000)
    hasty = await stage.writer("hasty", acks=1, compression="none")
    await stage.send(hasty, "orders", size_bytes=4_000)
    stage.power_off(leader, loses="torn")
    stage.slow_disk(leader, 0.2)
    await stage.running(leader)


async def _epochs_lost(stage: Stage) -> None:
    first, second = stage.others(stage.controller())
    await stage.create_topic("orders", [first, second])
    writer = await stage.writer(acks=1)
    await stage.send(writer, "orders", 3)
    await stage.wait_until(lambda: stage.log_end(second, "orders") == 3, "both have three records")
    stage.cut(first, second)
    await stage.send(writer, "orders", 2)
    stage.crash(first)
    await stage.wait_until(lambda: stage.leader_of("orders") == second, "the second leads")
    await stage.send(writer, "orders", 4)
    disk = stage.machine(first).disk
    directory = _segment(stage, first, "orders").rpartition("/")[0]
    disk.remove(f"{directory}/{LEADER_EPOCHS_FILE}")
    disk.sync_dir(directory)
    stage.join(first, second)
    await stage.running(first)
    await stage.wait_until(lambda: len(stage.in_sync("orders")) == 2, "both are in sync again")


SCENARIOS: Final = (
    Scenario(
        name="rot-in-the-middle",
        title="One flipped bit in the middle of a log: everything behind it is cut off as if it were a torn tail",
        source="NATS #7549; Alagappan et al., FAST 2018 (protocol-aware recovery)",
        safeguard="damage in the middle of a log sets the replica aside until it has fetched everything again",
        ablation="middle-corruption-quarantine",
        expected=frozenset({"lost-write"}),
        play=_rot_in_the_middle,
    ),
    Scenario(
        name="rot-spreads",
        title="A leader's disk rots, and a follower that starts empty copies the damage",
        source="Ganesan et al., FAST 2017 (eight systems, Kafka among them)",
        safeguard="a replica checks every batch that it reads for others or takes from its leader",
        ablation="replica-checksum",
        expected=frozenset({"script-damage-copied"}),
        play=_rot_spreads,
        options=StageOptions(settings={"data.tail_cache_bytes_max": 0}),
    ),
    Scenario(
        name="absence-is-no-deletion",
        title="A node reads metadata that does not name a stream yet, declares it orphaned and deletes its data",
        source="NATS #7556",
        safeguard="a log is deleted when a deletion is committed, never because the metadata does not name it",
        ablation="deletion-by-tombstone",
        expected=frozenset({"lost-write"}),
        play=_absence_is_no_deletion,
    ),
    Scenario(
        name="name-used-again",
        title="A topic is deleted and created again while a broker is away, which brings the old records back",
        source="KIP-516",
        safeguard="a log belongs to a topic by id, not by name",
        ablation="topic-id-in-directories",
        expected=frozenset({"log-divergence", "topic-resurrection", "resurrection"}),
        play=_name_used_again,
    ),
    Scenario(
        name="torn-tail",
        title="A power loss keeps the last write and not the one before; every replica takes that for rot and is stuck",
        source="Pillai et al., OSDI 2014; the other side of NATS #7549",
        safeguard="above the recovery point, after a power loss, what does not fit is a torn tail and is cut",
        ablation="torn-tail-is-cut",
        expected=frozenset({"partition-not-writable", "partition-not-readable"}),
        play=_tail_torn,
        patch=Patch(
            Edit(
                LogRecovery._judge,
                "if recovery_point is not None and self._context.may_have_lost_unsynced:",
                "if False:",
            )
        ),
    ),
    Scenario(
        name="torn-write",
        title="A power loss tears a record in two, and its readable half is taken for the whole",
        source="Pillai et al., OSDI 2014; Ganesan et al., FAST 2017",
        safeguard="recovery checks every batch above the recovery point, and cuts the log before one that is not whole",
        ablation="recovery-checksum",
        expected=frozenset({"partition-not-readable"}),
        play=_write_torn,
    ),
    Scenario(
        name="epochs-lost",
        title="The file of leader epochs is gone with a replaced directory, and the replica goes on without",
        source="KAFKA-15608",
        safeguard="derived files are rebuilt from the batches of the log, and never trusted alone",
        ablation="epochs-are-rebuilt",
        expected=frozenset({"log-divergence"}),
        play=_epochs_lost,
        patch=Patch(
            Edit(
                LogRecovery._finish_epochs,
                "    if stored is not None and not",
                "    if stored is None:\n        log.leader_epochs.clear()\n    if stored is not None and not",
            )
        ),
    ),
)
