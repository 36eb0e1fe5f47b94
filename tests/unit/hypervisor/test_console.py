"""What is found in a console's text, however it comes in pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.hypervisor.console import ConsoleText

PANIC = b"[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\nmore\r\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def fed(data: bytes, cuts: list[int], wanted: bytes | None = None) -> ConsoleText:
    text = ConsoleText(wanted)
    for piece in pieces(data, cuts):
        text.feed(piece)
    return text


@given(st.binary(max_size=300), st.binary(max_size=300), st.lists(st.integers(0, 1000)))
def test_the_wanted_text_is_found_in_any_pieces(
    before: bytes, after: bytes, cuts: list[int]
) -> None:
    assert fed(before + b"login:" + after, cuts, b"login:").found


@given(st.binary(max_size=300), st.lists(st.integers(0, 1000)))
def test_only_what_is_there_is_found(data: bytes, cuts: list[int]) -> None:
    assert fed(data, cuts, b"login:").found == (b"login:" in data)


@given(st.lists(st.integers(0, 1000)))
def test_a_panic_is_told_whole(cuts: list[int]) -> None:
    text = fed(b"booting\r\n" * 20 + PANIC, cuts)
    assert text.panic == "Kernel panic - not syncing: VFS: Unable to mount root fs"


def test_a_panic_that_ends_in_the_middle_of_a_line() -> None:
    text = fed(PANIC[:50], [])
    assert text.panic is None  # its reason may still come
    text.end()
    assert text.panic == "Kernel panic - not syncing: VFS: Unable"


def test_a_flood_is_not_kept() -> None:
    text = fed(b"x" * 10_000_000 + b"\nlast\n", [5_000_000], b"nothing")
    assert not text.found
    assert text.lines(1) == ("last",)
    assert sum(map(len, text.lines(100))) < 100_000


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", ()),
        (b"one\r\ntwo\r\n\r\nthree", ("one", "two", "three")),
        (b"\x1b[32m  OK  \x1b[0m started\r\n", ("  OK   started",)),
        (b"\x1b]0;title\x07text\n", ("text",)),
        (b"\xff\xfe\n", ("\ufffd\ufffd",)),
        (b"bell \x07\n", ("bell \x07",)),  # made harmless where it is printed
    ],
)
def test_lines(data: bytes, lines: tuple[str, ...]) -> None:
    assert fed(data, []).lines(10) == lines
