"""LVM2's text, and volumes of kinds that are not read."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.guestfiles.intervals import Intervals
from vircpt.guestfiles.layout import Holds, Role, scan
from vircpt.guestfiles.lvm import Assembly, parse_group
from vircpt.guestfiles.lvm_text import parse
from vircpt.guestfiles.md import Built
from vircpt.guestfiles.source import Damaged
from vircpt.guestfiles.volumes import Disk, Volume

TEXT = b"""
vg { # a comment
id = "AAAAAA"
seqno = 7
status = ["RESIZEABLE", "READ"]
extent_size = 8
physical_volumes { pv0 { id = "pv-1" device = "/dev/\\"odd\\"" pe_start = 16 pe_count = 100 } }
logical_volumes {
  pool { status = ["READ", "VISIBLE"] segment1 {
    start_extent = 0 extent_count = 4 type = "thin-pool"
    metadata = "pool_tmeta" pool = "pool_tdata" } }
  thin { status = ["VISIBLE"] segment1 {
    start_extent = 0 extent_count = 4 type = "thin" thin_pool = "pool" } }
  pool_tmeta { status = [] segment1 {
    start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } }
  pool_tdata { status = [] segment1 {
    start_extent = 0 extent_count = 4 type = "striped" stripe_count = 1 stripes = ["pv0", 1] } }
  mirror { status = ["VISIBLE"] segment1 {
    start_extent = 0 extent_count = 2 type = "raid1" raids = ["r_0", "m_0", "r_1", "m_1"] } }
  m_0 { status = [] segment1 {
    start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv0", 8] } }
  m_1 { status = [] segment1 {
    start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv0", 20] } }
  loop { status = ["VISIBLE"] segment1 {
    start_extent = 0 extent_count = 1 type = "raid1" raids = ["loop", "loop"] } }
}
}
contents = "Text Format Volume Group"
version = 1
"""


class Zeroes:
    size = 1 << 20

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(length)


def built(text: bytes) -> dict[str, Built]:
    volumes: dict[str, Volume] = {"vda": Disk("vda", Zeroes())}
    group = parse_group(text)
    return {one.name: one for one in Assembly(group, {"pv-1": "vda"}, volumes).all()}


@pytest.mark.parametrize("name", ["vg/pool", "vg/thin"])
def test_thin_volumes_are_named_and_lie_on_their_disks(name: str) -> None:
    one = built(TEXT)[name]
    assert one.content is not None
    assert one.content.holds is Holds.UNSUPPORTED
    assert "thin" in (one.content.reason or "")
    assert one.parents == ("vda",)
    assert one.volume.size == 4 * 4096


def test_a_mirror_is_dirty_where_any_copy_is() -> None:
    """lvm makes none without a device mapper: this text is by its documentation."""
    one = built(TEXT)["vg/mirror"]
    assert one.content is None
    start = 16 * 512
    places = [("vda", start + 8 * 4096, 1), ("vda", start + 20 * 4096, 1)]
    assert list(one.volume.places(0, 1)) == places
    dirty = {"vda": Intervals([(start + 21 * 4096, 10)])}
    assert list(one.volume.project(dirty)) == [(4096, 10)]


def test_volumes_in_a_circle() -> None:
    content = built(TEXT)["vg/loop"].content
    assert content is not None
    assert content.holds is Holds.UNSUPPORTED


def test_the_text() -> None:
    section = parse(TEXT).section("vg")
    assert section.number("seqno") == 7
    assert section.array("status") == ["RESIZEABLE", "READ"]
    assert section.section("physical_volumes").section("pv0").string("device") == '/dev/"odd"'


@given(st.integers(0, len(TEXT)), st.binary(max_size=6))
def test_damaged_text(at: int, junk: bytes) -> None:
    """It parses, or is Damaged."""
    with suppress(Damaged):
        built(TEXT[:at] + junk + TEXT[at + len(junk) :])


def test_an_empty_disk() -> None:
    (area,) = scan({"vda": Zeroes()}).areas
    assert (area.role, area.content.holds) == (Role.DISK, Holds.EMPTY)
