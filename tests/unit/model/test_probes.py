"""Probes: every call names a known state literally, every known state has a call, and hits reach the observer."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from logcluster.model.probes import PROBES, counting, never_hit, observe, probe

PACKAGE = Path(__file__).resolve().parents[3] / "logcluster"
GENERATED = PACKAGE / "wire" / "gen"


def calls(tree: ast.AST) -> Iterator[str | None]:
    """The literal argument of every call of `probe` or `probes.probe`; None where it is not one string literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"probe", "probes.probe"}:
            argument = node.args[0] if len(node.args) == 1 and not node.keywords else None
            is_literal = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            yield argument.value if is_literal else None  # type: ignore[union-attr]


@functools.cache
def calls_of_package() -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if GENERATED not in path.parents:
            names = list(calls(ast.parse(path.read_text(encoding="utf-8"))))
            if names:
                found[path.relative_to(PACKAGE).as_posix()] = names
    return found


DOCUMENT = PACKAGE.parent / "docs" / "failpoints.md"


def table_in_document(mark: str, expected: str) -> str:
    """What stands between the marks; with LOGCLUSTER_REWRITE_GOLDEN set, after putting `expected` there."""
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    table, end, after = rest.partition(f"<!-- end of {mark} -->\n")
    assert begin and end
    if os.environ.get("LOGCLUSTER_REWRITE_GOLDEN"):
        DOCUMENT.write_text(before + begin + expected + end + after, encoding="utf-8")
        return expected
    return table


def table_of(catalogue: Mapping[str, str], found: Mapping[str, list[str | None]]) -> str:
    rows = []
    for name, meaning in catalogue.items():
        where = ", ".join(f"`{path}`" for path, names in found.items() if name in names)
        rows.append(f"| `{name}` | {meaning} | {where} |\n")
    return "".join(["| name | state | where |\n", "|---|---|---|\n", *rows])


def unknown(names: list[str | None]) -> list[str | None]:
    return [name for name in names if name is None or name not in PROBES]


def test_every_call_names_a_probe_of_the_catalogue_literally() -> None:
    wrong = {path: unknown(names) for path, names in calls_of_package().items() if unknown(names)}
    assert not wrong


def test_every_probe_of_the_catalogue_has_a_call() -> None:
    used = {name for names in calls_of_package().values() for name in names}
    assert not [name for name in PROBES if name not in used]


def test_the_document_lists_what_there_is() -> None:
    expected = table_of(PROBES, calls_of_package())
    assert table_in_document("probes", expected) == expected, "run once with LOGCLUSTER_REWRITE_GOLDEN=1"


def test_a_table_that_is_not_up_to_date_is_noticed() -> None:
    without_last = dict(list(PROBES.items())[:-1])
    assert table_in_document("probes", table_of(PROBES, calls_of_package())) != table_of(
        without_last, calls_of_package()
    )


@pytest.mark.parametrize(
    "source", ["probe('no.such.state')", "probe(name)", "probes.probe('no.such.state')", "probe()"]
)
def test_a_planted_wrong_call_is_seen(source: str) -> None:
    assert unknown(list(calls(ast.parse(source))))


def test_a_right_call_is_not_complained_about() -> None:
    source = f"probe({next(iter(PROBES))!r})"
    assert unknown(list(calls(ast.parse(source)))) == []


def test_names_and_meanings_are_well_formed() -> None:
    for name, meaning in PROBES.items():
        assert name == name.lower() and 2 <= name.count(".") + 1 <= 4, name
        assert meaning and meaning[0].islower() and not meaning.endswith("."), name


def test_without_an_observer_a_hit_does_nothing() -> None:
    assert observe(None) is None
    probe(next(iter(PROBES)))


def test_hits_are_counted_and_the_rest_is_reported() -> None:
    first, *others = PROBES
    with counting() as counts:
        probe(first)
        probe(first)
    probe(first)  # nobody counts any more
    assert counts[first] == 2
    assert never_hit(counts) == others


def test_an_inner_observer_gives_way_to_the_outer_one() -> None:
    first = next(iter(PROBES))
    seen: list[str] = []
    assert observe(seen.append) is None
    try:
        with counting() as counts:
            probe(first)
        probe(first)
    finally:
        observe(None)
    assert (counts[first], seen) == (1, [first])


def test_an_observer_is_put_back_when_the_block_fails() -> None:
    with pytest.raises(KeyError), counting():
        raise KeyError
    assert observe(None) is None
