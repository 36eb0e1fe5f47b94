"""End clones, and the exports that were made for them."""

from __future__ import annotations

from dataclasses import dataclass

from vircpt.errors import NotFound
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.interrupts import uninterrupted
from vircpt.operations import clones, release
from vircpt.records import clones as records
from vircpt.records import exports
from vircpt.records.clones import CloneDirectory


@dataclass(frozen=True)
class StoppedClone:
    """A clone that is gone; `was_running` is False if it had ended before.

    `released` is the id of the export that went with it, if one did.
    """

    name: str
    original: str
    was_running: bool
    released: str | None


def stop(connection: Connection, name: str) -> list[StoppedClone]:
    """End the clones of a domain, or the clone of that name, and all that they had.

    Raises NotFound if there is none.
    """
    found = records.find(name)
    if not found:
        found = records.of_original(domains.lookup(connection, name).uuid)
    if not found:
        raise NotFound(f"domain {name} has no clone", domain=name)
    return [stop_one(connection, directory) for directory in found]


def stop_one(connection: Connection, directory: CloneDirectory) -> StoppedClone:
    """End a clone, and the export that was made for it, if nobody else reads from that."""
    record = directory.record
    with (
        exports.locked(record.original_uuid, record.original, exports.END_PATIENCE),
        uninterrupted(),
    ):
        ran = clones.remove(connection, directory)
    return StoppedClone(
        record.name, record.original, ran, release_unused(connection, record.export)
    )


def release_unused(connection: Connection, export_id: str | None) -> str | None:
    """Release an export that was made for a purpose, if nobody reads from it any more; its id."""
    if export_id is None:
        return None
    try:
        directory = exports.read(export_id)
    except NotFound:
        return None
    record = directory.record
    with exports.locked(record.uuid, record.domain, exports.END_PATIENCE):
        return export_id if release.end_unused(connection, directory) else None
