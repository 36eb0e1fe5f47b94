"""What FAT and exFAT have in common: directory slots stand for inodes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vircpt.guestfiles.entries import Entry, Extent, Kind, Trait
from vircpt.guestfiles.fat.chains import Piece, Table
from vircpt.guestfiles.filesystem import Facts, Region
from vircpt.guestfiles.intervals import Intervals, Run
from vircpt.guestfiles.source import Cached, Damaged, Source
from vircpt.guestfiles.tree import Sieve, Tree, folded

ROOT = 0
LOCAL_TIME = 14 * 3600 * 1_000_000_000 + 2_000_000_000
"""Nanoseconds: times are the guest's local ones, and its time zone is not known."""
_DIRECTORY_LIMIT = 256 << 20


class Slot(NamedTuple):
    """What a directory says of one file. `number` is where its first slot that is not a part
    of the name lies in the volume, divided by 32. Times are nanoseconds, `valid` is how many
    bytes were ever written."""

    number: int
    name: bytes
    is_directory: bool
    read_only: bool
    first: int
    size: int
    valid: int
    contiguous: bool
    mtime: int | None
    atime: int | None
    birth: int | None
    slots: tuple[Run, ...]


class FatLike(Tree):
    """A file system whose directories hold all there is to know of files."""

    cluster: int
    """Bytes."""
    heap: int
    """Where cluster 2 lies."""
    clusters: int
    table: Table
    root_slot: Slot

    def __init__(self, source: Source, facts: Facts) -> None:
        super().__init__(source, facts, ROOT)
        self.cache = Cached(source, chunk=1 << 16, chunks=256)
        self._files: dict[int, Slot] = {}
        self._directories: dict[int, Slot] = {}

    @abstractmethod
    def _parse(self, slot: Slot, path: bytes) -> Iterator[Slot]:
        """The slots of a directory; tells problems."""

    def walk(self, touched: Intervals | None = None) -> Iterator[Entry]:
        """As FileSystem; all directories have to be read in any case."""
        for entry in super().walk():
            if (
                touched is None
                or entry.traits & Trait.DAMAGED
                or touched.touches_any(entry.metadata)
                or touched.touches_any(entry.data)
            ):
                yield entry

    def _fold(self, name: bytes) -> bytes:
        return folded(name)

    def _sieve(self, touched: Intervals) -> Sieve:
        raise NotImplementedError("walk needs none")

    def used(self) -> int | None:
        """From the table or the map of clusters."""
        try:
            return self.table.used() * self.cluster
        except Damaged:
            return None

    def _slot(self, number: int) -> Slot:
        """Of the directory that was read last, or of one seen before."""
        if number == ROOT:
            return self.root_slot
        found = self._files.get(number) or self._directories.get(number)
        if found is None:
            raise Damaged(f"no file at {32 * number}")
        return found

    def _names(self, number: int, path: bytes) -> Iterable[tuple[int, bytes]]:
        slot = self._slot(number)
        found = list(self._parse(slot, path))
        # of directories all are kept, because their turn comes later
        self._files = {one.number: one for one in found}
        self._directories.update((one.number, one) for one in found if one.is_directory)
        return [(one.number, one.name) for one in found]

    def _pieces(self, slot: Slot) -> tuple[list[Piece], bool]:
        """The clusters of a file, and whether the chain is damaged."""
        if not slot.first:
            return [], slot.size > 0
        if slot.contiguous:
            length = -(-slot.size // self.cluster)
            fits = slot.first >= 2 and slot.first + length <= self.clusters + 2
            return ([Piece(slot.first, length)], False) if fits else ([], True)
        pieces: list[Piece] = []
        try:
            pieces.extend(self.table.pieces(slot.first))
        except Damaged:
            return pieces, True
        return pieces, False

    def _run(self, piece: Piece) -> Run:
        place = self.heap + (piece.first - 2) * self.cluster
        return Run(place, piece.length * self.cluster)

    def _data(self, slot: Slot) -> tuple[list[Run], list[Run], bool]:
        """Runs of contents and of the table, and whether the chain is damaged."""
        pieces, damaged = self._pieces(slot)
        chain = [] if slot.contiguous else [self.table.run(piece) for piece in pieces]
        return [self._run(piece) for piece in pieces], chain, damaged

    def _entry(self, number: int, path: bytes) -> Entry:
        slot = self._slot(number)
        data, chain, damaged = self._data(slot)
        kind = Kind.DIRECTORY if slot.is_directory else Kind.FILE
        mode = 0o40755 if slot.is_directory else 0o100444 if slot.read_only else 0o100644
        traits = Trait.DAMAGED if damaged else Trait.NONE
        if slot.valid < slot.size and not slot.is_directory:
            traits |= Trait.UNWRITTEN
        return Entry(
            path,
            kind,
            number,
            0,
            sum(run.length for run in data) if slot.is_directory else slot.size,
            mode,
            0,
            0,
            1,
            slot.mtime,
            None,
            slot.atime,
            slot.birth,
            tuple(data),
            (*slot.slots, *chain),
            None,
            None,
            traits,
        )

    def _map(self, entry: Entry) -> Iterable[Extent]:
        offset = 0
        valid = self._valid(entry)
        for place, length in entry.data:
            stop = min(offset + length, entry.size)
            written = max(offset, min(stop, valid))
            if written > offset:
                yield Extent(offset, written - offset, place, False)
            if stop > written:
                yield Extent(written, stop - written, None, True)
            offset = stop

    def _valid(self, entry: Entry) -> int:
        return entry.size

    def _directory_bytes(self, slot: Slot) -> Iterator[tuple[int, bytes]]:
        """Place and bytes of each piece of a directory."""
        total = 0
        runs, _, _ = self._data(slot)
        for place, length in runs:
            for at in range(place, place + length, 1 << 20):
                count = min(1 << 20, place + length - at)
                total += count
                if total > _DIRECTORY_LIMIT:
                    raise Damaged("a directory too large")
                yield at, self.cache.pread(count, at)

    def regions(self) -> Iterator[Region]:
        """All before the first cluster."""
        yield Region("superblock", Run(0, self.heap))
