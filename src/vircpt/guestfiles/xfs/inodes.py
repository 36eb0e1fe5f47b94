"""Inodes of XFS: fields, times, the two forks, extents."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from vircpt.guestfiles.filesystem import SECOND
from vircpt.guestfiles.source import Damaged

_CORE = struct.Struct(">HHBBHIIIHHQ8s8s8sQQIIHBBIHHI")
_V3 = struct.Struct(">Q8xI12x8s")  # from 120: flags2, cowextsize, crtime
_BIG_TIME, _BIG_COUNT = 0x8, 0x10
_OLDEST = -(1 << 31)
_LOCAL, _EXTENTS, _BTREE = 1, 2, 3
_PIECES = 2_000_000
REFLINK = 0x2
REALTIME = 0x1


class Fork(NamedTuple):
    """The data or the attributes of an inode. `format`: 0 none or device, 1 inside, 2 extents,
    3 tree."""

    format: int
    raw: bytes
    extents: int


class Inode(NamedTuple):
    """The fields that are of use."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    flags: int
    flags2: int
    generation: int
    mtime: int
    ctime: int
    atime: int
    birth: int | None
    data: Fork
    attributes: Fork


def parse(raw: bytes) -> Inode:
    """Raises Damaged."""
    (magic, mode, version, format_, old_links, uid, gid, links, _, _, big, atime, mtime, ctime,
     size, _, _, extents, attributes, fork, a_format, _, _, flags, generation) = _CORE.unpack_from(
        raw
    )  # fmt: skip
    if magic != 0x494E:
        raise Damaged("an XFS inode has no magic number")
    birth = None
    flags2 = 0
    core = 100
    decode = _old_time
    if version == 3:
        core = 176
        flags2 = struct.unpack_from(">Q", raw, 120)[0]
        if flags2 & _BIG_TIME:
            decode = _big_time
        birth = decode(raw[144:152])
        if flags2 & _BIG_COUNT:
            attributes = extents
            extents = big
    end = core + fork * 8 if fork else len(raw)
    if end > len(raw):
        raise Damaged("an XFS inode whose forks make no sense")
    return Inode(
        mode,
        uid,
        gid,
        old_links if version == 1 else links,
        size,
        flags,
        flags2,
        generation,
        decode(mtime),
        decode(ctime),
        decode(atime),
        birth,
        Fork(format_, raw[core:end], extents),
        Fork(a_format if fork else 0, raw[end:], attributes),
    )


def _old_time(raw: bytes) -> int:
    seconds, nanoseconds = struct.unpack(">iI", raw)
    return int(seconds * SECOND + min(nanoseconds, SECOND - 1))


def _big_time(raw: bytes) -> int:
    return int.from_bytes(raw, "big") + _OLDEST * SECOND


def quick_extents(raw: bytes) -> tuple[int, ...] | None:
    """The words of the extents of an inode that has no tree and no attributes outside of
    itself; None for others, which have to be looked at with care. Most files go this way."""
    form, fork, attributes = raw[5], raw[82], raw[83]
    many = raw[4] == 3 and raw[127] & _BIG_COUNT
    outside = raw[76:80] if many else raw[80:82]
    if form > _EXTENTS or (fork and (attributes > _EXTENTS or any(outside))):
        return None
    if form != _EXTENTS:
        return ()
    core = 176 if raw[4] == 3 else 100
    count = int.from_bytes(raw[24:32] if many else raw[76:80], "big")
    if core + count * 16 > (core + fork * 8 if fork else len(raw)):
        return None
    return struct.unpack_from(f">{2 * count}Q", raw, core)


class Piece(NamedTuple):
    """`length` blocks of the file from `logical` lie at file system block `block`."""

    logical: int
    block: int
    length: int
    written: bool


class Mapping(NamedTuple):
    """Pieces, blocks of the tree, and what is wrong if it is damaged."""

    pieces: list[Piece]
    blocks: list[int]
    why: str | None


def map_fork(fork: Fork, read_block: Callable[[int], bytes], header: int) -> Mapping:
    """Where a fork's blocks lie; `header` is the size of that of a tree's block."""
    if fork.format == _EXTENTS:
        count = min(fork.extents, len(fork.raw) // 16)
        why = None if count == fork.extents else "it has more extents than fit"
        return Mapping(_records(fork.raw, 0, count), [], why)
    if fork.format != _BTREE:
        return Mapping([], [], None)
    walk = _Tree(read_block, header)
    level, count = struct.unpack_from(">HH", fork.raw)
    most = (len(fork.raw) - 4) // 16
    if count > most:
        return Mapping([], [], "the root of its extent tree makes no sense")
    for number in range(count):
        block = struct.unpack_from(">Q", fork.raw, 4 + most * 8 + number * 8)[0]
        walk.enter(block, level - 1)
    return Mapping(walk.pieces, walk.blocks, walk.why)


def _records(raw: bytes, at: int, count: int) -> list[Piece]:
    words = struct.unpack_from(f">{2 * count}Q", raw, at)
    return [
        Piece(
            high >> 9 & 0x3FFFFFFFFFFFFF,
            (high & 0x1FF) << 43 | low >> 21,
            low & 0x1FFFFF,
            not high >> 63,
        )
        for high, low in zip(words[::2], words[1::2], strict=True)
    ]


class _Tree:
    def __init__(self, read_block: Callable[[int], bytes], header: int) -> None:
        self.read_block = read_block
        self.header = header
        self.pieces: list[Piece] = []
        self.blocks: list[int] = []
        self.seen: set[int] = set()
        self.why: str | None = None

    def enter(self, block: int, level: int) -> None:
        if block in self.seen or not 0 <= level <= 8 or len(self.pieces) > _PIECES:
            self.why = "its extent tree makes no sense"
            return
        self.seen.add(block)
        try:
            raw = self.read_block(block)
        except Damaged as error:
            self.why = str(error)
            return
        self.blocks.append(block)
        magic, own_level, count = struct.unpack_from(">4sHH", raw)
        most = (len(raw) - self.header) // 16
        if magic not in (b"BMAP", b"BMA3") or own_level != level or count > most:
            self.why = "a block of its extent tree makes no sense"
        elif level == 0:
            self.pieces += _records(raw, self.header, count)
        else:
            for below in struct.unpack_from(f">{count}Q", raw, self.header + most * 8):
                self.enter(below, level - 1)
