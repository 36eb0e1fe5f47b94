"""FIEMAP: where the kernel says that a file's bytes are."""

from __future__ import annotations

import fcntl
import os
import struct

_FIEMAP = 0xC020660B
_LAST, _NO_PLACE = 0x1, 0x2 | 0x4 | 0x200
_COUNT = 512


def fiemap(path: bytes) -> list[tuple[int, int]]:
    """Places on the device, and lengths; without what has none yet, or lies inline."""
    found: list[tuple[int, int]] = []
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        start, flags = 0, 0
        while not flags & _LAST:
            raw = bytearray(struct.pack("=QQLLLL", start, (1 << 63) - 1, 1, 0, _COUNT, 0))
            raw += bytes(56 * _COUNT)
            fcntl.ioctl(handle, _FIEMAP, raw)
            count = struct.unpack_from("=L", raw, 20)[0]
            if not count:
                break
            for number in range(count):
                logical, physical, length = struct.unpack_from("=QQQ", raw, 32 + 56 * number)
                flags = struct.unpack_from("=L", raw, 32 + 56 * number + 40)[0]
                if not flags & _NO_PLACE:
                    found.append((physical, length))
                start = logical + length
    finally:
        os.close(handle)
    return found
