"""Throw-away overlays: qcow2 files on the disks of an export, for one consumer alone.

The consumer writes to the overlay and reads through it from the export, which stays as it is.
The file belongs to the user that QEMU runs as, in a directory that is root's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from vircpt.blocks import images
from vircpt.errors import NotSupported, VircptError
from vircpt.hypervisor.connection import Owner
from vircpt.operations.reading import ExportedDisk
from vircpt.records.consumers import Consumer


def make(consumer: Consumer, disks: Iterable[ExportedDisk], owner: Owner | None) -> None:
    """Make the overlay of each disk, at `consumer.overlay(target)`."""
    for disk in disks:
        refuse(disk)
        path = consumer.overlay(disk.target)
        try:
            handle = consumer.make_file(path.name, owner)
        except OSError as error:
            raise VircptError(f"cannot make {path}", why=str(error.strerror)) from error
        try:
            images.format_overlay(handle, disk.uri, disk.size())
        finally:
            os.close(handle)


def refuse(disk: ExportedDisk) -> None:
    """Raise NotSupported if there can be no overlay on that disk."""
    if disk.tls:
        raise NotSupported(
            "no overlay can be made on an export over TLS",
            why="QEMU's tools have no URI for that",
            disk=disk.target,
            hint="attach it read-only, or export on a Unix socket",
        )
