"""Disk images with real file systems in them: made by mkfs, written by the kernel or by FUSE.

Loop devices and mounts need root, and a mount namespace of one's own (tests/lab/enter).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class ImageSource:
    """An image file as a Source of guestfiles."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._map)
        self.bytes_read = 0

    def pread(self, length: int, offset: int) -> bytes:
        """As Source."""
        self.bytes_read += length
        raw = self._map[offset : offset + length]
        assert len(raw) == length, "beyond the end of the image"
        return raw


def run(*command: str | Path, **more: str) -> str:
    """A tool's output; an assertion with what it said if it failed."""
    done = subprocess.run(
        [str(one) for one in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **more},
        timeout=120,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Recipe:
    """How an image is made: `mkfs` gets the image's path as last argument."""

    name: str
    type: str
    mkfs: tuple[str, ...]
    size: int
    options: str = ""
    """Of mount; for NTFS and exFAT of their FUSE programs."""

    @property
    def is_unix(self) -> bool:
        """It keeps owners, modes, devices, names of any bytes."""
        return self.type in ("ext2", "ext3", "ext4", "xfs", "btrfs")


_MIB = 1 << 20
RECIPES = (
    Recipe("ext4", "ext4", ("mke2fs", "-q", "-F", "-t", "ext4"), 256 * _MIB),
    Recipe(
        "ext4-inline",
        "ext4",
        ("mke2fs", "-q", "-F", "-t", "ext4", "-O", "inline_data", "-I", "512"),
        256 * _MIB,
    ),
    Recipe(
        "ext4-bigalloc", "ext4", ("mke2fs", "-q", "-F", "-t", "ext4", "-O", "bigalloc"), 512 * _MIB
    ),
    Recipe(
        "ext4-1k",
        "ext4",
        ("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum,ea_inode"),
        128 * _MIB,
    ),
    Recipe(
        "ext4-meta-bg",
        "ext4",
        ("mke2fs", "-q", "-F", "-t", "ext4", "-I", "128", "-O", "meta_bg,^resize_inode"),
        128 * _MIB,
    ),
    Recipe("ext3", "ext3", ("mke2fs", "-q", "-F", "-t", "ext3"), 128 * _MIB),
    Recipe("ext2", "ext2", ("mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024"), 128 * _MIB),
    Recipe("xfs", "xfs", ("mkfs.xfs", "-q", "-f"), 512 * _MIB),
    Recipe(
        "xfs-small",
        "xfs",
        ("mkfs.xfs", "-q", "-f", "-m", "bigtime=0,reflink=0", "-i", "size=1024", "-s", "size=4096"),
        512 * _MIB,
    ),
    Recipe("btrfs", "btrfs", ("mkfs.btrfs", "-q", "-f"), 256 * _MIB),
    Recipe("btrfs-zlib", "btrfs", ("mkfs.btrfs", "-q", "-f"), 256 * _MIB, "compress-force=zlib"),
    Recipe("btrfs-lzo", "btrfs", ("mkfs.btrfs", "-q", "-f"), 256 * _MIB, "compress-force=lzo"),
    Recipe("btrfs-zstd", "btrfs", ("mkfs.btrfs", "-q", "-f"), 256 * _MIB, "compress-force=zstd"),
    Recipe(
        "btrfs-old",
        "btrfs",
        ("mkfs.btrfs", "-q", "-f", "-m", "single", "-n", "4096", "-O", "^no-holes"),
        256 * _MIB,
    ),
    Recipe("ntfs", "ntfs", ("mkntfs", "-q", "-F", "-f"), 64 * _MIB, "streams_interface=xattr"),
    Recipe(
        "ntfs-compressed",
        "ntfs",
        ("mkntfs", "-q", "-F", "-f", "-c", "4096"),
        64 * _MIB,
        "compression,streams_interface=xattr",
    ),
    Recipe("ntfs-64k", "ntfs", ("mkntfs", "-q", "-F", "-f", "-c", "65536"), 128 * _MIB),
    Recipe("exfat", "exfat", ("mkfs.exfat",), 128 * _MIB),
)


def make(recipe: Recipe, path: Path) -> Path:
    """An empty file system."""
    with path.open("xb") as image:
        image.truncate(recipe.size)
    run(*recipe.mkfs, path)
    return path


@contextlib.contextmanager
def loop(path: Path, read_only: bool = False) -> Iterator[str]:
    """A loop device for an image."""
    device = run("losetup", "--find", "--show", *(["-r"] if read_only else []), path).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(recipe: Recipe, path: Path, where: Path, read_only: bool = False) -> Iterator[Path]:
    """The file system, mounted in a directory."""
    where.mkdir(exist_ok=True)
    options = ",".join(filter(None, ["ro" if read_only else "rw", recipe.options]))
    with loop(path) as device:
        if recipe.type == "ntfs":
            run("ntfs-3g", "-o", options, device, where)
        elif recipe.type == "exfat":
            run("mount.exfat-fuse", "-o", options, device, where)
        else:
            run("mount", "-t", recipe.type, "-o", options, device, where)
        try:
            yield where
        finally:
            run("umount", where)
