"""Delete checkpoints, never the one that a running export is based on."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vircpt.errors import BrokenChain, Busy, NotSupported, VircptError, quoted
from vircpt.hypervisor import backups, checkpoints
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations import inspect, jobs, ownership
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
            hint=f"start it first: virsh start {quoted(domain.name)}; or forget the checkpoint "
            "and leave "
            "its bitmap in the image with --metadata",
        )
    return Deletion(domain.name, tuple(doomed), metadata_only)


def delete(domain: LibvirtDomain, name: str, scope: Scope, metadata_only: bool) -> Deletion:
    """Delete; the children of a checkpoint deleted alone move to its parent.

    A checkpoint whose bitmaps are all gone is forgotten without looking for them. Raises
    NotFound, Busy if a running export is based on it, NotSupported if the domain is not
    running (but for `metadata_only`), BrokenChain if some of its bitmaps are gone.
    """
    with records.locked(domain.uuid, domain.name):
        jobs.refuse(domain, but_backups=True)
        planned = plan(domain, name, scope, metadata_only)
        # One by one, youngest first: libvirt 9.0's own deletion of a whole branch leaves a
        # broken tree if one of them fails, and its daemon dies at the next listing.
        gone: list[str] = []
        for one in reversed(planned.checkpoints):
            try:
                delete_one(domain, one, metadata_only=metadata_only)
            except VircptError as error:
                if gone:
                    error.add_note(f"deleted before it: {', '.join(gone)}")
                raise
            gone.append(one)
    return planned


def delete_one(domain: LibvirtDomain, name: str, *, metadata_only: bool = False) -> None:
    """Delete one checkpoint; one whose bitmaps are all gone is forgotten. The domain is locked."""
    try:
        checkpoints.delete(domain, name, metadata_only=metadata_only)
    except BrokenChain as error:
        lost = (inspect.Health.MISSING, inspect.Health.NO_DISK)
        if all(disk.health in lost for disk in inspect.checkpoint(domain, name).disks):
            checkpoints.delete(domain, name, metadata_only=True)
            return
        raise BrokenChain(
            f"checkpoint {name} can't be deleted with its bitmaps",
            why=error.why,
            domain=domain.name,
            checkpoint=name,
            hint="have libvirt forget it, and leave its other bitmaps in the images: "
            f"vircpt -d {quoted(domain.name)} delete --name {name} --metadata",
        ) from error


def _refuse_bases(domain: LibvirtDomain, doomed: list[str]) -> None:
    """libvirt would allow it, and the export could not be told from a broken one."""
    job = backups.current(domain)
    bases = set(job.bases) if job else set()
    for directory in records.of_domain(domain.uuid):
        if directory.record.base and ownership.is_alive(domain.connection, directory):
            bases.add(directory.record.base)
    for one in ownership.damaged_that_live(domain):
        raise Busy(
            f"export {one.id} of the domain runs, and its state is damaged",
            why=f"which checkpoint it is based on is not known ({one.why})",
            domain=domain.name,
            hint=f"release it first: vircpt -d {quoted(domain.name)} release",
        )
    used = [one for one in doomed if one in bases]
    if used:
        raise Busy(
            f"checkpoint {used[0]} is the base of a running export",
            domain=domain.name,
            checkpoint=used[0],
            hint=f"release it first: vircpt -d {quoted(domain.name)} release",
        )
