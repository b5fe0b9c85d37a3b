"""Arithmetic of voter sets: majorities, the history of sets in the log, and their bytes in a VOTERS entry.

A set takes effect when its entry is appended, not when it is committed, and goes when the entry is truncated
(Raft dissertation §4.1). Two sets that differ by one voter share a member in any two majorities.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from logcluster.core.raft.messages import Voter
from logcluster.model.invariants import invariant
from logcluster.model.limits import VOTERS_MAX

_HEADER = struct.Struct(">BH")
_VOTER = struct.Struct(">q16sHH")
_FORMAT_VERSION = 1


def majority(voter_count: int) -> int:
    """Smallest number of voters that any two groups of that size share a member of."""
    return voter_count // 2 + 1


def index_on_majority(match_indexes: Sequence[int]) -> int:
    """Largest index that a majority has reached; 0 for an empty set."""
    if not match_indexes:
        return 0
    return sorted(match_indexes, reverse=True)[majority(len(match_indexes)) - 1]


def encode_voters(voters: Iterable[Voter]) -> bytes:
    """Bytes of a VOTERS entry: version, count, then per voter id, directory id, port, host."""
    ordered = sorted(voters)
    parts = [_HEADER.pack(_FORMAT_VERSION, len(ordered))]
    for voter in ordered:
        host = voter.host.encode()
        parts.append(_VOTER.pack(voter.node_id, voter.directory_id, voter.port, len(host)))
        parts.append(host)
    return b"".join(parts)


def decode_voters(payload: bytes) -> tuple[Voter, ...]:
    """Read what `encode_voters` wrote, in order of node id.

    Raises:
        ValueError: the bytes are cut off, too long, of another version, or hold too many or repeated voters.
    """
    try:
        version, count = _HEADER.unpack_from(payload, 0)
        position = _HEADER.size
        voters: list[Voter] = []
        for _ in range(min(count, VOTERS_MAX + 1)):
            node_id, directory_id, port, host_size = _VOTER.unpack_from(payload, position)
            position += _VOTER.size
            host = payload[position : position + host_size]
            if len(host) != host_size:
                raise ValueError("a voter's host is cut off")
            position += host_size
            voters.append(Voter(node_id, directory_id, host.decode(), port))
    except struct.error as error:
        raise ValueError("a voter set is cut off") from error
    if version != _FORMAT_VERSION or position != len(payload) or count > VOTERS_MAX:
        raise ValueError(f"not a voter set: version {version}, {count} voters, {len(payload)} bytes")
    if len({voter.node_id for voter in voters}) != len(voters):
        raise ValueError("a voter set names a node twice")
    return tuple(voters)


class VoterHistory:
    """The voter sets by the index at which each took effect; the last one is in force."""

    __slots__ = ("_sets",)

    def __init__(self, *, index: int, voters: tuple[Voter, ...]) -> None:
        self._sets: list[tuple[int, tuple[Voter, ...]]] = [(index, tuple(sorted(voters)))]

    @property
    def current(self) -> tuple[Voter, ...]:
        """The set in force, in order of node id."""
        return self._sets[-1][1]

    @property
    def current_index(self) -> int:
        """Index of the entry that brought the set in force."""
        return self._sets[-1][0]

    @property
    def previous(self) -> tuple[Voter, ...]:
        """The set before the one in force; empty when that is not remembered."""
        return self._sets[-2][1] if len(self._sets) > 1 else ()

    def at(self, index: int) -> tuple[Voter, ...]:
        """The set in force after the entry `index`, which is not below what was compacted."""
        for start, voters in reversed(self._sets):
            if start <= index:
                return voters
        return self._sets[0][1]

    def append(self, index: int, voters: tuple[Voter, ...]) -> None:
        """Put a set in force."""
        invariant(index > self.current_index, "voter sets come in log order", index=index, last=self.current_index)
        self._sets.append((index, tuple(sorted(voters))))

    def truncate_from(self, index: int) -> None:
        """Forget the sets of entries that are cut from the log; the oldest set stays."""
        while len(self._sets) > 1 and self._sets[-1][0] >= index:
            self._sets.pop()

    def compact(self, index: int) -> None:
        """Forget sets that were replaced at or before `index`."""
        while len(self._sets) > 1 and self._sets[1][0] <= index:
            self._sets.pop(0)

    def find(self, node_id: int) -> Voter | None:
        """The voter of this node in the set in force."""
        for voter in self.current:
            if voter.node_id == node_id:
                return voter
        return None
