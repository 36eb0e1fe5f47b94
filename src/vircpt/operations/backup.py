"""Back a domain up into a repository: export and new checkpoint in one instant, then copy.

The order of steps is what keeps a repository whole whatever dies: the checkpoint is named
after the backup, which appears by one rename when all is on disk. A checkpoint whose backup
isn't there is the mark of a failure, and is deleted by the next backup. Only then do older
checkpoints go. The export is owned: it ends with this process, its checkpoint too.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vircpt.errors import BrokenChain, NotFound, NotSupported, VircptError
from vircpt.hypervisor import agent, checkpoints
from vircpt.hypervisor.agent import Freeze, FreezeReport
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.interrupts import resume, uninterrupted
from vircpt.operations import backup_copy, backup_files, delete, export, reading, release
from vircpt.operations.backup_copy import DiskTask, Watch, WrittenImage
from vircpt.operations.export import StartedExport
from vircpt.operations.export_plan import ExportOptions
from vircpt.operations.selection import Skipped
from vircpt.records import exports as records
from vircpt.repository import chain, files, manifest, store, sums
from vircpt.repository.manifest import Level, Manifest, StoredDisk
from vircpt.repository.store import Stored, Vm


@dataclass(frozen=True)
class BackupOptions:
    """What may be asked of a backup. `level` None: incremental if that is possible, else full.

    `rate` in bytes a second, `freeze_limit` in seconds.
    """

    repository: Path
    level: Level | None = None
    disks: Sequence[str] = ()
    exclude: Sequence[str] = ()
    zstd: bool = False
    rate: int | None = None
    freeze: Freeze | None = None
    freeze_limit: float = agent.DEFAULT_LIMIT
    scratch_dir: str | None = None


@dataclass(frozen=True)
class Backup:
    """A backup that was made; sizes in bytes, `seconds` from start to end.

    `why_full` says why it is full though incremental would have been made if possible.
    `read` was read from the VM. `dropped` are checkpoints that nobody needs any more,
    `kept` those that could not be deleted, `left_out` files that could not be read.
    """

    manifest: Manifest
    path: Path
    why_full: str | None
    skipped: tuple[Skipped, ...]
    left_out: tuple[Skipped, ...]
    freeze: FreezeReport
    read: int
    seconds: float
    dropped: tuple[str, ...]
    kept: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Base:
    """Where a backup starts: at the checkpoint of `parent`, or in full."""

    level: Level
    parent: Stored | None
    why_full: str | None = None


def backup(domain: LibvirtDomain, options: BackupOptions, watch: Watch | None = None) -> Backup:
    """Make a backup; if anything fails nothing of it is left, its checkpoint neither.

    Raises Busy if another one runs, BrokenChain if it can't be incremental though it must,
    NotFound for an unknown disk, VircptError if the repository is full.
    """
    repository = store.make_repository(options.repository)
    vm = repository.make_vm(domain.name, domain.uuid)
    with vm.writing(domain.name):
        start = time.monotonic()
        made = _Run(domain, options, vm).make(watch)
        dropped, kept = _drop(domain, vm)
    return Backup(
        manifest=made.stored.manifest,
        path=made.stored.path,
        why_full=made.base.why_full,
        skipped=made.started.plan.skipped,
        left_out=tuple(made.left_out),
        freeze=made.started.freeze,
        read=sum(one.read for one in made.written),
        seconds=time.monotonic() - start,
        dropped=dropped,
        kept=kept,
    )


@dataclass(frozen=True)
class _Made:
    stored: Stored
    base: _Base
    started: StartedExport
    written: list[WrittenImage]
    left_out: list[Skipped]


class _Run:
    """One backup; the lock on the VM's directory is held."""

    def __init__(self, domain: LibvirtDomain, options: BackupOptions, vm: Vm) -> None:
        self.domain, self.options, self.vm = domain, options, vm
        self.facts: DomainFacts = domain.facts()
        self.present = vm.good()
        self.id = _new_id(vm)

    def make(self, watch: Watch | None) -> _Made:
        _delete_orphans(self.domain, self.vm, self.facts)
        base, started = self._start(self._choose())
        partial: Path | None = None
        try:
            resume()
            created = self._moment()
            partial = self.vm.partial(created, self.id)
            written = backup_copy.copy(
                self._tasks(base, started, partial),
                zstd=self.options.zstd,
                rate=self.options.rate,
                watch=watch,
            )
            found, left_out = backup_files.collect(self.domain, partial)
            content = Manifest(
                id=self.id,
                created=created,
                repository=self.vm.repository.id,
                domain=self.domain.name,
                uuid=self.domain.uuid,
                level=base.level,
                parent=base.parent.id if base.parent else None,
                checkpoint=started.plan.create is not None,
                state=self.facts.state,
                freeze=None if started.plan.offline else started.freeze.state.value,
                compress="zstd" if self.options.zstd else "none",
                disks=tuple(_seal(partial, one, base, started) for one in written),
                files=tuple(found),
            )
            with uninterrupted():
                with suppress(NotFound):  # somebody released it, after all was read
                    release.release_one(
                        self.domain.connection, started.directory.record.id, force=True
                    )
                stored = self.vm.commit(partial, content)
        except BaseException as error:
            with uninterrupted():
                export.withdraw(self.domain, started, error)
                if partial is not None:
                    files.remove_tree(partial)
            raise
        finally:
            if started.owner is not None:
                os.close(started.owner)
        return _Made(stored, base, started, written, left_out)

    def _choose(self) -> _Base:
        """What the options and the repository say; whether libvirt agrees comes later."""
        wanted = self.options.level
        if wanted in (Level.FULL, Level.COPY):
            return _Base(wanted, None)
        parent = chain.newest_base(self.present)
        why = "the repository holds no backup of it that another one can start at"
        if parent is not None and wanted is Level.DIFFERENTIAL:
            parent = chain.full_below({one.id: one for one in self.present}, parent)
            why = "the full backup of the newest chain is not there"
            if parent is not None and not parent.manifest.checkpoint:
                why = f"the full backup {parent.id} made no checkpoint"
                parent = None
        if parent is not None:
            broken = self._broken_below(parent)
            if broken is None:
                return _Base(wanted or Level.INCREMENTAL, parent)
            why = broken
        if wanted is None:
            return _Base(Level.FULL, None, why)
        raise BrokenChain(
            f"no {wanted.value} backup of domain {self.domain.name} can be made",
            why=why,
            domain=self.domain.name,
            hint="make a full one: --level full, or --level auto",
        )

    def _broken_below(self, parent: Stored) -> str | None:
        """Why nothing can rest on that backup: something below it is missing or not itself."""
        from vircpt.operations import stored_images

        backups = {one.id: one for one in self.present}
        try:
            for disk in parent.manifest.disks:
                stored_images.check_chain(backups, parent, disk.target)
        except VircptError as error:
            return str(error)
        return None

    def _start(self, base: _Base) -> tuple[_Base, StartedExport]:
        """Start the export; a bitmap that can't be used makes `auto` a full backup."""
        try:
            return base, export.start(self.domain, self._export_options(base))
        except (BrokenChain, NotFound) as error:
            if base.parent is None or (isinstance(error, NotFound) and not error.checkpoint):
                raise
            if self.options.level is not None:
                raise BrokenChain(
                    f"no {base.level.value} backup of domain {self.domain.name} can be made",
                    why=str(error),
                    domain=self.domain.name,
                    hint="make a full one: --level full, or --level auto",
                ) from error
            full = _Base(Level.FULL, None, str(error))
        return full, export.start(self.domain, self._export_options(full))

    def _export_options(self, base: _Base) -> ExportOptions:
        repository = self.vm.repository.id
        can = self.facts.is_active and any(
            not disk.no_checkpoint
            for disk in self.facts.disks
            if disk.target not in self.options.exclude
            and (not self.options.disks or disk.target in self.options.disks)
        )
        create = None
        if can and base.level is not Level.COPY:
            create = manifest.checkpoint_name(repository, self.id)
        since = manifest.checkpoint_name(repository, base.parent.id) if base.parent else None
        return ExportOptions(
            since=since,
            create=create,
            disks=self.options.disks,
            exclude=self.options.exclude,
            scratch_dir=self.options.scratch_dir,
            freeze=self.options.freeze,
            freeze_limit=self.options.freeze_limit,
            owned=True,
        )

    def _moment(self) -> float:
        """Now; but later than the newest backup, should the clock have been set back."""
        now = time.time()
        return max(now, self.present[-1].manifest.created + 0.001) if self.present else now

    def _tasks(self, base: _Base, started: StartedExport, partial: Path) -> list[DiskTask]:
        tasks = []
        for disk in reading.disks(started.directory):
            if not manifest.is_target(disk.target):
                raise NotSupported(
                    f"disk {disk.target!r} can't be backed up",
                    why="its target can't be the name of a file",
                    domain=self.domain.name,
                )
            backing = None
            if _parent_of(base, disk.target, started) is None:
                disk = disk.without_bitmap()  # noqa: PLW2901
            else:
                assert base.parent
                backing = f"../{base.parent.path.name}/{manifest.image_name(disk.target)}"
            tasks.append(DiskTask(disk, partial / manifest.image_name(disk.target), backing))
        return tasks


