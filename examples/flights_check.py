"""What was sent against what was read: nothing lost, nothing twice, order kept per key, bytes unchanged."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from examples.flights_data import Row


@dataclass(slots=True)
class ReadBack:
    """Fed every record read; compares with the source as it goes, and adds up the arrival delays."""

    source: Sequence[Row]
    read: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    changed: int = 0
    _seen: bytearray = field(init=False)
    _last_row: dict[bytes, int] = field(default_factory=dict)
    _delays: dict[bytes, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))

    def __post_init__(self) -> None:
        self._seen = bytearray(len(self.source))

    def add(self, key: bytes | None, value: bytes | None) -> None:
        """Count one record; it is `changed` when the source has no such row or another content."""
        self.read += 1
        try:
            flight = json.loads(value or b"")
            number = int(flight["row"])
        except (ValueError, KeyError, TypeError):
            self.changed += 1
            return
        if not 0 <= number < len(self.source):
            self.changed += 1
            return
        row = self.source[number]
        if row.key != key or row.value != value:
            self.changed += 1
        if self._seen[number]:
            self.duplicated += 1
        elif number < self._last_row.get(row.key, -1):
            self.out_of_order += 1
        self._seen[number] = 1
        self._last_row[row.key] = max(number, self._last_row.get(row.key, -1))
        if flight.get("arr_delay") is not None:
            total = self._delays[row.key]
            total[0] += flight["arr_delay"]
            total[1] += 1

    @property
    def lost(self) -> int:
        """Rows of the source that were not read."""
        return self._seen.count(0)

    @property
    def is_perfect(self) -> bool:
        """Every row exactly once, in order, unchanged."""
        return not (self.lost or self.duplicated or self.out_of_order or self.changed)

    def worst_carriers(self, count: int = 3) -> list[tuple[str, float]]:
        """Carriers with the highest mean arrival delay, in minutes."""
        means = [(key.decode(), total / flights) for key, (total, flights) in self._delays.items()]
        return sorted(means, key=lambda item: -item[1])[:count]
