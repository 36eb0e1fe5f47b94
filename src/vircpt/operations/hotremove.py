"""Detach from a domain what `hotadd` attached to it; an export made for that purpose goes, too."""

from __future__ import annotations

from dataclasses import dataclass

from vircpt.errors import NotFound
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.operations import attachments, consumers, release
from vircpt.records import exports as records
from vircpt.records.consumers import Consumer
from vircpt.records.exports import ExportDirectory


@dataclass(frozen=True)
class Hotremoved:
    """A consumer that is gone; sizes none, names only.

    `was_attached` is False if its domain had ended, or had let the disks go, before;
    `released` if the export went with it.
    """

    export: str
    domain: str
    came_from: str
    targets: tuple[str, ...]
    was_attached: bool
    released: bool


def hotremove(
    connection: Connection,
    name: str,
    source: str | None = None,
    limit: float = attachments.LIMIT,
) -> list[Hotremoved]:
    """Detach the disks of domain `source`, or of all, from domain `name`.

    Returns when they are gone. Raises NotFound if nothing is attached there, Busy if the
    guest does not let a disk go within `limit` seconds: then all that it holds stays.
    """
    uuid = _uuid(connection, name)
    removed = []
    for directory in _exports(source):
        with records.locked(directory.record.uuid, directory.record.domain, records.END_PATIENCE):
            removed += [
                _remove(connection, directory, one, limit)
                for one in consumers.written(directory)
                if one.record.kind == "hotadd" and _is(one, name, uuid, connection.uri)
            ]
            if not removed and source is not None:
                removed += _left_over(connection, directory, name)
    if not removed:
        _sweep(connection, source)
        of = f" of domain {source}" if source else ""
        raise NotFound(
            f"nothing{of} is attached to domain {name} by vircpt", domain=name,
            hint="see vircpt exports",
        )  # fmt: skip
    return removed


def _remove(
    connection: Connection, directory: ExportDirectory, consumer: Consumer, limit: float
) -> Hotremoved:
    was_attached = attachments.is_alive(connection, consumer)
    consumers.end(connection, consumer, limit)
    record = consumer.record
    return Hotremoved(
        export=directory.record.id,
        domain=record.domain or "",
        came_from=directory.record.domain,
        targets=tuple(disk.target or "" for disk in record.disks),
        was_attached=was_attached,
        released=release.end_unused(connection, directory),
    )


def _left_over(connection: Connection, directory: ExportDirectory, name: str) -> list[Hotremoved]:
    """An export that was made to be attached, by a vircpt that was killed before it did that."""
    record = directory.record
    if record.purpose != "hotadd" or not release.end_unused(connection, directory):
        return []
    return [Hotremoved(record.id, name, record.domain, (), was_attached=False, released=True)]


def _sweep(connection: Connection, source: str | None) -> None:
    """Taking the lock removes what a vircpt left that was killed while it made an export."""
    if source is not None:
        domain = domains.lookup(connection, source)
        with records.locked(domain.uuid, domain.name, records.END_PATIENCE):
            pass


def _exports(source: str | None) -> list[ExportDirectory]:
    return [
        one
        for one in records.list_all()
        if isinstance(one, ExportDirectory)
        and (source is None or source in (one.record.domain, one.record.uuid))
    ]


def _is(consumer: Consumer, name: str, uuid: str | None, uri: str) -> bool:
    """True if it is that domain's; on another host names are all there is to go by."""
    record = consumer.record
    if uuid is not None and record.uri == uri:
        return record.uuid == uuid
    return name in (record.domain, record.uuid)


def _uuid(connection: Connection, name: str) -> str | None:
    """The domain's; None if it is known from what was written down only."""
    try:
        return domains.lookup(connection, name).uuid
    except NotFound:
        for directory in _exports(None):
            if any(_is(one, name, None, "") for one in consumers.written(directory)):
                return None
        raise
