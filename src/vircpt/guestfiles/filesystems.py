"""Recognises and opens the file system that stands in a volume."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from vircpt.errors import NotSupported
from vircpt.guestfiles.filesystem import FileSystem
from vircpt.guestfiles.source import Source

_PARSERS = {
    "ext2": ("ext.filesystem", "Ext"),
    "ext3": ("ext.filesystem", "Ext"),
    "ext4": ("ext.filesystem", "Ext"),
    "ntfs": ("ntfs.filesystem", "Ntfs"),
    "xfs": ("xfs.filesystem", "Xfs"),
}


def recognise(raw: bytes) -> str | None:
    """The type of the file system by the first 72 KiB of its volume, None if it is none of
    those that are read here. ext4 stands for ext2 and ext3 as well."""
    if raw[0x438:0x43A] == b"\x53\xef":
        return "ext4"
    if raw[:4] == b"XFSB":
        return "xfs"
    if raw[3:11] == b"NTFS    ":
        return "ntfs"
    return None


def open_in(volume: Source, type_: str) -> FileSystem:
    """`type_` is that of the area's Content. Raises Damaged, NotSupported."""
    if type_ not in _PARSERS:
        raise NotSupported(f"no way to read {type_}")
    module, name = _PARSERS[type_]
    parser: Callable[[Source], FileSystem] = getattr(
        import_module(f"vircpt.guestfiles.{module}"), name
    )
    return parser(volume)
