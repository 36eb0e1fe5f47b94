"""What every file system offers: the interface between parsers and those who use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from vircpt.guestfiles.entries import Entry, Extent
from vircpt.guestfiles.intervals import Intervals, Run

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Facts:
    """What a file system says of itself; sizes in bytes."""

    type: str
    """ext2, ext3, ext4, xfs, btrfs, ntfs, fat12, fat16, fat32, exfat"""
    label: str
    uuid: str
    """As blkid writes it: a UUID, or the serial number of NTFS, FAT and exFAT."""
    size: int
    used: int | None
    """None if it takes reading to know: see FileSystem.used."""
    block_size: int
    dirty_journal: str | None = None
    """Why the journal needs replay, or why the file system was not unmounted; None if clean.
    With it what is read is crash-consistent: some of the last changes may not show yet."""
    time_margin: int = SECOND // 10
    """Nanoseconds by which the times of files are too coarse or too unsure to be compared."""
    moves_data: bool = False
    """Rewrites data elsewhere without a change of the file (btrfs balance, defragmenters)."""


class Problem(NamedTuple):
    """Something that could not be read: a path (or b"") or structure, and why."""

    path: bytes
    why: str


class Region(NamedTuple):
    """Blocks that belong to the file system itself: `kind` such as "journal", "inodes"."""

    kind: str
    run: Run


class FileSystem(Protocol):
    """A file system that is read. Methods raise Damaged, NotFound or NotSupported (errors.py);
    all is read when asked for, nothing is kept but caches of bounded size."""

    @property
    def facts(self) -> Facts:
        """Read when it was opened."""

    @property
    def problems(self) -> list[Problem]:
        """What could not be read so far, at most PROBLEMS_LIMIT; grows while walking."""

    def used(self) -> int | None:
        """Bytes in use; reads the maps of free blocks where there is no counter."""

    def walk(self, touched: Intervals | None = None) -> Iterator[Entry]:
        """All entries, root included, parents before children; with `touched` (bytes of the
        volume) only those of which a byte of data or metadata lies in it. What is damaged is
        left out and told in `problems`, or yielded with Trait.DAMAGED where something is known."""

    def entry(self, path: bytes) -> Entry:
        """By path; symbolic links are not followed. Raises NotFound."""

    def listdir(self, path: bytes) -> Iterator[Entry]:
        """What is in a directory, without itself. Raises NotFound, NotSupported if it is none."""

    def extents(self, entry: Entry) -> Iterator[Extent]:
        """Where contents lie, in order of file offset, for copies that keep holes."""

    def read(self, entry: Entry, offset: int, length: int) -> bytes:
        """Contents, shorter at the end of file; zeroes for holes; decompressed."""

    def xattrs(self, entry: Entry) -> Mapping[bytes, bytes]:
        """Extended attributes by full name (user.x, security.selinux); empty if none."""

    def regions(self) -> Iterator[Region]:
        """Blocks of the file system itself, for the map; in no order."""


PROBLEMS_LIMIT = 1000
DEPTH_LIMIT = 1024
"""Directories in directories; no deeper path can be made by a guest's system calls easily."""
