"""What vircpt remembers of each export: a directory of its own, found again after any crash.

    BASE/exports/ID/             0711  ours: only we can write here
    BASE/exports/ID/state.json   0600  written before libvirt is asked for anything
    BASE/exports/ID/io/          0700  QEMU's: the socket, and the scratch files by default

BASE is VIRCPT_STATE_DIR, else /var/lib/vircpt for root and XDG_STATE_HOME/vircpt for others.
The state stands outside of the directory that QEMU's user may write to, so that a guest
that broke out into QEMU can't tell us, who are root, what to delete. With a scratch
directory elsewhere that directory gets a sub-directory vircpt-ID, noted in the state first.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vircpt import trace
from vircpt.errors import Busy, InvalidInput, NotFound, NotSupported, VircptError
from vircpt.interrupts import uninterrupted
from vircpt.records.files import (
    STATE,
    check_types,
    make_private,
    read_state,
    remove_tree,
    write_state,
)

SOCKET_LIMIT = 107
"""Bytes of a Unix socket's path: sun_path has 108, and QEMU wants the final NUL."""
FORMAT = 1
_PASSING = ".passing-"
LOCK_PATIENCE = 1.0
"""Seconds to wait for another vircpt: most of what they do is over sooner."""
_ID = re.compile(r"[0-9a-f]{8}\Z")
_UUID = re.compile(r"[0-9a-fA-F-]{36}\Z")


@dataclass(frozen=True)
class DiskRecord:
    """A disk of an export: the checkpoint its bitmap comes from, if any."""

    target: str
    since: str | None = None


@dataclass(frozen=True)
class ExportRecord:
    """What is written down about an export; times in seconds since 1970.

    `kind` is "live" (a backup job in libvirt) or "offline" (a storage daemon of ours).
    `address` and `port` are those of TCP exports; `remote` if QEMU runs on another host.
    `purpose` is "hotadd", "mount" or "boot" if it was made for such a consumer (see
    consumers.py): it goes with the last one. None if somebody asked for the export itself.
    """

    id: str
    kind: str
    uri: str
    domain: str
    uuid: str
    user: str
    created: float
    disks: tuple[DiskRecord, ...] = ()
    base: str | None = None
    checkpoint: str | None = None
    remote: bool = False
    address: str | None = None
    port: int | None = None
    tls_dir: str | None = None
    scratch_dir: str | None = None
    expires: float | None = None
    purpose: str | None = None


@dataclass(frozen=True)
class Damaged:
    """A directory whose state can't be read."""

    id: str
    directory: Path
    why: str


@dataclass(frozen=True)
class ExportDirectory:
    """Where one export lives."""

    path: Path
    record: ExportRecord = field(compare=False)

    @property
    def socket(self) -> Path:
        return self.path / "io" / "nbd.sock"

    @property
    def server_mark(self) -> Path:
        """The pid file, by which the storage daemon of a shut-off domain's export is known.

        It is root who writes it, and its log: not in QEMU's directory.
        """
        return self.path / "server.pid"

    @property
    def scratch(self) -> Path:
        """The directory of the scratch files."""
        if self.record.scratch_dir:
            return Path(self.record.scratch_dir) / f"vircpt-{self.record.id}"
        return self.path / "io"

    def remove(self) -> None:
        """Remove all that the export had on disk. Idempotent.

        It gets another name first: under its own it is whole or not there.
        """
        trace.tell(f"remove {self.path}")
        with uninterrupted():
            if self.record.scratch_dir:
                remove_tree(self.scratch)
            old = _passing(self.path.parent, self.record)
            with suppress(FileNotFoundError):
                self.path.rename(old)
            remove_tree(old)


def base() -> Path:
    """The directory of all that vircpt remembers."""
    given = os.environ.get("VIRCPT_STATE_DIR")
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/vircpt")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "vircpt"


def create(record: ExportRecord, owner: tuple[int, int] | None) -> ExportDirectory:
    """Make the directory of a new export with its state; `owner` is QEMU's user and group.

    The id in `record` is replaced by a new one.
    """
    exports = _make_base() / "exports"
    record = replace(record, id=os.urandom(4).hex())
    directory = ExportDirectory(exports / record.id, record)
    if len(os.fsencode(directory.socket)) > SOCKET_LIMIT:
        raise NotSupported(
            "the path of the export's socket would be too long",
            why=f"{directory.socket} has more than {SOCKET_LIMIT} bytes",
            hint="set VIRCPT_STATE_DIR to a directory with a shorter path",
        )
    if record.scratch_dir:
        _check_scratch(Path(record.scratch_dir))
    trace.tell(f"make {directory.path}")
    try:
        _make_directory(directory.path, record, owner)
        with uninterrupted():
            _make_scratch(directory, owner)
    except OSError as error:
        raise VircptError(
            "cannot make the export's directory",
            why=f"{error.filename}: {error.strerror}",
            hint="choose another directory with --scratch-dir" if record.scratch_dir else None,
        ) from error
    return directory


def _make_scratch(directory: ExportDirectory, owner: tuple[int, int] | None) -> None:
    if directory.record.scratch_dir:
        try:
            make_private(directory.scratch, owner)
        except BaseException:
            remove_tree(directory.path)  # and not the scratch directory: it is somebody else's
            raise


