"""The consumers of an export, of whichever kind: who they are, whether they live, how they end.

Each kind has a module with three functions: `is_alive(connection, consumer)`,
`place(consumer)`, which names it for people, and `end(connection, consumer, limit)`, which
returns when nothing of it reads any more, or raises Busy. What a consumer had on disk is
removed here. Whoever ends consumers holds the lock of the export's domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vircpt.errors import Busy, quoted
from vircpt.hypervisor.connection import Connection
from vircpt.operations import attachments
from vircpt.records import clones
from vircpt.records import consumers as records
from vircpt.records.consumers import Consumer, ConsumerDisk
from vircpt.records.exports import ExportDirectory

_HOMES = {"hotadd": "attachments", "mount": "mounts"}


@dataclass(frozen=True)
class ConsumerStatus:
    """A consumer; `alive` is False if its domain or process has gone: only files are left."""

    id: str
    kind: str
    alive: bool
    name: str
    domain: str | None
    place: str | None
    disks: tuple[ConsumerDisk, ...]


def written(directory: ExportDirectory) -> list[Consumer]:
    """The consumers that are written down and can be read."""
    return [one for one in records.of_export(directory) if isinstance(one, Consumer)]


def list_of(connection: Connection, directory: ExportDirectory) -> list[ConsumerStatus]:
    """The consumers of an export, and what became of them."""
    return [status(connection, one) for one in written(directory)]


def status(connection: Connection, consumer: Consumer) -> ConsumerStatus:
    """What became of a consumer."""
    record, kind = consumer.record, _kind(consumer)
    return ConsumerStatus(
        id=record.id,
        kind=record.kind,
        alive=kind.is_alive(connection, consumer),
        name=kind.place(consumer),
        domain=record.domain,
        place=record.place,
        disks=record.disks,
    )


def refuse_used(connection: Connection, directory: ExportDirectory) -> None:
    """Raise Busy, naming who, if somebody reads from the export: a consumer, or by hand."""
    ours = written(directory)
    alive = [one for one in ours if _kind(one).is_alive(connection, one)]
    others = attachments.foreign(connection, str(directory.socket), ours, None)
    if not alive and not others:
        return
    names = [_describe(one) for one in alive]
    names += [f"disk {one.target} of domain {one.domain.name}" for one in others]
    record = directory.record
    raise Busy(
        f"export {record.id} is in use",
        why=f"by {', '.join(names)}, who would get I/O errors",
        domain=record.domain,
        hint=f"end that first: {_how_to_end(record.domain, alive, others)}; or have all of it "
        f"ended: vircpt -d {quoted(record.domain)} release --force",
    )


def end_all(
    connection: Connection, directory: ExportDirectory, limit: float, *, others: bool
) -> None:
    """End all consumers; with `others` also what was attached by hand. Raises Busy."""
    ours = written(directory)
    for consumer in ours:
        end(connection, consumer, limit)
    if others:
        for one in attachments.foreign(connection, str(directory.socket), ours, None):
            if one.alias:
                attachments.detach(one.domain, [one.alias], limit)


def end(connection: Connection, consumer: Consumer, limit: float) -> None:
    """End one consumer, and remove what it had; raises Busy if it can't be ended."""
    _kind(consumer).end(connection, consumer, limit)
    consumer.remove()


def _kind(consumer: Consumer) -> Any:
    return import_module(f"vircpt.operations.{_HOMES[consumer.record.kind]}")


def _describe(consumer: Consumer) -> str:
    record = consumer.record
    if record.kind == "hotadd":
        targets = ", ".join(disk.target or "" for disk in record.disks)
        return f"disk {targets} of domain {record.domain}"
    return f"the {record.kind} {_kind(consumer).place(consumer)}"


def _how_to_end(domain: str, alive: list[Consumer], others: list[attachments.Attachment]) -> str:
    if not alive and any(one.record.uuid == others[0].domain.uuid for one in clones.find(domain)):
        return f"vircpt -d {quoted(domain)} boot --stop"
    if not alive:
        return f"virsh detach-disk {quoted(others[0].domain.name)} {others[0].target} --live"
    record = alive[0].record
    if record.kind == "hotadd":
        return f"vircpt -d {quoted(domain)} hotremove --from {quoted(record.domain or '')}"
    return f"vircpt umount {quoted(record.place or '')}"
