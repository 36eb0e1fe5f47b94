"""Verify backups at rest: every byte of every file, the chain, and what does not belong there."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vircpt.blocks import images
from vircpt.errors import BrokenChain, Mismatch, VircptError
from vircpt.operations import stored_images
from vircpt.repository import chain, manifest, sealed, store, sums
from vircpt.repository.store import DamagedBackup, Stored, Verified, Vm

Progress = Callable[[int, int], None]
"""Told the bytes that are done, and all bytes."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Verification:
    """What was found: `faults` in words, none if all is well; `read` in bytes."""

    id: str
    domain: str | None
    path: str
    read: int
    faults: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    vm: Vm
    backups: Mapping[str, Stored]
    backup: Stored


def verify(
    vms: Sequence[Vm],
    chosen: tuple[Vm, Stored] | None,
    *,
    deep: bool = False,
    progress: Progress | None = None,
) -> list[Verification]:
    """Verify the `chosen` backup and all that it rests on, or all that these VMs have.

    `deep` has QEMU read every disk through its chain as well. Raises nothing for faults.
    """
    jobs, found = _plan(vms, chosen)
    total = sum(one.backup.manifest.stored for one in jobs)
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(done, total)

    for job in jobs:
        before = done
        faults = list(_faults(job, deep, advance))
        fault = faults[0] if faults else None
        store.write_verified(job.backup, Verified(time.time(), deep, fault))
        name = job.backup.manifest.domain
        found.append(
            Verification(job.backup.id, name, str(job.backup.path), done - before, tuple(faults))
        )
    return found


def _plan(
    vms: Sequence[Vm], chosen: tuple[Vm, Stored] | None
) -> tuple[list[_Job], list[Verification]]:
    if chosen is not None:
        return list(_with_ancestors(*chosen)), []
    jobs: list[_Job] = []
    found: list[Verification] = []
    for vm in vms:
        every = vm.backups()
        good = {one.id: one for one in every if isinstance(one, Stored)}
        jobs += [_Job(vm, good, one) for one in good.values()]
        found += [_damaged(one) for one in every if isinstance(one, DamagedBackup)]
        found += [
            Verification("-", vm.short_name, str(path), 0, (f"{path} does not belong there",))
            for path in vm.foreign()
        ]
    return jobs, found


def _damaged(one: DamagedBackup) -> Verification:
    return Verification(one.id, None, str(one.path), 0, (f"{one.path}: {one.why}",))


def _with_ancestors(vm: Vm, backup: Stored) -> Iterator[_Job]:
    """What it rests on first: its disks can't be better than that."""
    good = {one.id: one for one in vm.good()}
    needed: dict[str, Stored] = {}
    for disk in backup.manifest.disks:
        try:
            needed |= {one.id: one for one in chain.images(good, backup, disk.target)}
        except BrokenChain:
            continue  # told with the backup itself
    needed[backup.id] = backup
    for one in sorted(needed.values(), key=lambda one: one.manifest.created):
        yield _Job(vm, good, one)


def _faults(job: _Job, deep: bool, advance: Callable[[int], None]) -> Iterator[str]:
    backup = job.backup
    yield from _strangers(backup)
    for file in backup.manifest.files:
        yield from _told(lambda file=file: _check_file(backup, file))  # type: ignore[misc]
    for disk in backup.manifest.disks:
        yield from _told(
            lambda disk=disk: _check_disk(job, disk.target, deep, advance)  # type: ignore[misc]
        )
    if (backup.path / "verified.json").exists():
        yield from _told(lambda: _check_verified(backup))


def _told(check: Callable[[], None]) -> Iterator[str]:
    try:
        check()
    except VircptError as error:
        yield str(error)


def _check_verified(backup: Stored) -> None:
    sealed.read(backup.path / "verified.json")


def _strangers(backup: Stored) -> Iterator[str]:
    known = {"manifest.json", "verified.json", *(one.name for one in backup.manifest.files)}
    for disk in backup.manifest.disks:
        known |= {manifest.image_name(disk.target), manifest.sums_name(disk.target)}
    for path in sorted(backup.path.iterdir()):
        if path.name not in known and not path.name.startswith(".verified.json."):
            yield f"{path} does not belong there"


def _check_file(backup: Stored, file: manifest.StoredFile) -> None:
    path = backup.path / file.name
    try:
        handle = stored_images.open_file(path)
        with os.fdopen(handle, "rb") as reader:
            digest = hashlib.sha256()
            while piece := reader.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise Mismatch(f"{path} can't be read", why=error.strerror or str(error)) from error
    if digest.hexdigest() != file.sha256:
        raise Mismatch(f"{path} is damaged", why="its checksum is not the one of the manifest")


def _check_disk(job: _Job, target: str, deep: bool, advance: Callable[[int], None]) -> None:
    disk = job.backup.manifest.disk(target)
    assert disk is not None
    path = job.backup.image(target)
    digests = sums.read(job.backup.path / manifest.sums_name(target), disk.sums, disk.stored)
    with stored_images.opened_alone(job.backup, target) as handle:
        sums.check(path, handle, digests, disk.stored, advance)
    with stored_images.opened(job.backups, job.backup, target) as every:
        if deep:
            try:
                images.check(stored_images.for_qemu(every))
                images.read_all(stored_images.for_qemu(every), disk.size)
            except VircptError as error:
                raise Mismatch(f"{path} can't be read by QEMU", why=str(error)) from error
