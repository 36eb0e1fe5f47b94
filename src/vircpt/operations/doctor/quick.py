"""The quick part of an examination, before a checkpoint is made: milliseconds, no mark left."""

from __future__ import annotations

from vircpt.blocks import headers
from vircpt.errors import BrokenChain, VircptError, quoted
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations.selection import Selection


def refuse_leftovers(domain: LibvirtDomain, selection: Selection, name: str) -> None:
    """Raise BrokenChain if an image holds a bitmap of that name, which libvirt does not know.

    A bitmap that was left since QEMU started stands in its memory only: there the creation
    fails with "Bitmap already exists", and nothing is made.
    """
    if domain.connection.is_remote:
        return
    for disk in selection.disks:
        local = disk.source is not None and disk.source_type in ("file", "block")
        if local and disk.source and name in _stored(disk.source, disk.format):
            raise BrokenChain(
                f"checkpoint {name} can't be made",
                why=f"the image of disk {disk.target} holds a bitmap of that name, left by a "
                "checkpoint that libvirt no longer knows",
                domain=domain.name,
                disk=disk.target,
                checkpoint=name,
                hint="choose another name, or have the leftover removed: "
                f"vircpt -d {quoted(domain.name)} doctor --fix",
            )


def _stored(path: str, image_format: str) -> set[str]:
    """The names of the bitmaps in an image; none if it can't be read, which others tell."""
    try:
        return {one.name for one in headers.read(path, image_format).bitmaps}
    except VircptError:
        return set()
