"""Every command has help with an example and takes the global options before and after its name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from logcluster.cli.app import app

GLOBAL_OPTIONS = {"--bootstrap", "--output", "--timeout", "--tls", "--tls-ca", "--tls-cert", "--tls-key"}
EXPECTED = {
    "serve",
    "produce",
    "consume",
    "top",
    "doctor",
    "debug bundle",
    "generate k8s",
    *(f"dev {name}" for name in ("up", "status", "kill", "pause", "resume", "start", "down")),
    *(f"group {name}" for name in ("ls", "describe", "lag", "reset", "delete", "watch", "events")),
    *(f"topic {name}" for name in ("create", "ls", "describe", "alter", "delete")),
    *(f"broker {name}" for name in ("ls", "describe", "drain")),
    *(f"partition {name}" for name in ("ls", "elect")),
    *(f"cluster {name}" for name in ("info", "health", "wait")),
    *(f"bench {name}" for name in ("produce", "batches", "send", "consume", "latency", "failover", "idle", "startup")),
    *(f"sim {name}" for name in ("run", "ablate", "list", "scenario", "cores")),
}


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if path:
        yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


TREE = dict(walk(typer.main.get_command(app)))
LEAVES = [path for path, command in TREE.items() if not hasattr(command, "commands")]


def test_tree_has_the_commands_of_the_contract() -> None:
    missing = {name for name in EXPECTED if tuple(name.split()) not in LEAVES}

    assert not missing


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_command_has_help_with_an_example_of_itself(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"])

    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[2].strip(), "the first line says what it does"
    example = lines[next(number for number, line in enumerate(lines) if line.strip() == "Example:") + 1 :]
    assert f"logcluster {' '.join(path)}" in "\n".join(example[:4])


@pytest.mark.parametrize("path", list(TREE), ids=" ".join)
def test_command_and_group_take_the_global_options(path: tuple[str, ...]) -> None:
    options = {name for parameter in TREE[path].params for name in parameter.opts}

    assert options >= GLOBAL_OPTIONS


@pytest.mark.parametrize("path", list(TREE), ids=" ".join)
def test_every_parameter_says_what_it_is(path: tuple[str, ...]) -> None:
    silent = [parameter.name for parameter in TREE[path].params if not getattr(parameter, "help", None)]

    assert silent in ([], ["help"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "json", "dev", "status"],
        ["dev", "-o", "json", "status"],
        ["dev", "status", "-o", "json"],
        ["-o", "table", "dev", "status", "-o", "json"],
    ],
)
def test_global_option_stands_anywhere_and_the_later_one_wins(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("LOGCLUSTER_DEV_DIR", str(tmp_path))

    shown = CliRunner().invoke(app, arguments)

    assert shown.exit_code == 3
    assert json.loads(shown.stderr)["error"]["name"] == "NotFound"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["topic", "ls", "-o", "xml"],
        ["topic", "ls", "--timeout", "soon"],
        ["topic", "ls", "--bootstrap", "nowhere"],
        ["topic", "create"],
        ["topic", "create", "x", "-c", "retention.ms"],
        ["topic", "alter", "x"],
        ["consume", "x", "--from", "yesterday"],
        ["consume", "x", "-f", "%y"],
        ["produce", "x", "--acks", "some"],
        ["dev", "up", "-n", "0"],
    ],
)
def test_misuse_ends_with_exit_code_2_and_no_traceback(arguments: list[str]) -> None:
    shown = CliRunner().invoke(app, arguments)

    assert shown.exit_code == 2
    assert "Traceback" not in shown.output
    assert "Error" in shown.stderr


def test_help_imports_neither_client_nor_rich_nor_server_code() -> None:
    source = (
        "import sys; sys.argv = ['logcluster', '--help']\n"
        "from logcluster.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'grpc', 'google.protobuf', 'rocksdict', 'msgspec', 'logcluster.client.client'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )

    finished = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)

    assert finished.stderr.strip() == "[]"
