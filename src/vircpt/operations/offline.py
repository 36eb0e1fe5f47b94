"""Serve the disks of a shut-off domain: its images, read-only, by a storage daemon."""

from __future__ import annotations

import os

from vircpt.blocks import images, storage_daemon
from vircpt.errors import BrokenChain, NotSupported
from vircpt.hypervisor.backups import bitmap_name
from vircpt.hypervisor.domain import Disk, DomainFacts
from vircpt.records.exports import DiskRecord, ExportDirectory


def serve(directory: ExportDirectory, facts: DomainFacts) -> None:
    """Start the daemon for the export in `directory`.

    Raises BrokenChain if a bitmap is absent or in use, NotSupported for images that are
    not files or block devices of this host.
    """
    record = directory.record
    served = [_image(facts.disk(one.target), one) for one in record.disks]
    endpoint = storage_daemon.Endpoint(
        socket=None if record.port else directory.socket,
        address=record.address,
        port=record.port,
        tls_dir=record.tls_dir,
    )
    storage_daemon.start(directory.server_mark, endpoint, served)
    _hand_over(directory)


def _image(disk: Disk, record: DiskRecord) -> storage_daemon.Served:
    if disk.source is None or disk.source_type not in ("file", "block"):
        raise NotSupported(
            f"disk {disk.target} can't be exported while the domain is shut off",
            why=f"it is of type {disk.source_type}: no file or block device of this host",
            disk=disk.target,
            hint="start the domain, or leave the disk out with --exclude",
        )
    if record.since:
        _check_bitmap(disk.source, disk, record.since)
    return storage_daemon.Served(
        name=disk.target,
        path=disk.source,
        format=disk.format,
        is_block_device=disk.source_type == "block",
        since=record.since,
        bitmap=bitmap_name(disk.target) if record.since else None,
    )


def _check_bitmap(path: str, disk: Disk, name: str) -> None:
    stored = {one.name: one for one in images.info(path, disk.format).bitmaps}
    bitmap = stored.get(name)
    if bitmap is None or bitmap.in_use or not bitmap.enabled:
        raise BrokenChain(
            f"the bitmap of checkpoint {name} on disk {disk.target} is missing or broken",
            why=_what_is_wrong(path, bitmap),
            checkpoint=name,
            disk=disk.target,
            hint="export in full (without --name), or from another checkpoint",
        )


def _what_is_wrong(path: str, bitmap: images.StoredBitmap | None) -> str:
    if bitmap is None:
        return f"{path} holds no bitmap of that name"
    if bitmap.in_use:
        return "it was not closed properly, as after a crash of QEMU"
    return "it is disabled: it does not know what was written lately"


def is_spread(disk: Disk, bitmap: str) -> bool:
    """True if images below the disk's hold bitmaps of that name, too: after an external
    snapshot libvirt spreads what changed over the chain."""
    if disk.format != "qcow2" or disk.source is None or disk.source_type not in ("file", "block"):
        return False
    below = images.chain(disk.source, disk.format)[1:]
    return any(one.name == bitmap for image in below for one in image.bitmaps)


def _hand_over(directory: ExportDirectory) -> None:
    """Let QEMU's user connect as well: the export may be attached to another domain."""
    owner = (directory.path / "io").stat()
    if os.geteuid() == 0 and directory.socket.is_socket():
        os.chown(directory.socket, owner.st_uid, owner.st_gid, follow_symlinks=False)
