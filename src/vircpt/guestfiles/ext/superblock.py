"""The superblock and the group descriptors of ext2, ext3 and ext4."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from vircpt.errors import NotSupported
from vircpt.guestfiles.filesystem import Facts
from vircpt.guestfiles.source import Damaged, Source, read

MAGIC = 0xEF53
OFFSET, SIZE = 1024, 1024

FILETYPE, RECOVER, JOURNAL_DEV, META_BG = 0x2, 0x4, 0x8, 0x10
EXTENTS, BIT64, FLEX_BG, EA_INODE, ENCRYPT = 0x40, 0x80, 0x200, 0x400, 0x10000
_KNOWN = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000
_KNOWN |= ENCRYPT | 0x20000
_CHECKSUMS = 0x10 | 0x400
_ONLY_EXT4 = EXTENTS | BIT64 | FLEX_BG | EA_INODE | 0x8000
_ONLY_EXT4_RO = 0x8 | 0x10 | 0x20 | 0x40 | 0x200 | 0x400
_HAS_JOURNAL = 0x4
_UNINITIALISED = 0x1  # of a group's inode table


@dataclass(frozen=True)
class Super:
    """What the parser needs of the superblock."""

    inodes: int
    blocks: int
    free_blocks: int
    block_size: int
    first_block: int
    blocks_per_group: int
    inodes_per_group: int
    inode_size: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: str
    label: str
    descriptor_size: int
    first_meta_group: int
    journal_inode: int
    state: int

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)

    def type(self) -> str:
        """As blkid tells them apart."""
        if self.incompat & _ONLY_EXT4 or self.ro_compat & _ONLY_EXT4_RO:
            return "ext4"
        return "ext3" if self.compat & _HAS_JOURNAL else "ext2"

    def facts(self) -> Facts:
        dirty = None
        if self.incompat & RECOVER:
            dirty = "the journal needs recovery"
        elif not self.state & 1 and not self.compat & _HAS_JOURNAL:
            dirty = "it is mounted, or was not unmounted, and has no journal"
        return Facts(
            type=self.type(),
            label=self.label,
            uuid=self.uuid,
            size=self.blocks * self.block_size,
            used=(self.blocks - self.free_blocks) * self.block_size,
            block_size=self.block_size,
            dirty_journal=dirty,
            # whole seconds in inodes of 128 bytes
            time_margin=50_000_000 if self.inode_size > 128 else 1_000_000_000,
        )


def parse(raw: bytes) -> Super:
    """From the 1024 bytes at OFFSET; raises Damaged, NotSupported."""
    if len(raw) < SIZE or struct.unpack_from("<H", raw, 56)[0] != MAGIC:
        raise Damaged("no ext superblock")
    words = struct.unpack_from("<13I", raw)
    state, revision = struct.unpack_from("<HxxxxxxxxxxxxxxxxI", raw, 58)
    compat, incompat, ro_compat = struct.unpack_from("<3I", raw, 92)
    wide = bool(incompat & BIT64)
    high, free_high = struct.unpack_from("<I4xI", raw, 0x150) if wide else (0, 0)
    found = Super(
        inodes=words[0],
        blocks=words[1] | high << 32,
        free_blocks=words[3] | free_high << 32,
        block_size=1024 << words[6] if words[6] <= 6 else 0,
        first_block=words[5],
        blocks_per_group=words[8],
        inodes_per_group=words[10],
        inode_size=struct.unpack_from("<H", raw, 88)[0] if revision else 128,
        compat=compat,
        incompat=incompat,
        ro_compat=ro_compat,
        uuid=str(UUID(bytes=raw[104:120])),
        label=raw[120:136].split(b"\0")[0].decode("utf-8", "replace"),
        descriptor_size=max(32, struct.unpack_from("<H", raw, 254)[0]) if wide else 32,
        first_meta_group=struct.unpack_from("<I", raw, 260)[0],
        journal_inode=struct.unpack_from("<I", raw, 224)[0],
        state=state,
    )
    _check(found)
    return found


def _check(found: Super) -> None:
    if found.incompat & JOURNAL_DEV:
        raise NotSupported("an external journal of ext3 or ext4", why="it holds no files")
    if unknown := found.incompat & ~_KNOWN:
        raise NotSupported(f"ext4 with unknown features {unknown:#x}")
    good = (
        found.block_size > 0
        and found.blocks > found.first_block <= 1
        and 0 < found.blocks_per_group <= found.block_size * 8 * 65536
        and 0 < found.inodes_per_group <= found.block_size * 8
        and 128 <= found.inode_size <= found.block_size
        and found.inode_size & (found.inode_size - 1) == 0
        and found.descriptor_size <= 1024
        and found.inodes <= found.groups * found.inodes_per_group
    )
    if not good:
        raise Damaged("the ext superblock makes no sense")


@dataclass(frozen=True)
class Groups:
    """Where each group's inode table is, and how many inodes at its head are in use."""

    tables: list[int]
    """Blocks."""
    used: list[int]


def groups(source: Source, found: Super) -> Groups:
    """Reads the group descriptors; raises Damaged."""
    if found.blocks * found.block_size > source.size:
        raise Damaged("the ext file system is larger than what it lies on")
    tables: list[int] = []
    used: list[int] = []
    for raw in _descriptors(source, found):
        table, flags, unused = struct.unpack_from("<8xI6xH8xH", raw)
        if len(raw) >= 64:
            high, unused_high = struct.unpack_from("<I6xH", raw, 0x28)
            table |= high << 32
            unused |= unused_high << 16
        count = found.inodes_per_group
        if found.ro_compat & _CHECKSUMS:
            count = 0 if flags & _UNINITIALISED else max(0, count - unused)
        tables.append(table)
        used.append(count)
    return Groups(tables, used)


def _descriptors(source: Source, found: Super) -> list[bytes]:
    size, block_size = found.descriptor_size, found.block_size
    per_block = block_size // size
    blocks = -(-found.groups // per_block)
    plain = min(blocks, found.first_meta_group) if found.incompat & META_BG else blocks
    raw = [read(source, (found.first_block + 1) * block_size, plain * block_size)]
    for number in range(plain, blocks):
        group = number * per_block
        start = found.first_block + group * found.blocks_per_group
        # Every meta group has a descriptor block at the head of its first group, behind the
        # copy of the superblock if the group has one.
        start += _has_super(found, group)
        raw.append(read(source, start * block_size, block_size))
    joined = b"".join(raw)
    per = [joined[at : at + block_size] for at in range(0, len(joined), block_size)]
    every = [
        block[at * size : (at + 1) * size] for block in per for at in range(block_size // size)
    ]
    return every[: found.groups]


def _has_super(found: Super, group: int) -> bool:
    if group <= 1 or not found.ro_compat & 1:
        return True
    return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number > 1 and number % base == 0:
        number //= base
    return number == 1
