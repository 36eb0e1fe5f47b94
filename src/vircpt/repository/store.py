"""A repository: directories of VMs with backups in them; who may write, and what is there.

Reading needs no lock: a backup is renamed into its place when it is whole. Every fact is
checked against its place: a manifest in the wrong directory is as bad as a damaged one.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vircpt import trace
from vircpt.errors import Busy, InvalidInput, Mismatch, NotFound, VircptError
from vircpt.repository import files, manifest, sealed
from vircpt.repository.manifest import Manifest

_MARK = "vircpt-repository.json"
_SCHEMA = "vircpt/backup-repository/1"
_VM = re.compile(r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)-(?P<uuid>[0-9a-f]{8})\Z")
_BACKUP = re.compile(r"\d{8}T\d{6}Z-(?P<id>[0-9a-f]{8})\Z")
_PARTIAL, _GONE = ".partial-", ".gone-"


@dataclass(frozen=True)
class Stored:
    """A backup in its directory."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    def image(self, target: str) -> Path:
        return self.path / manifest.image_name(target)

    def backing_name(self, target: str, parent: Stored) -> str:
        """What the header of the image must name as its backing file."""
        return f"../{parent.path.name}/{manifest.image_name(target)}"


@dataclass(frozen=True)
class DamagedBackup:
    """A directory that should hold a backup and does not; `why` in words."""

    path: Path
    id: str
    why: str


@dataclass(frozen=True)
class Verified:
    """What the last verification of a backup found; `when` in seconds since 1970."""

    when: float
    deep: bool
    fault: str | None


@dataclass(frozen=True)
class Repository:
    """An existing repository."""

    path: Path
    id: str

    def vms(self) -> list[Vm]:
        """All VMs that have a directory."""
        names = sorted(one.name for one in _listed(self.path))
        return [Vm(self, self.path / name) for name in names if _VM.match(name)]

    def vm(self, uuid: str) -> Vm | None:
        """The VM with that UUID."""
        found = [one for one in self.vms() if one.uuid_start == uuid[:8]]
        return found[0] if found else None

    def make_vm(self, name: str, uuid: str) -> Vm:
        """Its directory, new if there is none."""
        found = self.vm(uuid)
        if found:
            return found
        short = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]
        path = self.path / f"{short if _VM.match(f'{short}-00000000') else '_' + short}-{uuid[:8]}"
        with _writing(path):
            path.mkdir(mode=files.DIRECTORY_MODE, exist_ok=True)
            files.sync_directory(self.path)
        return Vm(self, path)


