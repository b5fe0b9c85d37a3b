"""docs/logs.md and the code name the same events, with the same levels and fields; and names are names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "logcluster"
DOCUMENT = ROOT / "docs" / "logs.md"
GENERATED = PACKAGE / "wire" / "gen"
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "each": "info/debug"}
NO_FIELDS = {"of", "exc_info"}
ON_EVERY_LINE = {"timestamp", "level", "node", "area", "event", "exception"}
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# Libraries in users' processes, what takes records apart, and what makes records of events.
PLAIN_LOGGING = ("client/", "sim/", "observability/logs.py", "runtime/event_log.py")


@dataclass(frozen=True)
class Entry:
    """What is known of an event, in the code or in the document."""

    area: str
    levels: frozenset[str]
    fields: frozenset[str]


def logger_names(tree: ast.Module) -> dict[str, str]:
    """Module-level names of event loggers, each with its area."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and is_get_logger(node.value):
            (target,) = node.targets
            assert isinstance(target, ast.Name) and isinstance(node.value, ast.Call)
            (area,) = node.value.args
            assert isinstance(area, ast.Constant) and isinstance(area.value, str), "an area is a literal"
            found[target.id] = area.value
    return found


def is_get_logger(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name == "get_logger"


def calls(tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """Every event that is told: its area, the method, the call."""
    names = logger_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in names:
                yield names[owner.id], node.func.attr, node


def problems(name: str, tree: ast.Module) -> list[str]:
    """What of a file's logging nobody could find by grep, or no document could list."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "getLogger" and not name.startswith(PLAIN_LOGGING):
            found.append(f"line {node.lineno}: a logger of the standard library: use get_logger")
    if (
        sum(is_get_logger(node) for node in ast.walk(tree)) != len(logger_names(tree))
        and name != "runtime/event_log.py"
    ):
        found.append("get_logger is called elsewhere than for a name of the module")
    names = logger_names(tree)
    called = {id(call.func) for _, _, call in calls(tree)}
    for node in ast.walk(tree):
        is_method = isinstance(node, ast.Attribute) and node.attr in LEVELS and getattr(node.value, "id", "") in names
        if is_method and id(node) not in called:
            found.append(f"line {node.lineno}: a method is passed on, and with it the name of the event")
    for _, _, call in calls(tree):
        first = call.args[0] if call.args else None
        if len(call.args) != 1 or not isinstance(first, ast.Constant) or not isinstance(first.value, str):
            found.append(f"line {call.lineno}: the one positional argument is not the literal name of an event")
        elif not SNAKE_CASE.fullmatch(first.value):
            found.append(f"line {call.lineno}: {first.value!r} is not snake_case")
        for keyword in call.keywords:
            if keyword.arg is None:
                found.append(f"line {call.lineno}: ** hides fields")
            elif keyword.arg in ON_EVERY_LINE:
                found.append(f"line {call.lineno}: {keyword.arg} stands on every line already")
    return found


@cache
def files() -> dict[str, ast.Module]:
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
        if GENERATED not in path.parents
    }


def events_in(trees: list[ast.Module]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for tree in trees:
        for area, method, call in calls(tree):
            first = call.args[0]
            assert isinstance(first, ast.Constant)
            levels = frozenset([LEVELS[method]])
            fields = frozenset(keyword.arg for keyword in call.keywords if keyword.arg) - NO_FIELDS
            known = found.get(str(first.value))
            if known is not None:
                assert known.area == area, f"{first.value} belongs to {known.area} and to {area}"
                levels, fields = levels | known.levels, fields | known.fields
            found[str(first.value)] = Entry(area, levels, fields)
    return found


def events_documented(text: str) -> dict[str, Entry]:
    """Rows `| `event` | level | `field`, … | meaning |`, under a heading that is the area."""
    found: dict[str, Entry] = {}
    area = ""
    for line in text.splitlines():
        if line.startswith("### "):
            area = line.removeprefix("### ").strip()
        row = re.fullmatch(r"\| `([^`]+)` \| ([a-z/]+) \|(.*?)\| (.+) \|", line)
        if row is not None:
            name, level, fields, meaning = row.groups()
            assert name not in found, f"{name} is documented twice"
            assert meaning.strip(), f"{name} has no meaning"
            found[name] = Entry(area, frozenset([level]), frozenset(re.findall(r"`([^`]+)`", fields)))
    return found


def test_the_document_lists_every_event_as_it_is_told() -> None:
    told = events_in(list(files().values()))
    documented = events_documented(DOCUMENT.read_text(encoding="utf-8"))
    assert len(told) > 50
    assert sorted(set(told) - set(documented)) == [], "told, and not in docs/logs.md"
    assert sorted(set(documented) - set(told)) == [], "in docs/logs.md, and told nowhere"
    assert {name: told[name] for name in told} == {name: documented[name] for name in told}


def test_every_event_has_one_level() -> None:
    assert [name for name, entry in events_in(list(files().values())).items() if len(entry.levels) != 1] == []


def test_names_are_literals_in_snake_case() -> None:
    found = {name: problems(name, tree) for name, tree in files().items()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("log.info(name, partition='t-0')", "not the literal name"),
        ("log.info(f'led_{x}')", "not the literal name"),
        ("log.info('led %s', x)", "not the literal name"),
        ("log.error(exc_info=error)", "not the literal name"),
        ("log.info('partitionLed')", "not snake_case"),
        ("log.info('partition led')", "not snake_case"),
        ("log.info('led', **facts)", "** hides fields"),
        ("log.each('led', of=3, level=4)", "stands on every line"),
        ("def f(): get_logger('y').info('led')", "get_logger is called elsewhere"),
        ("say = log.info", "passed on"),
        ("plain = logging.getLogger('x')", "standard library"),
    ],
)
def test_a_planted_mistake_is_seen(source: str, problem: str) -> None:
    tree = ast.parse(f"log = get_logger('x')\n{source}")
    assert [found for found in problems("broker/planted.py", tree) if problem in found]


def test_fields_and_levels_are_read_from_calls_and_from_rows() -> None:
    tree = ast.parse("log = get_logger('x')\ndef f(): log.each('led', of=2, partition='t-0', leader_epoch=1)")
    text = "### x\n\n| event | level |\n| `led` | info/debug | `partition`, `leader_epoch` | It leads. |\n"
    assert events_in([tree]) == events_documented(text)
    assert events_in([tree]) != events_documented(text.replace(", `leader_epoch`", ""))
    assert events_in([tree]) != events_documented(text.replace("info/debug", "info"))
