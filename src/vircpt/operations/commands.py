"""The useful commands on an export, each ready to paste into a shell. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from vircpt.blocks.nbd import dirty_context
from vircpt.operations.reading import ExportedDisk


@dataclass(frozen=True)
class UsefulCommand:
    """A command line and what it is for; `disk` is None if it is about the whole export."""

    purpose: str
    command: str
    disk: str | None = None


def useful_commands(disk: ExportedDisk, size: int | None, index: int = 0) -> list[UsefulCommand]:
    """What people do with a disk of an export, the `index`th of those that they are told of."""
    name = f"{disk.domain}-{disk.target}"
    if ":" in name or name.startswith("-"):
        name = f"./{name}"  # else a protocol to qemu-img, or an option
    uri = shlex.quote(disk.uri)
    overlay, raw, qcow2 = (
        shlex.quote(f"{name}{ending}") for ending in ("-overlay.qcow2", ".raw", ".qcow2")
    )
    found = [("what it offers", f"nbdinfo {uri}")]
    if disk.bitmap:
        context = shlex.quote(f"--map={dirty_context(disk.bitmap)}")
        found.append(("which blocks changed", f"nbdinfo {context} {uri}"))
    if disk.tls is None:  # QEMU's tools have no URI for TLS
        found += _for_qemu(uri, overlay, index)
    found.append(("a raw copy", f"nbdcopy {uri} {raw}"))
    if size is not None:
        found.append(
            (
                "a qcow2 copy",
                f"qemu-img create -q -f qcow2 {qcow2} {size} && "
                f"nbdcopy {uri} -- '[' qemu-nbd -f qcow2 {qcow2} ']'",
            )
        )
    return [UsefulCommand(purpose, command, disk.target) for purpose, command in found]


def _for_qemu(uri: str, overlay: str, index: int) -> list[tuple[str, str]]:
    first, second = f"/dev/nbd{2 * index}", f"/dev/nbd{2 * index + 1}"
    return [
        ("a writable overlay on it", f"qemu-img create -f qcow2 -F raw -b {uri} {overlay}"),
        ("the overlay as a block device", f"qemu-nbd -c {first} -f qcow2 {overlay}"),
        (
            "and in another domain",
            f"virsh attach-disk OTHER_DOMAIN {first} vd{chr(ord('z') - index % 20)}",
        ),
        ("the export as a block device", f"qemu-nbd -c {second} -r -f raw {uri}"),
        ("and its partitions", f"fdisk -l {second}"),
    ]
