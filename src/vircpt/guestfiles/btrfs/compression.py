"""How btrfs compresses: zlib, LZO, zstd."""

from __future__ import annotations

import zlib

from vircpt.errors import NotSupported
from vircpt.guestfiles.btrfs.lzo import decompress as lzo_decompress
from vircpt.guestfiles.source import Damaged

_ZLIB, _LZO, _ZSTD = 1, 2, 3
_LIMIT = 1 << 20
"""No compressed extent holds more than 128 KiB; inline ones less."""


def decompress(kind: int, raw: bytes, size: int, sector: int) -> bytes:
    """`size` bytes; raises Damaged, NotSupported."""
    if size > _LIMIT:
        raise Damaged("a compressed extent of btrfs is too long")
    if kind == _ZLIB:
        try:
            out = zlib.decompressobj().decompress(raw, size)
        except zlib.error as error:
            raise Damaged("compressed data of btrfs makes no sense", why=str(error)) from error
    elif kind == _LZO:
        out = _lzo(raw, size, sector)
    elif kind == _ZSTD:
        out = _zstd(raw, size)
    else:
        raise NotSupported(f"compression {kind} of btrfs")
    return out[:size].ljust(size, b"\0")


def _lzo(raw: bytes, size: int, sector: int) -> bytes:
    """Segments, each with its length before it, which never crosses a sector's end."""
    total = min(int.from_bytes(raw[:4], "little"), len(raw))
    out = bytearray()
    at = 4
    while at + 4 <= total and len(out) < size:
        if sector - at % sector < 4:
            at += sector - at % sector
            continue
        length = int.from_bytes(raw[at : at + 4], "little")
        at += 4
        out += lzo_decompress(raw[at : at + length], sector)
        at += length
    return bytes(out)


def _zstd(raw: bytes, size: int) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise NotSupported(
            "a file compressed with zstd", why="the Python package zstandard is missing"
        ) from error
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 22).stream_reader(raw)
        return bytes(reader.read(size))
    except zstandard.ZstdError as error:
        raise Damaged("compressed data of btrfs makes no sense", why=str(error)) from error
