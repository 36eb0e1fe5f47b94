"""A repository of backups. Nothing here needs libvirt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vircpt.errors import NotFound
from vircpt.repository import chain, store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vircpt.operations import restore, verify
    from vircpt.repository.manifest import Manifest
    from vircpt.repository.store import Stored, Verified, Vm


@dataclass(frozen=True)
class StoredBackup:
    """A backup of a repository. `why_damaged` in words; then only `id` and `path` are known.

    `chain` is the id of the full backup at the bottom, None if one below is missing.
    """

    id: str
    path: Path
    manifest: Manifest | None
    chain: str | None
    verified: Verified | None
    why_damaged: str | None
    vm: Vm

    @property
    def stored(self) -> Stored:
        assert self.manifest is not None
        return store.Stored(self.path, self.manifest)


class Repository:
    """An existing repository."""

    def __init__(self, raw: store.Repository) -> None:
        self._raw = raw

    @property
    def path(self) -> Path:
        return self._raw.path

    @property
    def id(self) -> str:
        return self._raw.id

    def backups(self, domain: str | None = None) -> list[StoredBackup]:
        """All backups, or those of a domain by name or UUID, oldest first; raises NotFound."""
        vms = self._vms(domain)
        return [one for vm in vms for one in _backups_of(vm)]

    def find(self, backup_id: str, domain: str | None = None) -> StoredBackup:
        """The backup with that id, or "latest"; raises NotFound, Mismatch if it is damaged,
        InvalidInput if it is not clear of which domain."""
        vms = self._vms(domain)
        vm, found = store.find(self._raw, backup_id, vms)
        return next(one for one in _backups_of(vm) if one.path == found.path)

    def verify(
        self,
        backup: StoredBackup | None = None,
        *,
        domain: str | None = None,
        deep: bool = False,
        progress: verify.Progress | None = None,
    ) -> list[verify.Verification]:
        """Check every byte of this backup and what it rests on; of all, or of a domain's, if None.

        `deep` has QEMU read each disk through its chain too. Faults are returned, not raised.
        """
        from vircpt.operations import verify as operation

        chosen = (backup.vm, backup.stored) if backup else None
        return operation.verify(self._vms(domain), chosen, deep=deep, progress=progress)

    def restore(
        self,
        backup: StoredBackup,
        places: Mapping[str, Path],
        *,
        image_format: str = "qcow2",
        progress: restore.Progress | None = None,
    ) -> list[restore.RestoredDisk]:
        """Restore disks, by target, into new files or onto block devices.

        Raises Mismatch, and leaves no file, if what is stored is damaged.
        """
        from vircpt.operations import restore as operation

        return operation.restore_disks(backup.vm, backup.stored, places, image_format, progress)

    def _vms(self, domain: str | None) -> list[Vm]:
        every = self._raw.vms()
        if domain is None:
            return every
        found = [one for one in every if one.is_of(domain)]
        if not found:
            known = ", ".join(one.name for one in every)
            raise NotFound(
                f"no backup of domain {domain!r} in {self.path}",
                domain=domain,
                hint=f"there are backups of {known}" if known else "there are none at all",
            )
        return found


def open_repository(path: Path | str) -> Repository:
    """The repository in that directory; raises NotFound, Mismatch if its mark is damaged."""
    return Repository(store.open_repository(Path(path)))


def _backups_of(vm: Vm) -> list[StoredBackup]:
    good = {one.id: one for one in vm.good()}
    found = [_describe(one, good, vm) for one in good.values()]
    found += [StoredBackup(one.id, one.path, None, None, None, one.why, vm) for one in vm.damaged()]
    return found


def _describe(one: Stored, good: Mapping[str, Stored], vm: Vm) -> StoredBackup:
    full = chain.bottom(good, one)
    return StoredBackup(
        id=one.id,
        path=one.path,
        manifest=one.manifest,
        chain=full.id if full else None,
        verified=store.read_verified(one),
        why_damaged=None,
        vm=vm,
    )
