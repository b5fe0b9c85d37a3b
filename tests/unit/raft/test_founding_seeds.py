"""Seeded storms over the founding: any disks are lost at any time, but never a certain voter's.

As long as that disk lives, there is one history: whoever leads has what was ever committed. Progress is not promised
here, a majority may be gone for good.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from logcluster.sim.cores.raft_disk import RaftDisk
from logcluster.sim.cores.raft_faults import RaftStorm
from logcluster.sim.cores.raft_options import RaftOptions
from logcluster.sim.cores.raft_world import RaftWorld, directory_of
from logcluster.sim.cores.result import Notebook

CALM_MS = 1_500
RESETS = {"leader-completeness", "committed-changed", "election-safety", "state-machine-safety"}
"""How a second history shows."""


class DiskStorm(RaftStorm):
    """Loses disks as it likes, except the survivor's."""

    def __init__(self, world: RaftWorld, survivor_id: int) -> None:
        super().__init__(world)
        self.world = world
        self.survivor_id = survivor_id
        self.losses = 0

    def _wipe(self) -> None:
        member = self._any_member()
        if member.node_id == self.survivor_id:
            return
        self.losses += 1
        self.world.kill(member, power_loss=True)
        directory_id = directory_of(member.node_id, self.losses)
        member.config = replace(member.config, directory_id=directory_id)
        member.disk = self.world.disks[member.node_id, directory_id] = RaftDisk()
        member.disk_term_seen = 0
        self.world.at(1 + self.world.below(self.world.options.restart_ms_max), self.world.start, member)

    def play(self) -> None:
        for member in self.world.members.values():
            self.world.at(self.world.below(150), self.world.start, member)
        self.world.at(1, self._act)
        self.world.run_until(self.world.options.duration_ms)
        self._heal()
        self.world.run_until(self.world.now_ms + CALM_MS)


def draw_options(rng: Random) -> RaftOptions:
    return RaftOptions(
        voter_count=rng.choice((3, 3, 3, 5)),
        wipe=rng.choice((0.01, 0.05, 0.2)),
        crash=rng.choice((0.0, 0.05, 0.15)),
        power_loss=rng.random(),
        blackout=rng.choice((0.0, 0.01)),
        cut=rng.choice((0.0, 0.1)),
        pause=rng.choice((0.0, 0.05)),
        drop=rng.choice((0.0, 0.05, 0.2)),
        duplicate=rng.choice((0.0, 0.1)),
        late=rng.choice((0.0, 0.1)),
        delay_ms_max=rng.choice((2, 10, 40)),
        disk_ms_max=rng.choice((0, 5, 30)),
        restart_ms_max=rng.choice((5, 50, 300)),
        duration_ms=700,
        action_ms_max=rng.choice((5, 30)),
    )


def storm(seed: int, *, ablations: frozenset[str] = frozenset()) -> tuple[Notebook, DiskStorm]:
    rng = Random(f"founding-{seed}")
    book = Notebook(None)
    world = RaftWorld(rng, draw_options(rng), ablations, book)
    disks = DiskStorm(world, survivor_id=1 + rng.randrange(world.options.voter_count))
    disks.play()
    return book, disks


def test_no_second_history_begins_while_one_disk_of_the_first_lives() -> None:
    losses = elected = stuck = 0
    for seed in range(120):
        book, disks = storm(seed)
        assert not book.findings, f"seed {seed}: {book.findings}"
        losses += disks.losses
        elected += any(member.led_terms for member in disks.world.members.values())
        stuck += all(
            member.node is not None and member.node.leader_id is None for member in disks.world.members.values()
        )
    assert losses > 200
    assert elected > 20, "there were histories to lose"
    assert stuck > 20, "there were majorities lost"


def test_without_the_founding_a_second_history_begins() -> None:
    for seed in range(120):
        book, _ = storm(seed, ablations=frozenset({"founding"}))
        if RESETS & book.findings.keys():
            return
    raise AssertionError("the safeguard is not missed")
