"""End exports: their consumers, the job or the server, the watcher, everything on disk."""

from __future__ import annotations

from dataclasses import dataclass

from vircpt.errors import Busy, NotFound, quoted
from vircpt.hypervisor import backups
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.interrupts import uninterrupted
from vircpt.operations import attachments, clones, consumers, ownership
from vircpt.records import exports as records
from vircpt.records.exports import Damaged, ExportDirectory

PATIENCE = 30.0
"""Seconds to wait for another vircpt: an export must not stay because of a `create`."""


@dataclass(frozen=True)
class ReleasedExport:
    """An export that is gone; `was_running` is False if its job or server had died before.

    `detached` names the consumers that were ended first.
    """

    id: str
    domain: str
    was_running: bool
    detached: tuple[str, ...] = ()


def release(
    connection: Connection, name: str, *, force: bool = False, limit: float = attachments.LIMIT
) -> list[ReleasedExport]:
    """Release the export of domain `name`; what a dead one left is removed as well.

    With `force` its consumers are ended first: guests get `limit` seconds to let disks go.
    Raises NotFound if there is none, Busy if it is in use (unless `force`), if a guest does
    not let go, or if the job that runs there is not ours.
    """
    domain, uuid = _find(connection, name)
    with records.locked(uuid, name, PATIENCE):
        found = records.of_domain(uuid)
        if not found:
            _refuse_foreign(domain, name)
        return [end(connection, directory, force, limit) for directory in found]


def release_one(
    connection: Connection,
    export_id: str,
    *,
    force: bool = False,
    limit: float = attachments.LIMIT,
) -> ReleasedExport:
    """Release the export with that id; raises as `release` does."""
    directory = records.read(export_id)
    record = directory.record
    with records.locked(record.uuid, record.domain, PATIENCE):
        return end(connection, directory, force, limit)


def release_expired(connection: Connection, directory: ExportDirectory) -> None:
    """Release an export whose time is over; raises Busy while a guest does not let it go."""
    release_one(connection, directory.record.id, force=True)


def end_unused(connection: Connection, directory: ExportDirectory) -> bool:
    """End an export that was made for consumers of which none is left; True if that was so.

    Whoever calls holds the lock of its domain.
    """
    record = directory.record
    if record.purpose is None or consumers.written(directory) or clones.on_export(record.id):
        return False
    try:
        end(connection, directory, force=False, limit=0)
    except Busy:  # attached by hand as well
        return False
    return True


def end(
    connection: Connection, directory: ExportDirectory, force: bool, limit: float
) -> ReleasedExport:
    """As `release_one`, for callers that hold the lock of the export's domain."""
    record = directory.record
    alive = ownership.is_alive(connection, directory)
    domain = ownership.domain_of(connection, directory)
    nearby = domain.connection if domain else connection
    clones.clear_dead(nearby, record.uuid)
    if alive and not force:
        consumers.refuse_used(nearby, directory)
    names = [one.name for one in consumers.list_of(nearby, directory) if one.alive]
    names += clones.stop_on(nearby, record.id)
    consumers.end_all(nearby, directory, limit, others=alive and force)
    with uninterrupted():
        if alive and record.kind == "live" and domain is not None:
            backups.end(domain, lambda job: ownership.is_ours(job, directory))
        ownership.stop_processes(directory)
        directory.remove()
    return ReleasedExport(record.id, record.domain, alive, tuple(names))


def _find(connection: Connection, name: str) -> tuple[LibvirtDomain | None, str]:
    """The domain, or if it has been undefined the UUID that its export was written down with."""
    try:
        domain = domains.lookup(connection, name)
    except NotFound:
        for one in records.list_all():
            if not isinstance(one, Damaged) and name in (one.record.domain, one.record.uuid):
                return None, one.record.uuid
        raise
    return domain, domain.uuid


def _refuse_foreign(domain: LibvirtDomain | None, name: str) -> None:
    job = backups.current(domain) if domain else None
    if job is not None:
        raise Busy(
            f"the backup job of domain {name} is not vircpt's",
            why="vircpt ends only what it started",
            domain=name,
            hint="whoever started it should end it; if nobody does: "
            f"virsh domjobabort {quoted(name)}",
        )
    raise NotFound(f"domain {name} has no export", domain=name, hint="see vircpt exports")
