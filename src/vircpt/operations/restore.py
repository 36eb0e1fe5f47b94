"""Restore disks of a backup into new images, or onto a block device.

Every byte that is read is checked meanwhile: a restored disk is good, or there is none.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vircpt.blocks import images
from vircpt.errors import InvalidInput, NotFound, VircptError
from vircpt.interrupts import uninterrupted
from vircpt.operations import stored_images
from vircpt.operations.stored_images import OpenImage
from vircpt.repository import manifest, sums
from vircpt.repository.manifest import StoredDisk
from vircpt.repository.store import Stored, Vm

Progress = Callable[[str, float], None]
"""Told a disk's target, and the part of it that is done, from 0 to 1."""


@dataclass(frozen=True)
class RestoredDisk:
    """A disk that was restored; `size` in bytes, `format` qcow2 or raw."""

    target: str
    path: Path
    format: str
    size: int


def restore_disks(
    vm: Vm,
    backup: Stored,
    places: Mapping[str, Path],
    image_format: str,
    progress: Progress | None = None,
) -> list[RestoredDisk]:
    """Restore each disk of `places` (by target) into a new file, or onto a block device.

    Raises NotFound for a disk that the backup does not hold, Mismatch if what is stored is
    damaged, BrokenChain if something is missing, InvalidInput if a file exists already.
    Files that were made before a failure are removed.
    """
    backups = {one.id: one for one in vm.good()}
    wanted = [(pick(backup, target), path) for target, path in places.items()]
    for disk, path in wanted:
        _check_place(disk, path)
    done: list[RestoredDisk] = []
    try:
        for disk, path in wanted:
            tell = (lambda part, disk=disk: progress(disk.target, part)) if progress else None
            done.append(_restore(backups, backup, disk, path, image_format, tell))
    except BaseException:
        with uninterrupted():
            for one in done:
                if not _is_device(one.path):
                    one.path.unlink(missing_ok=True)
        raise
    return done


def pick(backup: Stored, target: str) -> StoredDisk:
    """That disk of the backup; raises NotFound."""
    disk = backup.manifest.disk(target)
    if disk is None:
        known = ", ".join(one.target for one in backup.manifest.disks)
        raise NotFound(f"backup {backup.id} holds no disk {target!r}", hint=f"it holds {known}")
    return disk


def _restore(
    backups: Mapping[str, Stored],
    backup: Stored,
    disk: StoredDisk,
    path: Path,
    image_format: str,
    progress: images.Progress | None,
) -> RestoredDisk:
    with stored_images.opened(backups, backup, disk.target) as opened:
        chain = stored_images.for_qemu(opened)
        with _Checked(opened, disk.target) as checked:
            if _is_device(path):
                images.convert_to_device(chain, path, progress)
                checked.finish()
                return RestoredDisk(disk.target, path, "raw", disk.size)
            images.convert(chain, path, image_format, progress, checked.finish)
    return RestoredDisk(disk.target, path, image_format, disk.size)


class _Ended(Exception):
    """Nobody waits for the result any more."""


class _Checked:
    """Checks the images of a chain in a thread, while QEMU reads them."""

    def __init__(self, opened: Sequence[OpenImage], target: str) -> None:
        self._opened, self._target = opened, target
        self._over = threading.Event()
        self._done = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> _Checked:
        threading.Thread(target=self._run, name="vircpt-check", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        with uninterrupted():
            self._done.wait()

    def finish(self) -> None:
        """Wait for the end; raises Mismatch if anything is not what was written."""
        self._done.wait()
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            for image in self._opened:
                disk = pick(image.backup, self._target)
                path = image.backup.path / manifest.sums_name(self._target)
                digests = sums.read(path, disk.sums, disk.stored)
                sums.check(image.path, image.handle, digests, disk.stored, self._go_on)
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def _go_on(self, _size: int) -> None:
        if self._over.is_set():
            raise _Ended


def _check_place(disk: StoredDisk, path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not _is_device(path):
        raise InvalidInput(f"{path} exists already", hint="choose another directory or name")
    with path.open("rb") as device:
        size = device.seek(0, os.SEEK_END)
    if size < disk.size:
        raise InvalidInput(f"{path} is too small", why=f"it has {size} bytes, and disk "
                           f"{disk.target} has {disk.size}")  # fmt: skip


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise VircptError(f"cannot look at {path}", why=error.strerror) from error
        return False
