"""Checkpoint definitions kept outside of libvirt, and brought back when it has lost them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from vircpt.errors import BrokenChain, InvalidInput, NotFound, VircptError, quoted
from vircpt.hypervisor import checkpoints
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.interrupts import uninterrupted
from vircpt.operations import jobs
from vircpt.records import exports as records
from vircpt.records import metadata as saved
from vircpt.records.metadata import SavedDefinition, SavedSet


@dataclass(frozen=True)
class SavedMetadata:
    """The checkpoints whose definitions were written into `directory`."""

    domain: str
    directory: str
    checkpoints: tuple[str, ...]


@dataclass(frozen=True)
class RestoredMetadata:
    """The checkpoints that libvirt knows again, and those that it knew already."""

    domain: str
    restored: tuple[str, ...]
    present: tuple[str, ...]
    validated: bool


def save(domain: LibvirtDomain, directory: Path) -> SavedMetadata:
    """Write the definitions of all checkpoints into a new directory.

    Raises NotFound if the domain has none, InvalidInput if the directory is there already.
    """
    with records.locked(domain.uuid, domain.name):
        found = tuple(
            SavedDefinition(
                one.name, one.parent, checkpoints.read_xml(domain, one.name, with_domain=True)
            )
            for one in checkpoints.list_all(domain)
        )
    if not found:
        raise NotFound(f"domain {domain.name} has no checkpoints", domain=domain.name)
    saved.write(directory, SavedSet(domain.name, domain.uuid, time.time(), found))
    return SavedMetadata(domain.name, str(directory), tuple(one.name for one in found))


def restore(domain: LibvirtDomain, directory: Path, *, validate: bool = True) -> RestoredMetadata:
    """Bring back what libvirt does not know; all of it, or nothing.

    With `validate` (the domain must run) libvirt looks for each bitmap. Raises InvalidInput
    if the directory is not whole or belongs to another domain, BrokenChain if a bitmap is
    missing.
    """
    found = saved.read(directory)
    if found.uuid != domain.uuid:
        raise InvalidInput(
            f"{directory} holds the checkpoints of another domain",
            why=f"they are of {found.domain} with UUID {found.uuid}",
            domain=domain.name,
        )
    for one in found.definitions:
        _check(one, found.uuid)
    with records.locked(domain.uuid, domain.name):
        jobs.refuse(domain, but_backups=True)
        known = checkpoints.names(domain)
        missing = [one for one in found.definitions if one.name not in known]
        _redefine(domain, missing, validate and domain.is_active())
    return RestoredMetadata(
        domain.name,
        tuple(one.name for one in missing),
        tuple(one.name for one in found.definitions if one.name in known),
        validate and domain.is_active(),
    )


def _check(one: SavedDefinition, uuid: str) -> None:
    """The XML must say what the manifest says: libvirt believes the XML."""
    identity = checkpoints.parse_identity(one.xml)
    if (identity.name, identity.parent) != (one.name, one.parent) or identity.uuid != uuid:
        raise InvalidInput(
            f"the definition of checkpoint {one.name} is not what its manifest says",
            why=f"it is that of {identity.name!r}",
        )


def _redefine(domain: LibvirtDomain, missing: list[SavedDefinition], validate: bool) -> None:
    done: list[str] = []
    try:
        for one in missing:
            done.append(one.name)  # before: who is cut off does not know whether it was done
            checkpoints.redefine(domain, one.xml, validate=validate)
    except BaseException as error:
        with uninterrupted():
            for name in reversed(done):
                _forget(domain, name)
        if isinstance(error, BrokenChain):
            error.hint = (
                "the bitmaps that libvirt finds can be brought back one by one, with vircpt -d "
                f"{quoted(domain.name)} redefine FILE; see also vircpt doctor"
            )
        raise


def _forget(domain: LibvirtDomain, name: str) -> None:
    try:
        checkpoints.delete(domain, name, metadata_only=True)
    except (NotFound, VircptError):
        return  # it had not come to it, or libvirt is gone; the first error is the one to tell
