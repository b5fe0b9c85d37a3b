"""Failpoints: named places where a process may be made to die, stall or meet an I/O error, to test recovery there.

A site calls `failpoint("area.thing.moment")` between two steps whose order matters. Normally nothing is installed and a
call costs one global read and a None check. The simulator installs a hook and raises `CrashNow` (or an `OSError` at a
site of the disk) as its seed says; a real process takes a plan from the environment variable `LOGCLUSTER_FAILPOINTS`:

    storage.log.append.after_write=crash@3,raft.persist.before=sleep(200),storage.log.flush.before_sync=error(ENOSPC)

Invariants: synchronous, and free of asyncio, because storage calls it; every call names a key of `FAILPOINTS`
literally, and every key has at least one call (a test). Source: FreeBSD's fail(9), TiKV's and RocksDB's sync points.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from logcluster.model.errors import InvalidConfig
from logcluster.runtime.entropy import SeededEntropy
from logcluster.runtime.event_log import get_logger

ENVIRONMENT_VARIABLE: Final = "LOGCLUSTER_FAILPOINTS"
EXIT_CODE: Final = 137
"""What a process ends with at a failpoint: as if it had been killed with SIGKILL."""

Hook = Callable[[str], None]
"""Told the name of a failpoint at each hit, on the thread that hits it; may raise `CrashNow` or `OSError`, or block."""

FAILPOINTS: Final[Mapping[str, str]] = {
    # Storage.
    "storage.log.append.after_write": "a batch was written to the active segment, and nothing was synced or answered",
    "storage.log.create.after_make_dir": "a partition's directory exists, and nothing is in it",
    "storage.log.create_segment.after_create": "a segment's file exists, empty and not preallocated",
    "storage.log.roll.before_trim": "the active segment is full, and still has its preallocated zeros",
    "storage.log.roll.before_create": "the full segment is trimmed, and its successor does not exist yet",
    "storage.log.roll.before_snapshot": "the next segment exists, and the producer snapshot at its base does not",
    "storage.log.flush.before_sync": "a flush begins: nothing of it is durable, though followers may hold it",
    "storage.log.flush.after_sync": "the data is durable; indexes, epochs and directory entries may not be",
    "storage.log.flush.before_sync_dir": "data and small files are durable, and the names of new files may not be",
    "storage.log.truncate.before_remove_segments": "a truncation is decided, and no file of the log is touched",
    "storage.log.truncate.before_cut": "segments beyond the cut are renamed, the last one left has its old end",
    "storage.log.truncate.after_cut": "the last segment is cut; epochs and snapshots speak of the old end",
    "storage.log.truncate.before_small_files": "snapshots beyond the cut are gone, the epoch file has the old end",
    "storage.log.truncate.before_sync_dir": "files are cut and rewritten, and the directory above is not synced",
    "storage.log.restart.before_remove_segments": "a log is to start over elsewhere, and nothing is removed yet",
    "storage.log.restart.before_create": "a log that starts over has lost its segments, and has no new one",
    "storage.log.retention.before_rename": "retention is about to rename a segment; older ones are renamed",
    "storage.log.retention.after_rename": "retention renamed its segments, and the log start was not moved",
    "storage.log.close.before_trim": "a clean close flushed everything, the active segment ends in zeros",
    "storage.log.close.before_sync": "a clean close trimmed the active segment, and did not sync that",
    "storage.segment.truncate.before_sync": "a segment's file is shorter, and that is not durable",
    "storage.segment.truncate.before_remove_index": "a segment is durably cut, and its old index still exists",
    "storage.segment.mark_deleted.after_rename": "one of a segment's two files is renamed, or both",
    "storage.small_file.before_sync": "the new content of a small file is written under a temporary name, not synced",
    "storage.small_file.before_rename": "a temporary file is complete, and the old one is still in place",
    "storage.small_file.after_rename": "a small file is replaced, and the new name is not durable",
    "storage.producer_snapshot.before_write": "a producer snapshot is encoded, and not written",
    "storage.producer_snapshot.before_remove": "a producer snapshot is about to be removed; others may be gone",
    "storage.log_directory.before_identity": "a new log directory is locked, and does not say whose it is",
    "storage.log_manager.open.before_remove_clean_marker": "the clean-shutdown marker was read, and still exists",
    "storage.log_manager.open.after_remove_clean_marker": "the clean-shutdown marker is removed, not durably",
    "storage.log_manager.open.before_quarantine_mark": "a log was found damaged at the start, and is not marked",
    "storage.log_manager.open.before_boot_file": "every log is recovered, and the boot id still says that nothing was",
    "storage.log_manager.checkpoint.before_write": "a periodic checkpoint is taken, and not written",
    "storage.log_manager.checkpoint.after_write": "a periodic checkpoint is durable, and not yet known to the manager",
    "storage.log_manager.lower_checkpoint.before_write": "a log is about to be cut below what the checkpoint says",
    "storage.log_manager.quarantine.before_mark": "a log was found damaged in use, and is not marked on disk",
    "storage.second_look.before_remove_mark": "a log that stepped aside was found whole, and is marked as damaged",
    "storage.second_look.after_remove_mark": "the mark of a log that stepped aside is removed, and that is not durable",
    "storage.log_manager.set_aside.before_checkpoint": "a log is to be set aside, and the checkpoint knows it",
    "storage.log_manager.set_aside.before_rename": "the checkpoint forgot a log whose directory has its old name",
    "storage.log_manager.set_aside.before_sync_dir": "a log's directory is renamed, and that is not durable",
    "storage.log_manager.trash.before_remove": "a renamed file or directory is about to be removed; others may be gone",
    "storage.log_manager.close.before_checkpoint": "a clean shutdown closed every log, and wrote no checkpoint",
    "storage.log_manager.close.before_clean_marker": "a clean shutdown wrote its checkpoint, and no marker",
    "storage.log_manager.close.after_clean_marker": "the clean-shutdown marker is durable, the process runs",
    "storage.recovery.before_trim": "recovery knows where a log ends, and has not cut what follows",
    "storage.recovery.before_rewrite": "recovery is about to write again what may be in the page cache only",
    "storage.recovery.before_sync": "recovery accepted a segment whose bytes may be in the page cache only",
    "storage.recovery.before_remove_segments": "recovery is about to remove the segments behind a torn one",
    "storage.recovery.before_index": "recovery is about to write the index of a closed segment",
    "storage.recovery.before_epochs": "segments are recovered, and the leader epochs still speak of the old end",
    "storage.recovery.before_remove_snapshots": "segments and epochs are recovered; snapshots beyond the end exist",
    "storage.recovery.before_sync_dir": "recovery renamed and removed files, and none of that is durable",
    # Raft.
    "raft.store.before_write": "term, vote and entries are in a batch, and nothing of it is written",
    "raft.store.after_write": "term, vote and entries are durable, and nobody was told",
    "raft.start.after_load": "the quorum's state is read, and the node takes no part yet",
    "raft.persist.before": "term, vote or entries are decided, and nothing of it is on disk",
    "raft.persist.after": "term, vote or entries are on disk, and no answer has left",
    "raft.persist.after_answers": "answers that relied on a write have left, and the node has not counted it",
    "raft.apply.before": "entries are committed, and not applied here",
    "raft.apply.before_answers": "entries are applied here, and who proposed them was not told",
    "raft.snapshot.before_compact": "a snapshot is encoded, and the log still has everything",
    "raft.snapshot.before_install": "a leader's snapshot is accepted, and the state is not replaced",
    "raft.snapshot.after_install": "the state is replaced by a leader's snapshot, which may not be on disk",
    "raft.leadership.before_announce": "a leader is known, or lost, and the listener was not told",
    # Controller.
    "controller.commit.before_propose": "a request is decided in the working state, and not proposed",
    "controller.commit.after_propose": "a request's entry is proposed, and not committed",
    "controller.apply.before_answers": "a request's entry is committed and applied, and not answered",
    "controller.reign.before_begin": "a new active controller has read nothing into its working state",
    "controller.fence.before": "a broker is found dead, and not fenced",
    "controller.snapshot.before_encode": "a snapshot of the metadata is due, and not taken",
    # Replication.
    "replication.lead.before_epoch": "a replica is named leader, and its epoch history does not know it",
    "replication.lead.after_epoch": "a new leader's epoch stands in memory, and nothing is written in it",
    "replication.follow.before": "another leader is known, and the old role goes on",
    "replication.feed.before_subscription": "a follower's position fits, and its subscription is not counted",
    "replication.feed.before_message": "data for a follower is collected, and not sent",
    "replication.follower.before_hello": "a stream to a leader is open, and nothing was said on it",
    "replication.follower.before_subscribe": "a follower is about to state its position",
    "replication.follower.after_append": "a follower appended what the leader sent, and reported nothing",
    "replication.follower.before_report": "a follower's progress is about to be reported",
    "replication.follower.before_decision": "the leader ended a subscription, and nothing is decided about it",
    "replication.follower.before_truncate": "a follower knows where to cut, and has cut nothing",
    "replication.follower.before_restart": "a follower is about to drop its whole log",
    "replication.follower.after_cut": "a follower's log is cut, and it has not asked again",
    "replication.follower.before_producers_rebuilt": "a log is cut, and the producers speak of its old end",
    "replication.flusher.before_sync": "a group of logs is about to be synced",
    "replication.flusher.before_complete": "a group of logs is synced, and no flushed offset moved",
    "replication.flusher.before_report": "flushed offsets moved, and neither leaders nor followers used them",
    "replication.flusher.before_stop": "a sync failed, and the directory still serves",
    "replication.isr.before_propose": "a change of the in-sync set counts here, and the controller knows nothing of it",
    "replication.isr.after_answer": "the controller answered about in-sync sets, and the leader has not taken it over",
    "replication.isr.before_release": "a change of the in-sync set is committed, and nobody who waited was told",
    "replication.upkeep.before_checkpoint": "recovery points are taken on the loop, and not written",
    "replication.upkeep.before_retention": "retention is about to look at a partition",
    "replication.upkeep.before_trash": "files are due for removal, and still there",
    "replication.damaged_log.before_step_aside": "a log is known to be damaged, and the replica still serves",
    "replication.damaged_log.before_replace": "nobody counts on a damaged log, and its successor does not exist",
    # Produce.
    "produce.after_append": "a batch is in the leader's log; its producer and followers know nothing of it",
    "produce.before_answer": "everything a request asked for is settled, and the client knows nothing",
    # Coordinators.
    "coordinator.append.after": "a coordinator's records are in the leader's log; its entities know nothing of them",
    "coordinator.load.before": "a shard's store has come to the start of its leadership, and nothing is loaded",
    "coordinator.load.after": "everything that lives in a shard is read, and nobody is served",
    "coordinator.rewrite.before_delete": "a shard's live records stand twice in its log, and nothing is deleted",
    # The broker's life.
    "broker.register.before": "a broker is about to register",
    "broker.register.after": "a broker is registered, and does not know its epoch",
    "broker.metadata.before_apply": "committed metadata arrived, and nothing of it is applied",
    "broker.lifecycle.before_fenced_changes": "the controller fenced or activated a broker, which has not noticed",
    "broker.producer_ids.after_allocate": "a block of producer ids is this broker's, and none was given out",
    "broker.partition.before_host": "a replica's log is open, and the replica does not exist",
    "broker.topic.before_delete_log": "a topic's deletion is committed, and its log is still there",
    "broker.shutdown.before_request": "a broker is about to ask for its controlled shutdown",
    "broker.shutdown.after_granted": "the controller let a broker go, and its logs are open",
    "broker.close.before_logs": "a broker has ended its tasks, and every log is open",
    "broker.close.before_producer_snapshot": "a log is about to be closed, and its last producer snapshot is old",
    "broker.close.before_directory": "every hosted log is closed, and the directory is not",
}
"""Every failpoint: its name, and what is done and not done when a process dies there."""

_hook: Hook | None = None
log = get_logger("failpoints")


class CrashNow(BaseException):
    """The process is to die here and now. Not an `Exception`, so that no handler mistakes it for a failure."""


def failpoint(name: str) -> None:
    """A place where the installed hook, if any, may strike; `name` is a key of `FAILPOINTS`.

    Raises:
        CrashNow: in the simulator, to end the process.
        OSError: as if the disk had failed; only where `takes_errors` says so.
    """
    if _hook is not None:
        _hook(name)


def install(hook: Hook | None) -> Hook | None:
    """Have every hit reported to `hook`, or to nobody; returns the hook that was installed before."""
    global _hook
    previous, _hook = _hook, hook
    return previous


@dataclass(frozen=True, slots=True)
class Action:
    """What is to happen at a failpoint.

    Args:
        kind: "crash" ends the process at once, "sleep" blocks the thread, "error" raises an `OSError`.
        sleep_ms: for how long "sleep" blocks.
        errno: of the `OSError` that "error" raises.
        at_hit: only at this hit, counted from 1; None for every hit.
        probability: of acting at a hit, above 0 and up to 1.
    """

    kind: Literal["crash", "sleep", "error"]
    sleep_ms: int = 0
    errno: int = 0
    at_hit: int | None = None
    probability: float = 1.0


_SPECIFICATION: Final = re.compile(
    r"(?P<kind>crash|sleep|error)(?:\((?P<argument>\w+)\))?(?:@(?P<at_hit>\d+))?(?:%(?P<probability>[\d.]+))?"
)
_TAKES_ERRORS: Final = "storage."


class Plan(NamedTuple):
    """What a text asks for: actions by the name of the failpoint, and the seed of their probabilities."""

    actions: dict[str, Action]
    seed: int


def takes_errors(name: str) -> bool:
    """Whether an `OSError` at this failpoint is handled as a failure of the disk; elsewhere it would be a bug."""
    return name.startswith(_TAKES_ERRORS)


def parse(text: str) -> Plan:
    """Read `name=action,name=action,seed=number`; see docs/failpoints.md for the actions. The seed is 0 by default.

    Raises:
        InvalidConfig: a name is unknown or given twice, or an action cannot be read or makes no sense there.
    """
    actions: dict[str, Action] = {}
    seed: int | None = None
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, specification = (part.strip() for part in item.partition("="))
        if not equals:
            raise _invalid(item, "it is not of the form name=action")
        if name in actions or (name == "seed" and seed is not None):
            raise _invalid(item, f"{name} is given twice")
        if name == "seed":
            if not specification.isdecimal():
                raise _invalid(item, "a seed is a number")
            seed = int(specification)
        elif name in FAILPOINTS:
            actions[name] = _parse_action(item, name, specification)
        else:
            raise _invalid(item, f"there is no failpoint {name!r}", hint=_similar(name))
    return Plan(actions, seed or 0)


def _parse_action(item: str, name: str, specification: str) -> Action:
    match = _SPECIFICATION.fullmatch(specification)
    if match is None:
        raise _invalid(item, "the action is none of crash, sleep(ms), error(ERRNO)")
    kind, argument = match["kind"], match["argument"]
    at_hit = None if match["at_hit"] is None else int(match["at_hit"])
    if at_hit == 0:
        raise _invalid(item, "hits are counted from 1")
    try:
        probability = 1.0 if match["probability"] is None else float(match["probability"])
    except ValueError:
        probability = 0.0
    if not 0 < probability <= 1:
        raise _invalid(item, "a probability is above 0 and at most 1")
    if kind == "crash":
        if argument is not None:
            raise _invalid(item, "crash takes no argument")
        return Action("crash", at_hit=at_hit, probability=probability)
    if kind == "sleep":
        if argument is None or not argument.isdecimal():
            raise _invalid(item, "sleep takes milliseconds, as in sleep(200)")
        return Action("sleep", sleep_ms=int(argument), at_hit=at_hit, probability=probability)
    if not takes_errors(name):
        raise _invalid(item, f"errors are raised at failpoints of the disk only: {_TAKES_ERRORS}*")
    number = getattr(errno, argument or "", None)
    if not isinstance(number, int):
        raise _invalid(item, "error takes the name of an errno, as in error(EIO)")
    return Action("error", errno=number, at_hit=at_hit, probability=probability)


def _invalid(item: str, why: str, *, hint: str = "") -> InvalidConfig:
    return InvalidConfig(f"{ENVIRONMENT_VARIABLE}: {item!r}: {why}", hint=hint or "see docs/failpoints.md")


def _similar(name: str) -> str:
    """Point to the failpoints of the same area, or to the areas."""
    import difflib

    close = difflib.get_close_matches(name, FAILPOINTS, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return (
        "areas are " + ", ".join(sorted({known.partition(".")[0] for known in FAILPOINTS})) + "; see docs/failpoints.md"
    )


class FailpointPlan:
    """The hook of a real process: carries out `actions` as failpoints are hit, on any thread.

    Args:
        actions: by name of the failpoint.
        seed: of the draws for actions with a probability; each failpoint has a stream of its own.
        block_ms: blocks the calling thread.
        exit_process: ends the process with an exit code and without cleaning up.
    """

    def __init__(
        self,
        actions: Mapping[str, Action],
        *,
        seed: int,
        block_ms: Callable[[int], None],
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        entropy = SeededEntropy(seed)
        self._armed: dict[str, tuple[Action, itertools.count[int], random.Random]] = {
            name: (action, itertools.count(1), entropy.stream(f"failpoints/{name}")) for name, action in actions.items()
        }
        self._block_ms = block_ms
        self._exit_process = exit_process

    def __call__(self, name: str) -> None:
        armed = self._armed.get(name)
        if armed is None:
            return
        action, hits, stream = armed
        hit = next(hits)
        if action.at_hit is not None and hit != action.at_hit:
            return
        if action.probability < 1 and stream.random() >= action.probability:
            return
        log.error("failpoint_hit", failpoint=name, action=action.kind, hit=hit)
        if action.kind == "crash":
            self._exit_process(EXIT_CODE)
        elif action.kind == "sleep":
            self._block_ms(action.sleep_ms)
        else:
            raise OSError(action.errno, f"{os.strerror(action.errno)} (failpoint {name})")


def install_from_text(text: str, *, block_ms: Callable[[int], None]) -> Plan:
    """Install the plan that `text` describes, log each action, and return it; an empty text installs nothing.

    Args:
        text: the value of `LOGCLUSTER_FAILPOINTS`.
        block_ms: blocks the calling thread; `runtime.clock.block_ms`, handed in because that file knows asyncio.

    Raises:
        InvalidConfig: the text names an unknown failpoint or action; nothing was installed.
    """
    plan = parse(text)
    if plan.actions:
        install(FailpointPlan(plan.actions, seed=plan.seed, block_ms=block_ms))
    for name, action in plan.actions.items():
        log.error("failpoint_armed", failpoint=name, action=str(action))
    return plan
