"""Bytes and seconds: what people read is close to what is meant, and in the same order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.errors import InvalidInput
from vircpt.units import (
    format_age,
    format_duration,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)

UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
YEAR = 366 * 86400


def size_shown(text: str) -> float:
    """The bytes that a formatted size stands for."""
    number, unit = text.split(" ")
    return float(number) * float(1 << 10 * UNITS.index(unit))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (64 << 10, "64.0 KiB"),
        (100 << 10, "100 KiB"),
        (128 << 20, "128 MiB"),
        (5 << 28, "1.25 GiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        (999 << 10, "999 KiB"),
        (1000 << 10, "0.98 MiB"),
        (1 << 60, "1.00 EiB"),
        (1 << 70, "1024 EiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_sizes_as_people_read_them(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1 << 63))
def test_a_shown_size_is_right_within_one_percent(size: int) -> None:
    assert size_shown(format_size(size)) == pytest.approx(size, rel=0.01)


@given(st.integers(0, 1 << 63), st.integers(0, 1 << 63))
def test_a_larger_size_is_never_shown_as_smaller(one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert size_shown(format_size(small)) <= size_shown(format_size(large))


@given(st.integers(1024, 1 << 63))
def test_a_size_has_at_most_three_digits(size: int) -> None:
    assert len(format_size(size).split(" ")[0].replace(".", "").lstrip("0")) <= 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.000 s"),
        (0.042, "0.042 s"),
        (9.5, "9.500 s"),
        (12.34, "12.3 s"),
        (60, "1 min"),
        (300, "5 min"),
        (3600, "1 h"),
        (7800, "2 h 10 min"),
        (86400, "1 d"),
        (3 * 86400 + 4 * 3600 + 59, "3 d 4 h"),
    ],
)
def test_durations_as_people_read_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, YEAR), st.floats(0, YEAR))
def test_a_longer_time_is_never_shown_as_shorter(one: float, other: float) -> None:
    def shown(seconds: float) -> float:
        scale = {"s": 1, "min": 60, "h": 3600, "d": 86400}
        words = format_duration(seconds).split(" ")
        return sum(
            float(number) * scale[unit]
            for number, unit in zip(words[::2], words[1::2], strict=True)
        )

    short, long = sorted((one, other))
    assert shown(short) <= shown(long)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("7d", 7 * 86400),
        ("1w", 7 * 86400),
        ("366d", YEAR),
        (" 5m ", 300),
    ],
)
def test_durations_that_are_understood(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "5",
        "90",
        "0.5",
        "5x",
        "m",
        "-5",
        "-5m",
        "5 m",
        "1e3",
        "1:30",
        ".5",
        "5.",
        "inf",
        "nan",
        "5m6",
    ],
)
def test_texts_that_are_no_duration(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "0.0m", "367d", "53w", "9" * 400 + "s"])
def test_durations_out_of_range(text: str) -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        parse_duration(text)


@given(st.text())
def test_any_text_is_a_duration_in_range_or_invalid(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except InvalidInput:
        return
    assert 0 < seconds <= YEAR


@given(st.integers(0, 300), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_parts_of_a_duration_are_added(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert parse_duration(text) == days * 86400 + hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "1 s"), (0, "1 s"), (0.736, "1 s"), (59.4, "59 s"), (59.6, "1 min"), (7300, "2 h 2 min")],
)
def test_format_age(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512M", 512 * 2**20),
        ("2G", 2 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("64k", 65536),
        ("1 TiB", 2**40),
        ("100b", 100),
        ("3MB", 3 * 2**20),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "1e3", "12 parsecs", "٣", "9999999999T"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("200M", 200 << 20), ("1.5G", 3 << 29), ("800k", 800 << 10), ("7", 7), ("2MiB/s", 2 << 20)],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1M", "0", "0.1", "1X"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(InvalidInput, match="rate"):
        parse_rate(text)
