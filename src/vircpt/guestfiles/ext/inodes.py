"""Inodes of ext: their fields, times, and the attributes and contents kept inside of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vircpt.guestfiles.filesystem import SECOND

ENCRYPTED, EXTENTS, EA_INODE, INLINE = 0x800, 0x80000, 0x200000, 0x10000000

_CORE = struct.Struct("<HHIiiiIHHIII60sIIII2xHHHH")
_EXTRA = struct.Struct("<HHIIIiI")
_XATTR_MAGIC = 0xEA020000
_NAMESPACES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
    8: b"system.richacl",
}
INLINE_NAME = b"system.data"


class Inode(NamedTuple):
    """The fields that are of use."""

    mode: int
    uid: int
    gid: int
    size: int
    nlink: int
    flags: int
    block: bytes
    generation: int
    xattr_block: int
    mtime: int
    ctime: int
    atime: int
    birth: int | None
    raw: bytes


def parse(raw: bytes) -> Inode:
    """From all bytes of an inode (128 or more)."""
    (mode, uid, size, atime, ctime, mtime, _dtime, gid, nlink, _blocks, flags, _osd, block,
     generation, acl, size_high, _fragment, acl_high, uid_high, gid_high, _sum) = _CORE.unpack_from(
        raw
    )  # fmt: skip
    extra_size = 0
    birth = None
    a_extra = c_extra = m_extra = 0
    if len(raw) > 128 + 28:
        extra_size, _, c_extra, m_extra, a_extra, b_time, b_extra = _EXTRA.unpack_from(raw, 128)
        # each field counts only if the inode was written by one who knew it
        c_extra, m_extra, a_extra = (
            value if extra_size >= end else 0
            for value, end in ((c_extra, 8), (m_extra, 12), (a_extra, 16))
        )
        if extra_size >= 24:
            birth = _time(b_time, b_extra)
    return Inode(
        mode,
        uid | uid_high << 16,
        gid | gid_high << 16,
        size | size_high << 32,
        nlink,
        flags,
        block,
        generation,
        acl | acl_high << 32,
        _time(mtime, m_extra),
        _time(ctime, c_extra),
        _time(atime, a_extra),
        birth,
        raw,
    )


def _time(seconds: int, extra: int) -> int:
    return (seconds + ((extra & 3) << 32)) * SECOND + min(extra >> 2, SECOND - 1)


class Attribute(NamedTuple):
    """An extended attribute: its value, or the number of the inode that holds it."""

    name: bytes
    value: bytes
    inode: int
    size: int


def inner_attributes(inode: Inode) -> Iterator[Attribute]:
    """Those inside of the inode."""
    raw = inode.raw
    if len(raw) <= 132:
        return
    start = 128 + struct.unpack_from("<H", raw, 128)[0]
    if start + 4 > len(raw) or struct.unpack_from("<I", raw, start)[0] != _XATTR_MAGIC:
        return
    yield from _attributes(raw, start + 4, start + 4)


def block_attributes(raw: bytes) -> Iterator[Attribute]:
    """Those of an attribute block."""
    if struct.unpack_from("<I", raw)[0] == _XATTR_MAGIC:
        yield from _attributes(raw, 32, 0)


def _attributes(raw: bytes, at: int, base: int) -> Iterator[Attribute]:
    """Entries from `at` to four zero bytes; values count from `base`. Ends where they make no
    sense."""
    while at + 16 <= len(raw):
        length, space, offset, inode, size, _ = struct.unpack_from("<BBHIII", raw, at)
        if not (length or space or offset):
            return
        name = raw[at + 16 : at + 16 + length]
        value = b"" if inode else raw[base + offset : base + offset + size]
        if len(name) < length or (not inode and len(value) < size):
            return
        yield Attribute(_NAMESPACES.get(space, b"") + name, value, inode, size)
        at += 16 + (length + 3 & ~3)


def inline_contents(inode: Inode) -> bytes:
    """Contents kept inside of the inode: 60 bytes and the attribute system.data."""
    more = next((one.value for one in inner_attributes(inode) if one.name == INLINE_NAME), b"")
    return inode.block + more
