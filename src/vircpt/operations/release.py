"""End exports: their consumers, the job or the server, the watcher, everything on disk."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vircpt.errors import Busy, NotFound, VircptError, quoted
from vircpt.hypervisor import backups
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.interrupts import uninterrupted
from vircpt.operations import attachments, clones, consumers, ownership
from vircpt.records import exports as records
from vircpt.records.exports import Damaged, ExportDirectory


@dataclass(frozen=True)
class ReleasedExport:
    """An export that is gone; `was_running` is False if its job or server had died before.

    `guest_paused` if the guest stands still because one of its writes failed, as when the
    file system of the scratch files is full. `detached` names the consumers that were ended
    first.
    """

    id: str
    domain: str
    was_running: bool
    guest_paused: bool = False
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
    with records.locked(uuid, name, records.END_PATIENCE):
        found = records.of_domain(uuid)
        damaged = records.damaged_of(uuid)
        if not found and not damaged:
            _refuse_foreign(domain, name)
        return [
            *(end(connection, directory, force, limit, domain) for directory in found),
            *(
                _end_damaged(connection, one.stand_in(name), force, limit, domain)
                for one in damaged
            ),
        ]


def release_one(
    connection: Connection,
    export_id: str,
    *,
    force: bool = False,
    limit: float = attachments.LIMIT,
) -> ReleasedExport:
    """Release the export with that id; raises as `release` does."""
    directory = records.look(export_id)
    if isinstance(directory, Damaged):
        return _release_damaged(connection, directory, force, limit)
    record = directory.record
    with records.locked(record.uuid, record.domain, records.END_PATIENCE):
        return end(connection, directory, force, limit)


def release_expired(connection: Connection, directory: ExportDirectory) -> None:
    """Release an export whose time is over; raises Busy while a guest does not let it go."""
    release_one(connection, directory.record.id, force=True)


def release_abandoned(connection: Connection, directory: ExportDirectory) -> None:
    """Release an export whose owner has gone, and delete the checkpoint that came with it."""
    record = directory.record
    with records.locked(record.uuid, record.domain, records.END_PATIENCE):
        if not records.is_abandoned(directory):
            return
        end(connection, directory, force=True, limit=attachments.LIMIT)


def remove(domain: LibvirtDomain | None, directory: ExportDirectory, *, alive: bool) -> None:
    """End the job or the server if it is alive, and remove what it had.

    If its owner has gone, so does the checkpoint that was made for it: without the rest of
    what the owner was about to do it is worth nothing. The domain is locked.
    """
    record = directory.record
    lost = records.is_abandoned(directory)
    with uninterrupted():
        if alive and record.kind == "live" and domain is not None:
            backups.end(domain, lambda job: ownership.is_ours(job, directory))
        if domain is not None and lost and record.checkpoint and record.nonce is not None:
            from vircpt.operations import create  # most releases need it not

            with suppress(VircptError):  # it is shut off: the next backup looks for such
                create.undo(domain, record.checkpoint, record.nonce)
        ownership.stop_processes(directory)
        directory.remove()


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
    connection: Connection,
    directory: ExportDirectory,
    force: bool,
    limit: float,
    domain: LibvirtDomain | None = None,
) -> ReleasedExport:
    """As `release_one`, for callers that hold the lock of the export's domain.

    `domain`, if it has been looked up on that connection.
    """
    record = directory.record
    if domain is None or record.uri != connection.uri:
        domain = ownership.domain_of(connection, directory)
    alive = ownership.is_alive_on(domain, directory)
    nearby = domain.connection if domain else connection
    detached = _end_consumers(nearby, directory, alive, force, limit)
    remove(domain, directory, alive=alive)
    paused = record.kind == "live" and domain is not None and _is_stuck(domain)
    return ReleasedExport(record.id, record.domain, alive, paused, detached)


def _is_stuck(domain: LibvirtDomain) -> bool:
    try:
        return domain.is_stuck()
    except VircptError:  # it is about to end: that need not be told
        return False


def _end_consumers(
    connection: Connection, directory: ExportDirectory, alive: bool, force: bool, limit: float
) -> tuple[str, ...]:
    """The names of those that were ended; who reads from a dead export gets errors only."""
    clones.clear_dead(connection, directory.record.uuid)
    if alive and not force:
        consumers.refuse_used(connection, directory)
    names = [one.name for one in consumers.list_of(connection, directory) if one.alive]
    names += clones.stop_on(connection, directory.record.id)
    consumers.end_all(connection, directory, limit, others=alive and force)
    return tuple(names)


def _release_damaged(
    connection: Connection, one: Damaged, force: bool, limit: float
) -> ReleasedExport:
    if one.uuid is None:
        raise VircptError(
            f"the state of export {one.id} is damaged, and it is not known whose it is",
            why=one.why,
            hint=one.advice,
        )
    domain = domains.find(connection, one.uuid)
    name = domain.name if domain else one.uuid
    with records.locked(one.uuid, name, records.END_PATIENCE):
        return _end_damaged(connection, one.stand_in(name), force, limit, domain)


def _end_damaged(
    connection: Connection,
    directory: ExportDirectory,
    force: bool,
    limit: float,
    domain: LibvirtDomain | None,
) -> ReleasedExport:
    """Its job tells what its state does not: that it runs, and where its scratch files are."""
    job = backups.current(domain) if domain else None
    ours = job if job and ownership.looks_ours(job, directory) else None
    alive = ours is not None or ownership.is_served(directory)
    detached = _end_consumers(connection, directory, alive, force, limit)
    with uninterrupted():
        if ours and domain:
            backups.end(domain, lambda job: ownership.looks_ours(job, directory))
        ownership.stop_processes(directory)
        scratch = _scratch_of(ours, directory) if not connection.is_remote else None
        record = replace(directory.record, scratch_dir=scratch)
        replace(directory, record=record).remove()
    return ReleasedExport(record.id, record.domain, alive, detached=detached)


def _scratch_of(job: backups.BackupJob | None, directory: ExportDirectory) -> str | None:
    """The directory that was given with --scratch-dir."""
    for path in job.scratch_files if job else ():
        parent = Path(path).parent
        if parent.name == ownership.scratch_mark(directory):
            return str(parent.parent)
    return None


def _find(connection: Connection, name: str) -> tuple[LibvirtDomain | None, str]:
    """The domain, or if it has been undefined the UUID that its export was written down with."""
    try:
        domain = domains.lookup(connection, name)
    except NotFound:
        for one in records.list_all():
            if isinstance(one, Damaged):
                if one.uuid == name:
                    return None, name
            elif name in (one.record.domain, one.record.uuid):
                return None, one.record.uuid
        raise
    return domain, domain.uuid


def _refuse_foreign(domain: LibvirtDomain | None, name: str) -> None:
    job = backups.current(domain) if domain else None
    if job is not None:
        whose = ownership.others_note(job)
        whose_word = "ours" if whose else "vircpt's"
        raise Busy(
            f"the backup job of domain {name} is not {whose_word}",
            why=whose or "vircpt ends only what it started",
            domain=name,
            hint="release it as that user"
            if whose
            else "whoever started it should end it; if nobody does: "
            f"virsh domjobabort {quoted(name)}",
        )
    raise NotFound(f"domain {name} has no export", domain=name, hint="see vircpt exports")
