"""Findings put right, one at a time; each repair can be cut off anywhere and done again."""

from __future__ import annotations

from vircpt.blocks import headers, images
from vircpt.errors import BrokenChain, NotFound, NotSupported, VircptError, quoted
from vircpt.hypervisor import checkpoints
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations import delete, jobs, release
from vircpt.operations.doctor.findings import Action, Finding, Repair
from vircpt.records import exports as records


def carry_out(connection: Connection, finding: Finding) -> None:
    """Do what the finding's repair says. Raises VircptError if it can't be done."""
    repair = finding.repair
    if repair is None:
        raise NotSupported(f"there is no repair for {finding.id} but by hand", hint=finding.advice)
    if repair.action is Action.RELEASE:
        release.release_one(connection, repair.export or "")
    elif repair.action is Action.TIDY:
        with records.locked(repair.uuid or "", finding.domain or "?"):
            pass  # who takes the lock removes what is unfinished
    else:
        domain = domains.lookup(connection, finding.domain or "")
        _on_domain(domain, repair)


def _on_domain(domain: LibvirtDomain, repair: Repair) -> None:
    if repair.action is Action.DROP_CHECKPOINT:
        _drop(domain, repair.checkpoint or "")
        return
    with records.locked(domain.uuid, domain.name):
        jobs.refuse(domain)
        if repair.action is Action.REMOVE_BITMAP:
            _remove_bitmap(domain, repair.disk or "", repair.bitmap or "")
        else:
            _redefine(domain)


def _drop(domain: LibvirtDomain, name: str) -> None:
    """Delete the checkpoint, and its bitmaps where they are.

    While the domain is shut off the bitmaps go first: cut off half-way, the checkpoint is
    still there to be found.
    """
    try:
        covered = checkpoints.read(domain, name).disks
    except NotFound:
        return  # another finding's repair has dropped it
    if not domain.is_active():
        with records.locked(domain.uuid, domain.name):
            for disk in covered:
                _remove_stored(domain, disk.target, disk.bitmap)
        delete.delete(domain, name, delete.Scope.ONE, metadata_only=True)
        return
    try:
        delete.delete(domain, name, delete.Scope.ONE, metadata_only=False)
    except BrokenChain:  # some of its bitmaps are gone; libvirt then removes none
        delete.delete(domain, name, delete.Scope.ONE, metadata_only=True)
        with records.locked(domain.uuid, domain.name):
            for disk in covered:
                _adopt_and_delete(domain, disk.target, disk.bitmap)


def _remove_bitmap(domain: LibvirtDomain, target: str, bitmap: str) -> None:
    for one in checkpoints.list_all(domain):
        if one.name == bitmap and one.is_leftover:  # we were killed before
            checkpoints.delete(domain, bitmap, metadata_only=not domain.is_active())
    if not domain.is_active():
        _remove_stored(domain, target, bitmap)
    elif bitmap in checkpoints.names(domain):
        raise NotSupported(
            f"bitmap {bitmap} of disk {target} can't be removed while the domain runs",
            why="a checkpoint of that name covers other disks",
            domain=domain.name,
            disk=target,
            hint=f"delete the checkpoint (vircpt -d {quoted(domain.name)} delete --name "
            f"{quoted(bitmap)}), or shut the domain down first",
        )
    elif not _adopt_and_delete(domain, target, bitmap):
        raise BrokenChain(
            f"bitmap {bitmap} of disk {target} can't be removed while the domain runs",
            why="QEMU does not have it, or it is damaged",
            domain=domain.name,
            disk=target,
            hint="shut the domain down, and run the doctor again",
        )


def _remove_stored(domain: LibvirtDomain, target: str, bitmap: str) -> None:
    facts = domain.facts()
    disk = next((one for one in facts.disks if one.target == target), None)
    if disk is None or disk.format != "qcow2":
        return
    if domain.connection.is_remote or disk.source is None or disk.source_type == "network":
        raise NotSupported(
            f"the image of disk {target} can't be changed from here",
            domain=domain.name,
            disk=target,
            hint="run the doctor on the host that has it",
        )
    if any(one.name == bitmap for one in headers.read(disk.source, disk.format).bitmaps):
        images.remove_bitmap(disk.source, bitmap)


def _adopt_and_delete(domain: LibvirtDomain, target: str, bitmap: str) -> bool:
    """Have libvirt remove a bitmap that it does not know: as a checkpoint, defined and deleted.

    QEMU could be told directly, but that would taint the domain. False if libvirt finds no
    such bitmap. Cut off between the two calls a checkpoint remains, which can be deleted.
    """
    definition = checkpoints.build_leftover_xml(bitmap, target)
    try:
        checkpoints.redefine(domain, definition, validate=True)
    except BrokenChain:
        try:  # a damaged bitmap does not pass as valid, but can be deleted
            checkpoints.redefine(domain, definition, validate=False)
            checkpoints.delete(domain, bitmap)
        except VircptError:
            checkpoints.delete(domain, bitmap, metadata_only=True)
            return False
        return True
    checkpoints.delete(domain, bitmap)
    return True


def _redefine(domain: LibvirtDomain) -> None:
    """Define each checkpoint as it is: libvirt writes it to disk then."""
    for one in checkpoints.list_all(domain):
        definition = checkpoints.read_xml(domain, one.name, with_domain=True)
        checkpoints.redefine(domain, definition, validate=False)
