"""What is known of one file: the facts that every file system yields alike."""

from __future__ import annotations

from enum import IntFlag, StrEnum
from typing import NamedTuple

from vircpt.guestfiles.intervals import Run


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "fifo"
    SOCKET = "socket"
    OTHER = "other"
    """Something else, such as a reparse point of Windows or a whiteout; it has no contents."""


_BY_MODE = {
    0o01: Kind.FIFO,
    0o02: Kind.CHARACTER_DEVICE,
    0o04: Kind.DIRECTORY,
    0o06: Kind.BLOCK_DEVICE,
    0o10: Kind.FILE,
    0o12: Kind.SYMLINK,
    0o14: Kind.SOCKET,
}


def kind_of(mode: int) -> Kind:
    """From the type bits of a Unix mode."""
    return _BY_MODE.get(mode >> 12 & 0o17, Kind.OTHER)


class Trait(IntFlag):
    """What is peculiar about an entry."""

    NONE = 0
    INLINE = 1
    """Contents (also) lie inside `metadata`: ext4 inline data, NTFS resident, XFS local."""
    COMPRESSED = 2
    ENCRYPTED = 4
    """Contents can't be read; where they lie is known."""
    UNWRITTEN = 8
    """Some of `data` is allocated, reads as zeroes and may never have been written."""
    SHARED = 16
    """Some of `data` may belong to other files as well (reflink, deduplication)."""
    DAMAGED = 32
    """Could not be read in full: facts or runs are missing. Take it as touched if in doubt."""
    UNSUPPORTED = 64
    """Contents are stored in a way that is not read here; runs are still right."""


class Entry(NamedTuple):
    """One name in a file system. A file with several names yields one entry for each.

    Times are nanoseconds since 1970 UTC, None where the file system keeps none. `data` and
    `metadata` are bytes of the volume. Everything that, if it changes, may change this entry
    is in one of both: never less, sometimes more.
    """

    path: bytes
    """From the root of the file system, without a leading slash; b"" is the root itself.
    As stored for Unix file systems; UTF-8 (surrogates kept) for NTFS, FAT and exFAT."""
    kind: Kind
    inode: int
    generation: int
    """Tells one inode from a later one of the same number; 0 where there is none.
    (inode, generation) is the identity of a file within its file system."""
    size: int
    mode: int
    """Unix mode with type bits; made up (0o100644, 0o40755, ...) where the system has none."""
    uid: int
    gid: int
    nlink: int
    mtime: int | None
    ctime: int | None
    """Last change of inode, which no program of the guest can set (NTFS: it can)."""
    atime: int | None
    birth: int | None
    data: tuple[Run, ...]
    """Where contents lie; for a directory, its blocks of names."""
    metadata: tuple[Run, ...]
    """Inode or record, blocks of its extent tree, extended attributes, and so on."""
    target: bytes | None = None
    """Of a symbolic link."""
    device: tuple[int, int] | None = None
    """Major and minor number of a device."""
    traits: Trait = Trait.NONE


class Extent(NamedTuple):
    """A piece of a file's contents. What no extent covers reads as zeroes.

    `place` is the offset in the volume; None if it reads as zeroes though allocated, or if
    the bytes have to be asked of `FileSystem.read` (inline, compressed).
    """

    offset: int
    length: int
    place: int | None
    zero: bool
