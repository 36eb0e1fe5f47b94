"""Findings about bitmaps: the verdicts put into words, with their repair. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vircpt.errors import quoted
from vircpt.operations.doctor.facts import Picture
from vircpt.operations.doctor.findings import Action, Finding, Repair, Safety
from vircpt.operations.doctor.verdicts import State, Verdict

_INSTEAD = "The next export or backup from it fails; a full one works."
_SPREAD = "Exports of the running domain follow it; while it is shut off this disk comes in full."
_TOLD = {
    State.INCONSISTENT: (
        "inconsistent-bitmap",
        "QEMU did not get to close the bitmap: it was killed, or the host failed.",
        f"Which blocks changed since the checkpoint is not known any more. {_INSTEAD}",
    ),
    State.MISSING: (
        "missing-bitmap",
        "libvirt knows the checkpoint, and no image of the disk holds its bitmap: the image was "
        "restored, converted or replaced, or QEMU was killed before it could store the bitmap.",
        f"Which blocks changed since the checkpoint is not known any more. {_INSTEAD}",
    ),
    State.DISABLED: (
        "disabled-bitmap",
        "Somebody switched the bitmap off; what was written since is not in it.",
        f"It calls blocks unchanged that have changed. {_INSTEAD}",
    ),
    State.CHAIN_GAP: (
        "chain-gap",
        "An image was put on top of the one that holds the bitmap without libvirt's doing, as by "
        "qemu-img create -b, or the bitmap was removed from one image of the chain.",
        f"What was written into the images above is not in the bitmap. {_INSTEAD}",
    ),
}


def find(picture: Picture) -> Iterator[Finding]:
    yield from _half_removed(picture)
    for verdict in picture.verdicts:
        if verdict.state in _TOLD:
            yield _broken(picture, verdict)
        elif verdict.state is State.ORPHAN:
            yield _orphan(picture, verdict)
        elif verdict.state is State.GRANULARITY:
            yield _granularity(picture, verdict)
        elif verdict.state is State.UNKNOWN:
            yield _unknown(picture, verdict)
        elif verdict.state is State.OK and len(verdict.images) > 1:
            yield _below(picture, verdict)


def _half_removed(picture: Picture) -> Iterator[Finding]:
    for one in picture.checkpoints:
        if one.is_leftover:
            yield Finding(
                "orphan-bitmap",
                f"Checkpoint {one.name} stands for a leftover bitmap: vircpt was killed while it "
                "removed that.",
                f"No checkpoint can be called {one.name}.",
                _fix(picture),
                picture.domain.name,
                None,
                one.name,
                drop(picture, one.name),
            )


def _broken(picture: Picture, verdict: Verdict) -> Finding:
    kind, cause, consequence = _TOLD[verdict.state]
    return Finding(
        kind, cause, consequence, _fix(picture), picture.domain.name, verdict.target,
        verdict.checkpoint, drop(picture, verdict.checkpoint or ""),
    )  # fmt: skip


def drop(picture: Picture, name: str) -> Repair:
    """The repair that removes a checkpoint whose bitmap is no good, and what is left of it."""
    ours = any(one.ours for one in picture.checkpoints if one.name == name)
    whose = "" if ours else ", which vircpt did not make,"
    return Repair(
        Action.DROP_CHECKPOINT,
        Safety.DESTRUCTIVE if ours else Safety.FOREIGN,
        f"delete checkpoint {name}{whose} and what is left of its bitmaps; then make a new one, "
        "and export in full once",
        checkpoint=name,
    )


def _orphan(picture: Picture, verdict: Verdict) -> Finding:
    place = f" in {verdict.images[0]}" if verdict.images else ""
    return Finding(
        "orphan-bitmap",
        f"Bitmap {verdict.bitmap}{place} belongs to no checkpoint that libvirt knows: its metadata "
        "was deleted, the domain was undefined, renamed or moved, or another program made it.",
        f"No checkpoint can be called {verdict.bitmap} (\"Bitmap already exists\"), and QEMU "
        "notes every write in it.",
        f"{_fix(picture)}; or bring its checkpoint back: vircpt -d {quoted(picture.domain.name)} "
        "restore-metadata DIR",
        picture.domain.name,
        verdict.target,
        None,
        Repair(
            Action.REMOVE_BITMAP,
            Safety.FOREIGN,
            f"remove bitmap {verdict.bitmap} of disk {verdict.target}; nobody can tell whose it is",
            disk=verdict.target,
            bitmap=verdict.bitmap,
        ),
    )  # fmt: skip


def _granularity(picture: Picture, verdict: Verdict) -> Finding:
    return Finding(
        "granularity-mismatch",
        f"The parts of bitmap {verdict.bitmap} in {', '.join(verdict.images)} have different "
        "granularities: one was made by hand.",
        "Exports may tell more changed bytes than there are; some programs refuse it.",
        _fix(picture),
        picture.domain.name,
        verdict.target,
        verdict.checkpoint,
        drop(picture, verdict.checkpoint or ""),
    )


def _unknown(picture: Picture, verdict: Verdict) -> Finding:
    why = "another job holds the domain" if picture.busy else "its images can't be read from here"
    return Finding(
        "unknown-bitmap", f"The bitmap can't be looked at: {why}.",
        "Whether the checkpoint can be used is not known.",
        "look again when the job is over" if picture.busy else "run the doctor on that host",
        picture.domain.name, verdict.target, verdict.checkpoint,
    )  # fmt: skip


def _below(picture: Picture, verdict: Verdict) -> Finding:
    return Finding(
        "bitmap-below",
        "An external snapshot was made since the checkpoint: images below the one that is written "
        "to hold a part of the bitmap.",
        _SPREAD,
        f"none is needed; virsh blockcommit {quoted(picture.domain.name)} {verdict.target} "
        "--active --pivot brings the parts together",
        picture.domain.name,
        verdict.target,
        verdict.checkpoint,
    )


def _fix(picture: Picture) -> str:
    return f"vircpt -d {quoted(picture.domain.name)} doctor --fix"
