"""Findings about vircpt's exports, what dead ones left, and the place for their scratch files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vircpt.errors import quoted
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection, Owner
from vircpt.operations import exports
from vircpt.operations.doctor.facts import Picture
from vircpt.operations.doctor.findings import Action, Finding, Repair, Safety
from vircpt.operations.exports import ExportState, ExportStatus
from vircpt.records import directories
from vircpt.records import exports as records
from vircpt.units import format_duration, format_size

_HOUR = 3600.0


def find(connection: Connection, only: str | None) -> Iterator[Finding]:
    """Of all exports on this host, or of those of domain `only`."""
    for one in exports.list_exports(connection):
        if only is None or one.domain in (only, None):
            yield from judge(one)
    yield from _unfinished(connection, only)


def judge(one: ExportStatus) -> Iterator[Finding]:
    """What the state of an export tells. Pure."""
    if one.state is ExportState.DEAD:
        yield Finding(
            "dead-export",
            f"The guest, its QEMU or the server of export {one.id} died before it was released.",
            "Its socket, scratch files and directory are still there.",
            f"vircpt -d {quoted(one.domain or '')} release",
            one.domain,
            repair=Repair(
                Action.RELEASE, Safety.SAFE, f"remove what export {one.id} left", export=one.id
            ),
        )
    elif one.state is ExportState.DAMAGED:
        directory = quoted(str(directories.base() / "exports" / (one.id or "")))
        yield Finding(
            "damaged-export",
            f"The state of export {one.id} can't be read: {one.note or 'it is damaged'}.",
            "vircpt knows neither its disks nor its end; it may run still.",
            f"vircpt -d {quoted(one.domain)} release"
            if one.domain
            else f"if virsh domjobinfo shows no backup job on any domain: rm -r {directory}",
            one.domain,
        )
    elif one.state is ExportState.FOREIGN:
        since = f" since {_ago(one.created)}" if one.created else ""
        yield Finding(
            "foreign-job",
            f"Another program runs a backup job{since}, on {', '.join(one.disks) or 'no disk'}.",
            "vircpt can't export the domain meanwhile, and never ends a job that is not its own.",
            "whoever started it should end it; if nobody does: virsh domjobabort "
            f"{quoted(one.domain or '')}",
            one.domain,
        )


def _ago(moment: float) -> str:
    import time

    return f"{format_duration(max(0.0, time.time() - moment))} ago"


def _unfinished(connection: Connection, only: str | None) -> Iterator[Finding]:
    for uuid, path in records.unfinished():
        domain = domains.find(connection, uuid)
        name = domain.name if domain else None
        if only is not None and name != only:
            continue
        yield Finding(
            "unfinished-export",
            f"vircpt was killed while it made or removed an export: {path.name} is left.",
            "It takes space, and does no other harm.",
            "vircpt doctor --fix; the next vircpt command on the domain removes it as well",
            name,
            repair=Repair(Action.TIDY, Safety.SAFE, f"remove {path}", uuid=uuid),
        )


def of_scratch(connection: Connection, pictures: Sequence[Picture]) -> Iterator[Finding]:
    """What stands in the way of scratch files: permissions, space."""
    if connection.is_remote:
        return
    top = directories.base()
    owner = connection.qemu_owner() if os.geteuid() == 0 else None
    blocked = _unreachable(top, owner) if owner else None
    if blocked:
        yield Finding(
            "scratch-unreachable",
            f"QEMU's user ({owner.uid if owner else '?'}) may not pass through {blocked}.",
            f"Exports fail: socket and scratch files stand below {top}.",
            f"chmod o+x {quoted(str(blocked))}, or set VIRCPT_STATE_DIR to another directory",
        )
    try:
        free = _free(top)
    except OSError:
        return
    for picture in pictures:
        wanted = hourly_change(picture)
        if picture.domain.is_active and wanted > free:
            yield Finding(
                "scratch-small",
                f"{format_size(free)} are free below {top}, and the domain writes about "
                f"{format_size(wanted)} an hour.",
                "An export keeps the old content of what the guest overwrites there. When it is "
                "full the guest's writes fail, and libvirt pauses it.",
                "free some space, or use --scratch-dir on a larger file system",
                picture.domain.name,
            )


def hourly_change(picture: Picture) -> int:
    """Bytes that the domain writes in an hour, as its newest checkpoint tells; 0 if none does.
    Of a checkpoint younger than that it is what was written since. Pure but for the clock."""
    import time

    sized = [
        one
        for one in picture.checkpoints
        if one.disks and all(disk.size is not None for disk in one.disks)
    ]
    if not sized:
        return 0
    newest = max(sized, key=lambda one: one.created)
    changed = sum(disk.size or 0 for disk in newest.disks)
    return int(changed * _HOUR / max(_HOUR, time.time() - newest.created))


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _unreachable(path: Path, owner: Owner) -> Path | None:
    """The directory on the way to `path` that this user may not pass through."""
    for one in [*reversed(path.parents), path]:
        try:
            status = one.stat()
        except OSError:
            return None
        bits = status.st_mode & 0o001
        if status.st_uid == owner.uid:
            bits = status.st_mode & 0o100
        elif status.st_gid == owner.gid:
            bits = status.st_mode & 0o010
        if not bits and owner.uid != 0:
            return one
    return None
