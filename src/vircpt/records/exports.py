"""What vircpt remembers of each export: a directory of its own, found again after any crash.

    BASE/exports/ID/             0711  ours: only we can write here
    BASE/exports/ID/state.json   0600  written before libvirt is asked for anything
    BASE/exports/ID/of-UUID      0600  empty: the domain, should the state be damaged
    BASE/exports/ID/io/          0700  QEMU's: the socket
    BASE/exports/ID/scratch/     0711  ours: the scratch files, if they go nowhere else

BASE is VIRCPT_STATE_DIR, else /var/lib/vircpt for root and XDG_STATE_HOME/vircpt for others.
The state stands outside of the directory that QEMU's user may write to, so that a guest
that broke out into QEMU can't tell us, who are root, what to delete. So do the scratch files:
libvirtd makes them, as root, and would follow a link there. With a scratch directory
elsewhere that directory gets a sub-directory vircpt-ID, noted in the state first.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from vircpt import trace
from vircpt.errors import Busy, NotFound, NotSupported, VircptError, quoted
from vircpt.interrupts import uninterrupted
from vircpt.records import directories, state
from vircpt.records.state import ExportRecord

SOCKET_LIMIT = 107
"""Bytes of a Unix socket's path: sun_path has 108, and QEMU wants the final NUL."""
_PASSING = ".passing-"
_OF = "of-"
LOCK_PATIENCE = 1.0
"""Seconds to wait for another vircpt: most of what they do is over sooner."""
END_PATIENCE = 30.0
"""The same for who ends something: an export must not stay because of a `create`."""
_ID = re.compile(r"[0-9a-f]{8}\Z")


@dataclass(frozen=True)
class Damaged:
    """A directory whose state can't be read; `uuid` of its domain, None if that is lost, too."""

    id: str
    directory: Path
    why: str
    uuid: str | None = None

    @property
    def advice(self) -> str:
        """How to end it by hand, if it is not even known whose it is."""
        return (
            "end its job if it runs (virsh domjobinfo, virsh domjobabort), then "
            f"rm -r {quoted(str(self.directory))}"
        )

    def stand_in(self, domain: str) -> ExportDirectory:
        """As much of the export as is known without its state: where it lives, and whose it is."""
        record = ExportRecord(
            id=self.id, kind="", uri="", domain=domain, uuid=self.uuid or "", user="", created=0
        )
        return ExportDirectory(self.directory, record)


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
        """What the server of a shut-off domain's export is known by."""
        return self.path

    @property
    def server_log(self) -> Path:
        """Opened by root: not in QEMU's directory."""
        return self.path / "server.log"

    @property
    def owner(self) -> os.stat_result:
        """Who QEMU runs as."""
        return (self.path / "io").stat(follow_symlinks=False)

    @property
    def owner_mark(self) -> Path:
        """The file on which the owner of an owned export holds a lock."""
        return self.path / "owner"

    @property
    def scratch(self) -> Path:
        """The directory of the scratch files."""
        if self.record.scratch_dir:
            return Path(self.record.scratch_dir) / f"vircpt-{self.record.id}"
        return self.path / "scratch"

    def remove(self) -> None:
        """Remove all that the export had on disk. Idempotent.

        It gets another name first: under its own it is whole or not there.
        """
        trace.tell(f"remove {self.path}")
        with uninterrupted():
            if self.record.scratch_dir:
                directories.remove_tree(self.scratch)
            old = _passing(self.path.parent, self.record)
            with suppress(FileNotFoundError):
                self.path.rename(old)
            directories.remove_tree(old)


def create(record: ExportRecord, owner: tuple[int, int] | None) -> ExportDirectory:
    """Make the directory of a new export with its state; `owner` is QEMU's user and group.

    The id in `record` is replaced by a new one.
    """
    exports = directories.make_base() / "exports"
    record = replace(record, id=os.urandom(4).hex())
    directory = ExportDirectory(exports / record.id, record)
    if len(os.fsencode(directory.socket)) > SOCKET_LIMIT:
        raise NotSupported(
            "the path of the export's socket would be too long",
            why=f"{directory.socket} has more than {SOCKET_LIMIT} bytes",
            hint="set VIRCPT_STATE_DIR to a directory with a shorter path",
        )
    if record.scratch_dir:
        directories.check_scratch(Path(record.scratch_dir))
    trace.tell(f"make {directory.path}")
    try:
        _make_directory(directory.path, record, owner)
        with uninterrupted():
            _make_scratch(directory)
    except OSError as error:
        raise VircptError(
            "cannot make the export's directory",
            why=f"{error.filename}: {error.strerror}",
            hint="choose another directory with --scratch-dir" if record.scratch_dir else None,
        ) from error
    return directory


def _make_scratch(directory: ExportDirectory) -> None:
    if directory.record.scratch_dir:
        try:
            directories.make_passable(directory.scratch)
        except BaseException:  # the scratch directory that is there is somebody else's
            directories.remove_tree(directory.path)
            raise


