"""The controller's side of broker sessions: recent committed entries in memory, and each broker's place in them.

A feed is a cursor: it holds no copy of what it has yet to send, so a slow broker costs nothing but a snapshot when the
tail has moved on without it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from logcluster.core.metadata.image import MetadataImage
from logcluster.model.errors import LogClusterError
from logcluster.model.invariants import invariant
from logcluster.model.probes import probe

TAIL_ENTRIES_MAX: Final = 20_000
TAIL_SIZE_BYTES_MAX: Final = 16 * 1024 * 1024
MESSAGE_ENTRIES_MAX: Final = 500
MESSAGE_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024
"""One message carries at most so much, or one entry."""


@dataclass(frozen=True, slots=True)
class TailEntry:
    """A committed entry as it travels to brokers."""

    index: int
    term: int
    payload: bytes


class CommittedTail:
    """The newest committed entries, bounded in count and size.

    Indexes grow but may skip: the quorum's own entries need not be shown here.
    """

    def __init__(self) -> None:
        self._entries: deque[TailEntry] = deque()
        self._size_bytes = 0
        self._base_index = 0
        self._base_term = 0

    @property
    def last_index(self) -> int:
        """Index of the newest entry, or of the snapshot below the tail."""
        return self._entries[-1].index if self._entries else self._base_index

    @property
    def last_term(self) -> int:
        """Term of the newest entry, or of the snapshot below the tail."""
        return self._entries[-1].term if self._entries else self._base_term

    def append(self, index: int, term: int, payload: bytes) -> None:
        """Add a newer committed entry; the oldest ones make room."""
        invariant(index > self.last_index, "committed entries come in order", index=index, last=self.last_index)
        self._entries.append(TailEntry(index, term, payload))
        self._size_bytes += len(payload)
        while len(self._entries) > TAIL_ENTRIES_MAX or self._size_bytes > TAIL_SIZE_BYTES_MAX:
            oldest = self._entries.popleft()
            self._base_index, self._base_term = oldest.index, oldest.term
            self._size_bytes -= len(oldest.payload)

    def restart(self, index: int, term: int) -> None:
        """Forget everything: a snapshot up to `index` took its place."""
        self._entries.clear()
        self._size_bytes = 0
        self._base_index, self._base_term = index, term

    def can_continue(self, index: int, term: int) -> bool:
        """Can a broker whose last applied entry is `index` of `term` go on with what is here?"""
        if (index, term) == (self._base_index, self._base_term):
            return True
        for entry in reversed(self._entries):
            if entry.index <= index:
                return entry.index == index and entry.term == term
        return False

    def after(self, index: int) -> list[TailEntry]:
        """The entries after `index`, as many as one message carries; costs as much as the broker is behind."""
        behind = 0
        for entry in reversed(self._entries):
            if entry.index <= index:
                break
            behind += 1
        found: list[TailEntry] = []
        size_bytes = 0
        for entry in islice(self._entries, len(self._entries) - behind, None):
            if found and (
                len(found) >= MESSAGE_ENTRIES_MAX or size_bytes + len(entry.payload) > MESSAGE_SIZE_BYTES_MAX
            ):
                break
            found.append(entry)
            size_bytes += len(entry.payload)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUpdate:
    """One message to a broker: entries, or a whole image instead, and how the broker stands."""

    entries: list[TailEntry]
    snapshot: MetadataImage | None
    is_fenced: bool
    may_shut_down: bool
    term: int
    commit_index: int
    sequence: int


class SessionFeed:
    """Where one broker's session stands; made by `ControllerDriver.open_session`."""

    def __init__(
        self,
        *,
        broker_id: int,
        broker_epoch: int,
        position: int,
        position_term: int,
        tail: CommittedTail,
        committed: Callable[[], MetadataImage],
        may_shut_down: Callable[[int], bool],
    ) -> None:
        self.broker_id = broker_id
        self.broker_epoch = broker_epoch
        self.wants_shutdown = False
        self._position = position
        self._position_term = position_term
        self._tail = tail
        self._committed = committed
        self._may_shut_down = may_shut_down
        self._sequence = 0
        self._sequence_sent = -1
        self._state_sent: tuple[bool, bool] | None = None
        self._wake = asyncio.Event()
        self._error: LogClusterError | None = None

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def heard(self, sequence: int, *, wants_shutdown: bool) -> None:
        """Note a heartbeat, to be echoed."""
        self._sequence = sequence
        self.wants_shutdown = self.wants_shutdown or wants_shutdown
        self._wake.set()

    def close(self, error: LogClusterError) -> None:
        """End the session; the first reason counts."""
        if self._error is None:
            self._error = error
        self._wake.set()

    async def next_update(self) -> SessionUpdate:
        """Wait for something to send and return it.

        Raises:
            LogClusterError: the session is over; says why.
            Cancellation: atomic.
        """
        while True:
            if self._error is not None:
                raise self._error
            update = self._make_update()
            if update is not None:
                return update
            self._wake.clear()
            await self._wake.wait()

    def _make_update(self) -> SessionUpdate | None:
        image = self._committed()
        broker = image.brokers.get(self.broker_id)
        # Until its registration is committed here, a broker counts as fenced.
        is_fenced = broker is None or broker.broker_epoch != self.broker_epoch or broker.is_fenced
        may_shut_down = self.wants_shutdown and self._may_shut_down(self.broker_id)
        state = (is_fenced, may_shut_down)
        is_behind = self._position != self._tail.last_index or self._position_term != self._tail.last_term
        if not is_behind and state == self._state_sent and self._sequence == self._sequence_sent:
            return None
        entries: list[TailEntry] = []
        snapshot: MetadataImage | None = None
        if is_behind and self._tail.can_continue(self._position, self._position_term):
            entries = self._tail.after(self._position)
        elif is_behind:
            probe("controller.session.sent_snapshot")
            snapshot = image
        if snapshot is not None:
            self._position, self._position_term = snapshot.offset, snapshot.term
        elif entries:
            self._position, self._position_term = entries[-1].index, entries[-1].term
        self._state_sent, self._sequence_sent = state, self._sequence
        return SessionUpdate(
            entries=entries,
            snapshot=snapshot,
            is_fenced=is_fenced,
            may_shut_down=may_shut_down,
            term=self._tail.last_term,
            commit_index=image.offset,
            sequence=self._sequence,
        )
