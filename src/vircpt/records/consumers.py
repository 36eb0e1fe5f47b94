"""Who reads from an export: written down before anything is made for them, found after any crash.

    BASE/exports/ID/consumers/CID/            0711  ours; QEMU's user may pass through
    BASE/exports/ID/consumers/CID/state.json  0600  written before libvirt or FUSE is asked
    BASE/exports/ID/consumers/CID/vda.qcow2   0600  QEMU's: a throw-away overlay, if asked for

A consumer is a domain that an export is attached to, or a mount. Clones have a place of their
own: clones.py.
With an overlay directory elsewhere the overlays lie in a sub-directory vircpt-ID-CID of that,
noted in the state first. Removing the consumer's directory is all there is to clean up on
disk; whoever calls holds the lock of the export's domain (exports.locked).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vircpt import trace
from vircpt.errors import VircptError
from vircpt.interrupts import uninterrupted
from vircpt.records import state
from vircpt.records.directories import check_scratch, make_passable, remove_tree
from vircpt.records.exports import Damaged, ExportDirectory

KINDS = ("hotadd", "mount")
_ID = re.compile(r"[0-9a-f]{8}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_PASSING = ".passing-"


@dataclass(frozen=True)
class ConsumerDisk:
    """A disk of an export as a consumer has it.

    `source` is its target in the export; `target`, `serial` and `alias` (libvirt's name of
    the device) are those in the consuming domain; `overlay` if that writes to an overlay.
    """

    source: str
    target: str | None = None
    serial: str | None = None
    alias: str | None = None
    overlay: bool = False


@dataclass(frozen=True)
class ConsumerRecord:
    """What is written down about a consumer; times in seconds since 1970.

    `kind` is one of KINDS. `uri`, `domain` and `uuid` name the consuming domain (VM2),
    None for a mount, which has a `place`, the directory that it is mounted on.
    `overlay_dir`: where the overlays were asked to go, None for the consumer's own directory.
    """

    id: str
    kind: str
    export: str
    created: float
    uri: str | None = None
    domain: str | None = None
    uuid: str | None = None
    place: str | None = None
    disks: tuple[ConsumerDisk, ...] = ()
    overlay_dir: str | None = None


@dataclass(frozen=True)
class Consumer:
    """Where what is made for one consumer lives."""

    path: Path
    record: ConsumerRecord = field(compare=False)

    @property
    def overlays(self) -> Path:
        """The directory of the overlays."""
        record = self.record
        if record.overlay_dir:
            return Path(record.overlay_dir) / f"vircpt-{record.export}-{record.id}"
        return self.path

    def overlay(self, source: str) -> Path:
        """The path of the overlay on a disk of the export."""
        return self.overlays / f"{_file_name(source)}.qcow2"

    def make_file(self, name: str, owner: tuple[int, int] | None) -> int:
        """Make an empty file in the directory of the overlays, for QEMU's user alone.

        Returns a handle, to be closed by the caller: who writes to it as root does so through
        the handle, since in a directory of somebody else the name may lead elsewhere by now.
        An existing file is never replaced.
        """
        directory = os.open(self.overlays, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(_file_name(name), flags, 0o600, dir_fd=directory)
        finally:
            os.close(directory)
        if owner and os.geteuid() == 0:
            os.fchown(handle, *owner)
        return handle

    def remove(self) -> None:
        """Remove all that the consumer had on disk. Idempotent."""
        trace.tell(f"remove {self.path}")
        with uninterrupted():
            if self.record.overlay_dir:
                remove_tree(self.overlays)
            old = self.path.with_name(_PASSING + self.record.id)
            if self.path.is_dir():
                self.path.rename(old)
            remove_tree(old)


def new_id() -> str:
    """An id for a consumer to be; serials and aliases may be made of it."""
    return os.urandom(4).hex()


def create(directory: ExportDirectory, record: ConsumerRecord) -> Consumer:
    """Write down a consumer of that export, and make its directories.

    Raises what `check_scratch` raises if its overlays can't go where they should.
    """
    sweep(directory)
    top = directory.path / "consumers"
    consumer = Consumer(top / record.id, record)
    if record.overlay_dir:
        check_scratch(Path(record.overlay_dir))
    trace.tell(f"make {consumer.path}")
    try:
        with uninterrupted():
            _make(consumer, top)
    except OSError as error:
        raise VircptError(
            "cannot make the directory of an export's consumer",
            why=f"{error.filename}: {error.strerror}",
        ) from error
    return consumer


def _make(consumer: Consumer, top: Path) -> None:
    """Make it under another name first: under its own it is whole or not there."""
    if not top.is_dir():
        top.mkdir(mode=0o711)
        top.chmod(0o711)
    new = top / (_PASSING + consumer.record.id)
    new.mkdir()
    try:
        new.chmod(0o711)
        state.write(new, consumer.record)
        new.rename(consumer.path)
    except BaseException:
        remove_tree(new)
        raise
    if consumer.record.overlay_dir:
        try:
            make_passable(consumer.overlays)
        except BaseException:
            remove_tree(consumer.path)  # and not the other: it may be somebody else's
            raise


def of_export(directory: ExportDirectory) -> list[Consumer | Damaged]:
    """The consumers of an export that are written down, oldest first, then what can't be read."""
    top = directory.path / "consumers"
    try:
        names = sorted(one.name for one in top.iterdir() if _ID.match(one.name))
    except FileNotFoundError:
        return []
    found = [_read(top / name, directory.record.id) for name in names]
    good = [one for one in found if isinstance(one, Consumer)]
    bad = [one for one in found if isinstance(one, Damaged)]
    return [*sorted(good, key=lambda one: one.record.created), *bad]


def sweep(directory: ExportDirectory) -> None:
    """Remove what a vircpt left that was killed while it made or removed a consumer."""
    for path in (directory.path / "consumers").glob(f"{_PASSING}*"):
        remove_tree(path)


def _read(path: Path, export: str) -> Consumer | Damaged | None:
    data = state.load(path)
    if data is None:
        return None
    if isinstance(data, str):
        return Damaged(path.name, path, data)
    try:
        return Consumer(path, _parse(data, path.name, export))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Damaged(path.name, path, f"{state.NAME}: {type(error).__name__}: {error}")


def _parse(data: dict[str, Any], consumer_id: str, export: str) -> ConsumerRecord:
    if data["id"] != consumer_id or data["export"] != export:
        raise ValueError("it belongs to another consumer")
    if data["kind"] not in KINDS:
        raise ValueError(f"unknown kind {data['kind']!r}")
    data["disks"] = tuple(ConsumerDisk(**disk) for disk in data["disks"])
    record = ConsumerRecord(**data)
    state.check_types(record)
    for disk in record.disks:
        state.check_types(disk)
        _file_name(disk.source)
    return record


def _file_name(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is no name for a file")
    return name
