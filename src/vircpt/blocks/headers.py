"""What the headers of images say, read without a QEMU, and without opening anything else.

A guest that broke out into its QEMU writes the header of its image as it likes. A qemu-img
that root runs on it opens what the header names, before version 9.1 for writing even
(CVE-2024-4467). Here bytes are read from one file, and judged; that is faster, too.

Only qcow2 and raw: from QEMU's specification of the former (docs/interop/qcow2.txt).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vircpt.errors import VircptError

_MAGIC = b"QFI\xfb"
_FIXED = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_BITMAPS = struct.Struct(">IIQQ")
_BITMAP = struct.Struct(">QIIBBHI")
_SNAPSHOT = struct.Struct(">QIHHIIQII")
_EXTERNAL_DATA = 1 << 2
_BITMAPS_ARE_VALID = 1
_IN_USE, _AUTO = 1, 2
_BACKING_FORMAT, _BITMAPS_EXTENSION, _END = 0xE2792ACA, 0x23852875, 0
_MOST_NAME = 1023
_MOST_TABLE = 1 << 24
"""Bytes of a table of bitmaps or snapshots that are read."""
_SECTOR = 512


@dataclass(frozen=True)
class StoredBitmap:
    """A bitmap in a qcow2 file. `in_use`: it was not closed properly and can't be trusted.

    `enabled`: it notes what is written; otherwise it knows only of some time in the past.
    """

    name: str
    granularity: int
    in_use: bool
    enabled: bool = True


@dataclass(frozen=True)
class ImageInfo:
    """An image: its virtual size in bytes; `compat` is qcow2's version, "1.1" or "0.10"."""

    path: str
    format: str
    size: int
    compat: str | None
    bitmaps: tuple[StoredBitmap, ...]
    backing: str | None = None
    """the image below it, as its header names it"""
    backing_format: str | None = None
    snapshots: tuple[str, ...] = ()
    """Names of internal snapshots."""
    has_data_file: bool = False
    """Its header names another file that holds the data."""


def read(path: str, image_format: str) -> ImageInfo:
    """Read an image's header; also while QEMU has it open (its bitmaps are then out of date).

    Raises VircptError for what can't be read, is damaged, or is neither qcow2 nor raw.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    try:
        return read_open(handle, path, image_format)
    finally:
        os.close(handle)


def read_open(handle: int, path: str, image_format: str) -> ImageInfo:
    """The same of a file that is open; `path` is what it is called."""
    mode = os.fstat(handle).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise _unreadable(path, "it is neither a file nor a block device")
    try:
        if image_format == "raw":
            size = os.lseek(handle, 0, os.SEEK_END)
            return ImageInfo(path, "raw", -(-size // _SECTOR) * _SECTOR, None, ())
        if image_format == "qcow2":
            return _qcow2(handle, path)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (struct.error, OverflowError, _DamagedError) as error:
        raise _unreadable(path, f"its header is damaged: {error}") from error
    raise _unreadable(path, f"vircpt reads headers of qcow2 and raw images, not of {image_format}")


def names_data_file(path: str, handle: int | None = None) -> bool:
    """True if a file, which may be open, begins as a qcow2 image whose data is in another one.

    The rest of the header may be as damaged as it likes. Raises OSError.
    """
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if handle is None else handle
    try:
        start = os.pread(opened, _FIXED.size + _FEATURES.size, 0)
    finally:
        if handle is None:
            os.close(opened)
    if start[:4] != _MAGIC or len(start) < _FIXED.size + _FEATURES.size:
        return False
    version, features = _FIXED.unpack_from(start)[1], _FEATURES.unpack_from(start, _FIXED.size)
    return version >= 3 and bool(features[0] & _EXTERNAL_DATA)


def qcow2_version(path: str) -> int | None:
    """The version in a qcow2 header, None if it is none or can't be read."""
    try:
        compat = read(path, "qcow2").compat
    except VircptError:
        return None
    return 2 if compat == "0.10" else 3


