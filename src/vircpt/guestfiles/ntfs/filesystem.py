"""NTFS as a FileSystem."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from vircpt.errors import NotSupported
from vircpt.guestfiles.entries import Entry, Extent, Kind, Trait
from vircpt.guestfiles.filesystem import Facts, Region
from vircpt.guestfiles.intervals import Intervals, Run
from vircpt.guestfiles.ntfs import names, records, volume
from vircpt.guestfiles.ntfs.compression import decompress
from vircpt.guestfiles.ntfs.records import Attribute
from vircpt.guestfiles.ntfs.table import File, Table, boot
from vircpt.guestfiles.source import Damaged, Source, read
from vircpt.guestfiles.tree import Sieve, Tree, folded

_ROOT = 5
_READ_ONLY = 0x1
_INDEX = "$I30"
_STREAM_LIMIT = 1 << 16
_SMALL_LIMIT = 1 << 20
_INDEX_LIMIT = 1 << 18
"""Blocks of one directory's index."""


class Ntfs(Tree):
    """NTFS, read through `source`, the volume that it lies in."""

    def __init__(self, source: Source) -> None:
        found = boot(source)
        self.table = Table(source, found)
        label, dirty = volume.facts(self.table)
        facts = Facts(
            type="ntfs",
            label=label,
            uuid=found.serial,
            size=found.size,
            used=None,
            block_size=found.cluster,
            dirty_journal=dirty,
            moves_data=True,
        )
        super().__init__(source, facts, _ROOT)
        self._compressed: tuple[int, list[Attribute]] | None = None

    def used(self) -> int | None:
        """From the map of clusters."""
        return volume.used(self.table)

    def _fold(self, name: bytes) -> bytes:
        return folded(name)

    def _sieve(self, touched: Intervals) -> Sieve:
        sieve = Sieve(set(), set())
        size = self.table.boot.record
        for first, raw in self.table.chunks():
            for number in range(first, first + len(raw) // size):
                at = (number - first) * size
                if self._is_touched(number, raw[at : at + size], touched, sieve.directories):
                    sieve.wanted.add(number)
        return sieve

    def _is_touched(
        self, number: int, raw: bytes, touched: Intervals, directories: set[int]
    ) -> bool:
        if raw[22] & 2:
            directories.add(number)
        try:
            if touched.touches(self.table.place(number), len(raw)):
                return True
            if raw[:4] == b"FILE" and (not raw[22] & 1 or raw[32:38] != bytes(6)):
                return False  # free, or an extension record, which counts with its base
            runs = records.quick_runs(records.fixed(raw, b"FILE"))
            if runs is not None:
                size = self.table.boot.cluster
                return any(touched.touches(first * size, count * size) for first, count in runs)
            file = self.table.file(number)
            slow = [run for one in file.attributes for run in self.table.runs(one.pieces)]
        except (Damaged, struct.error):
            return True
        return file.damaged or touched.touches_any(file.metadata) or touched.touches_any(slow)

    def _file(self, number: int) -> File:
        file = self.table.file(number)
        if not file.record.in_use or file.record.base:
            raise Damaged(f"a name of record {number}, which is no file")
        return file

    def _entry(self, number: int, path: bytes) -> Entry:
        file = self._file(number)
        standard = b""
        reparse: names.Reparse | None = None
        for one in file.attributes:
            if one.type == records.STANDARD and one.value is not None:
                standard = one.value
            elif one.type == records.REPARSE:
                reparse = names.reparse(self._small(one))
        if len(standard) < 36:
            raise Damaged(f"record {number} has no times")
        birth, mtime, ctime, atime, flags = struct.unpack_from("<4QI", standard)
        kind = Kind.DIRECTORY if file.record.is_directory else Kind.FILE
        if reparse is not None and reparse.kind is not None:
            kind = reparse.kind
        data, metadata, traits = self._runs(file)
        if reparse is not None and kind is Kind.FILE:
            traits |= Trait.UNSUPPORTED
        stream = _stream(file.attributes, "")
        return Entry(
            path,
            kind,
            number,
            file.record.sequence,
            stream[0].size if stream else 0,
            _mode(kind, flags),
            0,
            0,
            names.links(
                one.value or b"" for one in file.attributes if one.type == records.FILE_NAME
            ),
            names.nanoseconds(mtime),
            names.nanoseconds(ctime),
            names.nanoseconds(atime),
            names.nanoseconds(birth),
            tuple(data),
            tuple(metadata),
            reparse.target if reparse else None,
            None,
            traits,
        )

    def _runs(self, file: File) -> tuple[list[Run], list[Run], Trait]:
        """All streams count as contents; of a directory its index. The rest is metadata."""
        data: list[Run] = []
        metadata = list(file.metadata)
        traits = Trait.DAMAGED if file.damaged else Trait.NONE
        for one in file.attributes:
            contents = one.type in (records.DATA, records.INDEX_ALLOCATION, records.INDEX_ROOT)
            if contents and one.value is not None:
                traits |= Trait.INLINE
            if one.type == records.DATA:
                traits |= _stream_traits(one)
            try:
                runs = self.table.runs(one.pieces)
            except Damaged:
                traits |= Trait.DAMAGED
                continue
            if contents:
                data += runs
            else:
                metadata += runs
        return data, metadata, traits

    def _names(self, number: int, path: bytes) -> Iterable[tuple[int, bytes]]:
        file = self._file(number)
        if not file.record.is_directory:
            raise Damaged("it was a directory, and is none")
        index = [one for one in file.attributes if one.name == _INDEX]
        root = next((one.value for one in index if one.type == records.INDEX_ROOT), None)
        if root is None or len(root) < 32:
            raise Damaged("a directory of NTFS without an index")
        blocks = [one for one in index if one.type == records.INDEX_ALLOCATION]
        found: list[tuple[int, bytes]] = []
        for name in self._nodes(root, blocks, path):
            if name.record != _ROOT:
                found.append((name.record, name.name))
        return found

    def _nodes(self, root: bytes, blocks: list[Attribute], path: bytes) -> Iterator[names.Name]:
        """Names in the root of an index, and in all blocks below it."""
        try:
            node = names.node(root, 16)
        except Damaged as error:
            self.tell(path, str(error))
            return
        yield from node.names
        todo, seen = list(node.below), set(node.below)
        while todo:
            try:
                node = names.node(self._index_block(blocks, todo.pop()), 24)
            except Damaged as error:
                self.tell(path, str(error))
                continue
            yield from node.names
            new = set(node.below) - seen
            if len(seen) < _INDEX_LIMIT:
                seen |= new
                todo += new

    def _index_block(self, blocks: list[Attribute], vcn: int) -> bytearray:
        found = self.table.boot
        # blocks smaller than a cluster are counted in sectors
        offset = vcn * (found.cluster if found.index >= found.cluster else 512)
        raw = b""
        while len(raw) < found.index:
            raw += self._at(blocks, offset + len(raw), found.index - len(raw))
        return records.fixed(raw, b"INDX")

    def _at(self, blocks: list[Attribute], offset: int, length: int) -> bytes:
        size = self.table.boot.cluster
        vcn, inside = divmod(offset, size)
        for piece in (piece for one in blocks for piece in one.pieces):
            if piece.vcn <= vcn < piece.vcn + piece.length and piece.lcn is not None:
                place = (piece.lcn + vcn - piece.vcn) * size + inside
                left = (piece.vcn + piece.length - vcn) * size - inside
                return self.table.cache.pread(min(length, left), place)
        raise Damaged("an index of NTFS has a hole")

    def _map(self, entry: Entry) -> Iterable[Extent]:
        return self._map_stream(entry, _stream(self._file(entry.inode).attributes, ""))

    def _map_stream(self, entry: Entry, stream: list[Attribute]) -> list[Extent]:
        if entry.traits & Trait.ENCRYPTED:
            raise NotSupported("an encrypted file", why="the guest keeps its key")
        if entry.traits & Trait.UNSUPPORTED:
            raise NotSupported("a file whose contents are kept elsewhere", why="a reparse point")
        self._compressed = None
        if not stream:
            return []
        if stream[0].value is not None:
            return [Extent(0, entry.size, None, False)]
        if stream[0].unit:
            self._compressed = entry.inode, stream
            return self._units(stream)
        return list(self._plain(stream))

    def _plain(self, stream: list[Attribute]) -> Iterator[Extent]:
        size = self.table.boot.cluster
        end, initialised = stream[0].size, stream[0].initialised
        for piece in (piece for one in stream for piece in one.pieces):
            start = piece.vcn * size
            stop = min(start + piece.length * size, end)
            written = max(start, min(stop, initialised))
            if piece.lcn is None:
                continue
            if written > start:
                yield Extent(start, written - start, piece.lcn * size, False)
            if stop > written:
                yield Extent(written, stop - written, None, True)

    def _units(self, stream: list[Attribute]) -> list[Extent]:
        """Compression units: those that are all holes are none."""
        unit = self.table.boot.cluster << stream[0].unit
        size = self.table.boot.cluster
        filled: dict[int, None] = {}
        for piece in (piece for one in stream for piece in one.pieces):
            if piece.lcn is not None:
                first = piece.vcn * size // unit
                last = (piece.vcn + piece.length - 1) * size // unit
                filled.update(dict.fromkeys(range(first, last + 1)))
        end = stream[0].size
        return [
            Extent(number * unit, min(unit, end - number * unit), None, False)
            for number in filled
            if number * unit < end
        ]

    def _piece(self, entry: Entry, extent: Extent, offset: int, length: int) -> bytes:
        if extent.place is None and not extent.zero and self._compressed is not None:
            start = offset - extent.offset
            return self._unit(self._compressed[1], extent)[start : start + length]
        return super()._piece(entry, extent, offset, length)

    def _unit(self, stream: list[Attribute], extent: Extent) -> bytes:
        size, per_unit = self.table.boot.cluster, 1 << stream[0].unit
        first = extent.offset // size
        raw, holes = b"", False
        for piece in (piece for one in stream for piece in one.pieces):
            low, high = max(piece.vcn, first), min(piece.vcn + piece.length, first + per_unit)
            if low >= high:
                continue
            if piece.lcn is None:
                holes = True
            else:
                raw += read(self.source, (piece.lcn + low - piece.vcn) * size, (high - low) * size)
        return (decompress(raw, per_unit * size) if holes else raw)[: extent.length]

    def _contents(self, entry: Entry) -> bytes:
        stream = _stream(self._file(entry.inode).attributes, "")
        return stream[0].value or b"" if stream else b""

    def xattrs(self, entry: Entry) -> Mapping[bytes, bytes]:
        """Alternate data streams of up to 64 KiB, as ntfs-3g shows them: user.NAME."""
        found: dict[bytes, bytes] = {}
        attributes = self._file(entry.inode).attributes
        for name in {one.name for one in attributes if one.type == records.DATA and one.name}:
            parts = _stream(attributes, name)
            if parts and parts[0].size <= _STREAM_LIMIT and not parts[0].unit:
                with suppress(Damaged):
                    key = b"user." + name.encode("utf-8", "surrogatepass")
                    found[key] = self._small(*parts)
        return found

    def _small(self, *parts: Attribute) -> bytes:
        if parts[0].value is not None:
            return parts[0].value
        return self.table.stream(list(parts), _SMALL_LIMIT)

    def regions(self) -> Iterator[Region]:
        """The table of files and the journal."""
        yield from (Region("inodes", run) for run in self.table.runs(self.table.pieces))
        for one in self.table.file(2).attributes:
            if one.type == records.DATA:
                yield from (Region("journal", run) for run in self.table.runs(one.pieces))


def _stream(attributes: list[Attribute], name: str) -> list[Attribute]:
    """The parts of a data stream, the first one first; it knows the size."""
    parts = [one for one in attributes if one.type == records.DATA and one.name == name]
    return sorted(parts, key=lambda one: one.first)


def _stream_traits(one: Attribute) -> Trait:
    traits = Trait.NONE
    if one.unit:
        traits |= Trait.COMPRESSED
    if one.flags & records.ENCRYPTED:
        traits |= Trait.ENCRYPTED
    if one.value is None and one.initialised < one.size:
        traits |= Trait.UNWRITTEN
    return traits


_MODES = {Kind.DIRECTORY: 0o40755, Kind.SYMLINK: 0o120777, Kind.FILE: 0o100644}


def _mode(kind: Kind, flags: int) -> int:
    mode = _MODES.get(kind, 0o644)
    return mode & ~0o222 if flags & _READ_ONLY and kind is Kind.FILE else mode
