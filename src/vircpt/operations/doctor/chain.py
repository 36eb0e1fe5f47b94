"""Findings about the checkpoints of a domain as a whole: lost, unsaved, foreign. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vircpt.errors import quoted
from vircpt.hypervisor.checkpoints import Checkpoint
from vircpt.operations.doctor.facts import Picture
from vircpt.operations.doctor.findings import Action, Finding, Repair, Safety
from vircpt.operations.doctor.verdicts import State


def find(picture: Picture) -> Iterator[Finding]:
    yield from _lost(picture)
    yield from _unsaved(picture)
    yield from _gaps(picture)
    yield from _foreign(picture)


def _lost(picture: Picture) -> Iterator[Finding]:
    orphans = sorted({one.bitmap for one in picture.verdicts if one.state is State.ORPHAN})
    if picture.checkpoints or not orphans:
        return
    yield Finding(
        "lost-metadata",
        f"The images hold bitmaps ({', '.join(orphans[:10])}), and libvirt knows no checkpoint of "
        "the domain: it was renamed, undefined and defined again, moved, or is transient.",
        "Exports and backups can't start from those checkpoints, and their names are taken.",
        f"if vircpt save-metadata was used: vircpt -d {quoted(picture.domain.name)} "
        "restore-metadata DIR; else have the bitmaps removed, see orphan-bitmap",
        picture.domain.name,
    )


def _unsaved(picture: Picture) -> Iterator[Finding]:
    """libvirt 9.0 removes the files when a domain is renamed, and writes them only when a
    checkpoint is made or redefined."""
    if picture.saved is None:
        return
    unsaved = [one.name for one in picture.checkpoints if one.name not in picture.saved]
    if not unsaved:
        return
    yield Finding(
        "unsaved-metadata",
        f"libvirt has {_names(unsaved)} in memory and not on disk: the domain was renamed.",
        "At its next start libvirt's daemon forgets them, and their bitmaps become orphans.",
        f"vircpt -d {quoted(picture.domain.name)} doctor --fix, before the daemon starts anew",
        picture.domain.name,
        repair=Repair(
            Action.REDEFINE,
            Safety.SAFE,
            f"have libvirt write {_names(unsaved)} to disk, by defining each anew",
        ),
    )


def _gaps(picture: Picture) -> Iterator[Finding]:
    """An incremental job from a checkpoint must find a bitmap on each disk that it is to cover."""
    by_name = {one.name: one for one in picture.checkpoints}
    for one in picture.checkpoints:
        covered = {disk.target for disk in one.disks}
        later = {
            disk.target
            for other in picture.checkpoints
            if other.parent == one.name
            for disk in other.disks
        }
        for target in sorted((_covered_before(one, by_name) & later) - covered):
            yield Finding(
                "coverage-gap",
                f"Checkpoint {one.name} leaves disk {target} out, which those before and after it "
                "cover.",
                f"Programs that go from one checkpoint to the next have a gap on {target}; vircpt "
                f"exports it in full from {one.name}, and right from the others.",
                f"don't start from {one.name}, or: vircpt -d {quoted(picture.domain.name)} delete "
                f"--name {quoted(one.name)}",
                picture.domain.name,
                target,
                one.name,
            )


def _covered_before(one: Checkpoint, by_name: Mapping[str, Checkpoint]) -> set[str]:
    found: set[str] = set()
    seen = {one.name}
    while one.parent and one.parent in by_name and one.parent not in seen:
        one = by_name[one.parent]
        seen.add(one.name)
        found |= {disk.target for disk in one.disks}
    return found


def _foreign(picture: Picture) -> Iterator[Finding]:
    foreign = [one.name for one in picture.checkpoints if not (one.ours or one.is_leftover)]
    if foreign and len(foreign) < len(picture.checkpoints):
        yield Finding(
            "foreign-checkpoint",
            f"{_names(foreign)} not made by vircpt stand among those that were: another program "
            "makes checkpoints of this domain.",
            "Each leaves the other's bitmaps alone, and each bitmap costs every write a little. "
            "vircpt's --keep-last never deletes a foreign checkpoint.",
            "none is needed; agree on one program that makes them",
            picture.domain.name,
        )


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"checkpoint {shown}" if len(names) == 1 else f"checkpoints {shown}"