@dataclass(frozen=True)
class Vm:
    """The directory of one VM."""

    repository: Repository
    path: Path

    @property
    def uuid_start(self) -> str:
        return self.path.name[-8:]

    @property
    def short_name(self) -> str:
        """Its name when it was first backed up, less what a file's name can't hold."""
        return self.path.name[:-9]

    def backups(self) -> list[Stored | DamagedBackup]:
        """All backups, oldest first."""
        return [self._read(name) for name in self._names()]

    def good(self) -> list[Stored]:
        """The backups that can be read, oldest first."""
        found = [one for one in self.backups() if isinstance(one, Stored)]
        return sorted(found, key=lambda one: one.manifest.created)

    def damaged(self) -> list[DamagedBackup]:
        """The backups that can't be read."""
        return [one for one in self.backups() if isinstance(one, DamagedBackup)]

    @property
    def name(self) -> str:
        """The name that the VM had at its newest backup."""
        good = self.good()
        return good[-1].manifest.domain if good else self.short_name

    def is_of(self, domain: str) -> bool:
        """Whether these are backups of the domain with that name or UUID."""
        if domain in (self.name, self.short_name):
            return True
        return any(domain == one.manifest.uuid for one in self.good())

    def foreign(self) -> list[Path]:
        """What stands in its directory and is no backup."""
        return sorted(
            one
            for one in _listed(self.path)
            if not _BACKUP.match(one.name)
            and one.name != "lock"
            and not one.name.startswith((_PARTIAL, _GONE))
        )

    def ids(self) -> set[str]:
        """The ids of all backups, of damaged ones too."""
        return {name[-8:] for name in self._names()}

    def _names(self) -> list[str]:
        return sorted(one.name for one in _listed(self.path) if _BACKUP.match(one.name))

    def _read(self, name: str) -> Stored | DamagedBackup:
        path = self.path / name
        try:
            found = manifest.parse(sealed.read(path / "manifest.json"))
            self._check(found, name)
        except Mismatch as error:
            return DamagedBackup(path, name[-8:], f"manifest.json: {error.why}")
        except FileNotFoundError:
            return DamagedBackup(path, name[-8:], "manifest.json is missing")
        except (OSError, ValueError) as error:
            return DamagedBackup(path, name[-8:], f"manifest.json: {error}")
        return Stored(path, found)

    def _check(self, found: Manifest, name: str) -> None:
        if manifest.directory_name(found.created, found.id) != name:
            raise ValueError(f"it is of backup {found.id} and does not belong here")
        if found.uuid[:8] != self.uuid_start:
            raise ValueError(f"it is of another VM, {found.domain}")
        if found.repository != self.repository.id:
            raise ValueError("it is of another repository")

    @contextmanager
    def writing(self, domain: str) -> Iterator[None]:
        """Keep other writers out; raises Busy. Removes what dead ones left."""
        import fcntl

        with _writing(self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            handle = os.open(self.path / "lock", flags, files.FILE_MODE)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(
                    f"another vircpt writes to the backups of domain {domain}",
                    why=_who(handle, self.path),
                    domain=domain,
                    hint="wait until it is done",
                ) from None
            for one in _listed(self.path):
                if one.name.startswith((_PARTIAL, _GONE)):
                    trace.tell(f"remove {one}")
                    files.remove_tree(one)
            yield
        finally:
            os.close(handle)

    def partial(self, created: float, backup_id: str) -> Path:
        """The new directory in which a backup grows."""
        path = self.path / f"{_PARTIAL}{manifest.directory_name(created, backup_id)}"
        with _writing(path):
            path.mkdir(mode=files.DIRECTORY_MODE)
        return path

    def commit(self, partial: Path, content: Manifest) -> Stored:
        """Write the manifest, and put the backup in its place: from now on it is there."""
        place = self.path / manifest.directory_name(content.created, content.id)
        with _writing(place):
            files.write_new(partial / "manifest.json", sealed.write(manifest.dump(content)))
            files.sync_directory(partial)
            partial.rename(place)
            files.sync_directory(self.path)
        return Stored(place, content)


def open_repository(path: Path) -> Repository:
    """The repository at `path`; raises NotFound if there is none, Mismatch if it is damaged."""
    mark = path / _MARK
    try:
        content = sealed.read(mark)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"{path} is no repository",
            why=f"it has no {_MARK}",
            hint="vircpt -d DOMAIN backup --to DIR makes one",
        ) from None
    except OSError as error:
        raise VircptError(f"cannot read the repository {path}", why=str(error)) from error
    return Repository(path.absolute(), _checked_id(content, mark))


def make_repository(path: Path) -> Repository:
    """The repository at `path`, which is made if nothing is there or an empty directory."""
    try:
        return open_repository(path)
    except NotFound:
        pass
    path = path.absolute()
    with _writing(path):
        path.mkdir(mode=files.DIRECTORY_MODE, exist_ok=True)
        if any(path.iterdir()):
            raise InvalidInput(
                f"{path} is not empty, and no repository",
                hint="name a directory that does not exist yet",
            )
        path.chmod(files.DIRECTORY_MODE)
        content = {"schema": _SCHEMA, "id": os.urandom(4).hex(), "created": time.time()}
        temporary = path / f".{_MARK}.{os.urandom(4).hex()}"
        files.write_new(temporary, sealed.write(content))
        try:
            os.link(temporary, path / _MARK)  # two may make it at once: the first one's stays
        except FileExistsError:
            pass
        except OSError:  # no hard links there
            temporary.rename(path / _MARK)
        finally:
            temporary.unlink(missing_ok=True)
        files.sync_directory(path)
    return open_repository(path)


