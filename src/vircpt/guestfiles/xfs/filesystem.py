"""XFS as a FileSystem."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from vircpt.errors import NotSupported
from vircpt.guestfiles.entries import Entry, Extent, Kind, Trait, kind_of
from vircpt.guestfiles.filesystem import Facts, Region
from vircpt.guestfiles.intervals import Intervals, Run
from vircpt.guestfiles.source import Cached, Damaged, Source
from vircpt.guestfiles.tree import Sieve, Tree
from vircpt.guestfiles.xfs import attributes, directories, inodes, log, superblock
from vircpt.guestfiles.xfs.chunks import Chunks
from vircpt.guestfiles.xfs.inodes import Inode

_LOCAL = 1
_DIRECTORY_LIMIT = 1 << 30


class Xfs(Tree):
    """XFS, read through `source`, the volume that it lies in."""

    def __init__(self, source: Source) -> None:
        self.super = superblock.parse(source)
        super().__init__(source, self._facts(source), self.super.root)
        self.cache = Cached(source, chunk=1 << 15, chunks=1024)
        self._header = 72 if self.super.version == 5 else 24
        self._sifted: tuple[Chunks, Sieve] | None = None

    def _facts(self, source: Source) -> Facts:
        found = self.super
        dirty = log.why_dirty(source, found)
        if found.needs_repair:
            dirty = "it is marked as in need of repair"
        return Facts(
            type="xfs",
            label=found.label,
            uuid=found.uuid,
            size=found.blocks * found.block_size,
            used=(found.blocks - found.free_blocks) * found.block_size,
            block_size=found.block_size,
            dirty_journal=dirty,
            time_margin=50_000_000,
        )

    def inode(self, number: int) -> Inode:
        """Raises Damaged."""
        raw = self.cache.pread(self.super.inode_size, self.super.inode_place(number))
        return inodes.parse(raw)

    def runs_of(self, number: int, inode: Inode) -> tuple[list[Run], list[Run], Trait]:
        """Runs of data and of metadata, and what is peculiar."""
        traits = Trait.NONE
        data, tree, bad, unwritten = self._fork_runs(inode.data)
        metadata = [Run(self.super.inode_place(number), self.super.inode_size), *tree]
        if inode.attributes.format in (2, 3):
            blocks, tree, also_bad, _ = self._fork_runs(inode.attributes)
            metadata += blocks + tree
            bad = bad or also_bad
        if bad:
            traits |= Trait.DAMAGED
        if unwritten:
            traits |= Trait.UNWRITTEN
        if inode.flags2 & inodes.REFLINK:
            traits |= Trait.SHARED
        if inode.flags & inodes.REALTIME and kind_of(inode.mode) is Kind.FILE:
            return [], metadata, traits | Trait.UNSUPPORTED
        return data, metadata, traits

    def _fork_runs(self, fork: inodes.Fork) -> tuple[list[Run], list[Run], bool, bool]:
        found = inodes.map_fork(fork, self._block, self._header)
        size = self.super.block_size
        data, bad, unwritten = [], found.why is not None, False
        for piece in found.pieces:
            unwritten |= not piece.written
            try:
                data.append(self._run(piece.block, piece.length))
            except Damaged:
                bad = True
        tree = [Run(self.super.block_place(block), size) for block in found.blocks]
        return data, tree, bad, unwritten

    def _run(self, block: int, length: int) -> Run:
        """Raises Damaged; no extent crosses the border of a group."""
        place = self.super.block_place(block)
        run = Run(place, length * self.super.block_size)
        if run.end > self.source.size:
            raise Damaged("an extent of XFS leads beyond the end")
        return run

    def _entry(self, number: int, path: bytes) -> Entry:
        inode = self.inode(number)
        if not inode.mode:
            raise Damaged(f"a name of inode {number}, which is free")
        kind = kind_of(inode.mode)
        data, metadata, traits = self.runs_of(number, inode)
        if inode.data.format == _LOCAL:
            traits |= Trait.INLINE
        target = device = None
        if kind is Kind.SYMLINK:
            target = self._target(inode)
        elif kind in (Kind.BLOCK_DEVICE, Kind.CHARACTER_DEVICE):
            word = int.from_bytes(inode.data.raw[:4], "big")
            device = word >> 18, word & 0x3FFFF
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
        names, damaged = self._names_of(inode)
        if damaged:
            self.tell(path, "a block of this directory makes no sense")
        if self._sifted is not None:
            self._sift_hidden(names)
        return names

    def _names_of(self, inode: Inode) -> tuple[list[directories.Name], bool]:
        if inode.data.format == _LOCAL:
            return directories.short(inode.data.raw, self.super.has_ftype)
        names: list[directories.Name] = []
        damaged = False
        for raw in self._directory_blocks(inode):
            try:
                more, bad = directories.in_block(raw, self.super.has_ftype)
            except Damaged:
                damaged = True
                continue
            names += more
            damaged |= bad
        return names, damaged

    def _directory_blocks(self, inode: Inode) -> Iterator[bytes]:
        """Directory blocks may be several blocks long, which need not lie together."""
        size, block = self.super.directory_block, self.super.block_size
        limit = min(directories.LEAVES_AT, _DIRECTORY_LIMIT) // block
        held, held_at = b"", 0
        for piece in sorted(inodes.map_fork(inode.data, self._block, self._header).pieces):
            if piece.logical >= limit:
                break
            length = min(piece.length, limit - piece.logical)
            raw = self.cache.pread(length * block, self._run(piece.block, length).offset)
            if held and held_at + len(held) // block != piece.logical:
                held = b""
            held_at = piece.logical if not held else held_at
            held += raw
            whole = len(held) // size * size
            for at in range(0, whole, size):
                yield held[at : at + size]
            held, held_at = held[whole:], held_at + whole // block

    def _sift_hidden(self, names: list[directories.Name]) -> None:
        """Names of inodes that the inode trees do not tell of: no honest system has them."""
        assert self._sifted is not None
        chunks, sieve = self._sifted
        for number, _ in names:
            if number >> 2 not in chunks.seen:
                sieve.wanted.add(number)
                try:
                    if kind_of(self.inode(number).mode) is Kind.DIRECTORY:
                        sieve.directories.add(number)
                except Damaged as error:
                    self.tell(b"", str(error))

    def _sieve(self, touched: Intervals) -> Sieve:
        chunks = Chunks(self)
        sieve = Sieve(set(), set())
        self._sifted = chunks, sieve
        for number, raw in chunks:
            if raw[2] >> 4 == 4:
                sieve.directories.add(number)
            if self._is_touched(number, raw, touched):
                sieve.wanted.add(number)
        return sieve

    def _is_touched(self, number: int, raw: bytes, touched: Intervals) -> bool:
        found = self.super
        if raw[:2] != b"IN" or touched.touches(found.inode_place(number), found.inode_size):
            return True
        words = inodes.quick_extents(raw)
        try:
            if words is not None:
                size = found.block_size
                for at in range(0, len(words), 2):
                    low = words[at + 1]
                    place = found.block_place((words[at] & 0x1FF) << 43 | low >> 21)
                    if touched.touches(place, (low & 0x1FFFFF) * size):
                        return True
                return False
            data, metadata, traits = self.runs_of(number, inodes.parse(raw))
        except (Damaged, struct.error):
            return True
        return (
            bool(traits & Trait.DAMAGED)
            or touched.touches_any(metadata)
            or touched.touches_any(data)
        )

    def _map(self, entry: Entry) -> Iterable[Extent]:
        if entry.traits & Trait.UNSUPPORTED:
            raise NotSupported("a file on the realtime device of XFS")
        if entry.traits & Trait.INLINE:
            return [Extent(0, entry.size, None, False)]
        return list(self._extents_of(self.inode(entry.inode).data, entry.size))

    def _extents_of(self, fork: inodes.Fork, end: int) -> Iterator[Extent]:
        size = self.super.block_size
        for piece in inodes.map_fork(fork, self._block, self._header).pieces:
            start = piece.logical * size
            length = min(piece.length * size, end - start)
            if length > 0:
                place = self._run(piece.block, piece.length).offset if piece.written else None
                yield Extent(start, length, place, not piece.written)

    def _contents(self, entry: Entry) -> bytes:
        return self.inode(entry.inode).data.raw[: entry.size]

    def _target(self, inode: Inode) -> bytes:
        if inode.data.format == _LOCAL:
            return inode.data.raw[: inode.size]
        return self._blocks_of(inode.data, 0, min(inode.size, 4096), b"XSLM")

    def _blocks_of(self, fork: inodes.Fork, first: int, length: int, magic: bytes) -> bytes:
        """`length` bytes from block `first` of a fork; version 5 has a header in each block."""
        size = self.super.block_size
        pieces: list[bytes] = []
        for extent in self._extents_of(fork, 1 << 62):
            for at in range(0, extent.length, size):
                if extent.place is None or (extent.offset + at) // size < first or length <= 0:
                    continue
                raw = self.cache.pread(size, extent.place + at)
                raw = (raw[56:] if raw[:4] == magic else raw)[:length]
                length -= len(raw)
                pieces.append(raw)
        return b"".join(pieces)

    def xattrs(self, entry: Entry) -> Mapping[bytes, bytes]:
        """From the inode or its attribute fork."""
        fork = self.inode(entry.inode).attributes
        if fork.format == _LOCAL:
            return dict(attributes.short(fork.raw))
        found: dict[bytes, bytes] = {}
        for piece in inodes.map_fork(fork, self._block, self._header).pieces:
            for block in range(piece.block, piece.block + min(piece.length, 4096)):
                found.update(
                    attributes.in_leaf(
                        self._block(block),
                        lambda first, length: self._blocks_of(fork, first, length, b"XARM"),
                    )
                )
        return found

    def regions(self) -> Iterator[Region]:
        """The heads of the groups, and the log."""
        for group in range(self.super.groups):
            place = self.super.group_place(group)
            yield Region("superblock", Run(place, 4 * self.super.sector_size))
        if self.super.log_start:
            start = self.super.block_place(self.super.log_start)
            yield Region("journal", Run(start, self.super.log_size))

    def _block(self, number: int) -> bytes:
        return self.cache.pread(self.super.block_size, self.super.block_place(number))
