"""Random histories of a correct group pass; with one thing broken in the group they do not."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hand_made import KEY, HandMadeGroup

from logcluster.check.checker import check
from logcluster.check.history import Event


@dataclass
class Member:
    """A member as it sees itself: where it is, and below which offset its own commits stay out of the application's."""

    name: str
    is_owner: bool = False
    handed: int = 0
    chosen: int = 0
    is_gone: bool = False


@dataclass
class Commit:
    """A commit on its way; `number` orders those of a member."""

    invoked: int
    member: Member
    offset: int
    number: int
    is_deliberate: bool
    answer: str | None = None


@dataclass
class Group:
    """One partition, its log, and a coordinator that does what it promises, but for `fault`."""

    seed: int
    fault: str = ""
    committed: int | None = None
    log: list[int] = field(default_factory=list)
    end: int = 0
    log_start: int = 0
    epoch: int = 0
    holder: Member | None = None
    newest: int = -1
    members: list[Member] = field(default_factory=list)
    open: list[Commit] = field(default_factory=list)
    planted: int = 0

    def __post_init__(self) -> None:
        self.stream = random.Random(self.seed)
        self.made = HandMadeGroup()

    def run(self, steps: int = 150) -> list[Event]:
        choices: list[Callable[[], None]] = [
            *[self.append] * 6,
            *[self.poll] * 5,
            *[self.commit] * 3,
            *[self.arrive] * 3,
            *[self.finish] * 3,
            self.hand_over,
            *[self.fetch] * 2,
            self.fetch if self.fault else self.rare,
        ]
        for _ in range(steps):
            self.stream.choice(choices)()
        while self.open:
            self.finish()
        self.fetch()
        self.made.drain(*[(offset, f"v{offset}") for offset in self.log if offset >= self.log_start])
        return self.made.recorder.events

    def breaks(self, fault: str) -> bool:
        """Is it broken here and now?"""
        is_broken = self.fault == fault and self.stream.random() < 0.3
        self.planted += is_broken
        return is_broken

    # -- the log

    def append(self) -> None:
        self.end += self.stream.choice([0, 0, 1])  # A control record.
        self.made.send(f"v{self.end}", self.end)
        self.log.append(self.end)
        self.end += 1

    def poll(self) -> None:
        readers = [member for member in self.members if member.is_owner]
        if not readers:
            return
        member = self.stream.choice(readers)
        position = member.handed + 1 if self.breaks("skip") else member.handed
        if position < self.log_start:
            self.made.resume(member.name, self.log_start, "out_of_range", **{"from": {KEY: position}})
            position = self.log_start
        records = [offset for offset in self.log if offset >= position][: self.stream.randrange(1, 6)]
        if records:
            member.handed = records[-1] + 1
        self.made.handed(member.name, *records)

    # -- members

    def hand_over(self) -> None:
        """The partition goes to a new member; the one before lets go of it, or is thought dead."""
        before, member = self.holder, Member(f"m{len(self.members)}", is_owner=True)
        self.members.append(member)
        self.epoch += 1
        if before is not None:
            kind = self.stream.randrange(3)
            if kind < 2:
                self.made.revoked(before.name)
                before.is_owner = False
                self.arrive()
            if kind == 1:
                self.made.of_member(before.name, "leave", None)
                before.is_gone = True
            if kind < 2 and self.breaks("reads on"):
                before.is_owner = True
        self.holder, self.newest = member, -1
        self.made.assigned(member.name, self.epoch)
        self.start(member)

    def start(self, member: Member) -> None:
        invoked = self.made.begin(member.name, "resume", [KEY])
        told = self.committed
        if self.stream.random() < 0.5:
            self.made.fetch(told, member.name)
        if self.breaks("begins at a wrong place") and told:
            told -= 1
        is_by_policy = told is None or self.breaks("forgets that something is committed")
        position = self.stream.choice([self.log_start, self.end]) if is_by_policy else told
        assert position is not None
        member.handed = position
        self.made.end(invoked, "ok", {KEY: position}, why="policy" if is_by_policy else "committed")

    def lose(self) -> None:
        """A former owner learns of it."""
        for member in self.members:
            if member.is_owner and member is not self.holder:
                self.made.revoked(member.name, f="lost")
                member.is_owner = False

    # -- commits

    def commit(self) -> None:
        if not self.members:
            return
        member = self.holder if self.holder and self.stream.random() < 0.6 else self.stream.choice(self.members[-3:])
        if member.is_gone:
            return
        is_deliberate = not self.fault and self.stream.random() < 0.1
        offset = self.stream.randrange(self.end + 1) if is_deliberate else member.handed
        if offset < member.chosen and not is_deliberate:
            return
        if not is_deliberate and self.breaks("commits less than before"):
            offset = max(0, offset - 3)
        if is_deliberate:
            member.chosen = offset
        meta = {"deliberate": True} if is_deliberate else {}
        invoked = self.made.begin(member.name, "commit", {KEY: offset}, **meta)
        self.open.append(Commit(invoked, member, offset, invoked, is_deliberate))
        if self.stream.random() < 0.5:
            self.finish(self.open[-1])

    def arrive(self, commit: Commit | None = None) -> None:
        """A commit takes effect, or is refused."""
        waiting = [known for known in self.open if known.answer is None]
        if commit is None and not waiting:
            return
        commit = commit or self.stream.choice(waiting)
        if commit.member is not self.holder and not self.breaks("accepts the commit of a former owner"):
            commit.answer = "fail"
            return
        commit.answer = "ok"
        if commit.number < self.newest or self.breaks("acknowledges and forgets"):
            return
        self.newest = commit.number
        self.committed = commit.offset

    def finish(self, commit: Commit | None = None) -> None:
        """The member hears of it, or does not; then it may still arrive, or never."""
        if not self.open:
            return
        commit = commit or self.stream.choice(self.open)
        if self.stream.random() < 0.2:
            if commit.answer is None and self.stream.random() < 0.5:
                self.arrive(commit)
            self.made.end(commit.invoked, "info", None)
        else:
            if commit.answer is None:
                self.arrive(commit)
            self.made.end(commit.invoked, commit.answer, {KEY: commit.offset})
        self.open.remove(commit)

    def fetch(self) -> None:
        invoked = self.made.begin(None, "fetch_offsets", [KEY])
        told = self.committed
        if told is not None and self.breaks("makes an offset up"):
            told += 1000
        if self.stream.random() < 0.3:
            self.arrive()
        self.made.end(invoked, "ok", {KEY: told})

    # -- what is rare

    def rare(self) -> None:
        kind = self.stream.randrange(4)
        if kind == 0 and self.end:
            self.log_start = max(self.log_start, self.stream.randrange(self.end))
            self.made.do("delete_records", {KEY: self.log_start})
        elif kind == 1 and self.holder is not None and self.end:
            self.holder.handed, self.holder.chosen = self.stream.randrange(self.log_start, self.end + 1), 0
            self.made.of_member(self.holder.name, "seek", {KEY: self.holder.handed})
        elif kind == 2:
            self.lose()
        else:
            self.reset()

    def reset(self) -> None:
        """Everybody leaves, and the application moves the group or deletes it."""
        if self.holder is not None:
            self.made.of_member(self.holder.name, "leave", None)
            self.holder.is_owner, self.holder.is_gone = False, True
            self.holder = None
        self.lose()
        offset = self.stream.choice([None, self.stream.randrange(self.end + 1)])
        outcome = self.stream.choice(["ok", "ok", "info", "fail"])
        is_done = outcome == "ok" or (outcome == "info" and self.stream.random() < 0.5)
        if offset is None and self.stream.random() < 0.5:
            self.made.of_member(None, "reset_offsets", None, outcome=outcome)
            self.epoch = 0 if is_done else self.epoch
        else:
            self.made.reset(offset, outcome=outcome)
        if is_done:
            self.committed = offset


