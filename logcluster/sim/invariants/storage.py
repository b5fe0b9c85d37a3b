"""Components' own checks, and the bytes of replicas that have come to rest."""

from __future__ import annotations

from collections.abc import Callable

from logcluster.broker.partition import Partition
from logcluster.model.invariants import InvariantViolation
from logcluster.sim.invariants.context import Context, Watch
from logcluster.sim.invariants.history import Copy
from logcluster.sim.invariants.stored_log import StoredLogWalk
from logcluster.sim.invariants.view import log_failure, reign_of


class Storage:
    """core-check, replicas-differ-at-rest."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check_partition(self, watch: Watch, partition: Partition) -> None:
        """The checks of log, role and producers; a log that failed is no longer in order, and not used."""
        if log_failure(partition) is not None:
            return
        subject = f"{partition.topic_partition} on {watch.name}"
        self._run(subject, partition.log.check)
        self._run(subject, partition.check)

    def check_node(self, watch: Watch) -> None:
        """The checks of the voter and of the active controller's state."""
        if watch.raft is not None:
            self._run(f"voter of {watch.name}", watch.raft.check)
        reign = reign_of(watch.node)
        if reign is not None:
            self._run(f"controller on {watch.name}", reign.controller.check)

    def _run(self, subject: str, check: Callable[[], None]) -> None:
        try:
            check()
        except InvariantViolation as violation:
            self._context.report("core-check", subject, f"{subject}: {violation}")

    def check_at_rest(self) -> None:
        """replicas-differ-at-rest: what in-sync replicas hold, from the latest log start to the earliest end.

        Segments may begin at different offsets on different replicas (each rolls by its own clock and by what one
        append brought), so that batches are compared and not files. Damage that nobody has read yet is left out: a
        batch whose checksum is wrong, and a copy that was damaged on purpose.
        """
        for key, copies in self._context.copies.items():
            registration = self._context.image.partition(*key)
            if registration is None:
                continue
            held = [
                copies[node_id]
                for node_id in registration.in_sync_replicas
                if node_id in copies and not copies[node_id].was_damaged and copies[node_id].excuse is None
            ]
            if len(held) > 1:
                self._compare(held)

    def _compare(self, copies: list[Copy]) -> None:
        first = copies[0]
        end = first.history.end_offset
        expected = _batches(first, end)
        for copy in copies[1:]:
            start = max(first.log_start_offset, copy.log_start_offset)
            found = _batches(copy, end)
            for offset in sorted({*expected, *found}):
                if offset >= start and expected.get(offset) != found.get(offset):
                    self._context.report(
                        "replicas-differ-at-rest",
                        (copy.history.key, copy.node_id),
                        f"{copy.history.name}: nodes {first.node_id} and {copy.node_id} differ at offset {offset}: "
                        f"{_brief(expected.get(offset))} and {_brief(found.get(offset))}",
                    )
                    break


def _batches(copy: Copy, end_offset: int) -> dict[int, bytes]:
    """Every batch of a copy below `end_offset`, by base offset."""
    walk = StoredLogWalk(copy.disk, copy.directory, durable=False)
    batches: dict[int, bytes] = {}
    while walk.next_offset is None or walk.next_offset < end_offset:
        header = walk.next()
        if header is None:
            break
        batches[header.base_offset] = walk.bytes_of_last()
    return batches


def _brief(batch: bytes | None) -> str:
    return "no batch" if batch is None else f"{len(batch)} bytes {batch[:24].hex()}…"
