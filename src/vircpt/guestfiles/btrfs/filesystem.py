"""btrfs as a FileSystem: all subvolumes, seen from the top one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from vircpt.errors import NotSupported
from vircpt.guestfiles.btrfs import items, superblock
from vircpt.guestfiles.btrfs.chunks import Chunks
from vircpt.guestfiles.btrfs.compression import decompress
from vircpt.guestfiles.btrfs.items import Piece
from vircpt.guestfiles.btrfs.trees import Block, Trees
from vircpt.guestfiles.entries import Entry, Extent, Kind, Trait, kind_of
from vircpt.guestfiles.filesystem import Facts, Region
from vircpt.guestfiles.intervals import Intervals, Run
from vircpt.guestfiles.source import Damaged, Source
from vircpt.guestfiles.tree import Sieve, Tree

_CHUNK_ITEM = 228
_TOP, _FIRST_SUBVOLUME, _LAST_SUBVOLUME = 5, 256, (1 << 64) - 256
_MOST = (1 << 64) - 1
_OBJECT_BITS = 64
_GENERATION_BITS = 40


class _Object(NamedTuple):
    """All items of one inode."""

    inode: items.Inode
    pieces: list[Piece]
    xattrs: list[items.Name]
    leaves: list[Block]


class Btrfs(Tree):
    """btrfs, read through `source`: its device, or its devices joined, which begin at
    `source.starts`. Numbers of inodes are those of tree and object, put together."""

    def __init__(self, source: Source) -> None:
        found = _devices(source)
        self.super = found[0][1]
        superblock.check(self.super)
        self.chunks = Chunks({one.device: base for base, one in found}, source.size)
        self.chunks.add_array(self.super.chunks)
        self.trees = Trees(source, self.chunks, self.super.node)
        for _, item in self.trees.items(self.super.chunk_root, (0, 0, 0), (_MOST, 255, _MOST)):
            if item.key[1] == _CHUNK_ITEM:
                self.chunks.add(item.key[2], item.value)
        self._roots: dict[int, items.Root] = {}
        super().__init__(source, self._facts(len(found)), _number(_TOP, self._root_of(_TOP)))
        self._unpacked: tuple[tuple[int, int], bytes] | None = None

    def _facts(self, present: int) -> Facts:
        found = self.super
        dirty = "its log tree needs to be replayed" if found.log_root else None
        if present < found.devices:
            dirty = f"{found.devices - present} of its {found.devices} devices are missing"
        return Facts(
            type="btrfs",
            label=found.label,
            uuid=found.uuid,
            size=found.size,
            used=found.used,
            block_size=found.sector,
            dirty_journal=dirty,
            time_margin=50_000_000,
            moves_data=True,
        )

    def _tree(self, tree: int) -> items.Root:
        """The newest root of a tree; raises Damaged."""
        if tree not in self._roots:
            found = [
                items.root(item.value)
                for _, item in self.trees.items(
                    self.super.root, (tree, items.ROOT, 0), (tree, items.ROOT, _MOST)
                )
            ]
            if not found:
                raise Damaged(f"btrfs has no tree {tree}")
            self._roots[tree] = found[-1]
        return self._roots[tree]

    def _root_of(self, tree: int) -> int:
        return self._tree(tree).directory

    def _object(self, number: int) -> _Object:
        tree, object_ = number >> _OBJECT_BITS, number & _MOST
        inode: items.Inode | None = None
        found = _Object(_NO_INODE, [], [], [])
        root = self._tree(tree).address
        for block, item in self.trees.items(root, (object_, 0, 0), (object_, items.EXTENT, _MOST)):
            if not found.leaves or found.leaves[-1] is not block:
                found.leaves.append(block)
            type_ = item.key[1]
            if type_ == items.INODE:
                inode = items.inode(item.value)
            elif type_ == items.XATTR:
                found.xattrs.extend(items.names(item.value))
            elif type_ == items.EXTENT:
                found.pieces.append(items.piece(item.key[2], item.value))
        if inode is None:
            raise Damaged(f"btrfs has no inode {object_} in tree {tree}")
        return found._replace(inode=inode)

    def _entry(self, number: int, path: bytes) -> Entry:
        found = self._object(number)
        inode = found.inode
        kind = kind_of(inode.mode)
        metadata = [run for leaf in found.leaves for run in self.trees.places(leaf)]
        data, traits = self._runs(found.pieces)
        target = device = None
        if kind is Kind.SYMLINK:
            target = b"".join(self._unpack(piece) for piece in found.pieces)[: inode.size]
        elif kind in (Kind.BLOCK_DEVICE, Kind.CHARACTER_DEVICE):
            device = inode.device >> 20, inode.device & 0xFFFFF
        return Entry(
            path,
            kind,
            number & _MOST,
            number >> _OBJECT_BITS << _GENERATION_BITS
            | inode.generation & (1 << _GENERATION_BITS) - 1,
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

    def _runs(self, pieces: list[Piece]) -> tuple[list[Run], Trait]:
        """All copies of the contents. Any extent may be shared."""
        data: list[Run] = []
        traits = Trait.NONE
        for piece in pieces:
            if piece.inline is not None:
                traits |= Trait.INLINE
            if piece.compression:
                traits |= Trait.COMPRESSED
            if piece.encrypted:
                traits |= Trait.ENCRYPTED
            if piece.disk:
                traits |= Trait.SHARED if piece.written else Trait.SHARED | Trait.UNWRITTEN
                try:
                    data += self.chunks.runs(*_place(piece))
                except Damaged:
                    traits |= Trait.DAMAGED
        return data, traits

    def _names(self, number: int, path: bytes) -> Iterable[tuple[int, bytes]]:
        tree, object_ = number >> _OBJECT_BITS, number & _MOST
        found: list[tuple[int, bytes]] = []
        for _, item in self.trees.items(
            self._tree(tree).address,
            (object_, items.DIRECTORY, 0),
            (object_, items.DIRECTORY, _MOST),
        ):
            for name in items.names(item.value):
                if name.type == items.INODE:
                    found.append((_number(tree, name.object), name.name))
                elif name.type == items.ROOT and self._is_there(name.object):
                    below = _number(name.object, self._root_of(name.object))
                    found.append((below, name.name))
        return found

    def _is_there(self, tree: int) -> bool:
        """Whether a subvolume is; in a snapshot those in it are names of nothing."""
        try:
            return self._tree(tree).references > 0
        except Damaged:
            return False

    def _subvolumes(self) -> list[int]:
        found = [_TOP]
        for _, item in self.trees.items(
            self.super.root, (_FIRST_SUBVOLUME, 0, 0), (_LAST_SUBVOLUME, 255, _MOST)
        ):
            if item.key[1] == items.ROOT and item.key[0] not in found[-1:]:
                found.append(item.key[0])
        return found

    def _sieve(self, touched: Intervals) -> Sieve:
        sieve = Sieve(set(), set())
        for tree in self._subvolumes():
            try:
                for leaf in self.trees.leaves(self._tree(tree).address):
                    self._sift(leaf, tree << _OBJECT_BITS, touched, sieve)
            except Damaged as error:
                self.tell(b"", f"tree {tree}: {error}")
        return sieve

    def _sift(self, leaf: Block, base: int, touched: Intervals, sieve: Sieve) -> None:
        if touched.touches_any(self.trees.places(leaf)):
            sieve.wanted.update(base | item[0] for item in leaf.items)
        for item in leaf.items:
            type_ = item[1]
            if type_ == items.EXTENT and base | item[0] not in sieve.wanted:
                piece = items.piece(item[2], self.trees.value(leaf, item))
                if piece.disk and self._is_touched(piece, touched):
                    sieve.wanted.add(base | item[0])
            elif type_ == items.INODE:
                if kind_of(items.inode(self.trees.value(leaf, item)).mode) is Kind.DIRECTORY:
                    sieve.directories.add(base | item[0])
            elif type_ == items.DIRECTORY and leaf.items[0] is item:
                sieve.directories.add(base | item[0])

    def _is_touched(self, piece: Piece, touched: Intervals) -> bool:
        try:
            return touched.touches_any(self.chunks.runs(*_place(piece)))
        except Damaged:
            return True

    def _map(self, entry: Entry) -> Iterable[Extent]:
        if entry.traits & Trait.ENCRYPTED:
            raise NotSupported("an encrypted file", why="the guest keeps its key")
        return [
            extent
            for piece in self._object(_of(entry)).pieces
            for extent in self._extents_of(piece, entry.size)
        ]

    def _extents_of(self, piece: Piece, size: int) -> Iterator[Extent]:
        end = min(piece.offset + piece.length, size)
        if end <= piece.offset or (piece.inline is None and not piece.disk):
            return
        if not piece.written:
            yield Extent(piece.offset, end - piece.offset, None, True)
        elif piece.inline is not None or piece.compression:
            yield Extent(piece.offset, end - piece.offset, None, False)
        else:
            at = piece.offset
            for length, copies in self.chunks.copies(piece.disk + piece.start, end - at):
                if not copies:
                    raise Damaged("a device of btrfs is missing")
                yield Extent(at, length, copies[0].offset, False)
                at += length

    def _piece(self, entry: Entry, extent: Extent, offset: int, length: int) -> bytes:
        if extent.zero or extent.place is not None:
            return super()._piece(entry, extent, offset, length)
        key = _of(entry), extent.offset
        if self._unpacked is None or self._unpacked[0] != key:
            tree, object_ = key[0] >> _OBJECT_BITS, key[0] & _MOST
            place = (object_, items.EXTENT, extent.offset)
            for _, item in self.trees.items(self._tree(tree).address, place, place):
                unpacked = self._unpack(items.piece(extent.offset, item.value))
                self._unpacked = key, unpacked
        assert self._unpacked is not None
        start = offset - extent.offset
        return self._unpacked[1][start : start + length].ljust(length, b"\0")

    def _unpack(self, piece: Piece) -> bytes:
        """The bytes that an extent means."""
        raw = piece.inline
        if raw is None:
            if not piece.compression:
                return self.trees.read(piece.disk + piece.start, piece.length)
            raw = self.trees.read(piece.disk, min(piece.disk_length, 1 << 20))
        if not piece.compression:
            return raw
        whole = decompress(piece.compression, raw, piece.whole, self.super.sector)
        return whole[piece.start : piece.start + piece.length]

    def xattrs(self, entry: Entry) -> Mapping[bytes, bytes]:
        """All of them, but btrfs's own properties."""
        return {one.name: one.value for one in self._object(_of(entry)).xattrs}

    def regions(self) -> Iterator[Region]:
        """The superblock; trees may lie anywhere."""
        yield Region("superblock", Run(superblock.PLACE, 4096))


_NO_INODE = items.Inode(*(0,) * 12)


def _devices(source: Source) -> list[tuple[int, superblock.Super]]:
    """Devices in the volume, each with where it begins; raises Damaged if there is none."""
    starts: list[int] = getattr(source, "starts", [0])
    found: list[tuple[int, superblock.Super]] = []
    for start in starts:
        one = superblock.at(source, start)
        if one is not None and (not found or one.uuid == found[0][1].uuid):
            found.append((start, one))
    if not found or found[0][0]:
        raise Damaged("no superblock of btrfs")
    return found


def _number(tree: int, object_: int) -> int:
    return tree << _OBJECT_BITS | object_


def _of(entry: Entry) -> int:
    return _number(entry.generation >> _GENERATION_BITS, entry.inode)


def _place(piece: Piece) -> tuple[int, int]:
    """Of what is meant; of compressed data, all of it."""
    if piece.compression:
        return piece.disk, piece.disk_length
    return piece.disk + piece.start, piece.length
