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
    from vircpt.operations.exports import ExportStatus
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

    def release(self, domain: str, *, force: bool = False) -> list[ReleasedExport]:
        """Release the export of a domain, which may have been undefined meanwhile.

        Raises NotFound if it has none, Busy if it is attached somewhere (unless `force`) or
        if the running job isn't vircpt's.
        """
        from vircpt.operations import release

        return release.release(self._connection, domain, force=force)

    def release_export(self, export_id: str, *, force: bool = False) -> ReleasedExport:
        """Release the export with that id; raises as `release` does."""
        from vircpt.operations import release

        return release.release_one(self._connection, export_id, force=force)
