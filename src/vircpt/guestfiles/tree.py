"""What file systems made of inodes and directories have in common: walking, paths, reading."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from vircpt.errors import NotFound, NotSupported
from vircpt.guestfiles.entries import Entry, Extent, Kind, Trait
from vircpt.guestfiles.filesystem import PROBLEMS_LIMIT, Facts, Problem, Region
from vircpt.guestfiles.intervals import Intervals
from vircpt.guestfiles.paths import below, safe_name, split
from vircpt.guestfiles.source import Damaged, Source, read

_PATH_LIMIT = 1 << 16


class Sieve(NamedTuple):
    """Inodes of interest: those that were touched, and all directories, to get at their names."""

    wanted: set[int]
    directories: set[int]


class Tree(ABC):
    """A file system whose directories give names to inode numbers."""

    def __init__(self, source: Source, facts: Facts, root: int) -> None:
        self.source = source
        self.facts = facts
        self.problems: list[Problem] = []
        self._root = root
        self._mapped: tuple[int, int, list[Extent], list[int]] | None = None

    @abstractmethod
    def _entry(self, number: int, path: bytes) -> Entry:
        """The entry of an inode; raises Damaged."""

    @abstractmethod
    def _names(self, number: int, path: bytes) -> Iterable[tuple[int, bytes]]:
        """Inode numbers and names in a directory, without . and ..; raises Damaged."""

    @abstractmethod
    def _sieve(self, touched: Intervals) -> Sieve:
        """Which inodes have a byte of data or metadata in `touched`, and which are directories."""

    @abstractmethod
    def _map(self, entry: Entry) -> Iterable[Extent]:
        """The extents of a file, within its size."""

    def _contents(self, entry: Entry) -> bytes:
        """Contents that lie in no blocks of their own."""
        raise NotSupported("contents that can't be read", why=f"inode {entry.inode}")

    def _fold(self, name: bytes) -> bytes:
        """What two names have in common that mean the same file; empty if case matters."""
        return b""

    def used(self) -> int | None:
        """Bytes in use."""
        return self.facts.used

    def xattrs(self, entry: Entry) -> Mapping[bytes, bytes]:
        """None, unless the file system has them."""
        return {}

    def regions(self) -> Iterator[Region]:
        """None, unless the file system tells."""
        return iter(())

    def walk(self, touched: Intervals | None = None) -> Iterator[Entry]:
        """All entries, or those that are touched; parents before children."""
        sieve = None if touched is None else self._sieve(touched)
        if sieve is None or self._root in sieve.wanted:
            yield self._told(self._root, b"")
        stack = [(self._root, b"")]
        seen = {self._root}
        while stack:
            number, path = stack.pop()
            for child, name in self._names_told(number, path):
                place = below(path, name)
                entry: Entry | None
                if sieve is None:
                    entry = self._told(child, place)
                    is_directory = entry.kind is Kind.DIRECTORY
                else:
                    is_directory = child in sieve.directories
                    entry = self._told(child, place) if child in sieve.wanted else None
                if is_directory and not self._may_enter(child, place, seen):
                    continue
                if entry is not None:
                    yield entry
                if is_directory:
                    seen.add(child)
                    stack.append((child, place))

    def entry(self, path: bytes) -> Entry:
        """By path; symbolic links are not followed."""
        return self._entry(self._find(path), b"/".join(split(path)))

    def listdir(self, path: bytes) -> Iterator[Entry]:
        """What is in a directory."""
        number, path = self._find(path), b"/".join(split(path))
        if self._entry(number, path).kind is not Kind.DIRECTORY:
            raise NotSupported("no directory", why=repr(path))
        for child, name in self._names_told(number, path):
            yield self._told(child, below(path, name))

    def extents(self, entry: Entry) -> Iterator[Extent]:
        """Where contents lie, in order of file offset."""
        yield from self._mapping(entry)[0]

    def read(self, entry: Entry, offset: int, length: int) -> bytes:
        """Contents, shorter at the end of file."""
        end = min(offset + length, entry.size)
        if offset >= end:
            return b""
        extents, starts = self._mapping(entry)
        pieces: list[bytes] = []
        at = max(0, bisect_right(starts, offset) - 1)
        while offset < end:
            extent = extents[at] if at < len(extents) else None
            if extent is None or extent.offset > offset:  # a hole
                stop = min(end, extent.offset) if extent else end
                pieces.append(bytes(stop - offset))
            elif extent.offset + extent.length <= offset:
                stop = offset
                at += 1
            else:
                stop = min(end, extent.offset + extent.length)
                pieces.append(self._piece(entry, extent, offset, stop - offset))
            offset = stop
        return b"".join(pieces)

    def _piece(self, entry: Entry, extent: Extent, offset: int, length: int) -> bytes:
        if extent.zero:
            return bytes(length)
        if extent.place is None:
            return self._contents(entry)[offset : offset + length].ljust(length, b"\0")
        return read(self.source, extent.place + offset - extent.offset, length)

    def _mapping(self, entry: Entry) -> tuple[list[Extent], list[int]]:
        """Kept for the last file, because files are read piece by piece."""
        key = (entry.inode, entry.generation)
        if self._mapped is None or self._mapped[:2] != key:
            extents = sorted(self._map(entry), key=lambda extent: extent.offset)
            self._mapped = (*key, extents, [extent.offset for extent in extents])
        return self._mapped[2:]

    def _find(self, path: bytes) -> int:
        number, so_far = self._root, b""
        for name in split(path):
            folded = self._fold(name)
            for child, other in self._names_told(number, so_far):
                if other == name or (folded and self._fold(other) == folded):
                    number, so_far = child, below(so_far, name)
                    break
            else:
                raise NotFound(f"no {path!r} in this {self.facts.type} file system")
        return number

    def _names_told(self, number: int, path: bytes) -> list[tuple[int, bytes]]:
        try:
            return [(child, safe_name(name)) for child, name in self._names(number, path)]
        except (Damaged, struct.error) as error:
            self.tell(path, str(error))
            return []

    def _told(self, number: int, path: bytes) -> Entry:
        """The entry, or what is left of it: a name must not be missing because it is damaged."""
        try:
            return self._entry(number, path)
        except (Damaged, struct.error) as error:
            self.tell(path, str(error))
            return damaged_entry(number, path)

    def _may_enter(self, number: int, path: bytes, seen: set[int]) -> bool:
        if number in seen:
            self.tell(path, "a directory that is found in two places")
            return False
        if len(path) > _PATH_LIMIT:
            self.tell(path[:256], "a path too long: what is deeper is left out")
            return False
        return True

    def tell(self, path: bytes, why: str) -> None:
        """Note a problem, as long as there are not too many."""
        if len(self.problems) < PROBLEMS_LIMIT:
            self.problems.append(Problem(path, why))


def damaged_entry(number: int, path: bytes) -> Entry:
    """Of an inode of which nothing can be read."""
    return Entry(
        path,
        Kind.OTHER,
        number,
        generation=0,
        size=0,
        mode=0,
        uid=0,
        gid=0,
        nlink=1,
        mtime=None,
        ctime=None,
        atime=None,
        birth=None,
        data=(),
        metadata=(),
        traits=Trait.DAMAGED,
    )


def folded(name: bytes) -> bytes:
    """For file systems of Windows, where case does not matter."""
    return name.decode("utf-8", "surrogatepass").casefold().encode("utf-8", "surrogatepass")
