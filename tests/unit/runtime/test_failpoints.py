"""Failpoints: names are literal and known, plans are read or refused clearly, and each action does what it says."""

from __future__ import annotations

import ast
import errno
import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from logcluster.model.errors import InvalidConfig
from logcluster.runtime.clock import block_ms
from logcluster.runtime.failpoints import (
    EXIT_CODE,
    FAILPOINTS,
    Action,
    CrashNow,
    FailpointPlan,
    failpoint,
    install,
    install_from_text,
    parse,
)

PACKAGE = Path(__file__).resolve().parents[3] / "logcluster"
GENERATED = PACKAGE / "wire" / "gen"
FIRST, SECOND = "storage.log.append.after_write", "storage.log.roll.before_create"


@pytest.fixture(autouse=True)
def nothing_stays_installed() -> Iterator[None]:
    yield
    install(None)


def calls(tree: ast.AST) -> Iterator[str | None]:
    """The literal argument of every call of `failpoint`; None where it is not one string literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"failpoint", "failpoints.failpoint"}:
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
    return "".join(["| name | what is done, and what is not | where |\n", "|---|---|---|\n", *rows])


def unknown(names: list[str | None]) -> list[str | None]:
    return [name for name in names if name is None or name not in FAILPOINTS]


def test_every_call_names_a_failpoint_of_the_catalogue_literally() -> None:
    wrong = {path: unknown(names) for path, names in calls_of_package().items() if unknown(names)}
    assert not wrong


def test_every_failpoint_of_the_catalogue_has_exactly_one_call() -> None:
    used = [name for names in calls_of_package().values() for name in names]
    assert sorted(name or "" for name in used) == sorted(FAILPOINTS)


def test_the_document_lists_what_there_is() -> None:
    expected = table_of(FAILPOINTS, calls_of_package())
    assert table_in_document("failpoints", expected) == expected, "run once with LOGCLUSTER_REWRITE_GOLDEN=1"


def test_a_table_that_is_not_up_to_date_is_noticed() -> None:
    without_last = dict(list(FAILPOINTS.items())[:-1])
    assert table_in_document("failpoints", table_of(FAILPOINTS, calls_of_package())) != table_of(
        without_last, calls_of_package()
    )


@pytest.mark.parametrize("source", ["failpoint('no.such.place')", "failpoint(name)", "failpoints.failpoint('x')"])
def test_a_planted_wrong_call_is_seen(source: str) -> None:
    assert unknown(list(calls(ast.parse(source))))


def test_a_right_call_is_not_complained_about() -> None:
    assert unknown(list(calls(ast.parse(f"failpoint({FIRST!r})")))) == []


def test_the_file_knows_neither_asyncio_nor_what_imports_it() -> None:
    tree = ast.parse((PACKAGE / "runtime" / "failpoints.py").read_text(encoding="utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not [module for module in modules if module.startswith(("asyncio", "logcluster.runtime.clock"))]


def test_nothing_happens_when_nothing_is_installed() -> None:
    failpoint(FIRST)


def test_a_hook_sees_hits_and_may_crash_the_process_past_every_handler() -> None:
    seen: list[str] = []

    def hook(name: str) -> None:
        seen.append(name)
        if name == SECOND:
            raise CrashNow(name)

    assert install(hook) is None
    failpoint(FIRST)
    with pytest.raises(CrashNow):
        try:
            failpoint(SECOND)
        except Exception:
            pytest.fail("a crash is not an Exception")
    assert seen == [FIRST, SECOND]
    assert install(None) is hook


def test_a_plan_is_read() -> None:
    assert parse(f" {FIRST}=crash@3 , {SECOND} = sleep(200)%0.5, seed=7,") == (
        {FIRST: Action("crash", at_hit=3), SECOND: Action("sleep", sleep_ms=200, probability=0.5)},
        7,
    )
    assert parse(f"{FIRST}=error(ENOSPC)@2%1") == ({FIRST: Action("error", errno=errno.ENOSPC, at_hit=2)}, 0)
    assert parse("") == ({}, 0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (FIRST, "not of the form"),
        ("storage.log.append.after_writ=crash", "no failpoint"),
        (f"{FIRST}=explode", "none of"),
        (f"{FIRST}=crash(1)", "no argument"),
        (f"{FIRST}=sleep", "milliseconds"),
        (f"{FIRST}=sleep(soon)", "milliseconds"),
        (f"{FIRST}=error", "errno"),
        (f"{FIRST}=error(EWHAT)", "errno"),
        (f"{FIRST}=error(errorcode)", "errno"),
        (f"{FIRST}=crash@0", "counted from 1"),
        (f"{FIRST}=crash%0", "probability"),
        (f"{FIRST}=crash%1.5", "probability"),
        (f"{FIRST}=crash%1.2.3", "probability"),
        (f"{FIRST}=crash,{FIRST}=crash", "twice"),
        ("seed=1,seed=2", "twice"),
        ("seed=abc", "number"),
        ("raft.persist.before=error(EIO)", "disk only"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused_and_nothing_is_installed(text: str, complaint: str) -> None:
    with pytest.raises(InvalidConfig, match=complaint):
        install_from_text(text, block_ms=block_ms)
    assert install(None) is None


def test_a_mistyped_name_is_answered_with_the_likely_ones() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse("storage.log.append.after_writ=crash")
    assert FIRST in caught.value.hint
    with pytest.raises(InvalidConfig) as caught:
        parse("zzz=crash")
    assert "storage" in caught.value.hint


def test_a_crash_strikes_at_its_hit_only() -> None:
    exits: list[int] = []
    plan = FailpointPlan({FIRST: Action("crash", at_hit=3)}, seed=0, block_ms=block_ms, exit_process=exits.append)
    install(plan)
    struck = []
    for _ in range(5):
        failpoint(FIRST)
        failpoint(SECOND)
        struck.append(len(exits))
    assert struck == [0, 0, 1, 1, 1]
    assert exits == [EXIT_CODE]


def test_an_error_is_an_os_error_with_that_number() -> None:
    install_from_text(f"{FIRST}=error(ENOSPC)", block_ms=block_ms)
    with pytest.raises(OSError, match=FIRST) as caught:
        failpoint(FIRST)
    assert caught.value.errno == errno.ENOSPC


def test_a_sleep_blocks_for_that_long() -> None:
    blocked: list[int] = []
    install_from_text(f"{FIRST}=sleep(250)", block_ms=blocked.append)
    failpoint(FIRST)
    assert blocked == [250]


def test_blocking_takes_real_time() -> None:
    before_ns = time.monotonic_ns()
    block_ms(5)
    assert time.monotonic_ns() - before_ns >= 5_000_000


def hits_of(seed: int, name: str) -> list[bool]:
    exits: list[int] = []
    actions = {FIRST: Action("crash", probability=0.3), SECOND: Action("crash", probability=0.3)}
    plan = FailpointPlan(actions, seed=seed, block_ms=block_ms, exit_process=exits.append)
    found = []
    for _ in range(200):
        before = len(exits)
        plan(name)
        found.append(len(exits) > before)
    return found


def test_a_probability_is_drawn_from_the_seed_and_separately_for_each_failpoint() -> None:
    assert hits_of(7, FIRST) == hits_of(7, FIRST)
    assert hits_of(7, FIRST) != hits_of(8, FIRST)
    assert hits_of(7, FIRST) != hits_of(7, SECOND)
    assert 30 < sum(hits_of(7, FIRST)) < 90


def test_an_armed_process_says_so_loudly(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        install_from_text(f"{FIRST}=sleep(0)", block_ms=block_ms)
        failpoint(FIRST)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "failpoint_armed" in caplog.text and "failpoint_hit" in caplog.text and FIRST in caplog.text
