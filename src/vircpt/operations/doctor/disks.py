"""Findings about disks and their images. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vircpt.errors import quoted
from vircpt.operations.doctor.facts import DiskPicture, Picture
from vircpt.operations.doctor.findings import Finding
from vircpt.operations.doctor.verdicts import State
from vircpt.units import format_size


def find(picture: Picture) -> Iterator[Finding]:
    for disk in picture.disks:
        if disk.disk.device == "disk" and disk.disk.has_medium:
            yield from _image(picture, disk)
            yield from _added(picture, disk)
            yield from _grown(picture, disk)
    for verdict in picture.verdicts:
        if verdict.state is State.NO_DISK:
            yield Finding(
                "disk-gone",
                f"The domain has no disk {verdict.target} any more.",
                "An export from this checkpoint leaves it out.",
                "none is needed; when the checkpoint has served: vircpt -d "
                f"{quoted(picture.domain.name)} delete --name {quoted(verdict.checkpoint or '')}",
                picture.domain.name,
                verdict.target,
                verdict.checkpoint,
            )


def _image(picture: Picture, one: DiskPicture) -> Iterator[Finding]:
    name, target = picture.domain.name, one.disk.target
    path = quoted(one.disk.source or "IMAGE")
    if one.why is not None:
        yield Finding(
            "image-unreadable", f"{one.why}", "Its bitmaps can't be looked at, and the domain may "
            "not start.", f"see qemu-img info --backing-chain {path}", name, target,
        )  # fmt: skip
    if one.disk.format == "raw":
        yield Finding(
            "raw-disk",
            "Only qcow2 images can hold bitmaps.",
            "Checkpoints leave the disk out; exports and backups hold it in full each time.",
            "with libvirt 10.10 or later, put a qcow2 in front and leave the data where it is: "
            f"qemu-img create -f qcow2 -o data_file={path},data_file_raw=on NEW.qcow2 SIZE; or "
            f"convert it while the domain is shut off: qemu-img convert -O qcow2 {path} NEW.qcow2",
            name,
            target,
        )
    if one.chain and one.chain[0].compat == "0.10":
        yield Finding(
            "qcow2-v2",
            "The image has the old version 2 of qcow2 (compat 0.10), which can't hold bitmaps.",
            "No checkpoint can be made of this disk.",
            f"while the domain is shut off: qemu-img amend -o compat=1.1 {path}",
            name,
            target,
        )
    if one.chain and one.chain[0].snapshots and one.chain[0].bitmaps:
        yield from _snapshots(picture, one)


def _snapshots(picture: Picture, one: DiskPicture) -> Iterator[Finding]:
    names = ", ".join(one.chain[0].snapshots[:10])
    yield Finding(
        "internal-snapshot",
        f"The image holds internal snapshots ({names}) and bitmaps.",
        'Going back to a snapshot fails with "Device has active dirty bitmaps", and libvirt kills '
        "the VM when it tries. Bitmaps know nothing of what a snapshot brings back.",
        "delete the checkpoints before you go back to a snapshot, or the snapshots: virsh "
        f"snapshot-list {quoted(picture.domain.name)}",
        picture.domain.name,
        one.disk.target,
    )


def _added(picture: Picture, one: DiskPicture) -> Iterator[Finding]:
    if not picture.checkpoints or one.disk.no_checkpoint:
        return
    newest = max(picture.checkpoints, key=lambda checkpoint: checkpoint.created)
    if newest.disk(one.disk.target) is None:
        yield Finding(
            "disk-added",
            f"The disk was attached since checkpoint {newest.name} was made, or left out of it.",
            "An export from it holds this disk in full.",
            f"make a new checkpoint: vircpt -d {quoted(picture.domain.name)} create",
            picture.domain.name,
            one.disk.target,
            newest.name,
        )


def _grown(picture: Picture, one: DiskPicture) -> Iterator[Finding]:
    for checkpoint in picture.checkpoints:
        covered = checkpoint.disk(one.disk.target)
        before = covered.capacity if covered else None
        if before is None or one.capacity is None or before == one.capacity:
            continue
        yield Finding(
            "disk-grown",
            f"The disk had {format_size(before)} when the checkpoint was made, and has "
            f"{format_size(one.capacity)} now.",
            "QEMU's bitmap calls the new part unchanged, whatever was written there. vircpt "
            "exports the disk in full; other programs may lose data.",
            f"make a new checkpoint: vircpt -d {quoted(picture.domain.name)} create",
            picture.domain.name,
            one.disk.target,
            checkpoint.name,
        )
