"""A running export put together for people: sizes, changed bytes, useful commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vircpt.errors import VircptError
from vircpt.operations.commands import UsefulCommand, useful_commands
from vircpt.operations.reading import ExportedDisk


@dataclass(frozen=True)
class DiskDetails:
    """A disk of an export; sizes in bytes, None if it can't be read from here.

    `why_full` says why it is exported in full though changes since a checkpoint were
    asked for, `unreadable` why size and changed bytes are not known.
    """

    target: str
    uri: str
    size: int | None
    changed: int | None
    bitmap: str | None
    since: str | None
    why_full: str | None
    unreadable: str | None
    commands: tuple[UsefulCommand, ...]


def describe(disk: ExportedDisk, why_full: Mapping[str, str | None], index: int) -> DiskDetails:
    """The details of one disk; reads its dirty map."""
    size = changed = unreadable = None
    try:
        totals = disk.totals()
        size, changed = totals.size, totals.dirty
    except VircptError as error:
        unreadable = str(error)
    return DiskDetails(
        target=disk.target,
        uri=disk.uri,
        size=size,
        changed=changed,
        bitmap=disk.bitmap,
        since=disk.since,
        why_full=why_full.get(disk.target),
        unreadable=unreadable,
        commands=tuple(useful_commands(disk, size, index)),
    )
