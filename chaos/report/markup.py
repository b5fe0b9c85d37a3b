"""Makes HTML and SVG text in which everything is escaped: plain text becomes text, only `Safe` is taken as markup.

`Safe` is made by `tag`, `join` and `style_sheet` alone, so nothing that a run left behind can become markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

Attribute = str | int | float
_VOID: Final = frozenset({"meta", "br"})


class Safe(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(text: str) -> Safe:
    """As text, or within quotes; characters that no HTML may hold become a mark."""
    visible = "".join(char if char in "\n\t" or (char >= " " and char != "\x7f") else "\ufffd" for char in text)
    return Safe(html.escape(visible.encode("utf-8", "replace").decode("utf-8"), quote=True))


def join(parts: Iterable[str], separator: str = "") -> Safe:
    """One after the other; what is not `Safe` is escaped."""
    return Safe(escape(separator).join(part if isinstance(part, Safe) else escape(part) for part in parts))


def tag(name: str, /, *content: str, **attributes: Attribute) -> Safe:
    """An element. Underscores in names of attributes stand for hyphens, one at the end for a Python word (`class_`)."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"' for key, value in attributes.items()
    )
    if name in _VOID:
        return Safe(f"<{name}{written}>")
    return Safe(f"<{name}{written}>{join(content)}</{name}>")


def style_sheet(text: str) -> Safe:
    """A style element; the text comes from this package, never from a run."""
    return Safe(f"<style>{text}</style>")


def table(head: Iterable[str], rows: Iterable[Iterable[str]], **attributes: Attribute) -> Safe:
    """A table; what is no cell yet becomes one."""
    lines = [tag("tr", *(cell if _is_cell(cell) else tag("td", cell) for cell in row)) for row in rows]
    header = tag("thead", tag("tr", *(cell if _is_cell(cell) else tag("th", cell) for cell in head)))
    return tag("table", header, tag("tbody", *lines), **attributes)


def _is_cell(part: str) -> bool:
    return isinstance(part, Safe) and part.startswith(("<td", "<th"))


def number_cell(text: str, *, class_: str = "") -> Safe:
    """A cell aligned to the right."""
    return tag("td", text, class_=f"number {class_}".strip())


def _number(value: Attribute) -> str:
    """Coordinates need no more than two digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