@pytest.mark.parametrize("block", range(8))
def test_a_correct_group_passes(block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        report = check(Group(seed).run())
        assert report.passed, f"seed {seed}\n{report.render()}"


FAULTS = {
    "skip": "group-gap",
    "reads on": "double-ownership",
    "begins at a wrong place": "resumed-elsewhere",
    "forgets that something is committed": "spurious-reset",
    "commits less than before": "offset-regression",
    "accepts the commit of a former owner": "zombie-commit",
    "acknowledges and forgets": "commit-lost",
    "makes an offset up": "commit-phantom",
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_what_is_broken_is_found(fault: str) -> None:
    found = 0
    for seed in range(40):
        group = Group(seed, fault)
        names = check(group.run(steps=300)).names
        found += FAULTS[fault] in names
        assert group.planted or not names, f"seed {seed}: {names}"
    assert found >= 20, found


def looked_at(size: int) -> int:
    """Calls made to judge members that jump to and fro and commits that are lost again and again."""
    made = HandMadeGroup().log(size).assigned("a", 1).resume("a", 0, "policy")
    for number in range(size // 4):
        made.handed("a", 2).handed("a", size - 1).commit("a", number).commit("a", size - number).fetch(0)
        made.assigned("b", 2).resume("b", number % 3).handed("b", size - 1).revoked("b")
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        names = check(made.recorder.events).names
    finally:
        sys.setprofile(None)
    assert {"commit-lost", "zombie-commit", "group-gap", "resumed-elsewhere"} <= set(names)
    return calls


def test_a_broken_group_is_judged_in_linear_time_too() -> None:
    assert looked_at(800) < 3 * looked_at(400)
