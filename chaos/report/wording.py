"""How times, counts and shares are written for people, the same on every page and picture."""

from __future__ import annotations

from datetime import UTC, datetime

_MS_NS = 1_000_000


def milliseconds(value: int | None) -> str:
    """A length of time with at most three digits that matter; a dash for None."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value} ms"
    return f"{value / 1000:.2f} s" if value < 100_000 else f"{value / 1000:.0f} s"


def microseconds(value: int | None) -> str:
    """As `milliseconds`, for latencies."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value} µs"
    return f"{value / 1000:.1f} ms" if value < 100_000 else milliseconds(value // 1000)


def tick(value_us: int) -> str:
    """A label of an axis of times: no more digits than it needs."""
    for unit, name in ((1_000_000, "s"), (1000, "ms")):
        if value_us >= unit:
            return f"{value_us / unit:g} {name}"
    return f"{value_us} µs"


def moment(t_ns: int, begin_ns: int) -> str:
    """Seconds since the run began, to the millisecond."""
    return f"{(t_ns - begin_ns) // _MS_NS / 1000:+.3f} s"


def wall_clock(wall_ns: int) -> str:
    """The time of day, UTC, to the millisecond."""
    return f"{_utc(wall_ns):%H:%M:%S}.{wall_ns // _MS_NS % 1000:03d}"


def wall_date(wall_ns: int) -> str:
    """Date and time, UTC."""
    return f"{_utc(wall_ns):%Y-%m-%d %H:%M:%S} UTC"


def _utc(wall_ns: int) -> datetime:
    try:
        return datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


def percent(share: float | None) -> str:
    """A share of 1; never rounded up to 100 %."""
    if share is None:
        return "–"
    return "100 %" if share >= 1 else f"{int(share * 100_000 + 1e-6) / 1000:.3f} %"


def count(number: int) -> str:
    """With thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def plural(number: int, singular: str, several: str = "") -> str:
    """`1 write`, `2 writes`."""
    return f"{count(number)} {singular if number == 1 else several or singular + 's'}"


def duration(length_ns: int) -> str:
    """Of a run: `45 s`, `2 min 5 s`, `2 h 10 min`."""
    seconds = length_ns // 1_000_000_000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds % 60 else f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
