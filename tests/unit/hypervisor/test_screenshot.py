"""PPM into PNG."""

from __future__ import annotations

import struct
import zlib

import pytest

from vircpt.errors import VircptError
from vircpt.hypervisor.screenshot import from_ppm


def chunks(png: bytes) -> dict[bytes, bytes]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (check,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert check == zlib.crc32(kind + data)
        found[kind] = data
        place += 12 + length
    return found


def test_pixels_are_kept() -> None:
    first, second = bytes(range(9)), bytes(range(9, 18))
    found = chunks(from_ppm(b"P6\n# a comment\n3 2\n255\n" + first + second))
    assert struct.unpack(">IIBBBBB", found[b"IHDR"]) == (3, 2, 8, 2, 0, 0, 0)
    assert zlib.decompress(found[b"IDAT"]) == b"\0" + first + b"\0" + second
    assert found[b"IEND"] == b""


@pytest.mark.parametrize(
    "data", [b"", b"P5 1 1 255 x", b"P6 2 2 255 short", b"P6 0 0 255 ", b"P6 1 1 65535 abcdef"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(VircptError):
        from_ppm(data)
