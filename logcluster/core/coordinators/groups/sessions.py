"""Who was heard from when: what a coordinator knows of a group's members beside their records.

Never recorded, never replicated: it belongs to one leadership of the shard, and the next one starts with every member
given a whole session. Three deadlines end a membership: the session's, the one for giving partitions up, and a short
one that begins when the connection of a dynamic member is lost and ends when it is heard from or connects again.

A connection is `unknown` until the member opens its first stream in this leadership; only one that was open and is
not any more counts as lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal

Lapse = Literal["silent", "disconnected", "revoking"]
"""Why a membership is over: silence, a lost connection, or partitions that were not given up in time."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One member's; times of the monotonic clock."""

    heard_ms: int
    deadline_ms: int
    grace_deadline_ms: int | None = None
    """Set while a lost connection shortens the session."""
    revoking_deadline_ms: int | None = None
    """Set while the member has partitions that it was told to give up."""
    stream_count: int = 0
    """Open streams: a new one may begin before the end of the old one is noticed."""
    is_lost: bool = False
    processing_since_ms: int = 0
    commit_sequence: int = 0
    """Of the newest commit that was taken in this leadership."""
    noted_ms: int
    """Its place in the heap: not later than the next deadline."""

    @property
    def next_deadline_ms(self) -> int:
        """The first of the deadlines."""
        deadline_ms = self.deadline_ms
        if self.grace_deadline_ms is not None:
            deadline_ms = min(deadline_ms, self.grace_deadline_ms)
        if self.revoking_deadline_ms is not None:
            deadline_ms = min(deadline_ms, self.revoking_deadline_ms)
        return deadline_ms

    def lapse(self, now_ms: int) -> Lapse | None:
        """Why the membership is over, or None while it is not."""
        if self.revoking_deadline_ms is not None and self.revoking_deadline_ms <= now_ms:
            return "revoking"
        if self.deadline_ms <= now_ms:
            return "silent"
        if self.grace_deadline_ms is not None and self.grace_deadline_ms <= now_ms:
            return "disconnected"
        return None


class Sessions:
    """Sessions by member id.

    The heap has one valid entry for each session, which is not later than its deadline. One that has come too early
    is put back where it belongs, so that a heartbeat, which only moves a deadline on, costs nothing here.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._heap: list[tuple[int, str]] = []

    def get(self, member_id: str) -> Session | None:
        """A member's session; None: not heard from in this leadership."""
        return self._sessions.get(member_id)

    def heard(self, member_id: str, *, now_ms: int, timeout_ms: int, processing_since_ms: int = 0) -> None:
        """Note that the member said something; begins its session if there is none."""
        deadline_ms = now_ms + timeout_ms
        session = self._sessions.get(member_id)
        if session is None:
            session = Session(heard_ms=now_ms, deadline_ms=deadline_ms, noted_ms=deadline_ms)
            self._sessions[member_id] = session
            heappush(self._heap, (deadline_ms, member_id))
        session.heard_ms = now_ms
        session.deadline_ms = deadline_ms
        session.grace_deadline_ms = None
        session.is_lost = False
        session.processing_since_ms = processing_since_ms
        self._note(member_id, session)

    def revoke_until(self, member_id: str, deadline_ms: int | None) -> None:
        """Set when the member must have given up what it was told to; None: it has."""
        session = self._sessions.get(member_id)
        if session is not None:
            session.revoking_deadline_ms = deadline_ms
            self._note(member_id, session)

    def _note(self, member_id: str, session: Session) -> None:
        if session.next_deadline_ms < session.noted_ms:
            session.noted_ms = session.next_deadline_ms
            heappush(self._heap, (session.noted_ms, member_id))

    def connected(self, member_id: str) -> None:
        """Note that the member opened a stream: it lives, and an earlier loss counts no more."""
        session = self._sessions.get(member_id)
        if session is not None:
            session.stream_count += 1
            session.is_lost = False
            session.grace_deadline_ms = None

    def disconnected(self, member_id: str, *, grace_deadline_ms: int | None) -> None:
        """Note that a stream of the member ended; with its last one the connection is lost.

        Args:
            grace_deadline_ms: when the membership is over unless the member is heard from; None leaves the session.
        """
        session = self._sessions.get(member_id)
        if session is None or session.stream_count == 0:
            # The stream began before this session did: it says nothing about it.
            return
        session.stream_count -= 1
        if session.stream_count == 0:
            session.is_lost = True
            session.grace_deadline_ms = grace_deadline_ms
            self._note(member_id, session)

    def drop(self, member_id: str) -> None:
        """Forget a member."""
        self._sessions.pop(member_id, None)

    def next_deadline_ms(self) -> int | None:
        """When the first membership is over; None without members."""
        while self._heap:
            noted_ms, member_id = self._heap[0]
            session = self._sessions.get(member_id)
            if session is not None and session.noted_ms == noted_ms == session.next_deadline_ms:
                return noted_ms
            heappop(self._heap)
            if session is not None and session.noted_ms == noted_ms:
                session.noted_ms = session.next_deadline_ms
                heappush(self._heap, (session.noted_ms, member_id))
        return None

    def due(self, now_ms: int) -> list[tuple[str, Lapse]]:
        """Members whose time is over, in the order of their ids, and why."""
        lapses = ((member_id, self._sessions[member_id].lapse(now_ms)) for member_id in sorted(self._sessions))
        return [(member_id, lapse) for member_id, lapse in lapses if lapse is not None]
