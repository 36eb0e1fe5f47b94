"""Which jobs and processes are ours: vircpt ends only what it started."""

from __future__ import annotations

import os
import re

from vircpt.hypervisor import backups
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations import processes
from vircpt.records import exports as records
from vircpt.records.exports import Damaged, ExportDirectory

WATCHER = "vircpt.operations.expire"
"""The module that the process runs which releases an export at its end."""


def scratch_mark(directory: ExportDirectory) -> str:
    """What the names of an export's scratch files hold on remote hosts."""
    return f"vircpt-{directory.record.id}"


def is_ours(job: backups.BackupJob, directory: ExportDirectory) -> bool:
    """True if the running backup job is the one of that export: by its socket or scratch files."""
    if job.listen.socket:
        return job.listen.socket == str(directory.socket)
    if directory.record.remote:
        return any(scratch_mark(directory) in path for path in job.scratch_files)
    ours = f"{directory.scratch}{os.sep}"
    return any(path.startswith(ours) for path in job.scratch_files)


def looks_ours(job: backups.BackupJob, directory: ExportDirectory) -> bool:
    """The same without trusting the state of the export, which may be damaged."""
    mark = scratch_mark(directory)
    inside = f"{directory.path}{os.sep}"
    return job.listen.socket == str(directory.socket) or any(
        path.startswith(inside) or mark in path for path in job.scratch_files
    )


def others_note(job: backups.BackupJob) -> str | None:
    """Whose it is, if its socket is that of a vircpt whose records are not ours to see."""
    socket = job.listen.socket
    if socket is None or not re.search(r"/exports/[0-9a-f]{8}/io/nbd\.sock\Z", socket):
        return None
    return f"a vircpt of another user, or with another VIRCPT_STATE_DIR, started it ({socket})"


def job_is_ours(domain: LibvirtDomain, directory: ExportDirectory) -> bool:
    """True if the backup job that runs on the domain now is that export's."""
    job = backups.current(domain)
    return job is not None and is_ours(job, directory)


def is_served(directory: ExportDirectory) -> bool:
    """True if a server of ours serves the export of a shut-off domain."""
    from vircpt.blocks import image_server

    words = image_server.marked(directory.server_mark)
    return bool(processes.find(*words, owner=_server_owner(directory)))


def is_alive(connection: Connection, directory: ExportDirectory) -> bool:
    """True if the export is served still, says the libvirt that it was started through.

    Raises HostUnreachable if that libvirt can't be asked.
    """
    if directory.record.kind == "offline":
        return is_served(directory)
    return is_alive_on(domain_of(connection, directory), directory)


def is_alive_on(domain: LibvirtDomain | None, directory: ExportDirectory) -> bool:
    """The same, if the domain has been looked up already."""
    if directory.record.kind == "offline":
        return is_served(directory)
    return domain is not None and job_is_ours(domain, directory)


def damaged_that_live(domain: LibvirtDomain) -> list[Damaged]:
    """Exports of the domain that are served, though their state is damaged."""
    found = []
    for one in records.damaged_of(domain.uuid):
        directory = one.stand_in(domain.name)
        job = backups.current(domain)
        if is_served(directory) or (job is not None and looks_ours(job, directory)):
            found.append(one)
    return found


def domain_of(connection: Connection, directory: ExportDirectory) -> LibvirtDomain | None:
    """The export's domain on the libvirt that it was started through; None if it has gone.

    Another URI may know no such domain, or a copy of it, which tells nothing.
    """
    record = directory.record
    return domains.find(connected_to(connection, record.uri), record.uuid)


def connected_to(connection: Connection, uri: str) -> Connection:
    """This connection, or if it leads elsewhere another one with the same credentials."""
    return connection if connection.uri == uri else Connection(uri, connection.credentials)


def stop_processes(directory: ExportDirectory) -> None:
    """End the export's watcher and its server, if they live."""
    from vircpt.blocks import image_server

    processes.end(WATCHER, directory.record.id)
    words = image_server.marked(directory.server_mark)
    processes.end(*words, owner=_server_owner(directory))


def _server_owner(directory: ExportDirectory) -> int | None:
    """The server runs as QEMU's user."""
    try:
        return directory.owner.st_uid
    except FileNotFoundError:
        return None
