"""Records as bytes on standard output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import typer

from logcluster.cli.formats import compile_format, json_line, value_per_line


class Sample(NamedTuple):
    topic: str = "orders"
    partition: int = 3
    offset: int = 42
    timestamp_ms: int = 1_700_000_000_000
    key: bytes | None = b"k1"
    value: bytes | None = b'{"id": 1}'
    headers: Sequence[tuple[str, bytes | None]] = (("a", b"1"), ("b", None))


def test_every_verb_and_the_escapes() -> None:
    template = r"%t %p %o %k %v %s %h %T %K %S 100%%\n\t"

    line = compile_format(template)(Sample())

    assert line == b'orders 3 42 k1 {"id": 1} {"id": 1} a=1,b= 1700000000000 2 9 100%\n\t'


def test_absent_key_and_value_are_empty_and_have_length_minus_one() -> None:
    assert compile_format("[%k][%v]%K/%S")(Sample(key=None, value=None)) == b"[][]-1/-1"


def test_bytes_of_a_value_pass_unchanged() -> None:
    assert compile_format("%v")(Sample(value=b"\xff\x00%o")) == b"\xff\x00%o"


def test_encodings_of_key_and_value() -> None:
    assert compile_format("%k{hex} %v{base64}")(Sample(key=b"\x01\xff", value=b"hi")) == b"01ff aGk="


def test_json_braces_after_a_verb_that_are_no_encoding_word() -> None:
    assert compile_format('{"o": %o, "v": %v}')(Sample()) == b'{"o": 42, "v": {"id": 1}}'


@pytest.mark.parametrize("template", ["%x", "%", "50%", "%k{rot13}", "%o{hex}", r"\q"])
def test_format_that_means_nothing_is_a_usage_error(template: str) -> None:
    with pytest.raises(typer.BadParameter):
        compile_format(template)


def test_default_is_one_value_per_line() -> None:
    assert value_per_line(Sample(value=b"x")) == b"x\n"
    assert value_per_line(Sample(value=None)) == b"\n"


def test_json_line_has_stable_names_and_tells_absent_from_empty() -> None:
    document = json.loads(json_line(Sample(key=b"", value=None)))

    assert document == {
        "topic": "orders",
        "partition": 3,
        "offset": 42,
        "timestamp_ms": 1_700_000_000_000,
        "key": "",
        "value": None,
        "headers": [{"key": "a", "value": "1"}, {"key": "b", "value": None}],
    }


def test_json_line_carries_bytes_that_are_no_text_in_base64() -> None:
    document = json.loads(json_line(Sample(value=b"\xff\xfe")))

    assert document["value"] is None
    assert document["value_base64"] == "//4="
    assert json_line(Sample(value=b"two\nlines")).count(b"\n") == 1
