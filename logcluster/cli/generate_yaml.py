"""YAML of plain values, as a person would write it; enough for the manifests that `generate k8s` writes.

Dictionaries, lists, texts, numbers, booleans. Texts that YAML might read as something else are quoted as JSON, which
YAML understands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

PLAIN: Final = re.compile(r"[A-Za-z/$.(][A-Za-z0-9_./()$=@,-]*(:[A-Za-z0-9_./@,=-]+)*")
NOT_TEXTS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def yaml_text(value: Mapping[str, object], *, comment: str = "") -> str:
    """A document; `comment` stands above it."""
    head = [f"# {line}".rstrip() for line in comment.splitlines()]
    return "\n".join([*head, *_lines(value, "")]) + "\n"


def yaml_documents(values: Sequence[Mapping[str, object]]) -> str:
    """Several documents in one text."""
    return "---\n".join(yaml_text(value) for value in values)


def yaml_list(values: Sequence[object]) -> str:
    """A document that is a list."""
    return "\n".join(_lines(values, "")) + "\n"


def _lines(value: object, indent: str) -> list[str]:
    if isinstance(value, Mapping):
        return [line for key, part in value.items() for line in _entry(f"{indent}{_scalar(key)}:", part, indent)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        lines = []
        for part in value:
            if isinstance(part, Mapping) and part:
                first, *others = _lines(part, f"{indent}  ")
                lines += [f"{indent}- {first.removeprefix(f'{indent}  ')}", *others]
            else:
                lines.append(f"{indent}- {_scalar(part)}")
        return lines
    return [f"{indent}{_scalar(value)}"]


def _entry(head: str, part: object, indent: str) -> list[str]:
    if isinstance(part, Mapping | Sequence) and not isinstance(part, str) and part:
        return [head, *_lines(part, f"{indent}  ")]
    return [f"{head} {_scalar(part)}"]


def _scalar(value: object) -> str:
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NOT_TEXTS:
        return value
    return json.dumps(value, ensure_ascii=False)
