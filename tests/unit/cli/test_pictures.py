"""Pictures: each kind where it lies, nothing of a guest's names that breaks a page."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
import zlib

from hypothesis import given
from hypothesis import strategies as st

from vircpt.blocks.extents import Columns
from vircpt.cli import pictures
from vircpt.cli.pictures import CLEARED, DATA, DIRTY, EMPTY, DiskPicture, Part

# indexes of KINDS: 4 x (0 clean, 1 dirty) + the flags hole 1, zero 2
CLEAN_DATA, CLEAN_HOLE, DIRTY_DATA, DIRTY_ZERO = 0, 3, 4, 6
GRID = pictures.COLUMNS * pictures.ROWS


def test_each_cell_shows_what_most_needs_to_be_seen() -> None:
    columns = Columns(
        [0, 10, 15, 20, 30], [10, 5, 5, 10, 10],
        [CLEAN_DATA, CLEAN_HOLE, DIRTY_DATA, DIRTY_ZERO, CLEAN_HOLE],
    )  # fmt: skip
    assert pictures.cells(40, [columns], 4) == [DATA, DIRTY, CLEARED, EMPTY]


@given(st.integers(1, 10_000), st.integers(1, 50), st.data())
def test_a_single_written_byte_is_seen(size: int, count: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, size - 1))
    shown = pictures.cells(size, [Columns([at], [1], [DIRTY_DATA])], count)
    assert shown.count(DIRTY) == 1
    assert shown.index(DIRTY) == at * count // size


def disk(label: str) -> DiskPicture:
    return DiskPicture("vda", 1000, [DIRTY] * 5 + [EMPTY] * (GRID - 5), [Part(0, 500, label)])


@given(st.text())
def test_labels_of_guests_break_no_page(label: str) -> None:
    root = ET.fromstring(pictures.svg([disk(label), disk("other")]))
    assert root.tag.endswith("svg")
    assert "<script" not in pictures.html("x", [disk("<script>alert(1)</script>")])


def test_a_png_is_one() -> None:
    made = pictures.png([disk("one")])
    assert made.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", made[16:24])
    length = struct.unpack(">I", made[33:37])[0]
    data = zlib.decompress(made[41 : 41 + length])
    assert len(data) == height * (1 + 3 * width)
    assert made.endswith(b"IEND\xae\x42\x60\x82")


def test_heat_without_colours_is_plain() -> None:
    lines = pictures.heat(disk("evil\x1b[31m"), 96, colour=False)
    assert not any("\x1b" in line for line in lines)
    assert lines[2].startswith("█████ ")
    assert "\x1b" in "".join(pictures.heat(disk("x"), 96, colour=True))
