"""Serve the disks of a shut-off domain: its images, read-only, by a QEMU without a machine."""

from __future__ import annotations

import os
import pwd

from vircpt.blocks import headers
from vircpt.blocks.headers import StoredBitmap
from vircpt.blocks.image_server import Endpoint, ImageServer, User
from vircpt.errors import BrokenChain, VircptError
from vircpt.hypervisor.backups import bitmap_name
from vircpt.hypervisor.domain import Disk, DomainFacts
from vircpt.operations import chain
from vircpt.operations.chain import Chain
from vircpt.records.exports import ExportDirectory
from vircpt.records.state import DiskRecord

_PROGRAM = "qemu-system-x86_64"


def serve(directory: ExportDirectory, facts: DomainFacts) -> None:
    """Start the server for the export in `directory`.

    Raises BrokenChain if a bitmap is absent or in use, NotSupported for images that are
    not files or block devices of this host, or that QEMU could not read.
    """
    record = directory.record
    endpoint = Endpoint(
        socket=None if record.port else directory.socket,
        address=record.address,
        port=record.port,
        tls_dir=record.tls_dir,
    )
    user = _user(directory)
    program = facts.emulator or _PROGRAM
    with ImageServer(program, directory.server_mark, directory.server_log, user) as server:
        for one in record.disks:
            _open(server, facts, one, user)
        server.listen(endpoint)
        for one in record.disks:
            server.export(one.target, bitmap_name(one.target) if one.since else None)
        server.keep()


def _user(directory: ExportDirectory) -> User | None:
    """Who QEMU runs as, to whom the directory was given; None if that is us."""
    owner = directory.owner
    if os.geteuid() != 0 or owner.st_uid == 0:
        return None
    try:
        groups = os.getgrouplist(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    except KeyError:
        groups = [owner.st_gid]
    return User(owner.st_uid, owner.st_gid, tuple(groups))


def _open(server: ImageServer, facts: DomainFacts, one: DiskRecord, user: User | None) -> None:
    with chain.opened(server, facts.disk(one.target), user) as found:
        if one.since:
            _check_bitmap(found, one.target, one.since)
        server.open(one.target, found.layers)
        if one.since:
            server.add_bitmap(one.target, one.since, bitmap_name(one.target))


def _check_bitmap(found: Chain, target: str, name: str) -> None:
    stored = {one.name: one for one in found.headers[0].bitmaps}
    path = found.layers[0].path
    why = _what_is_wrong(path, stored.get(name))
    if why is None and any(one.name == name for low in found.headers[1:] for one in low.bitmaps):
        why = "it is spread over a chain of images, as after an external snapshot"
    if why is not None:
        raise _broken(target, name, why)


def check_stored(disk: Disk, name: str) -> None:
    """Raise BrokenChain if the image's own header says that the bitmap is of no use.

    For a plan, which opens no chain; what can't be read is told when it is served.
    """
    if disk.source is None:
        return
    try:
        found = headers.read(disk.source, disk.format).bitmaps
    except VircptError:
        return
    why = _what_is_wrong(disk.source, {one.name: one for one in found}.get(name))
    if why is not None:
        raise _broken(disk.target, name, why)


def _broken(target: str, name: str, why: str) -> BrokenChain:
    return BrokenChain(
        f"the bitmap of checkpoint {name} on disk {target} is missing or broken",
        why=why,
        checkpoint=name,
        disk=target,
        hint="export in full (without --name), or from another checkpoint",
    )


def _what_is_wrong(path: str, bitmap: StoredBitmap | None) -> str | None:
    if bitmap is None:
        return f"{path} holds no bitmap of that name"
    if bitmap.in_use:
        return "it was not closed properly, as after a crash of QEMU"
    return None if bitmap.enabled else "it is disabled: it does not know what was written lately"
