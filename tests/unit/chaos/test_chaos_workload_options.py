"""What a client process may be asked for, and how it refuses the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chaos import client
from chaos.client import BadArguments, parse_arguments, read_options
from chaos.workloads import WORKLOADS
from chaos.workloads.append import AppendOptions
from chaos.workloads.drain import DrainOptions
from chaos.workloads.worker import TopicSpec, Worker


def command(tmp_path: Path, workload: str = "append", **changed: str) -> list[str]:
    given = {
        "bootstrap": "127.0.0.1:7070,127.0.0.1:7080",
        "history": str(tmp_path / "h.jsonl"),
        "name": "append-0",
        "seed": "3",
        **changed,
    }
    return [workload, *(part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", value))]


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
def test_every_workload_has_defaults_and_a_worker_of_its_own(workload: str) -> None:
    options = read_options(workload, "{}")

    assert type(options) is WORKLOADS[workload].options_type
    assert "work" in vars(WORKLOADS[workload])
    assert issubclass(WORKLOADS[workload], Worker)


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
def test_an_unknown_option_is_named(workload: str) -> None:
    with pytest.raises(BadArguments, match=f"{workload}.*nonsense"):
        read_options(workload, '{"nonsense": 1}')


@pytest.mark.parametrize(
    ("workload", "options", "why"),
    [
        ("append", {"rate": 0}, r">= 1.*\$\.rate"),
        ("append", {"rate": "fast"}, r"\$\.rate"),
        ("append", {"acks": 2}, r"\$\.acks"),
        ("append", {"compression": "brotli"}, r"\$\.compression"),
        ("append", {"acks": 1, "idempotent": True}, "idempotent needs acks all"),
        ("append", {"size_bytes_min": 9, "size_bytes_max": 8}, "size_bytes_min 9 is above"),
        ("append", {"partitions": []}, "partitions names none"),
        ("append", {"keyed_probability": 1.5}, r"\$\.keyed_probability"),
        ("append", {"topics": [{"name": ""}]}, r"\$\.topics\[0\]"),
        ("append", {"topics": [{"name": "a", "replicas": 3}]}, "replicas"),
        ("read", {"carrier": "http"}, r"\$\.carrier"),
        ("read", {"partitions": [-1]}, r"\$\.partitions\[0\]"),
        ("group", {"group": ""}, r"\$\.group"),
        ("group", {"auto_commit_interval_ms": 0}, r"\$\.auto_commit_interval_ms"),
        ("offsets", {"groups": []}, r"\$\.groups"),
        (
            "offsets",
            {"commit_weight": 0, "fetch_weight": 0, "remove_weight": 0, "delete_group_weight": 0},
            "all weights are 0",
        ),
        ("admin", {"weights": {"format_disks": 1}}, "format_disks.*create_topic"),
        ("admin", {"weights": {"create_topic": 0}}, "all weights are 0"),
        ("probe", {"interval_ms": 0}, r"\$\.interval_ms"),
        ("drain", {"ends": {"orders-0": -1}}, r"\$\.ends"),
    ],
)
def test_what_is_impossible_is_refused_with_its_place(workload: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadArguments, match=why):
        read_options(workload, json.dumps(options))


def test_options_are_read(tmp_path: Path) -> None:
    text = '{"topics": ["a", {"name": "b", "partitions": 2}], "acks": 1, "idempotent": null, "compression": "lz4"}'

    chosen = parse_arguments(command(tmp_path, options=text, duration_ms="50"))

    options = chosen.parsed_options
    assert isinstance(options, AppendOptions)
    assert options.topics == ("a", TopicSpec(name="b", partitions=2))
    assert (options.acks, options.is_idempotent, options.compression, chosen.duration_ms) == (1, False, "lz4", 50)


def test_a_drain_reads_up_to_what_was_promised() -> None:
    options = read_options("drain", '{"topics": ["orders"], "ends": {"orders-0": 12}}')

    assert isinstance(options, DrainOptions)
    assert options.ends == {"orders-0": 12}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"bootstrap": "nowhere"}, "--bootstrap"),
        ({"bootstrap": "127.0.0.1:7070,"}, "--bootstrap"),
        ({"name": "a|b"}, "--name"),
        ({"duration_ms": "0"}, "--duration-ms"),
        ({"options": "{"}, "--options of append"),
        ({"options": "[]"}, "--options of append"),
        ({"history": "/nowhere/at/all.jsonl"}, "/nowhere/at/all.jsonl"),
    ],
)
def test_bad_arguments_end_with_2_and_one_line(
    tmp_path: Path, changed: dict[str, str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client.main(command(tmp_path, **changed)) == 2

    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    assert not (tmp_path / "h.jsonl").exists()


def test_a_workload_that_is_not_there_is_answered_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client.main(command(tmp_path, "transfer")) == 2

    assert "append, drain" in capsys.readouterr().err


def test_a_history_that_exists_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text("of a former life\n")

    assert client.main(command(tmp_path)) == 2

    assert path.read_text() == "of a former life\n"
    assert "a file of its own" in capsys.readouterr().err
