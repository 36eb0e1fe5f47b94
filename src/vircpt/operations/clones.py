"""Clones that were made: which are dead, and how what they had is removed."""

from __future__ import annotations

from vircpt.hypervisor import clone_domain
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.interrupts import uninterrupted
from vircpt.records import clones as records
from vircpt.records.clones import CloneDirectory


def on_export(export_id: str) -> bool:
    """True if a clone that is written down reads from that export."""
    return bool(records.on_export(export_id))


def stop_on(connection: Connection, export_id: str) -> list[str]:
    """End all clones that read from an export; the names of those that ran.

    Whoever calls holds the original's lock.
    """
    with uninterrupted():
        return [one.record.name for one in records.on_export(export_id) if remove(connection, one)]


def clear_dead(connection: Connection, original_uuid: str) -> None:
    """Remove what is left of clones that have ended, or whose test was killed.

    Whoever calls holds the original's lock: none is being made.
    """
    records.sweep(original_uuid)
    for directory in records.of_original(original_uuid):
        if not is_alive(connection, directory):
            with uninterrupted():
                remove(connection, directory)


def is_alive(connection: Connection, directory: CloneDirectory) -> bool:
    """True if it runs, and belongs to nobody or to a vircpt that lives."""
    if directory.record.test and not directory.is_owned():
        return False
    return domain_of(connection, directory) is not None


def domain_of(connection: Connection, directory: CloneDirectory) -> LibvirtDomain | None:
    """The clone as it runs, on the libvirt that it was started through; None if it has ended."""
    record = directory.record
    if record.uri != connection.uri:
        connection = Connection(record.uri, connection.credentials)
    return domains.find(connection, record.uuid)


def remove(connection: Connection, directory: CloneDirectory) -> bool:
    """End a clone and remove what it had; True if it ran. Idempotent; leaves exports alone."""
    domain = domain_of(connection, directory)
    if domain is not None:
        clone_domain.destroy(domain)
    directory.remove()
    return domain is not None
