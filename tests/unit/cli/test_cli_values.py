"""Texts that users type: durations, sizes, places in a log, settings, separators."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import typer

from logcluster.cli.values import (
    Place,
    PlaceKind,
    duration_ms,
    place,
    separator_bytes,
    settings_map,
    size_bytes,
    unescape,
)

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1.5h", 5_400_000), ("7d", 604_800_000), ("3", 3_000)],
)
def test_duration_with_and_without_unit(text: str, expected: int) -> None:
    assert duration_ms(text) == expected


@pytest.mark.parametrize("text", ["", "ten", "-5s", "5 weeks", "s", "1e3"])
def test_duration_that_cannot_be_read_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="not a duration"):
        duration_ms(text)


def test_sizes_know_binary_and_decimal_units() -> None:
    assert [size_bytes(text) for text in ("100", "64KiB", "10MB", "1.5k")] == [100, 65_536, 10_000_000, 1_500]


@pytest.mark.parametrize("text", ["", "64 parsecs", "-1"])
def test_size_that_cannot_be_read_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="not a size"):
        size_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beginning", Place(PlaceKind.BEGINNING)),
        ("earliest", Place(PlaceKind.BEGINNING)),
        ("END", Place(PlaceKind.END)),
        ("latest", Place(PlaceKind.END)),
        ("0", Place(PlaceKind.OFFSET, 0)),
        ("1234", Place(PlaceKind.OFFSET, 1234)),
        ("now", Place(PlaceKind.TIMESTAMP, NOW_MS)),
        ("-15m", Place(PlaceKind.TIMESTAMP, NOW_MS - 900_000)),
        ("@1699999999999", Place(PlaceKind.TIMESTAMP, 1_699_999_999_999)),
        ("2023-11-14T22:13:20Z", Place(PlaceKind.TIMESTAMP, NOW_MS)),
        ("2023-11-15T00:13:20+02:00", Place(PlaceKind.TIMESTAMP, NOW_MS)),
    ],
)
def test_place_in_a_log(text: str, expected: Place) -> None:
    assert place(text, now_ms=NOW_MS) == expected


def test_time_without_zone_is_local_time() -> None:
    local = datetime.fromtimestamp(NOW_MS / 1000, UTC).astimezone().replace(tzinfo=None)

    assert place(local.isoformat(), now_ms=0) == Place(PlaceKind.TIMESTAMP, NOW_MS)


@pytest.mark.parametrize("text", ["yesterday", "-5", "@soon", "2023-13-01", ""])
def test_place_that_cannot_be_read_names_what_is_possible(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="beginning, end, an offset"):
        place(text, now_ms=NOW_MS)


def test_settings_keep_everything_after_the_first_equals_sign() -> None:
    assert settings_map(["a.b=1", "c=x=y", "d="]) == {"a.b": "1", "c": "x=y", "d": ""}


@pytest.mark.parametrize("pairs", [["retention.ms"], ["=1"], ["a=1", "a=2"]])
def test_settings_that_are_no_pairs_or_repeat_are_usage_errors(pairs: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        settings_map(pairs)


def test_escapes_become_bytes_and_other_text_stays() -> None:
    assert unescape(r"a\tb\n\x00\xFFé\\") == b"a\tb\n\x00\xff\xc3\xa9\\"


@pytest.mark.parametrize("text", [r"\q", r"\x4", "\\"])
def test_unknown_or_cut_escape_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="unknown escape"):
        unescape(text)


def test_empty_separator_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="empty"):
        separator_bytes("")
