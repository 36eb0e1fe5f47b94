"""Items of btrfs: inodes, names, extents. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vircpt.guestfiles.filesystem import SECOND
from vircpt.guestfiles.source import Damaged

INODE, XATTR, DIRECTORY, EXTENT, ROOT = 1, 24, 96, 108, 132
_INODE = struct.Struct("<5Q4IQQQ32xqIqIqIqI")
_NAME = struct.Struct("<QBQQHHB")
_EXTENT = struct.Struct("<QQBBHB")
_PLACE = struct.Struct("<4Q")
_IN_LEAF, _PREALLOCATED = 0, 2


class Inode(NamedTuple):
    """The fields that are of use."""

    generation: int
    size: int
    nlink: int
    uid: int
    gid: int
    mode: int
    device: int
    flags: int
    atime: int
    ctime: int
    mtime: int
    birth: int


def inode(raw: bytes) -> Inode:
    """Raises Damaged."""
    if len(raw) < _INODE.size:
        raise Damaged("an inode of btrfs is too short")
    (generation, _, size, _, _, nlink, uid, gid, mode, device, flags, _,
     a, a_nano, c, c_nano, m, m_nano, o, o_nano) = _INODE.unpack_from(raw)  # fmt: skip
    return Inode(
        generation,
        size,
        nlink,
        uid,
        gid,
        mode,
        device,
        flags,
        a * SECOND + a_nano,
        c * SECOND + c_nano,
        m * SECOND + m_nano,
        o * SECOND + o_nano,
    )


class Name(NamedTuple):
    """A name, the object that it is of, and the type of that: INODE, or ROOT for a subvolume;
    for extended attributes the value."""

    object: int
    type: int
    name: bytes
    value: bytes


def names(raw: bytes) -> Iterator[Name]:
    """Those of a directory item or of extended attributes; raises Damaged."""
    at = 0
    while at + _NAME.size <= len(raw):
        number, type_, _, _, size, length, _ = _NAME.unpack_from(raw, at)
        start = at + _NAME.size
        at = start + length + size
        if at > len(raw):
            raise Damaged("a name of btrfs makes no sense")
        yield Name(number, type_, raw[start : start + length], raw[start + length : at])


class Piece(NamedTuple):
    """A piece of a file. `inline` are its bytes, as stored, if they lie in the leaf. Else
    `disk_length` bytes at the logical address `disk` hold, decompressed, `whole` bytes, of
    which those from `start` are meant. A hole has `disk` 0."""

    offset: int
    length: int
    compression: int
    encrypted: bool
    written: bool
    whole: int
    inline: bytes | None
    disk: int
    disk_length: int
    start: int


def piece(offset: int, raw: bytes) -> Piece:
    """An extent item at a file offset; raises Damaged."""
    if len(raw) < _EXTENT.size:
        raise Damaged("an extent of btrfs is too short")
    _, whole, compression, encryption, _, type_ = _EXTENT.unpack_from(raw)
    if type_ == _IN_LEAF:
        inline = raw[_EXTENT.size :]
        return Piece(offset, whole, compression, bool(encryption), True, whole, inline, 0, 0, 0)
    if len(raw) < _EXTENT.size + _PLACE.size:
        raise Damaged("an extent of btrfs is too short")
    disk, disk_length, start, length = _PLACE.unpack_from(raw, _EXTENT.size)
    written = type_ != _PREALLOCATED
    return Piece(
        offset,
        length,
        compression,
        bool(encryption),
        written,
        whole,
        None,
        disk,
        disk_length,
        start,
    )


class Root(NamedTuple):
    """A tree: the address of its root block, and the object of its root directory."""

    address: int
    directory: int
    references: int


def root(raw: bytes) -> Root:
    """Raises Damaged."""
    if len(raw) < 239:
        raise Damaged("a root of btrfs is too short")
    directory, address = struct.unpack_from("<QQ", raw, 168)
    return Root(address, directory, struct.unpack_from("<I", raw, 216)[0])