def find(repository: Repository, backup_id: str, vms: Sequence[Vm]) -> tuple[Vm, Stored]:
    """The backup of one of these VMs with that id, or `latest`.

    Raises NotFound, Mismatch for a damaged one, InvalidInput if it is not clear which VM.
    """
    if backup_id == "latest":
        return _latest(vms, repository)
    for vm in vms:
        for one in vm.backups():
            name = one.id
            if name == backup_id and isinstance(one, DamagedBackup):
                raise Mismatch(f"backup {backup_id} is damaged", why=f"{one.path}: {one.why}")
            if name == backup_id and isinstance(one, Stored):
                return vm, one
    raise NotFound(
        f"no backup {backup_id!r} in {repository.path}",
        hint=f"see vircpt backups --from {repository.path}",
    )


def _latest(vms: Sequence[Vm], repository: Repository) -> tuple[Vm, Stored]:
    found = [(vm, vm.good()[-1]) for vm in vms if vm.good()]
    if not found:
        raise NotFound(f"there is no backup in {repository.path}")
    if len(found) > 1:
        names = ", ".join(one.manifest.domain for _, one in found)
        raise InvalidInput(f"of which VM? There are backups of {names}", hint="name it with -d")
    return found[0]


def read_verified(stored: Stored) -> Verified | None:
    """What the last verification found, None if there was none or it can't be read."""
    try:
        content = sealed.read(stored.path / "verified.json")
        when, fault = content["when"], content["fault"]
        if isinstance(when, (int, float)) and (fault is None or isinstance(fault, str)):
            return Verified(when, content["deep"] is True, fault)
    except (OSError, KeyError, Mismatch):
        pass
    return None


def write_verified(stored: Stored, found: Verified) -> None:
    """Note it; nothing happens in a repository that is read-only."""
    content = {"schema": "vircpt/backup-verified/1", "when": found.when, "deep": found.deep,
               "fault": found.fault}  # fmt: skip
    try:
        files.replace(stored.path / "verified.json", sealed.write(content))
    except OSError as error:
        trace.tell(f"verification not noted: {error}")


def _checked_id(content: dict[str, Any], mark: Path) -> str:
    found = content.get("id")
    if (
        content.get("schema") != _SCHEMA
        or not isinstance(found, str)
        or not manifest.ID.match(found)
    ):
        raise Mismatch(
            f"{mark} can't be used", why="it is of another version of vircpt, or foreign"
        )
    return found


def _listed(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise VircptError(f"cannot read {path}", why=str(error)) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Failures of the file system in words."""
    try:
        yield
    except OSError as error:
        hint = None
        if error.errno == errno.ENOSPC:
            hint = "make room there; earlier backups are whole"
        if error.errno == errno.ENOENT:
            hint = "make the directory above it first"
        raise VircptError(f"cannot write to {path}", why=error.strerror, hint=hint) from error


def _who(handle: int, path: Path) -> str:
    """Who holds the lock, from what the kernel tells, and since when from its partial backup."""
    inode = os.fstat(handle).st_ino
    pid = None
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "FLOCK" in words and words[5].endswith(f":{inode}") and words[1] != "->":
                pid = words[4]
    except (OSError, IndexError):
        pass
    starts = [one.stat().st_ctime for one in _listed(path) if one.name.startswith(_PARTIAL)]
    since = (
        time.strftime(", since %Y-%m-%d %H:%M:%S", time.localtime(min(starts))) if starts else ""
    )
    return f"{f'process {pid}' if pid else 'a process on another host'}{since}"
