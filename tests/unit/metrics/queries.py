"""What a PromQL expression names, and what our own rules.yaml says, read without a YAML library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
_WORD_LIST = """
    by without on ignoring group_left group_right and or unless bool offset
    sum max min count avg topk absent scalar
    rate increase deriv changes predict_linear histogram_quantile min_over_time time
"""
_WORDS = frozenset(_WORD_LIST.split())


class Alert(NamedTuple):
    """One alert of the file."""

    name: str
    expression: str
    runbook: str
    severity: str


def metrics_in(expression: str) -> set[str]:
    """Names of the metrics that an expression reads."""
    text = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", expression)  # selectors, ranges
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    return {word for word in re.findall(r"(?<![\w.])[a-z_][a-z0-9_]*", text) if word not in _WORDS}


def labels_in(expression: str) -> dict[str, set[str]]:
    """Labels that the selectors of each metric compare."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"([a-z_][a-z0-9_]*)\{([^}]*)\}", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    return found


def alerts() -> list[Alert]:
    """Every alert of rules.yaml, in its order."""
    found = []
    for block in RULES.read_text(encoding="utf-8").split("      - alert: ")[1:]:
        name = block.splitlines()[0].strip()
        expression = re.search(r"expr: (?:>-\n)?((?:.*\n)(?:          .*\n)*)", block)
        runbook = re.search(r"runbook: (\S+)", block)
        severity = re.search(r"severity: (\w+)", block)
        assert expression and runbook and severity, name
        found.append(Alert(name, " ".join(expression[1].split()), runbook[1], severity[1]))
    return found
