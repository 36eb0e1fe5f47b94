"""Checkpoints in libvirt: their XML, and the calls that make, read and delete them.

A checkpoint that vircpt made says so in its description, whose last line is a mark such as
`[vircpt vda=10737418240]`, with the size of each disk in bytes: of a disk that has grown since,
the bitmap says that the new part is clean. The mark travels with the checkpoint through
redefinition, migration and other tools, and people see it in `virsh checkpoint-dumpxml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import libvirt

from vircpt.errors import BrokenChain, InvalidInput, NotFound
from vircpt.hypervisor import xml
from vircpt.hypervisor.domain import LibvirtDomain, parse_disks
from vircpt.hypervisor.translate import code, translated
from vircpt.names import check_lookup


class CheckpointDisk(NamedTuple):
    """A disk that a checkpoint covers, in bytes, None for what is not known.

    `size` is what was written since, `capacity` the size of the disk when it was made.
    """

    target: str
    bitmap: str
    size: int | None = None
    capacity: int | None = None


class Checkpoint(NamedTuple):
    """A checkpoint as libvirt describes it; `created` in seconds since 1970."""

    name: str
    description: str
    ours: bool
    parent: str | None
    created: int
    disks: tuple[CheckpointDisk, ...]
    nonce: int | None = None
    """Tells the checkpoint of one `create` from that of another, by the same name."""

    @property
    def is_leftover(self) -> bool:
        """A bitmap's stand-in (`build_leftover_xml`) that was not deleted: vircpt was killed."""
        return self.created == 0 and self.description == LEFTOVER

    def disk(self, target: str) -> CheckpointDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


class Identity(NamedTuple):
    """Which checkpoint a definition is of: its name, its parent's, its domain's UUID."""

    name: str | None
    parent: str | None
    uuid: str | None


_NONCE = "nonce"
LEFTOVER = "a leftover bitmap, which vircpt doctor removes"


def build_xml(
    name: str,
    description: str,
    include: Mapping[str, int],
    exclude: Iterable[str],
    nonce: int | None = None,
) -> str:
    """The definition of a checkpoint that covers the disks `include` and not `exclude`.

    `include` gives the size in bytes of each disk. Each disk of the domain must stand in one
    of both: libvirt leaves a disk that isn't named to a default of its own.
    """
    sizes = "".join(f" {target}={size}" for target, size in include.items())
    mark = f"[vircpt{sizes}{'' if nonce is None else f' {_NONCE}={nonce}'}]"
    root = xml.new("domaincheckpoint")
    xml.add(root, "name", name)
    xml.add(root, "description", f"{description}\n{mark}" if description else mark)
    disks = xml.add(root, "disks")
    for target in include:
        xml.add(disks, "disk", name=target, checkpoint="bitmap", bitmap=name)
    for target in exclude:
        xml.add(disks, "disk", name=target, checkpoint="no")
    return xml.write(root)


def parse_xml(text: str) -> Checkpoint:
    """The facts in a checkpoint's XML."""
    root = xml.parse(text)
    description = root.findtext("description") or ""
    text_before, sizes = _split_mark(description)
    return Checkpoint(
        name=root.findtext("name") or "",
        description=text_before,
        ours=sizes is not None,
        parent=root.findtext("parent/name"),
        created=_number(root.findtext("creationTime")) or 0,
        disks=tuple(
            CheckpointDisk(
                target=element.get("name") or "",
                bitmap=element.get("bitmap") or "",
                size=_number(element.get("size")),
                capacity=(sizes or {}).get(element.get("name") or ""),
            )
            for element in root.findall("disks/disk")
            if element.get("checkpoint") == "bitmap"
        ),
        nonce=(sizes or {}).get(_NONCE),
    )


def build_leftover_xml(bitmap: str, target: str) -> str:
    """A definition by which libvirt can be told of a bitmap that no checkpoint claims.

    It has no parent, and so changes nothing about the others. libvirt takes the checkpoint's
    name for that of the bitmap, whatever else stands there (9.0).
    """
    root = xml.new("domaincheckpoint")
    xml.add(root, "name", bitmap)
    xml.add(root, "description", LEFTOVER)
    xml.add(root, "creationTime", "0")
    disks = xml.add(root, "disks")
    xml.add(disks, "disk", name=target, checkpoint="bitmap", bitmap=bitmap)
    return xml.write(root)


def _split_mark(description: str) -> tuple[str, dict[str, int] | None]:
    """The description before our mark, and the sizes in the mark; None if there is no mark."""
    before, _, last = description.rpartition("\n")
    words = last[1:-1].split(" ")
    pairs = [one.partition("=") for one in words[1:]]
    numbers = all(target and size.isascii() and size.isdigit() for target, _, size in pairs)
    if last[:1] + last[-1:] != "[]" or words[0] != "vircpt" or not numbers:
        return description, None
    return before, {target: int(size) for target, _, size in pairs}