def _make_directory(path: Path, record: ExportRecord, owner: tuple[int, int] | None) -> None:
    """Make it under another name first: under its own it is whole or not there."""
    new = _passing(path.parent, record)
    with uninterrupted():
        new.mkdir()
        try:
            new.chmod(0o711)
            state.write(new, record)
            (new / f"{_OF}{record.uuid}").touch(0o600)
            directories.make_private(new / "io", owner)
            if not record.scratch_dir:
                directories.make_passable(new / "scratch")
            new.rename(path)
        except BaseException:
            directories.remove_tree(new)
            raise


def _passing(exports: Path, record: ExportRecord) -> Path:
    """The name of a directory that is being made or removed."""
    return exports / f"{_PASSING}{record.uuid}-{record.id}"


def _sweep(exports: Path, uuid: str) -> None:
    """Remove what a vircpt left that was killed while it made or removed a directory.

    Whoever calls holds the domain's lock: nobody else is at it.
    """
    for path in exports.glob(f"{_PASSING}{glob.escape(uuid)}-*"):
        directories.remove_tree(path)


def unfinished() -> list[tuple[str, Path]]:
    """UUIDs of domains, and the directories that a vircpt left half-made or half-removed, or is
    at just now."""
    try:
        paths = sorted((directories.base() / "exports").glob(f"{_PASSING}*"))
    except OSError as error:
        raise directories.unusable(directories.base(), error) from error
    found = [(path.name.removeprefix(_PASSING)[:36], path) for path in paths]
    return [(uuid, path) for uuid, path in found if state.is_uuid(uuid)]


def look(export_id: str) -> ExportDirectory | Damaged:
    """The export with that id; raises NotFound."""
    found = _read(directories.base() / "exports" / export_id) if _ID.match(export_id) else None
    if found is None:
        raise NotFound(
            f"no export {export_id!r}", hint="see vircpt exports; a domain is named by -d"
        )
    return found


def read(export_id: str) -> ExportDirectory:
    """The export with that id; raises NotFound, or VircptError if its state is damaged."""
    found = look(export_id)
    if isinstance(found, Damaged):
        raise VircptError(f"the state of export {export_id} is damaged", why=found.why)
    return found


def list_all() -> list[ExportDirectory | Damaged]:
    """All exports that are written down, oldest first, then what can't be read."""
    try:
        top = directories.base() / "exports"
        directories.check(top)
        entries = sorted(one.name for one in top.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise directories.unusable(directories.base(), error) from error
    found = [_read(top / name) for name in entries if _ID.match(name)]
    good = [one for one in found if isinstance(one, ExportDirectory)]
    bad = [one for one in found if isinstance(one, Damaged)]
    return [*sorted(good, key=lambda one: one.record.created), *bad]


def of_domain(uuid: str) -> list[ExportDirectory]:
    """The exports written down for that domain."""
    return [
        one for one in list_all() if isinstance(one, ExportDirectory) and one.record.uuid == uuid
    ]


def damaged_of(uuid: str) -> list[Damaged]:
    """The exports of that domain whose state can't be read."""
    return [one for one in list_all() if isinstance(one, Damaged) and one.uuid == uuid]


def take(directory: ExportDirectory) -> int:
    """Become the owner of an owned export, for as long as the returned handle is open."""
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(directory.owner_mark, flags, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def is_abandoned(directory: ExportDirectory, *, wait: bool = False) -> bool:
    """True if the export had an owner who has gone; with `wait` wait for that.

    False if it has been removed meanwhile: then it has been released.
    """
    import fcntl

    if not directory.record.owned:
        return False
    try:
        handle = os.open(directory.owner_mark, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return directory.path.exists()  # it had none yet
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return directory.path.exists()


@contextmanager
def locked(uuid: str, domain: str, patience: float = LOCK_PATIENCE) -> Iterator[None]:
    """Keep other vircpts from changing this domain's checkpoints and exports meanwhile.

    Raises Busy if another one is at it still after `patience` seconds. The lock goes with
    the process. What one left that was killed is removed.
    """
    import fcntl

    top = directories.make_base()
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        handle = os.open(top / "locks" / uuid, flags, 0o600)
    except OSError as error:
        raise directories.unusable(top, error) from error
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


def _read(directory: Path) -> ExportDirectory | Damaged | None:
    try:
        text = (directory / state.NAME).read_text()
        return ExportDirectory(directory, state.parse(text, directory.name))
    except NotADirectoryError:
        return None
    except FileNotFoundError:
        if not directory.is_dir():
            return None
        why = f"it has no {state.NAME}"
    except (OSError, UnicodeDecodeError) as error:
        why = str(error)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"{state.NAME}: {type(error).__name__}: {error}"
    return Damaged(directory.name, directory, why, _uuid_of(directory))


def _uuid_of(directory: Path) -> str | None:
    try:
        names = [one.name for one in directory.iterdir()]
    except OSError:
        return None
    found = [name.removeprefix(_OF) for name in names if name.startswith(_OF)]
    return found[0] if len(found) == 1 else None
