"""Where an export is attached: disks of other domains that read from it over NBD."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from vircpt.errors import Busy, NotFound, quoted
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.records.exports import ExportDirectory


@dataclass(frozen=True)
class Attachment:
    """A disk of a domain that reads from an export's socket."""

    domain: str
    target: str
    socket: str


def find_all(connection: Connection) -> list[Attachment]:
    """All disks of running domains that are read over NBD from a Unix socket, or lie on one."""
    found = []
    for domain in domains.list_domains(connection, active=True):
        with suppress(NotFound):  # it has gone since it was listed
            disks = domain.facts().disks
            found += [
                Attachment(domain.name, disk.target, socket)
                for disk in disks
                for socket in disk.nbd_sockets
            ]
    return found


def refuse_attached(connection: Connection, directory: ExportDirectory) -> None:
    """Raise Busy, naming where, if the export is attached to a domain."""
    here = [one for one in find_all(connection) if one.socket == str(directory.socket)]
    if here:
        places = ", ".join(f"disk {one.target} of domain {one.domain}" for one in here)
        raise Busy(
            f"export {directory.record.id} is attached",
            why=f"to {places}, whose guest would get I/O errors",
            domain=directory.record.domain,
            hint=f"detach it first: virsh detach-disk {quoted(here[0].domain)} {here[0].target}",
        )