def _number(text: str | None) -> int | None:
    """None also for what is no number, or more than libvirt's 64 bits hold."""
    good = text is not None and text.isascii() and text.isdigit() and len(text) <= 20
    return int(text) if text and good else None


def parse_identity(definition: str) -> Identity:
    """Which checkpoint a definition that a user gave is of; raises InvalidInput if it is none."""
    root = xml.parse_input(definition, "the checkpoint's definition")
    if root.tag != "domaincheckpoint":
        raise InvalidInput("that is no definition of a checkpoint")
    return Identity(
        root.findtext("name"), root.findtext("parent/name"), root.findtext("domain/uuid")
    )


def list_all(domain: LibvirtDomain, *, sizes: bool = False) -> list[Checkpoint]:
    """All checkpoints, parents before children; with `sizes` as far as they can be told."""
    with translated("cannot list the checkpoints", domain=domain.name):
        found = domain.raw.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
        return [parse_xml(_describe(raw, sizes)) for raw in found]


def names(domain: LibvirtDomain) -> frozenset[str]:
    """The names of all checkpoints."""
    with translated("cannot list the checkpoints", domain=domain.name):
        return frozenset(raw.getName() for raw in domain.raw.listAllCheckpoints(0))


def read(domain: LibvirtDomain, name: str, *, sizes: bool = False) -> Checkpoint:
    """One checkpoint; raises NotFound."""
    raw = _lookup(domain, name)
    with translated("cannot read the checkpoint", domain=domain.name, checkpoint=name):
        return parse_xml(_describe(raw, sizes))


def read_xml(domain: LibvirtDomain, name: str, *, with_domain: bool) -> str:
    """A checkpoint's own XML as libvirt gives it; raises NotFound."""
    raw = _lookup(domain, name)
    flags = 0 if with_domain else libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
    with translated("cannot read the checkpoint", domain=domain.name, checkpoint=name):
        return str(raw.getXMLDesc(flags))


def sources(domain: LibvirtDomain, name: str) -> dict[str, str]:
    """By target, the images that the disks had when the checkpoint was made, where known."""
    found = xml.parse(read_xml(domain, name, with_domain=True)).find("domain")
    disks = () if found is None else parse_disks(found)
    return {disk.target: disk.source for disk in disks if disk.source}


def create(domain: LibvirtDomain, definition: str, name: str) -> None:
    """Make the checkpoint; libvirt does all disks or none."""
    with translated("cannot create the checkpoint", domain=domain.name, checkpoint=name):
        domain.raw.checkpointCreateXML(definition, 0)


def redefine(domain: LibvirtDomain, definition: str, *, validate: bool) -> Checkpoint:
    """Bring a checkpoint's metadata back; `validate` has libvirt check that its bitmaps exist.

    Validation needs a running domain: libvirt asks QEMU for the bitmaps.
    """
    root = xml.parse_input(definition, "the checkpoint's definition")
    name = root.findtext("name")
    if root.tag != "domaincheckpoint" or not name:
        raise InvalidInput(
            "that is no definition of a checkpoint",
            why="a <domaincheckpoint> with a <name> is needed",
            hint="make one with: vircpt dumpxml NAME",
        )
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
    if validate:
        flags |= libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
    try:
        with translated("cannot redefine the checkpoint", domain=domain.name, checkpoint=name):
            raw = domain.raw.checkpointCreateXML(definition, flags)
            return parse_xml(raw.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN))
    except BrokenChain as error:
        error.hint = "without --validate it can be redefined, but no export can start from it"
        raise


def delete(domain: LibvirtDomain, name: str, *, metadata_only: bool = False) -> None:
    """Delete one checkpoint; its children move to its parent."""
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY if metadata_only else 0
    raw = _lookup(domain, name)
    with translated("cannot delete the checkpoint", domain=domain.name, checkpoint=name):
        raw.delete(flags)


def _lookup(domain: LibvirtDomain, name: str) -> libvirt.virDomainCheckpoint:
    check_lookup(name)
    try:
        with translated("cannot look the checkpoint up", domain=domain.name, checkpoint=name):
            return domain.raw.checkpointLookupByName(name)
    except NotFound:
        every = sorted(names(domain))
        known = ", ".join(every[-10:]) + (f" and {len(every) - 10} more" if len(every) > 10 else "")
        raise NotFound(
            f"no checkpoint {name!r} in domain {domain.name}",
            hint=f"its checkpoints are: {known}" if known else "it has no checkpoints",
            domain=domain.name,
            checkpoint=name,
        ) from None


def _describe(raw: libvirt.virDomainCheckpoint, sizes: bool) -> str:
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
    if sizes:
        try:
            return str(raw.getXMLDesc(flags | libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE))
        except libvirt.libvirtError as error:
            if code(error) != libvirt.VIR_ERR_OPERATION_INVALID:  # it is shut off
                raise
    return str(raw.getXMLDesc(flags))
