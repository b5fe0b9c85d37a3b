"""After an attempt without an answer no refusal is certain, neither instead of an answer nor inside of one."""

from __future__ import annotations

import pytest

from logcluster.client.retry import Doubt
from logcluster.model.errors import Disconnected, NotCoordinator, OffsetOutOfRange, RequestTimedOut


def test_a_refusal_after_an_attempt_without_an_answer_leaves_the_outcome_unknown() -> None:
    said = "whether it was set.*beyond the end"
    with pytest.raises(RequestTimedOut, match=said) as caught, Doubt("it was set", hint="look") as doubt:
        doubt.note(Disconnected("gone"))
        raise OffsetOutOfRange("beyond the end")
    assert not caught.value.definite and caught.value.hint == "look"
    assert isinstance(caught.value.__cause__, OffsetOutOfRange)


def test_a_refusal_after_attempts_that_were_refused_stays() -> None:
    with pytest.raises(OffsetOutOfRange), Doubt("it was set") as doubt:
        doubt.note(NotCoordinator("not here"))
        raise OffsetOutOfRange("beyond the end")


def test_what_is_no_refusal_passes() -> None:
    with pytest.raises(Disconnected), Doubt("it was set") as doubt:
        doubt.note(Disconnected("gone"))
        raise Disconnected("gone again")
    with pytest.raises(KeyError), Doubt("it was set") as doubt:
        doubt.note(Disconnected("gone"))
        raise KeyError