def _parent_of(base: _Base, target: str, started: StartedExport) -> Stored | None:
    """The backup that a disk rests on: none if it is exported in full, or was not in there."""
    planned = next(one for one in started.plan.disks if one.target == target)
    if planned.since is None or base.parent is None:
        return None
    return base.parent if base.parent.manifest.disk(target) else None


def _seal(partial: Path, written: WrittenImage, base: _Base, started: StartedExport) -> StoredDisk:
    """Write the checksums of an image; how the disk stands in the manifest."""
    text = sums.write(written.digests, written.stored)
    path = partial / manifest.sums_name(written.target)
    try:
        files.write_new(path, text)
    except OSError as error:
        raise VircptError(f"cannot write {path}", why=error.strerror) from error
    parent = _parent_of(base, written.target, started)
    planned = next(one for one in started.plan.disks if one.target == written.target)
    why_full = planned.why_full
    if parent is None and base.parent is not None and why_full is None:
        why_full = f"backup {base.parent.id} does not hold it"
    return StoredDisk(
        target=written.target,
        size=written.size,
        parent=parent.id if parent else None,
        why_full=why_full,
        stored=written.stored,
        data=written.data,
        zero=written.zero,
        sums=hashlib.sha256(text).hexdigest(),
    )


def _new_id(vm: Vm) -> str:
    taken = vm.ids()
    while (found := os.urandom(4).hex()) in taken:
        pass
    return found


