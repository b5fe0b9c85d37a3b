"""Names follow the rules, and the pages and files that speak of metrics know the same ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from logcluster.metrics.catalogue import CATALOGUE, FOREIGN_PREFIXES, SECTIONS, Definition

ROOT = Path(__file__).resolve().parents[3]
UNITS = ("_seconds", "_bytes", "_records", "_entries", "_info")
RESERVED_LABELS = {"job", "instance", "le", "quantile"}


def rows() -> list[str]:
    return [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |"
        for section in SECTIONS.values()
        for one in section
    ]


def test_no_name_stands_twice() -> None:
    assert len(CATALOGUE) == sum(len(section) for section in SECTIONS.values())


@pytest.mark.parametrize("one", CATALOGUE.values(), ids=lambda one: one.name)
def test_names_follow_the_rules(one: Definition) -> None:
    assert one.name.startswith(("logcluster_", *FOREIGN_PREFIXES))
    assert re.fullmatch(r"[a-z][a-z0-9_]*", one.name)
    assert one.name.endswith("_total") == (one.kind == "counter"), "a counter, and nothing else, ends in _total"
    assert not one.name.endswith(("_ms", "_milliseconds", "_kb", "_count", "_sum", "_bucket"))
    if one.kind == "histogram":
        assert one.name.endswith("_seconds")
    assert one.help.endswith(".") and not RESERVED_LABELS & set(one.labels)


def test_the_page_has_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = [
        line for line in page.splitlines() if re.match(r"\| `[a-z]\w+` \| (gauge|counter|histogram) \|", line)
    ]
    assert documented == rows()


def test_the_page_names_nothing_that_does_not_exist() -> None:
    for page in ("metrics.md", "runbooks.md"):
        named = re.findall(r"logcluster_[a-z_]+", (ROOT / "docs" / page).read_text(encoding="utf-8"))
        known = {*CATALOGUE, *(f"{name}_{suffix}" for name in CATALOGUE for suffix in ("bucket", "sum", "count"))}
        assert sorted(set(named) - known) == [], page
