"""Delete checkpoints, never the one that a running export is based on."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vircpt import names
from vircpt.errors import Busy, NotSupported
from vircpt.hypervisor import backups, checkpoints
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations import inspect
from vircpt.records import exports as records


class Scope(enum.Enum):
    """What goes: the checkpoint alone, with all its descendants, or only those."""

    ONE = "one"
    WITH_CHILDREN = "children"
    CHILDREN_ONLY = "children-only"


@dataclass(frozen=True)
class Deletion:
    """Checkpoints that are, or would be, deleted; `metadata_only` leaves their bitmaps."""

    domain: str
    checkpoints: tuple[str, ...]
    metadata_only: bool


def plan(domain: LibvirtDomain, name: str, scope: Scope, metadata_only: bool) -> Deletion:
    """What `delete` would delete; raises what it raises."""
    names.check_lookup(name)
    checkpoints.read(domain, name)
    below = inspect.descendant_names(domain, name)
    doomed = {
        Scope.ONE: [name],
        Scope.WITH_CHILDREN: [name, *below],
        Scope.CHILDREN_ONLY: below,
    }[scope]
    _refuse_bases(domain, doomed)
    if not metadata_only and doomed and not domain.is_active():
        raise NotSupported(
            "checkpoints of a domain that is not running can't be deleted",
            why="libvirt has the running QEMU remove the bitmaps",
            domain=domain.name,
            checkpoint=name,
            hint=f"start it first: virsh start {domain.name}; or forget the checkpoint and leave "
            "its bitmap in the image with --metadata",
        )
    return Deletion(domain.name, tuple(doomed), metadata_only)


def delete(domain: LibvirtDomain, name: str, scope: Scope, metadata_only: bool) -> Deletion:
    """Delete; the children of a checkpoint deleted alone move to its parent.

    Raises NotFound, Busy if a running export is based on one of them, NotSupported if the
    domain is not running (but for `metadata_only`).
    """
    names.check_lookup(name)
    with records.locked(domain.uuid, domain.name):
        planned = plan(domain, name, scope, metadata_only)
        if planned.checkpoints:
            checkpoints.delete(
                domain,
                name,
                children=scope is Scope.WITH_CHILDREN,
                children_only=scope is Scope.CHILDREN_ONLY,
                metadata_only=metadata_only,
            )
    return planned


def _refuse_bases(domain: LibvirtDomain, doomed: list[str]) -> None:
    """libvirt would allow it, and the export could not be told from a broken one."""
    job = backups.current(domain)
    bases = set(job.bases) if job else set()
    for directory in records.of_domain(domain.uuid):
        server = directory.record.server
        if server and server.alive() and directory.record.base:
            bases.add(directory.record.base)
    used = [one for one in doomed if one in bases]
    if used:
        raise Busy(
            f"checkpoint {used[0]} is the base of a running export",
            domain=domain.name,
            checkpoint=used[0],
            hint=f"release it first: vircpt -d {domain.name} release",
        )