def _delete_orphans(domain: LibvirtDomain, vm: Vm, facts: DomainFacts) -> None:
    """Delete this repository's checkpoints whose backups never came about."""
    if not facts.is_active:
        return
    known = {manifest.checkpoint_name(vm.repository.id, one) for one in vm.ids()}
    orphans = _of_repository(domain, vm) - known
    if orphans:
        with records.locked(domain.uuid, domain.name):
            _forget(domain, sorted(orphans))


def _drop(domain: LibvirtDomain, vm: Vm) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Delete this repository's checkpoints at which no backup will start any more."""
    if not domain.is_active():
        return (), ()
    doomed = _of_repository(domain, vm) - chain.needed_checkpoints(vm.good())
    if not doomed:
        return (), ()
    try:
        with records.locked(domain.uuid, domain.name, patience=10):
            return _forget(domain, sorted(doomed))
    except VircptError as error:
        return (), tuple(Skipped(one, str(error)) for one in sorted(doomed))


def _of_repository(domain: LibvirtDomain, vm: Vm) -> set[str]:
    """The checkpoints that backups into this repository made."""
    start = f"vircpt-{vm.repository.id}-"
    return {
        one.name
        for one in checkpoints.list_all(domain)
        if one.ours and one.name.startswith(start) and manifest.ID.match(one.name[len(start) :])
    }


def _forget(
    domain: LibvirtDomain, names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Delete checkpoints; where bitmaps are gone, what libvirt remembers of them."""
    done: list[str] = []
    kept: list[Skipped] = []
    for name in names:
        try:
            delete.delete_one(domain, name)
            done.append(name)
        except NotFound:
            continue
        except VircptError as error:
            kept.append(Skipped(name, str(error)))
    return tuple(done), tuple(kept)
