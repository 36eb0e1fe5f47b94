"""The clones that boot from disks: written down before anything is made for them.

    BASE/clones/ID/             0711  ours; QEMU's user may pass through
    BASE/clones/ID/state.json   0600  written before libvirt is asked for anything
    BASE/clones/ID/owner        0600  locked for as long as the vircpt lives that tests it
    BASE/clones/ID/vda.qcow2    0600  QEMU's: the overlays, and a copy of the firmware's variables

They are no consumers of an export (consumers.py), because a clone can boot a backup as well,
where no export runs. Whoever makes or removes one holds the lock of the original
(exports.locked), whose UUID stands in the record.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vircpt import trace
from vircpt.errors import VircptError
from vircpt.interrupts import uninterrupted
from vircpt.records import state
from vircpt.records.directories import base, remove_tree
from vircpt.records.exports import Damaged

_ID = re.compile(r"[0-9a-f]{8}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_PASSING = ".passing-"
_OWNER = "owner"


@dataclass(frozen=True)
class CloneRecord:
    """What is written down about a clone; times in seconds since 1970.

    `name` and `uuid` are the clone's, `original` and `original_uuid` those of the domain that
    it was made of. `export`: the id of the export that it reads from, None for other disks.
    `test`: it belongs to the vircpt that made it. `tpm`: the directory of its TPM's state.
    """

    id: str
    uri: str
    name: str
    uuid: str
    original: str
    original_uuid: str
    user: str
    created: float
    export: str | None = None
    test: bool = False
    tpm: str | None = None


@dataclass(frozen=True)
class CloneDirectory:
    """Where what is made for one clone lives."""

    path: Path
    record: CloneRecord = field(compare=False)

    @property
    def nvram(self) -> Path:
        return self.path / "nvram.fd"

    def overlay(self, target: str) -> Path:
        return self.path / f"{target}.qcow2"

    def make_file(self, path: Path, owner: tuple[int, int] | None) -> int:
        """Make an empty file of the clone's for QEMU's user; a handle that the caller closes."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if owner and os.geteuid() == 0:
            os.fchown(handle, *owner)
        return handle

    def claim(self) -> int:
        """Say that this process owns the clone, until it ends or closes the handle returned."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self.path / _OWNER, flags, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle

    def is_owned(self) -> bool:
        """True if the process that claimed it lives."""
        try:
            handle = os.open(self.path / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def remove(self) -> None:
        """Remove all that the clone had on disk. Idempotent."""
        trace.tell(f"remove {self.path}")
        with uninterrupted():
            if self.record.tpm:
                remove_tree(Path(self.record.tpm))
            old = _passing(self.record)
            with suppress(FileNotFoundError):
                self.path.rename(old)
            remove_tree(old)


def create(record: CloneRecord) -> CloneDirectory:
    """Write down a clone, and make its directory. It has another name until it is whole."""
    sweep(record.original_uuid)
    directory = CloneDirectory(_home() / record.id, record)
    trace.tell(f"make {directory.path}")
    try:
        with uninterrupted():
            _make(directory)
    except OSError as error:
        raise VircptError(
            "cannot make the clone's directory", why=f"{error.filename}: {error.strerror}"
        ) from error
    return directory


def new_id() -> str:
    """An id for a clone to be."""
    return os.urandom(4).hex()


def list_all() -> list[CloneDirectory | Damaged]:
    """All clones that are written down, oldest first, then what can't be read."""
    try:
        names = sorted(one.name for one in _home().iterdir() if _ID.match(one.name))
    except FileNotFoundError:
        return []
    found = [_read(_home() / name) for name in names]
    good = [one for one in found if isinstance(one, CloneDirectory)]
    bad = [one for one in found if isinstance(one, Damaged)]
    return [*sorted(good, key=lambda one: one.record.created), *bad]


def of_original(uuid: str) -> list[CloneDirectory]:
    """The clones of that domain."""
    return [one for one in _good() if one.record.original_uuid == uuid]


def on_export(export_id: str) -> list[CloneDirectory]:
    """The clones that read from that export."""
    return [one for one in _good() if one.record.export == export_id]


def find(name: str) -> list[CloneDirectory]:
    """The clones of that name or UUID, their own or their original's."""
    return [
        one
        for one in _good()
        for record in [one.record]
        if name in (record.name, record.uuid, record.original, record.original_uuid)
    ]


def _good() -> list[CloneDirectory]:
    return [one for one in list_all() if isinstance(one, CloneDirectory)]


def _home() -> Path:
    return base() / "clones"


def _make(directory: CloneDirectory) -> None:
    home = _home()
    if not home.is_dir():
        home.mkdir(mode=0o711)
        home.chmod(0o711)
    new = _passing(directory.record)
    new.mkdir()
    try:
        new.chmod(0o711)
        state.write(new, directory.record)
        new.rename(directory.path)
    except BaseException:
        remove_tree(new)
        raise


def _passing(record: CloneRecord) -> Path:
    """The name of a directory that is being made or removed."""
    return _home() / f"{_PASSING}{record.original_uuid}-{record.id}"


def sweep(original_uuid: str) -> None:
    """Remove what a vircpt left that was killed while it made or removed a directory."""
    for path in _home().glob(f"{_PASSING}{original_uuid}-*"):
        remove_tree(path)


def _read(path: Path) -> CloneDirectory | Damaged | None:
    data = state.load(path)
    if data is None:
        return None
    if isinstance(data, str):
        return Damaged(path.name, path, data)
    try:
        return CloneDirectory(path, _parse(data, path.name))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Damaged(path.name, path, f"{state.NAME}: {type(error).__name__}: {error}")


def _parse(data: dict[str, Any], clone_id: str) -> CloneRecord:
    if data["id"] != clone_id:
        raise ValueError("it belongs to another clone")
    record = CloneRecord(**data)
    state.check_types(record)
    for uuid in (record.uuid, record.original_uuid):
        if not _UUID.match(uuid):
            raise ValueError("that is no UUID")
    if record.tpm is not None and Path(record.tpm).name != record.uuid:
        raise ValueError("its TPM's directory is none of a clone")
    return record
