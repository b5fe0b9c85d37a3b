"""An edit takes effect, goes away, and refuses to be applied to anything but what it was written for."""

from __future__ import annotations

import functools

import pytest

from logcluster.sim.ablations.editing import AblationDoesNotFit, Edit, Patch


def double(value: int) -> int:
    """Two times; a docstring
    of several lines.
    """
    return value + value


class Counter:
    """Something with methods of every kind."""

    def __init__(self) -> None:
        self.count = 1

    def next(self) -> int:
        self.count += 1
        return self.count

    @property
    def is_one(self) -> bool:
        return self.count == 1

    @staticmethod
    def start() -> int:
        return 1

    def outer(self) -> int:
        return super().__hash__() * 0 + 1


def test_a_function_is_changed_for_everybody_who_holds_it_and_only_in_the_block() -> None:
    kept = functools.partial(double, 3)
    with Patch(Edit(double, "value + value", "value * 10"))():
        assert (double(3), kept()) == (30, 30)
    assert (double(3), kept()) == (6, 6)


def test_methods_properties_and_several_edits_of_one_function() -> None:
    counter = Counter()
    bound = counter.next
    patch = Patch(
        Edit(Counter.next, "self.count += 1", "self.count += step"),
        Edit(Counter.next, "return self.count", "return -self.count"),
        Edit(Counter.is_one, "self.count == 1", "True"),
        Edit(Counter.start, "return 1", "return 7"),
        names={"step": 5},
    )
    with patch():
        assert bound() == -6
        assert counter.is_one
        assert Counter.start() == 7
    assert bound() == 7
    assert not counter.is_one
    assert Counter.start() == 1
    assert "step" not in globals()


def test_a_failure_in_the_block_brings_the_code_back() -> None:
    with pytest.raises(ZeroDivisionError), Patch(Edit(double, "value + value", "value // 0"))():
        double(1)
    assert double(1) == 2


@pytest.mark.parametrize("fragment", ["value - value", "value"], ids=["absent", "twice"])
def test_a_fragment_must_stand_there_once(fragment: str) -> None:
    with pytest.raises(AblationDoesNotFit, match="times instead of once"), Patch(Edit(double, fragment, "0"))():
        pass
    assert double(2) == 4


def test_nothing_is_changed_when_one_edit_of_several_does_not_fit() -> None:
    patch = Patch(Edit(double, "value + value", "0"), Edit(Counter.start, "return 2", "return 3"))
    with pytest.raises(AblationDoesNotFit), patch():
        pass
    assert (double(2), Counter.start()) == (4, 1)


def test_what_does_not_compile_is_refused() -> None:
    with pytest.raises(AblationDoesNotFit, match="does not compile"), Patch(Edit(double, "value + value", "(("))():
        pass


def test_a_function_is_not_edited_twice_at_a_time() -> None:
    with Patch(Edit(double, "value + value", "1"))():
        with pytest.raises(AblationDoesNotFit, match="edited already"), Patch(Edit(double, "value", "2"))():
            pass
        assert double(5) == 1
    assert double(5) == 10


def test_code_that_is_not_what_the_file_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "__code__", (lambda value: value).__code__)
    with pytest.raises(AblationDoesNotFit), Patch(Edit(double, "value + value", "1"))():
        pass


def test_what_is_no_function_or_has_no_source_is_refused() -> None:
    for target in (len, 5, Counter):
        with pytest.raises(AblationDoesNotFit), Patch(Edit(target, "a", "b"))():
            pass


def test_enclosed_names_cannot_be_lost() -> None:
    with pytest.raises(AblationDoesNotFit, match="encloses"), Patch(Edit(Counter.outer, "super()", "self"))():
        pass
    with Patch(Edit(Counter.outer, "* 0 + 1", "* 0 + 2"))():
        assert Counter().outer() == 2


def test_names_that_a_module_has_are_not_replaced() -> None:
    patch = Patch(Edit(double, "value + value", "Counter"), names={"Counter": 3})
    with pytest.raises(AblationDoesNotFit, match="names"), patch():
        pass
    assert isinstance(Counter(), Counter)
