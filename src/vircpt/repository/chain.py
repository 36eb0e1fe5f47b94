"""How backups rest on each other. Pure but for the manifests that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vircpt.errors import BrokenChain
from vircpt.repository.manifest import Level, checkpoint_name
from vircpt.repository.store import Stored


def newest_base(backups: Sequence[Stored]) -> Stored | None:
    """The newest backup that made a checkpoint; `backups` are oldest first."""
    return next((one for one in reversed(backups) if one.manifest.checkpoint), None)


def bottom(backups: Mapping[str, Stored], one: Stored) -> Stored | None:
    """The backup at the bottom of the chain of `one`; None if one is missing."""
    seen: set[str] = set()
    while one.manifest.parent is not None:
        above = backups.get(one.manifest.parent)
        if above is None or one.id in seen:
            return None
        seen.add(one.id)
        one = above
    return one


def full_below(backups: Mapping[str, Stored], one: Stored) -> Stored | None:
    """The full backup that `one` rests on, itself if it is one; None if it is missing."""
    found = bottom(backups, one)
    return found if found is not None and found.manifest.level is Level.FULL else None


def images(backups: Mapping[str, Stored], one: Stored, target: str) -> list[Stored]:
    """The backups that a disk of `one` is read from, from the top.

    Raises BrokenChain if one of them is not there or does not hold the disk.
    """
    found = [one]
    while True:
        disk = found[-1].manifest.disk(target)
        if disk is None:
            raise _broken(found, f"backup {found[-1].id} does not hold disk {target}")
        if disk.parent is None:
            return found
        parent = backups.get(disk.parent)
        if parent is None:
            raise _broken(found, f"backup {disk.parent}, which it rests on, is missing or damaged")
        if parent in found:
            raise _broken(found, f"backup {parent.id} rests on itself")
        found.append(parent)


def children(backups: Sequence[Stored], backup_id: str) -> list[Stored]:
    """The backups of which any disk rests directly on that one."""
    return [one for one in backups if any(disk.parent == backup_id for disk in one.manifest.disks)]


def needed_checkpoints(backups: Sequence[Stored]) -> set[str]:
    """The checkpoints at which the next backup may start; `backups` are oldest first."""
    base = newest_base(backups)
    if base is None:
        return set()
    needed = {base}
    full = full_below({one.id: one for one in backups}, base)
    if full is not None and full.manifest.checkpoint:
        needed.add(full)
    return {checkpoint_name(one.manifest.repository, one.id) for one in needed}


def _broken(found: Sequence[Stored], why: str) -> BrokenChain:
    return BrokenChain(
        f"the chain of backup {found[0].id} is broken",
        why=why,
        hint="bring the missing directory back, or use a backup that does not need it",
    )
