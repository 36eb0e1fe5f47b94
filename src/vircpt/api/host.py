"""A libvirt host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vircpt.api.domain import Domain
from vircpt.errors import NotSupported
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection, Credentials, library_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vircpt.api.repository import StoredBackup
    from vircpt.hypervisor.connection import Versions
    from vircpt.operations.boot_stop import StoppedClone
    from vircpt.operations.doctor.examine import Examination
    from vircpt.operations.doctor.findings import Finding
    from vircpt.operations.exports import ExportStatus
    from vircpt.operations.hotremove import Hotremoved
    from vircpt.operations.mounts import Unmounted
    from vircpt.operations.release import ReleasedExport
    from vircpt.operations.restore import RestoredDisk
    from vircpt.operations.restore_domain import DefinedDomain


def connect(
    uri: str | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
    prompt: Callable[[str, bool], str] | None = None,
) -> Host:
    """Connect to libvirt at `uri`: by default LIBVIRT_DEFAULT_URI, else this host's libvirt.

    What libvirt's auth.conf says of credentials goes first; `prompt` is called with a
    question, and whether the answer may be shown, when libvirt wants more. Raises
    HostUnreachable.
    """
    return Host(Connection(uri, Credentials(user, password, prompt)))


def library_versions() -> dict[str, str | None]:
    """The versions of the libraries on this host, None for those that can't be used."""
    from vircpt.blocks import nbd

    try:
        libnbd: str | None = nbd.version()
    except NotSupported:
        libnbd = None
    return {"libvirt": library_version(), "libnbd": libnbd}


class Host:
    """A libvirt host; a context manager that closes the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; exports go on."""
        self._connection.close()

    @property
    def uri(self) -> str:
        return self._connection.uri

    def versions(self) -> Versions:
        """The versions of libvirt here and there, and of QEMU."""
        return self._connection.versions()

    def domain(self, name: str) -> Domain:
        """The domain with that name or UUID; raises NotFound."""
        return Domain(domains.lookup(self._connection, name))

    def domains(self) -> list[Domain]:
        """All domains, running or not, by name."""
        return [Domain(one) for one in domains.list_domains(self._connection)]

    def refuse_existing(self, name: str) -> None:
        """Raise InvalidInput if there is a domain of that name."""
        from vircpt.operations import restore_domain

        restore_domain.refuse_existing(self._connection, name)

    def define_restored(
        self, backup: StoredBackup, name: str, disks: Sequence[RestoredDisk], directory: Path
    ) -> DefinedDomain:
        """Define the domain of a backup anew, as `name`, on restored disks.

        It gets a new UUID and new MAC addresses; NVRAM, kernel and initrd of the backup go
        into `directory`. Raises InvalidInput if there is a domain of that name.
        """
        from vircpt.operations import restore_domain

        return restore_domain.define(self._connection, backup.stored, name, disks, directory)

    def exports(self) -> list[ExportStatus]:
        """All exports on this host, and backup jobs that other programs run."""
        from vircpt.operations import exports

        return exports.list_exports(self._connection)

    def release(
        self, domain: str, *, force: bool = False, timeout: float | None = None
    ) -> list[ReleasedExport]:
        """Release the export of a domain, which may have been undefined meanwhile.

        With `force` what uses it is ended first: guests get `timeout` seconds to let disks go.
        Raises NotFound if it has none, Busy if it is in use (unless `force`), if a guest does
        not let go, or if the running job isn't vircpt's.
        """
        from vircpt.operations import attachments, release

        limit = attachments.LIMIT if timeout is None else timeout
        return release.release(self._connection, domain, force=force, limit=limit)

    def release_export(
        self, export_id: str, *, force: bool = False, timeout: float | None = None
    ) -> ReleasedExport:
        """Release the export with that id; raises as `release` does."""
        from vircpt.operations import attachments, release

        limit = attachments.LIMIT if timeout is None else timeout
        return release.release_one(self._connection, export_id, force=force, limit=limit)

    def hotremove(
        self, domain: str, source: str | None = None, *, timeout: float | None = None
    ) -> list[Hotremoved]:
        """Detach from `domain` what `Domain.hotadd` attached: the disks of `source`, or all.

        Returns when they are gone; exports that were made for the purpose are released. Raises
        NotFound if there are none, Busy if the guest does not let go within `timeout` seconds.
        """
        from vircpt.operations import attachments, hotremove

        limit = attachments.LIMIT if timeout is None else timeout
        return hotremove.hotremove(self._connection, domain, source, limit)

    def umount(self, place: Path) -> Unmounted:
        """Unmount what `Domain.mount` mounted there; an export made for it is released.

        Raises NotFound if there is nothing of vircpt's, Busy if it is in use.
        """
        from vircpt.operations import mounts

        return mounts.umount(self._connection, place)

    def stop_clones(self, name: str) -> list[StoppedClone]:
        """End the clones of a domain, or the one clone of that name, and all that they had.

        The domain may have been undefined meanwhile. Raises NotFound if there is none.
        """
        from vircpt.operations import boot_stop

        return boot_stop.stop(self._connection, name)

    def examine(
        self, domain: str | None = None, *, deep: bool = False, logs: Sequence[Path] = ()
    ) -> Examination:
        """What is wrong with a domain, or with all, and with the host; nothing is changed.

        With `deep` QEMU and the guest agent are asked past libvirt, which libvirt notes as a
        taint of the domain. `logs` are read instead of the host's. Raises NotFound.
        """
        from vircpt.operations.doctor import examine

        return examine.examine(self._connection, domain, deep=deep, log_files=logs)

    def repair(self, finding: Finding) -> None:
        """Carry out a finding's repair, whatever its `safety`: ask before. Raises VircptError."""
        from vircpt.operations.doctor import repair

        repair.carry_out(self._connection, finding)
