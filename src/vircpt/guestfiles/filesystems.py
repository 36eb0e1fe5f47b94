"""Opens the file system that stands in a volume."""

from __future__ import annotations

from vircpt.errors import NotSupported
from vircpt.guestfiles.filesystem import FileSystem
from vircpt.guestfiles.source import Source


def open_in(volume: Source, type_: str) -> FileSystem:
    """`type_` is that of the area's Content. Raises Damaged, NotSupported."""
    if type_ in ("ext2", "ext3", "ext4"):
        from vircpt.guestfiles.ext.filesystem import Ext

        return Ext(volume)
    raise NotSupported(f"no way to read {type_}")
