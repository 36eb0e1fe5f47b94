"""What a machine remembers outside of its disks: copied for a clone, never shared.

Firmware variables (UEFI's NVRAM) and the TPM's state lie in directories that QEMU's and
swtpm's users may write to. Root reads there only what is a plain file, and follows no links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from vircpt.errors import VircptError
from vircpt.hypervisor.clone import Change, Original
from vircpt.hypervisor.connection import Connection, Owner
from vircpt.records.clones import CloneDirectory

_TPM = Path("/var/lib/libvirt/swtpm")
"""Where the system's libvirt has swtpm keep its state: UUID/tpm2/tpm2-00.permall."""
_TPM_FILES = ("tpm2/tpm2-00.permall", "tpm1.2/tpm-00.permall")
_NVRAM_LIMIT = 64 * 2**20
_TPM_LIMIT = 2**20


class _Unreadable(Exception):
    """Why a file can't be copied."""


def tpm_directory(connection: Connection, original: Original, uuid: str) -> Path | None:
    """Where the clone's TPM will keep its state; None without one, or if the place is not known."""
    if not original.tpm or os.geteuid() != 0 or connection.uri != "qemu:///system":
        return None
    return _TPM / uuid


def copy(
    directory: CloneDirectory, original: Original, nvram: str | None, owner: Owner | None
) -> Sequence[Change]:
    """Copy the firmware's variables and the TPM's state; returns what could not be copied.

    `nvram` is copied in place of the original's variables, if given.
    """
    notes = []
    path = nvram or original.nvram
    if path:
        try:
            _copy_nvram(path, directory, owner)
        except _Unreadable as error:
            notes.append(Change("firmware variables", f"the clone starts with new ones: {error}"))
    if original.tpm:
        try:
            _copy_tpm(original.uuid, directory)
        except _Unreadable as error:
            notes.append(Change("tpm state", f"the clone starts with an empty one: {error}"))
    return notes


def _copy_nvram(path: str, directory: CloneDirectory, owner: Owner | None) -> None:
    data, _ = _read(Path(path), _NVRAM_LIMIT)
    try:
        handle = directory.make_file(directory.nvram, owner)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        raise VircptError(f"cannot make {directory.nvram}", why=error.strerror) from error


def _copy_tpm(uuid: str, directory: CloneDirectory) -> None:
    if directory.record.tpm is None:
        raise _Unreadable("it is not known where this libvirt keeps it")
    new = Path(directory.record.tpm)
    for name in _TPM_FILES:
        try:
            data, status = _read(_TPM / uuid / name, _TPM_LIMIT)
        except _Unreadable as error:
            reason = error
            continue
        try:
            _write_tpm(new, name, data, status)
        except OSError as error:
            raise VircptError(f"cannot make {new}", why=error.strerror) from error
        return
    raise reason


def _write_tpm(new: Path, name: str, data: bytes, status: os.stat_result) -> None:
    """As libvirt makes it: with a state there swtpm does not set up a new one."""
    inner = new / Path(name).parent
    new.mkdir(mode=0o711)
    new.chmod(0o711)
    inner.mkdir(mode=0o700)
    handle = os.open(new / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fchown(handle, status.st_uid, status.st_gid)
    os.chown(inner, status.st_uid, status.st_gid)


def _read(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """The contents of a plain file; raises _Unreadable for a link, or what else may stand there."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _Unreadable(f"{path}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _Unreadable(f"{path} is no plain file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _Unreadable(f"{path} is larger than any such file")
    return data, status
