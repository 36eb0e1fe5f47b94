"""Facts of three sources into a verdict per checkpoint and disk. Pure.

What libvirt claims (metadata) is held against the bitmaps that QEMU has in memory and those
that stand in the qcow2 files. While QEMU runs it has taken the bitmaps of the image that it
writes to out of the file, where they are flagged in-use: the file then tells names only.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class State(enum.Enum):
    """How the bitmap of a checkpoint on a disk fares."""

    OK = "ok"
    INCONSISTENT = "inconsistent"
    """QEMU did not close it properly: in-use in the file"""
    MISSING = "missing"
    ORPHAN = "orphan"
    """a bitmap that no checkpoint of the domain claims"""
    DISABLED = "disabled"
    """it does not note what is written"""
    GRANULARITY = "granularity-mismatch"
    """its parts in the images of one chain have different granularities"""
    CHAIN_GAP = "chain-gap"
    """images below hold it, and one above them does not"""
    NO_DISK = "no-disk"
    UNKNOWN = "unknown"
    """it can't be looked at"""


@dataclass(frozen=True)
class Bitmap:
    """A bitmap in QEMU or in a file; granularity in bytes."""

    name: str
    granularity: int
    inconsistent: bool = False
    recording: bool = True


@dataclass(frozen=True)
class Layer:
    """An image of a disk's chain, with the bitmaps that stand in the file."""

    path: str
    bitmaps: tuple[Bitmap, ...]

    def get(self, name: str) -> Bitmap | None:
        return next((one for one in self.bitmaps if one.name == name), None)


@dataclass(frozen=True)
class DiskBitmaps:
    """The bitmaps of a disk: `live` in QEMU, on the image that it writes to, None if it was
    not asked; `layers` in the files from the top, None if they can't be read."""

    target: str
    live: tuple[Bitmap, ...] | None = None
    layers: tuple[Layer, ...] | None = None


@dataclass(frozen=True)
class Claim:
    """What libvirt says: this checkpoint has that bitmap on this disk. `vouched`: libvirt told
    its size, which it does only if QEMU's bitmap is there, records, and is consistent."""

    checkpoint: str
    target: str
    bitmap: str
    vouched: bool = False


@dataclass(frozen=True)
class Verdict:
    """`checkpoint` is None for an orphan; `images` are those of the chain that hold the bitmap."""

    checkpoint: str | None
    target: str
    bitmap: str
    state: State
    images: tuple[str, ...] = ()


def judge(
    running: bool, claims: Iterable[Claim], disks: Sequence[DiskBitmaps]
) -> tuple[Verdict, ...]:
    """A verdict for each claim, in order; then one for each bitmap that nobody claims."""
    claims = tuple(claims)
    by_target = {disk.target: disk for disk in disks}
    found = [_of_claim(running, claim, by_target.get(claim.target)) for claim in claims]
    for disk in disks:
        claimed = {claim.bitmap for claim in claims if claim.target == disk.target}
        found += [
            Verdict(None, disk.target, name, State.ORPHAN, _holding(disk, name)[:1])
            for name in _on_top(disk)
            if name not in claimed
        ]
    return tuple(found)


def _of_claim(running: bool, claim: Claim, disk: DiskBitmaps | None) -> Verdict:
    if disk is None:
        return Verdict(claim.checkpoint, claim.target, claim.bitmap, State.NO_DISK)
    state = _running(claim, disk) if running else _stored(claim.bitmap, disk.layers)
    images = _holding(disk, claim.bitmap)
    return Verdict(claim.checkpoint, claim.target, claim.bitmap, state, images)


def _running(claim: Claim, disk: DiskBitmaps) -> State:
    lower = (disk.layers or ())[1:]
    if claim.vouched:
        return _granularity(claim.bitmap, disk.live, lower)
    if disk.live is None:
        return State.UNKNOWN
    live = next((one for one in disk.live if one.name == claim.bitmap), None)
    if live is None:
        below = any(layer.get(claim.bitmap) for layer in lower)
        return State.CHAIN_GAP if below else State.MISSING
    if live.inconsistent:
        return State.INCONSISTENT
    if not live.recording:
        return State.DISABLED
    parts = [layer.get(claim.bitmap) for layer in lower]
    if _has_gap([live, *parts]):
        return State.CHAIN_GAP
    if any(one.inconsistent for one in parts if one):
        return State.INCONSISTENT
    return State.UNKNOWN if disk.layers is None else _granularity(claim.bitmap, disk.live, lower)


def _stored(name: str, layers: tuple[Layer, ...] | None) -> State:
    if layers is None:
        return State.UNKNOWN
    parts = [layer.get(name) for layer in layers]
    if not any(parts):
        return State.MISSING
    if _has_gap(parts):
        return State.CHAIN_GAP
    if any(one.inconsistent for one in parts if one):
        return State.INCONSISTENT
    if parts[0] and not parts[0].recording:
        return State.DISABLED
    return _granularity(name, None, layers)


def _granularity(name: str, live: tuple[Bitmap, ...] | None, layers: Iterable[Layer]) -> State:
    found = {one.granularity for layer in layers for one in layer.bitmaps if one.name == name}
    found |= {one.granularity for one in live or () if one.name == name}
    return State.GRANULARITY if len(found) > 1 else State.OK


def _has_gap(parts: Sequence[Bitmap | None]) -> bool:
    """True unless those that are there come first, without one missing between."""
    present = [part is not None for part in parts]
    return present != sorted(present, reverse=True)


def _on_top(disk: DiskBitmaps) -> list[str]:
    """Names on the image that is written to: QEMU's word counts for more than the file's."""
    if disk.live is not None:
        return [one.name for one in disk.live]
    return [one.name for one in disk.layers[0].bitmaps] if disk.layers else []


def _holding(disk: DiskBitmaps, name: str) -> tuple[str, ...]:
    return tuple(layer.path for layer in disk.layers or () if layer.get(name))