def told(data: dict[str, Any]) -> ImageInfo:
    """From QEMU's ImageInfo, as QMP tells it. Raises KeyError, TypeError, ValueError or
    AttributeError if that is none."""
    details = data.get("format-specific", {}).get("data", {})
    return ImageInfo(
        path=data["filename"],
        format=data["format"],
        size=data["virtual-size"],
        compat=details.get("compat"),
        backing=data.get("backing-filename"),
        backing_format=data.get("backing-filename-format"),
        bitmaps=tuple(
            StoredBitmap(
                one["name"],
                one["granularity"],
                in_use="in-use" in one["flags"],
                enabled="auto" in one["flags"],
            )
            for one in details.get("bitmaps", ())
        ),
        snapshots=tuple(str(one["name"]) for one in data.get("snapshots", ())),
    )


class _DamagedError(Exception):
    pass


def _unreadable(path: str, why: str) -> VircptError:
    return VircptError(f"cannot read the image {path}", why=why)


def _qcow2(handle: int, path: str) -> ImageInfo:
    start = os.pread(handle, 1 << 16, 0)
    if start[:4] != _MAGIC or len(start) < _FIXED.size:
        raise _unreadable(path, "it is not in qcow2 format")
    fields = _FIXED.unpack_from(start)
    version, name_at, name_length, bits, size = fields[1:6]
    count, table_at = fields[11:13]
    if version not in (2, 3) or not 9 <= bits <= 21:
        raise _DamagedError(f"version {version}, clusters of 2^{bits} bytes")
    incompatible = autoclear = 0
    length = 72
    if version == 3:
        incompatible, _, autoclear, _, length = _FEATURES.unpack_from(start, _FIXED.size)
    extensions = dict(_extensions(start, length, min(name_at or len(start), 1 << bits)))
    bitmaps = extensions.get(_BITMAPS_EXTENSION) if autoclear & _BITMAPS_ARE_VALID else None
    backing_format = extensions.get(_BACKING_FORMAT)
    return ImageInfo(
        path,
        "qcow2",
        size,
        "1.1" if version == 3 else "0.10",
        tuple(_bitmaps(handle, bitmaps)) if bitmaps else (),
        _backing(handle, name_at, name_length) if name_at else None,
        _text(backing_format) if backing_format else None,
        tuple(_snapshots(handle, count, table_at)),
        has_data_file=bool(incompatible & _EXTERNAL_DATA),
    )


def _extensions(start: bytes, position: int, end: int) -> Iterator[tuple[int, bytes]]:
    while position + _EXTENSION.size <= min(end, len(start)):
        kind, length = _EXTENSION.unpack_from(start, position)
        position += _EXTENSION.size
        if kind == _END:
            return
        if position + length > len(start):
            raise _DamagedError("an extension is longer than the header")
        yield kind, start[position : position + length]
        position += (length + 7) & ~7


def _backing(handle: int, position: int, length: int) -> str:
    if length > _MOST_NAME:
        raise _DamagedError("the name of the image below it is too long")
    return _text(os.pread(handle, length, position))


def _bitmaps(handle: int, extension: bytes) -> Iterator[StoredBitmap]:
    count, _, length, position = _BITMAPS.unpack_from(extension)
    table = os.pread(handle, min(length, _MOST_TABLE), position)
    position = 0
    for _ in range(count):
        _, _, flags, _, bits, name_length, extra = _BITMAP.unpack_from(table, position)
        name_at = position + _BITMAP.size + extra
        name = table[name_at : name_at + name_length]
        if not 9 <= bits <= 31 or len(name) < name_length or name_length > _MOST_NAME:
            raise _DamagedError("its directory of bitmaps makes no sense")
        yield StoredBitmap(_text(name), 1 << bits, bool(flags & _IN_USE), bool(flags & _AUTO))
        position = (name_at + name_length + 7) & ~7


def _snapshots(handle: int, count: int, position: int) -> Iterator[str]:
    table = os.pread(handle, _MOST_TABLE, position) if count else b""
    position = 0
    for _ in range(count):
        _, _, id_length, name_length, _, _, _, _, extra = _SNAPSHOT.unpack_from(table, position)
        name_at = position + _SNAPSHOT.size + extra + id_length
        yield _text(table[name_at : name_at + name_length])
        position = (name_at + name_length + 7) & ~7


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode(errors="backslashreplace")
