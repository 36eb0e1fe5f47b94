"""Recognises and opens the file system that stands in a volume."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from vircpt.errors import NotSupported
from vircpt.guestfiles.fat import fat
from vircpt.guestfiles.filesystem import FileSystem
from vircpt.guestfiles.source import Source

_PARSERS = {
    "btrfs": ("btrfs.filesystem", "Btrfs"),
    "ext2": ("ext.filesystem", "Ext"),
    "ext3": ("ext.filesystem", "Ext"),
    "ext4": ("ext.filesystem", "Ext"),
    "exfat": ("fat.exfat", "Exfat"),
    "fat12": ("fat.fat", "Fat"),
    "fat16": ("fat.fat", "Fat"),
    "fat32": ("fat.fat", "Fat"),
    "ntfs": ("ntfs.filesystem", "Ntfs"),
    "xfs": ("xfs.filesystem", "Xfs"),
}


_MAGICS = (
    ("xfs", 0, b"XFSB"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("ext4", 0x438, b"\x53\xef"),
)


def recognise(raw: bytes) -> str | None:
    """The type of the file system by the first 72 KiB of its volume, None if it is none of
    those that are read here. ext4 stands for ext2 and ext3 as well, fat32 for all FAT."""
    for type_, offset, magic in _MAGICS:
        if raw.startswith(magic, offset):
            return type_
    return "fat32" if fat.looks_like(raw) else None


def open_in(volume: Source, type_: str) -> FileSystem:
    """`type_` is that of the area's Content. Raises Damaged, NotSupported."""
    if type_ not in _PARSERS:
        raise NotSupported(f"no way to read {type_}")
    module, name = _PARSERS[type_]
    parser: Callable[[Source], FileSystem] = getattr(
        import_module(f"vircpt.guestfiles.{module}"), name
    )
    return parser(volume)
