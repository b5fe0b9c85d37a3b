"""The leaves of the quorum's core: majorities, voter sets, the log, durability, and the table of roles."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from logcluster.core.raft.log import Durability, RaftLog
from logcluster.core.raft.messages import Entry, EntryKind, Voter
from logcluster.core.raft.quorum import (
    VoterHistory,
    decode_voters,
    encode_voters,
    index_on_majority,
    majority,
)
from logcluster.core.raft.roles import TRANSITIONS, Candidate, Follower, Leader, PreCandidate, Resigned
from logcluster.model.invariants import InvariantViolation


def log_of(*terms: int, base_index: int = 0, base_term: int = 0) -> RaftLog:
    entries = [
        Entry(index=base_index + number, term=term, kind=EntryKind.DATA, payload=b"x" * 10)
        for number, term in enumerate(terms, start=1)
    ]
    return RaftLog(base_index=base_index, base_term=base_term, entries=entries)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_index_on_majority_is_the_largest_one_a_majority_holds(matches: list[int]) -> None:
    index = index_on_majority(matches)
    assert sum(match >= index for match in matches) >= majority(len(matches))
    assert sum(match > index for match in matches) < majority(len(matches))


@given(
    st.lists(
        st.builds(
            Voter,
            st.integers(0, 2**31 - 1),
            st.binary(min_size=16, max_size=16),
            st.text(max_size=40),
            st.integers(0, 65_535),
        ),
        max_size=9,
        unique_by=lambda voter: voter.node_id,
    )
)
def test_voter_sets_survive_their_bytes(voters: list[Voter]) -> None:
    assert decode_voters(encode_voters(voters)) == tuple(sorted(voters))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01\x00",
        encode_voters([Voter(1, host="abc")])[:-1],
        encode_voters([Voter(1)]) + b"x",
        b"\x02" + encode_voters([Voter(1)])[1:],
        b"\x01\xff\xff",
        encode_voters([Voter(1), Voter(1)]),
    ],
)
def test_broken_voter_sets_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        decode_voters(payload)


def test_truncated_voter_set_gives_way_to_the_one_before() -> None:
    history = VoterHistory(index=0, voters=(Voter(1),))
    history.append(5, (Voter(1), Voter(2)))
    history.append(9, (Voter(2),))
    history.truncate_from(9)
    assert (history.current_index, history.current) == (5, (Voter(1), Voter(2)))
    assert history.at(4) == (Voter(1),)
    history.compact(6)
    history.truncate_from(1)
    assert history.current_index == 5


def test_log_compares_by_term_then_length() -> None:
    log = log_of(1, 1, 3)
    assert log.is_covered_by(last_index=3, last_term=3)
    assert log.is_covered_by(last_index=1, last_term=4)
    assert not log.is_covered_by(last_index=9, last_term=2)
    assert not log.is_covered_by(last_index=2, last_term=3)


def test_log_finds_the_edges_of_a_term() -> None:
    log = log_of(2, 2, 5, 5, 5, 7, base_index=10, base_term=2)
    assert log.first_index_of_term_at(15) == 13
    assert log.first_index_of_term_at(11) == 11
    assert log.last_index_of_term(5, at_most=16) == 15
    assert log.last_index_of_term(5, at_most=14) == 14
    assert log.last_index_of_term(6, at_most=16) is None
    assert log.last_index_of_term(2, at_most=10) == 10
    assert log.last_index_of_term(1, at_most=16) is None
    assert (log.term_at(9), log.term_at(10), log.term_at(17)) == (None, 2, None)


def test_log_refuses_gaps_and_earlier_terms() -> None:
    log = log_of(1, 2)
    for index, term in ((4, 2), (3, 1), (2, 2)):
        with pytest.raises(InvariantViolation):
            log.append([Entry(index=index, term=term, kind=EntryKind.NOOP, payload=b"")])


def test_batch_holds_at_least_one_entry_and_keeps_both_bounds() -> None:
    log = log_of(1, 1, 1, 1)
    assert len(log.batch_from(1, entries_max=3, size_bytes_max=1_000)) == 3
    assert len(log.batch_from(1, entries_max=9, size_bytes_max=25)) == 2
    assert len(log.batch_from(4, entries_max=9, size_bytes_max=1)) == 1
    assert log.batch_from(5, entries_max=9, size_bytes_max=100) == ()


def test_late_completion_does_not_count_for_replaced_entries() -> None:
    durability = Durability(durable_index=4)
    first = durability.issue(last_index=7, now_ms=0)
    durability.truncated_from(6)
    second = durability.issue(last_index=6, now_ms=1)
    durability.completed(first)
    assert (durability.durable_index, durability.is_pending) == (5, True)
    durability.completed(second)
    assert (durability.durable_index, durability.is_pending) == (6, False)


def test_truncation_takes_durable_entries_back() -> None:
    durability = Durability(durable_index=9)
    durability.truncated_from(3)
    assert durability.durable_index == 2
    with pytest.raises(InvariantViolation):
        durability.completed(1)


def test_only_campaigners_become_leaders_and_leaders_never_campaign_on() -> None:
    assert [frm for frm, to in TRANSITIONS.items() if Leader in to] == [Candidate]
    assert TRANSITIONS[Leader] == {Follower, Resigned}
    assert PreCandidate not in TRANSITIONS[Leader]