def _make_directory(path: Path, record: ExportRecord, owner: tuple[int, int] | None) -> None:
    """Make it under another name first: under its own it is whole or not there."""
    new = _passing(path.parent, record)
    with uninterrupted():
        new.mkdir()
        try:
            new.chmod(0o711)
            write_state(new, {"format": FORMAT, **asdict(record)})
            make_private(new / "io", owner)
            new.rename(path)
        except BaseException:
            remove_tree(new)
            raise


def _passing(exports: Path, record: ExportRecord) -> Path:
    """The name of a directory that is being made or removed."""
    return exports / f"{_PASSING}{record.uuid}-{record.id}"


def _sweep(exports: Path, uuid: str) -> None:
    """Remove what a vircpt left that was killed while it made or removed a directory.

    Whoever calls holds the domain's lock: nobody else is at it.
    """
    for path in exports.glob(f"{_PASSING}{glob.escape(uuid)}-*"):
        remove_tree(path)


def read(export_id: str) -> ExportDirectory:
    """The export with that id; raises NotFound, or VircptError if its state is damaged."""
    found = _read(base() / "exports" / export_id) if _ID.match(export_id) else None
    if found is None:
        raise NotFound(f"no export {export_id!r}", hint="see vircpt exports")
    if isinstance(found, Damaged):
        raise VircptError(f"the state of export {export_id} is damaged", why=found.why)
    return found


def list_all() -> list[ExportDirectory | Damaged]:
    """All exports that are written down, oldest first, then what can't be read."""
    try:
        entries = sorted(one.name for one in (base() / "exports").iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(base(), error) from error
    found = [_read(base() / "exports" / name) for name in entries if _ID.match(name)]
    good = [one for one in found if isinstance(one, ExportDirectory)]
    bad = [one for one in found if isinstance(one, Damaged)]
    return [*sorted(good, key=lambda one: one.record.created), *bad]


def of_domain(uuid: str) -> list[ExportDirectory]:
    """The exports written down for that domain."""
    return [
        one for one in list_all() if isinstance(one, ExportDirectory) and one.record.uuid == uuid
    ]


@contextmanager
def locked(uuid: str, domain: str, patience: float = LOCK_PATIENCE) -> Iterator[None]:
    """Keep other vircpts from changing this domain's checkpoints and exports meanwhile.

    Raises Busy if another one is at it still after `patience` seconds. The lock goes with
    the process. What one left that was killed is removed.
    """
    import fcntl

    top = _make_base()
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        handle = os.open(top / "locks" / uuid, flags, 0o600)
    except OSError as error:
        raise _unusable(top, error) from error
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(
                        "another vircpt is at work on this domain",
                        domain=domain,
                        hint="wait until it is done",
                    ) from None
                time.sleep(0.02)
        _sweep(top / "exports", uuid)
        yield
    finally:
        os.close(handle)


def _make_base() -> Path:
    top = base()
    try:
        for path, mode in ((top, 0o711), (top / "exports", 0o711), (top / "locks", 0o700)):
            if not path.is_dir():
                path.mkdir(mode=mode, parents=True, exist_ok=True)
                path.chmod(mode)
            _check_ours(path)
    except OSError as error:
        raise _unusable(top, error) from error
    return top


def _unusable(top: Path, error: OSError) -> VircptError:
    return VircptError(
        f"cannot use {top} for the state of exports",
        why=f"{error.filename}: {error.strerror}",
        hint="run as root, or set VIRCPT_STATE_DIR to a directory of yours",
    )


def _check_ours(path: Path) -> None:
    """A directory that somebody else can write to could be made to lead us astray."""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o022:
        raise NotSupported(
            f"{path} can't be trusted",
            why="other users may write to it, or own it",
            hint=f"chown it to yourself and chmod go-w {path}",
        )


def _check_scratch(path: Path) -> None:
    if not path.is_absolute():
        raise InvalidInput(f"the scratch directory {path} is no absolute path")
    if not path.is_dir():
        raise InvalidInput(f"the scratch directory {path} is no directory", hint="make it first")


def _read(directory: Path) -> ExportDirectory | Damaged | None:
    data = read_state(directory)
    if data is None:
        return None
    if isinstance(data, str):
        return Damaged(directory.name, directory, data)
    try:
        return ExportDirectory(directory, _parse(data, directory.name))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{STATE}: {type(error).__name__}: {error}"
        return Damaged(directory.name, directory, why)


def _parse(data: dict[str, Any], export_id: str) -> ExportRecord:
    if data.pop("format") != FORMAT:
        raise ValueError("it was written by another version of vircpt")
    if data["id"] != export_id:
        raise ValueError("it belongs to another export")
    data["disks"] = tuple(DiskRecord(**disk) for disk in data["disks"])
    record = ExportRecord(**data)
    if record.kind not in ("live", "offline"):
        raise ValueError(f"unknown kind {record.kind!r}")
    if not isinstance(record.uuid, str) or not _UUID.match(record.uuid):
        raise ValueError("that is no UUID")
    check_types(record)
    for disk in record.disks:
        check_types(disk)
    return record
