"""The superblock of XFS, and how inode and block numbers turn into places."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from vircpt.errors import NotSupported
from vircpt.guestfiles.source import Damaged, Source, read

_KNOWN_INCOMPAT = 0xFF
_FTYPE, _META_UUID, _NEEDS_REPAIR, _PARENT = 0x1, 0x4, 0x10, 0x80
_FTYPE_V4 = 0x200
_LIMIT = 1 << 20  # groups: of 1 TiB at most, and 16 MiB at least


@dataclass(frozen=True)
class Super:
    """What the parser needs; sizes in bytes."""

    block_size: int
    blocks: int
    free_blocks: int
    root: int
    group_blocks: int
    groups: int
    group_log: int
    sector_size: int
    inode_size: int
    inodes_log: int
    """Of inodes in a block."""
    directory_block: int
    log_start: int
    log_size: int
    uuid: str
    label: str
    version: int
    has_ftype: bool
    needs_repair: bool

    def block_place(self, number: int) -> int:
        """Of a file system block: group and block in it; raises Damaged."""
        group, block = number >> self.group_log, number & ((1 << self.group_log) - 1)
        if group >= self.groups or block >= self.group_blocks:
            raise Damaged("an XFS block number makes no sense", why=hex(number))
        return (group * self.group_blocks + block) * self.block_size

    def inode_place(self, number: int) -> int:
        """Raises Damaged."""
        block = number >> self.inodes_log
        index = number & ((1 << self.inodes_log) - 1)
        return self.block_place(block) + index * self.inode_size

    def group_place(self, group: int) -> int:
        """Where an allocation group begins."""
        return group * self.group_blocks * self.block_size


def parse(source: Source) -> Super:
    """Raises Damaged, NotSupported."""
    raw = read(source, 0, min(512, source.size))
    if len(raw) < 512 or raw[:4] != b"XFSB":
        raise Damaged("no XFS superblock")
    block_size, blocks = struct.unpack_from(">IQ", raw, 4)
    log_start, root = struct.unpack_from(">QQ", raw, 48)
    group_blocks, groups, _, log_blocks, version, sector, inode_size = struct.unpack_from(
        ">4I3H", raw, 84
    )
    block_log, _, inode_log, per_block_log, group_log = struct.unpack_from(">5B", raw, 120)
    version &= 0xF
    incompat = struct.unpack_from(">I", raw, 216)[0] if version == 5 else 0
    features2 = struct.unpack_from(">I", raw, 200)[0]
    if version not in (4, 5):
        raise NotSupported(f"XFS version {version}")
    if unknown := incompat & ~_KNOWN_INCOMPAT:
        raise NotSupported(f"XFS with unknown features {unknown:#x}")
    found = Super(
        block_size=block_size,
        blocks=blocks,
        free_blocks=struct.unpack_from(">Q", raw, 144)[0],
        root=root,
        group_blocks=group_blocks,
        groups=groups,
        group_log=group_log,
        sector_size=sector,
        inode_size=inode_size,
        inodes_log=per_block_log,
        directory_block=block_size << min(raw[192], 7),
        log_start=log_start,
        log_size=log_blocks * block_size,
        uuid=str(UUID(bytes=raw[32:48])),
        label=raw[108:120].split(b"\0")[0].decode("utf-8", "replace"),
        version=version,
        has_ftype=bool(incompat & _FTYPE if version == 5 else features2 & _FTYPE_V4),
        needs_repair=bool(incompat & _NEEDS_REPAIR),
    )
    good = (
        512 <= block_size <= 65536
        and block_size == 1 << block_log
        and 256 <= inode_size <= 2048
        and inode_size == 1 << inode_log
        and block_size == inode_size << per_block_log
        and 512 <= sector <= 32768
        and 0 < group_blocks <= 1 << group_log <= 1 << 31
        and 0 < groups <= _LIMIT
        and (groups - 1) * group_blocks < blocks <= groups * group_blocks
        and found.directory_block <= 65536
    )
    if not good:
        raise Damaged("the XFS superblock makes no sense")
    if blocks * block_size > source.size:
        raise Damaged("the XFS file system is larger than what it lies on")
    return found
