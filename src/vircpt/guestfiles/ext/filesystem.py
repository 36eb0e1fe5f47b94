"""ext2, ext3 and ext4 as a FileSystem."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from vircpt.errors import NotSupported
from vircpt.guestfiles.entries import Entry, Extent, Kind, Trait, kind_of
from vircpt.guestfiles.ext import directories, inodes, mapping, superblock
from vircpt.guestfiles.ext.inodes import Inode
from vircpt.guestfiles.ext.sieve import touched_inodes
from vircpt.guestfiles.filesystem import Region
from vircpt.guestfiles.intervals import Intervals, Run
from vircpt.guestfiles.source import Cached, Damaged, Source, read
from vircpt.guestfiles.tree import Sieve, Tree

_ROOT = 2
_FAST_LINK = 60
_DIRECTORY_LIMIT = 1 << 30
"""Bytes of one directory: some ten million names."""


class Ext(Tree):
    """ext2, ext3 and ext4, read through `source`, the volume that it lies in."""

    def __init__(self, source: Source) -> None:
        if source.size < superblock.OFFSET + superblock.SIZE:
            raise Damaged("too small for an ext file system")
        self.super = superblock.parse(read(source, superblock.OFFSET, superblock.SIZE))
        self.groups = superblock.groups(source, self.super)
        super().__init__(source, self.super.facts(), _ROOT)
        self._sifted: Sieve | None = None
        self._cache = Cached(source, chunk=max(1 << 15, self.super.block_size), chunks=1024)

    def place(self, number: int) -> int:
        """Where an inode lies in the volume; raises Damaged."""
        group, index = divmod(number - 1, self.super.inodes_per_group)
        if number < 1 or group >= len(self.groups.tables):
            raise Damaged(f"no inode {number}")
        table = self.groups.tables[group] * self.super.block_size
        return table + index * self.super.inode_size

    def inode(self, number: int) -> Inode:
        """Raises Damaged."""
        return inodes.parse(self._cache.pread(self.super.inode_size, self.place(number)))

    def map_blocks(self, inode: Inode) -> mapping.Mapping:
        """Where its blocks lie; none for what has no blocks."""
        kind = kind_of(inode.mode)
        if inode.flags & inodes.INLINE or kind not in _WITH_BLOCKS:
            return _NOTHING
        if inode.flags & inodes.EXTENTS:
            return mapping.by_extents(inode.block, self._block, self.super.blocks)
        if kind is Kind.SYMLINK and inode.size < _FAST_LINK:
            return _NOTHING
        return mapping.by_pointers(
            inode.block, self._block, self.super.blocks, self.super.block_size
        )

    def runs(self, number: int) -> tuple[Inode, mapping.Mapping, list[Run], list[Run]]:
        """An inode, its mapping, and the runs of its data and its metadata."""
        inode = self.inode(number)
        found = self.map_blocks(inode)
        size = self.super.block_size
        data = [Run(piece.physical * size, piece.length * size) for piece in found.pieces]
        metadata = [Run(self.place(number), self.super.inode_size)]
        metadata += [Run(block * size, size) for block in found.blocks]
        if inode.xattr_block:
            metadata.append(Run(inode.xattr_block * size, size))
        if self.super.incompat & superblock.EA_INODE:
            metadata += self._value_runs(inode)
        return inode, found, data, metadata

    def _value_runs(self, inode: Inode) -> Iterator[Run]:
        """Of large extended attributes, each of which has an inode of its own."""
        for attribute in self._attributes(inode):
            if attribute.inode:
                yield Run(self.place(attribute.inode), self.super.inode_size)
                found = self.map_blocks(self.inode(attribute.inode))
                size = self.super.block_size
                yield from (Run(one.physical * size, one.length * size) for one in found.pieces)
                yield from (Run(block * size, size) for block in found.blocks)

    def _entry(self, number: int, path: bytes) -> Entry:
        inode, found, data, metadata = self.runs(number)
        kind = kind_of(inode.mode)
        traits = _traits(inode, found)
        if found.why:
            self.tell(path, found.why)
        target = device = None
        if kind is Kind.SYMLINK:
            target = self._target(inode, found)
            if not found.pieces:
                traits |= Trait.INLINE
        elif kind in (Kind.BLOCK_DEVICE, Kind.CHARACTER_DEVICE):
            device = _device(inode.block)
        return Entry(
            path,
            kind,
            number,
            inode.generation,
            inode.size,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.nlink,
            inode.mtime,
            inode.ctime,
            inode.atime,
            inode.birth,
            tuple(data),
            tuple(metadata),
            target,
            device,
            traits,
        )

    def _names(self, number: int, path: bytes) -> Iterable[tuple[int, bytes]]:
        inode = self.inode(number)
        if kind_of(inode.mode) is not Kind.DIRECTORY:
            raise Damaged("it was a directory, and is none")
        if inode.flags & inodes.INLINE:
            names, damaged = directories.inline(inodes.inline_contents(inode))
        else:
            names, damaged = self._names_in_blocks(inode)
        if damaged:
            self.tell(path, "a block of this directory makes no sense")
        if inode.flags & inodes.ENCRYPTED:
            names = [each._replace(name=b"encrypted-" + each.name.hex().encode()) for each in names]
        if self._sifted is not None:
            self._sift_unused(names, self._sifted)
        return names

    def _sift_unused(self, names: list[directories.Name], sieve: Sieve) -> None:
        """Names of inodes in what the group's descriptor calls unused, where the sieve did not
        look: no honest system leaves them there."""
        per_group, used = self.super.inodes_per_group, self.groups.used
        for number, _ in names:
            group, index = divmod(number - 1, per_group)
            if group < len(used) and index >= used[group]:
                sieve.wanted.add(number)
                with suppress(Damaged):
                    if kind_of(self.inode(number).mode) is Kind.DIRECTORY:
                        sieve.directories.add(number)

    def _names_in_blocks(self, inode: Inode) -> tuple[list[directories.Name], bool]:
        found = self.map_blocks(inode)
        size = self.super.block_size
        names: list[directories.Name] = []
        damaged = found.why is not None
        left = min(-(-inode.size // size) * size, _DIRECTORY_LIMIT)
        for piece in found.pieces:
            if not piece.written or left <= 0:
                continue
            length = min(piece.length * size, left)
            left -= length
            raw = self._cache.pread(length, piece.physical * size)
            more, bad = directories.in_blocks(raw, size)
            names += more
            damaged |= bad
        return names, damaged

    def _sieve(self, touched: Intervals) -> Sieve:
        self._sifted = touched_inodes(self, touched)
        return self._sifted

    def _map(self, entry: Entry) -> Iterable[Extent]:
        inode = self.inode(entry.inode)
        if entry.traits & Trait.ENCRYPTED:
            raise NotSupported("an encrypted file", why="the guest keeps its key")
        if entry.traits & Trait.INLINE:
            return [Extent(0, entry.size, None, False)]
        return list(self._extents_of(inode))

    def _extents_of(self, inode: Inode) -> Iterator[Extent]:
        size = self.super.block_size
        for piece in self.map_blocks(inode).pieces:
            start = piece.logical * size
            length = min(piece.length * size, inode.size - start)
            if length > 0:
                place = piece.physical * size if piece.written else None
                yield Extent(start, length, place, not piece.written)

    def _contents(self, entry: Entry) -> bytes:
        return inodes.inline_contents(self.inode(entry.inode))

    def _target(self, inode: Inode, found: mapping.Mapping) -> bytes | None:
        if inode.flags & inodes.ENCRYPTED:
            return None
        if not found.pieces:
            return inodes.inline_contents(inode)[: inode.size]
        place = found.pieces[0].physical * self.super.block_size
        return self._cache.pread(min(inode.size, self.super.block_size), place)

    def xattrs(self, entry: Entry) -> Mapping[bytes, bytes]:
        """From the inode, the attribute block and inodes of attributes."""
        found: dict[bytes, bytes] = {}
        for one in self._attributes(self.inode(entry.inode)):
            if one.name != inodes.INLINE_NAME:
                found[one.name] = self._value(one) if one.inode else one.value
        return found

    def _attributes(self, inode: Inode) -> Iterator[inodes.Attribute]:
        yield from inodes.inner_attributes(inode)
        if inode.xattr_block:
            yield from inodes.block_attributes(self._block(inode.xattr_block))

    def _value(self, one: inodes.Attribute) -> bytes:
        inode = self.inode(one.inode)
        pieces = [
            self._cache.pread(extent.length, extent.place)
            for extent in self._extents_of(inode)
            if extent.place is not None and extent.offset < 1 << 16
        ]
        return b"".join(pieces)[: one.size]

    def regions(self) -> Iterator[Region]:
        """Inode tables, group descriptors and journal."""
        size = self.super.block_size
        table = self.super.inodes_per_group * self.super.inode_size
        for start in self.groups.tables:
            yield Region("inodes", Run(start * size, table))
        descriptors = self.super.groups * self.super.descriptor_size
        yield Region("superblock", Run(0, (self.super.first_block + 1) * size + descriptors))
        if self.super.journal_inode:
            _, _, data, _ = self.runs(self.super.journal_inode)
            yield from (Region("journal", run) for run in data)

    def _block(self, number: int) -> bytes:
        return self._cache.pread(self.super.block_size, number * self.super.block_size)


_WITH_BLOCKS = (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
_NOTHING = mapping.Mapping([], [], None)


def _traits(inode: Inode, found: mapping.Mapping) -> Trait:
    traits = Trait.NONE
    if inode.flags & inodes.INLINE:
        traits |= Trait.INLINE
    if inode.flags & inodes.ENCRYPTED:
        traits |= Trait.ENCRYPTED
    if found.why:
        traits |= Trait.DAMAGED
    if not all(piece.written for piece in found.pieces):
        traits |= Trait.UNWRITTEN
    return traits


def _device(block: bytes) -> tuple[int, int]:
    """Old devices have 16 bits in the first word, new ones 32 in the second."""
    old, new = struct.unpack_from("<II", block)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00
