"""Names of the bitmaps in a qcow2 file, read from its header: in a moment, without a lock.

For a quick look before a checkpoint is made; qemu-img (images.py) tells more, and takes the
time of a process. The layout is that of QEMU's docs/interop/qcow2.txt: big-endian; a header,
extensions after it, of which one points to the directory of bitmaps.
"""

from __future__ import annotations

import os
import struct

_MAGIC = b"QFI\xfb"
_BITMAPS = 0x23852875
_AUTOCLEAR_BITMAPS = 1
_MOST = 65_535
_LONGEST_DIRECTORY = 64 << 20
_ENTRY = struct.Struct(">QIIBBHI")


def bitmap_names(path: str) -> frozenset[str]:
    """The names of bitmaps stored in the image; none if it is no qcow2 image or can't be read.

    While QEMU has the image open they are those of its start, less those removed since.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return frozenset()
    try:
        return frozenset(_names(handle))
    except (OSError, ValueError, struct.error):
        return frozenset()
    finally:
        os.close(handle)


def _names(handle: int) -> list[str]:
    header = os.pread(handle, 104, 0)
    if header[:4] != _MAGIC or struct.unpack_from(">I", header, 4)[0] < 3:
        return []
    autoclear, _, length = struct.unpack_from(">QII", header, 88)
    if not autoclear & _AUTOCLEAR_BITMAPS:
        return []  # somebody wrote to the image who knows no bitmaps: they are void
    extension = _extension(handle, length)
    if extension is None:
        return []
    count, _, size, offset = struct.unpack_from(">IIQQ", extension)
    if count > _MOST or size > _LONGEST_DIRECTORY:
        return []
    return _parse_directory(os.pread(handle, size, offset), count)


def _extension(handle: int, position: int) -> bytes | None:
    """The content of the extension for bitmaps; all extensions stand in the first cluster."""
    while position < 2 << 20:
        kind, length = struct.unpack(">II", os.pread(handle, 8, position))
        if kind == 0:
            return None
        if kind == _BITMAPS:
            return os.pread(handle, min(length, 64), position + 8)
        position += 8 + (length + 7) // 8 * 8
    return None


def _parse_directory(data: bytes, count: int) -> list[str]:
    found = []
    position = 0
    for _ in range(count):
        *_, name_size, extra_size = _ENTRY.unpack_from(data, position)
        start = position + _ENTRY.size + extra_size
        name = data[start : start + name_size]
        if len(name) != name_size:
            break
        found.append(name.decode(errors="surrogateescape"))
        position = (start + name_size + 7) // 8 * 8
    return found
