"""A picture of a domain's screen, as PNG."""

from __future__ import annotations

import re
import struct
import zlib

from vircpt.errors import VircptError
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.hypervisor.translate import translated

_PIECE = 262120
_LIMIT = 256 * 2**20
"""Bytes: the size of a screen is the guest's to choose."""
_PPM = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d{1,5})\s+(\d{1,5})\s+255\s")


def take(domain: LibvirtDomain) -> bytes:
    """The first screen of a running domain, as a PNG file."""
    with translated("cannot take a screenshot", domain=domain.name):
        stream = domain.connection.raw.newStream(0)
        kind = domain.raw.screenshot(stream, 0, 0)
        data = bytearray()
        while piece := stream.recv(_PIECE):
            data += piece
            if len(data) > _LIMIT:
                stream.abort()
                raise VircptError("the screenshot is too large", domain=domain.name)
        stream.finish()
    return bytes(data) if kind == "image/png" else from_ppm(bytes(data))


def from_ppm(data: bytes) -> bytes:
    """A PPM picture (P6, 8 bits a colour), which older libvirts give, as PNG."""
    head = _PPM.match(data)
    if head is None:
        raise VircptError("the screenshot has an unknown format")
    width, height = int(head[1]), int(head[2])
    pixels, row = data[head.end() :], width * 3
    if len(pixels) != row * height or not pixels:
        raise VircptError("the screenshot is cut off")
    rows = b"".join(
        b"\0" + pixels[start : start + row] for start in range(0, len(pixels), row)
    )  # each with its filter: none
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
