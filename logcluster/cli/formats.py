r"""How a consumed record becomes bytes on standard output: percent verbs as in kcat and rpk, or JSON lines.

A format is compiled once into a list of pieces; per record it is a join.

    %t topic   %p partition   %o offset   %T timestamp in ms   %k key   %v %s value   %h headers k=v,k=v
    %K key length   %S value length (-1: none)   %% a percent sign   \n \t \r \0 \\ \xNN
    %k{hex} %v{hex} %k{base64} %v{base64}
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import typer

from logcluster.cli.values import unescape

Formatter = Callable[["RecordView"], bytes]


class RecordView(Protocol):
    """What formatting reads of a record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


_VERBS: Final[dict[str, Formatter]] = {
    "t": lambda record: record.topic.encode(),
    "p": lambda record: b"%d" % record.partition,
    "o": lambda record: b"%d" % record.offset,
    "T": lambda record: b"%d" % record.timestamp_ms,
    "k": lambda record: record.key or b"",
    "v": lambda record: record.value or b"",
    "s": lambda record: record.value or b"",
    "K": lambda record: b"%d" % (-1 if record.key is None else len(record.key)),
    "S": lambda record: b"%d" % (-1 if record.value is None else len(record.value)),
    "h": lambda record: b",".join(key.encode() + b"=" + (value or b"") for key, value in record.headers),
    "%": lambda record: b"%",
}
_ENCODINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "hex": lambda data: data.hex().encode(),
    "base64": base64.b64encode,
}
_PIECE: Final = re.compile(r"%(.)(?:\{(\w+)\})?", re.DOTALL)


def compile_format(template: str) -> Formatter:
    """Turn a format with percent verbs into a function.

    Raises:
        typer.BadParameter: a verb or escape is unknown, or a percent sign stands at the end.
    """
    pieces: list[Formatter] = []
    position = 0
    for match in _PIECE.finditer(template):
        _add_literal(pieces, template[position : match.start()])
        verb, encoding = match[1], match[2]
        if verb not in _VERBS:
            raise typer.BadParameter(f"unknown verb %{verb} in the format; known: " + " ".join(f"%{v}" for v in _VERBS))
        position = match.end()
        if encoding is None or verb == "%":
            position = match.start() + 2
            pieces.append(_VERBS[verb])
        elif encoding in _ENCODINGS and verb in "kvs":
            pieces.append(_encoded(_VERBS[verb], _ENCODINGS[encoding]))
        else:
            raise typer.BadParameter(f"%{verb}{{{encoding}}} is not known; encodings are hex and base64, of %k and %v")
    if template[position:].endswith("%"):
        raise typer.BadParameter("the format ends with a single %; write %% for a percent sign")
    _add_literal(pieces, template[position:])
    return lambda record: b"".join([piece(record) for piece in pieces])


def _add_literal(pieces: list[Formatter], text: str) -> None:
    if text:
        literal = unescape(text)
        pieces.append(lambda record: literal)


def _encoded(verb: Formatter, encode: Callable[[bytes], bytes]) -> Formatter:
    return lambda record: encode(verb(record))


def value_per_line(record: RecordView) -> bytes:
    """The default: the value and a line feed."""
    return (record.value or b"") + b"\n"


def json_line(record: RecordView) -> bytes:
    """One JSON object and a line feed; bytes that are not UTF-8 travel in `key_base64` or `value_base64`."""
    document: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
    }
    _put_bytes(document, "key", record.key)
    _put_bytes(document, "value", record.value)
    headers = []
    for name, value in record.headers:
        header: dict[str, object] = {"key": name}
        _put_bytes(header, "value", value)
        headers.append(header)
    document["headers"] = headers
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _put_bytes(document: dict[str, object], name: str, data: bytes | None) -> None:
    if data is None:
        document[name] = None
        return
    try:
        document[name] = data.decode()
    except UnicodeDecodeError:
        document[name] = None
        document[f"{name}_base64"] = base64.b64encode(data).decode()
