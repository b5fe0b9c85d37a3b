"""What linters cannot check: sizes, calls that belong to one adapter, docstrings, dead links in the documentation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "logcluster"
GENERATED = PACKAGE / "wire" / "gen"
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# What may be touched only in the adapter of its port, and which files those adapters are. Programs at the very rim
# (the command line, the launcher of local clusters) are outside of the simulated world and may use the machine.
RIM = ("cli/", "devcluster", "testing.py", "__main__.py", "sync.py")
BANNED: dict[str, tuple[str, ...]] = {
    "time": ("runtime/clock.py", *RIM),
    "random.": ("runtime/entropy.py", *RIM),
    "secrets": (),
    "uuid": (),
    "os.urandom": ("runtime/entropy.py",),
    "threading": ("sync.py", *RIM),
    "concurrent": ("runtime/disk.py", "sync.py"),
    "multiprocessing": (),
    "subprocess": ("sim/campaign.py", *RIM),
    "signal": ("node.py", *RIM),
    "socket": ("rpc/", *RIM),
    "asyncio.create_task": ("runtime/scope.py",),
    "asyncio.ensure_future": (),
    "asyncio.gather": (),
    "asyncio.sleep": ("runtime/clock.py", *RIM),
    "asyncio.to_thread": RIM,
    "open": ("storage/posix_filesystem.py", *RIM),
    "datetime.now": RIM,
}
TYPES_ALLOWED = {"random.Random"}


def python_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if GENERATED not in path.parents)


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


FILES = python_files()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_file_and_functions_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES_MAX, (
        f"{relative(path)} is longer than {FILE_LINES_MAX} lines: look for a seam"
    )
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long, f"{relative(path)}: longer than {FUNCTION_LINES_MAX} lines: {', '.join(long)}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_module_says_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{relative(path)} has no module docstring"


def names_used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every `a.b` and every called bare name, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id


def modules_imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module


def violations(name: str, tree: ast.AST) -> list[str]:
    found = []
    imported = list(modules_imported(tree))
    used = list(names_used(tree))
    for banned, allowed in BANNED.items():
        if any(name.startswith(prefix) or name == prefix for prefix in allowed):
            continue
        if banned.endswith("."):
            hits = [(line, text) for line, text in used if text.startswith(banned) and text not in TYPES_ALLOWED]
        elif "." in banned or banned == "open":
            hits = [(line, text) for line, text in used if text == banned]
        else:
            hits = [(line, text) for line, text in imported if text.split(".")[0] == banned]
        found.extend(f"line {line}: {text}" for line, text in hits)
    return found


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_outside_is_touched_only_in_its_adapter(path: Path) -> None:
    found = violations(relative(path), ast.parse(path.read_text(encoding="utf-8")))
    assert not found, f"{relative(path)}: {'; '.join(found)}"


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import threading",
        "x = random.random()",
        "open('x')",
        "asyncio.create_task(f())",
        "from concurrent.futures import ThreadPoolExecutor",
        "now = datetime.now()",
    ],
)
def test_a_planted_misuse_is_seen(source: str) -> None:
    assert violations("core/planted.py", ast.parse(source))


def test_no_unfinished_marker_is_left() -> None:
    # Spelled apart so that this file does not find itself.
    marker = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "raise Not" + "ImplementedError")))
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in (PACKAGE, ROOT / "tests", ROOT / "bench", ROOT / "examples")
        for path in sorted(folder.rglob("*.py"))
        if "gen" not in path.parts and "node_modules" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if marker.search(line)
    ]
    assert not found


def markdown_files() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("path", markdown_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_documentation_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if not target.startswith(("http://", "https://", "mailto:")) and not (path.parent / target).exists()
    ]
    assert not missing, f"{path.relative_to(ROOT)} links to {missing}"


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = sorted(set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text)))
    assert named, "the map names no file"
    missing = [name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()]
    assert not missing
