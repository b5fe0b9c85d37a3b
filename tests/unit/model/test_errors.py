"""The error tree: numbers, flags, and what travels."""

from __future__ import annotations

import pickle

import pytest

from logcluster.model import errors, group_errors
from logcluster.model.errors import ERRORS_BY_CODE, LogClusterError, NotEnoughReplicas, UnknownServerError


def concrete_errors() -> list[type[LogClusterError]]:
    """Those of the shared tree; clients and commands add their own below it."""
    modules = {errors.__name__, group_errors.__name__}
    return [error for error in errors._concrete(LogClusterError) if error.__module__ in modules]


def test_numbers_are_unique() -> None:
    assert len({error.code for error in concrete_errors()}) == len(concrete_errors())
    assert {error.code for error in concrete_errors()} == set(ERRORS_BY_CODE)


@pytest.mark.parametrize("error_type", concrete_errors(), ids=lambda kind: kind.__name__)
def test_every_error_describes_itself(error_type: type[LogClusterError]) -> None:
    error = error_type(partition=3)
    assert len(str(error)) > 10
    assert error.facts == {"partition": 3}


@pytest.mark.parametrize(
    ("name", "definite"),
    [
        ("RequestTimedOut", False),
        ("Disconnected", False),
        ("NotEnoughReplicasAfterAppend", False),
        ("UnknownServerError", False),
        ("StorageFailure", False),
        ("NotEnoughReplicas", True),
        ("NotLeaderOrFollower", True),
        ("Overloaded", True),
        ("CorruptMessage", True),
    ],
)
def test_definite_is_said_only_of_what_was_certainly_not_applied(name: str, definite: bool) -> None:
    assert getattr(errors, name).definite is definite


def test_a_number_gives_the_error_back() -> None:
    error = errors.error_from_code(19, "too few", facts={"in_sync": "1"})
    assert isinstance(error, NotEnoughReplicas)
    assert (error.message, error.facts) == ("too few", {"in_sync": "1"})


def test_an_error_below_another_hides_nothing_of_it() -> None:
    assert type(errors.error_from_code(8, "down")) is errors.BrokerNotAvailable
    assert type(errors.error_from_code(1008, "untrusted")) is errors.TlsHandshakeFailed


def test_an_unknown_number_is_an_unknown_outcome() -> None:
    error = errors.error_from_code(4242, "?")
    assert isinstance(error, UnknownServerError)
    assert not error.definite


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(NotEnoughReplicas("x", in_sync=1)))
    assert (type(error), error.message, error.facts) == (NotEnoughReplicas, "x", {"in_sync": 1})
