"""Define a domain anew from a backup, on disks that were restored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vircpt.errors import BrokenChain, InvalidInput, Mismatch, VircptError
from vircpt.hypervisor import restored
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.interrupts import uninterrupted
from vircpt.operations import stored_images
from vircpt.operations.restore import RestoredDisk
from vircpt.repository import files
from vircpt.repository.store import Stored

_MOST_XML = 16 << 20


@dataclass(frozen=True)
class DefinedDomain:
    """A domain that was defined; `lost` are disks of the old one that it has not."""

    name: str
    uuid: str
    files: tuple[str, ...]
    lost: tuple[str, ...]
    domain: LibvirtDomain

    def start(self) -> None:
        """Start it."""
        restored.start(self.domain)


def refuse_existing(connection: Connection, name: str) -> None:
    """Raise InvalidInput if there is a domain of that name: before hours of restoring."""
    restored.refuse_existing(connection, name)


def define(
    connection: Connection,
    backup: Stored,
    name: str,
    disks: Sequence[RestoredDisk],
    directory: Path,
) -> DefinedDomain:
    """Define the domain of a backup as `name`; files that it needs go into `directory`."""
    refuse_existing(connection, name)
    text = _read(backup, "domain.xml", _MOST_XML).decode()
    made: list[Path] = []
    try:
        for one in backup.manifest.files:
            if one.name in ("nvram", "kernel", "initrd"):
                made.append(_place(backup, one.name, directory, name))
        moved = {
            one.target: restored.NewDisk(str(one.path), one.format, one.path.is_block_device())
            for one in disks
        }
        paths = {path.name.rpartition("-")[2]: str(path) for path in made}
        stem = directory / name.replace("/", "_")
        definition, lost = restored.rewrite(
            text, name, moved, paths, lambda old: f"{stem}-{Path(old).name}"
        )
        domain = restored.define(connection, definition)
    except BaseException:
        with uninterrupted():
            for path in made:
                path.unlink(missing_ok=True)
        raise
    return DefinedDomain(name, domain.uuid, tuple(str(one) for one in made), lost, domain)


def _place(backup: Stored, kind: str, directory: Path, name: str) -> Path:
    path = directory / f"{name.replace('/', '_')}-{kind}"
    try:
        files.write_new(path, _read(backup, kind, None))
    except FileExistsError as error:
        raise InvalidInput(f"{path} exists already", hint="choose another directory") from error
    except OSError as error:
        raise VircptError(f"cannot write {path}", why=error.strerror) from error
    return path


def _read(backup: Stored, name: str, most: int | None) -> bytes:
    """A file of a backup, whole and as it was written."""
    stored = next((one for one in backup.manifest.files if one.name == name), None)
    path = backup.path / name
    if stored is None or (most is not None and stored.length > most):
        raise BrokenChain(f"backup {backup.id} holds no usable {name}")
    try:
        with os.fdopen(stored_images.open_file(path), "rb") as file:
            data = file.read(stored.length + 1)
    except OSError as error:
        raise Mismatch(f"{path} can't be read", why=error.strerror) from error
    if hashlib.sha256(data).hexdigest() != stored.sha256:
        raise Mismatch(f"{path} is damaged", why="its checksum is not the one of the manifest")
    return data
