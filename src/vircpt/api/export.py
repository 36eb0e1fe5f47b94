"""A running export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vircpt.errors import NotFound, VircptError
from vircpt.hypervisor.connection import default_uri
from vircpt.interrupts import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vircpt.hypervisor.domain import LibvirtDomain
    from vircpt.operations.details import DiskDetails
    from vircpt.operations.diff import Findings
    from vircpt.operations.export import StartedExport
    from vircpt.operations.fetch import Copied, FileFacts, Left
    from vircpt.operations.layout import DiskLayout
    from vircpt.operations.looking import Confinement
    from vircpt.operations.reading import ExportedDisk
    from vircpt.operations.release import ReleasedExport
    from vircpt.records.exports import ExportDirectory


class Export:
    """A running export; as a context manager it is released at the end."""

    def __init__(
        self, domain: LibvirtDomain, directory: ExportDirectory, start: StartedExport | None = None
    ) -> None:
        self._domain = domain
        self._directory = directory
        self.start = start
        """How it came about, if this object started it."""

    def __enter__(self) -> Export:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            with uninterrupted():
                self.release(force=True)
        except NotFound:
            return  # it has been released inside of the block, or its time was over
        except VircptError as second:
            if error is None:
                raise
            error.add_note(f"and the export could not be released: {second}")

    @property
    def id(self) -> str:
        return self._directory.record.id

    @property
    def domain(self) -> str:
        return self._directory.record.domain

    @property
    def socket(self) -> Path | None:
        """The Unix socket, None if it listens on TCP."""
        return None if self._directory.record.port else self._directory.socket

    @property
    def address(self) -> str | None:
        """The address it listens on, None if on a Unix socket."""
        return self._directory.record.address

    @property
    def port(self) -> int | None:
        return self._directory.record.port

    @property
    def tls(self) -> bool:
        return self._directory.record.tls_dir is not None

    @property
    def expires(self) -> float | None:
        """When it is released by itself."""
        return self._directory.record.expires

    @property
    def since(self) -> str | None:
        """The checkpoint whose changed blocks are marked."""
        return self._directory.record.base

    @property
    def disks(self) -> tuple[ExportedDisk, ...]:
        from vircpt.operations import reading

        return reading.disks(self._directory)

    def disk(self, target: str | None = None) -> ExportedDisk:
        """One disk, the only one if `target` is None; raises NotFound, InvalidInput."""
        from vircpt.operations import reading

        return reading.disk(self._directory, target)

    def describe(self) -> tuple[DiskDetails, ...]:
        """Its disks with size, changed bytes and useful commands; reads the dirty maps."""
        from vircpt.operations import details

        why = {one.target: one.why_full for one in self.start.plan.disks} if self.start else {}
        return tuple(details.describe(disk, why, index) for index, disk in enumerate(self.disks))

    def layout(self, confinement: Confinement | None = None) -> DiskLayout:
        """What lies on its disks: partitions, volumes, file systems, and their changed bytes."""
        from vircpt.operations import layout
        from vircpt.operations.looking import Confinement

        return layout.read(self.disks, confinement or Confinement())

    def changed_files(
        self,
        *,
        globs: Sequence[str] = (),
        disks: Sequence[str] = (),
        confinement: Confinement | None = None,
    ) -> Findings:
        """The files of which blocks were written since its checkpoint; raises InvalidInput if it
        has none. A context manager, to be iterated once."""
        from vircpt.operations import diff
        from vircpt.operations.looking import Confinement

        chosen = self._chosen(disks)
        options = diff.options(self._domain, self._directory, globs, confinement or Confinement())
        return diff.Findings(chosen, options)

    def list_files(
        self,
        path: str = "/",
        *,
        recursive: bool = False,
        itself: bool = False,
        confinement: Confinement | None = None,
    ) -> Iterator[FileFacts | Left]:
        """A file, or what is in a directory; `path` may start with a file system's name and a
        colon. Raises NotFound, InvalidInput if it is not clear which file system is meant."""
        from vircpt.operations import fetch
        from vircpt.operations.looking import Confinement

        return fetch.listing(
            self.disks,
            fetch.parse(path),
            confinement or Confinement(),
            recursive=recursive,
            itself=itself,
        )

    def read_file(
        self,
        path: str,
        write: Callable[[bytes | memoryview], object],
        *,
        confinement: Confinement | None = None,
    ) -> None:
        """Hand the contents of a file to `write`, in order and in parts."""
        from vircpt.operations import fetch
        from vircpt.operations.looking import Confinement

        fetch.contents(self.disks, fetch.parse(path), confinement or Confinement(), write)

    def copy_files(
        self,
        paths: Sequence[str],
        destination: str,
        *,
        recursive: bool = False,
        force: bool = False,
        progress: Callable[[int], object] | None = None,
        confinement: Confinement | None = None,
    ) -> Copied:
        """Copy files into a directory, or one to a new name: sparse, with times and modes, with
        owners if we are root. What exists is replaced only with `force`."""
        from vircpt.operations import fetch
        from vircpt.operations.looking import Confinement

        return fetch.copy(
            self.disks,
            [fetch.parse(path) for path in paths],
            destination,
            confinement or Confinement(),
            recursive=recursive,
            force=force,
            progress=progress,
        )

    def _chosen(self, targets: Sequence[str]) -> tuple[ExportedDisk, ...]:
        return tuple(self.disk(one) for one in targets) if targets else self.disks

    def release_command(self) -> str:
        """The command line that releases it, ready to paste."""
        import shlex

        uri = self._domain.connection.uri
        connect_to = [] if uri == default_uri() else ["-c", uri]
        return shlex.join(["vircpt", *connect_to, "-d", self.domain, "release"])

    def run(self, command: str) -> int:
        """Run a shell command on it; its exit status. See `operations.run.environment`."""
        from vircpt.operations import run

        socket = str(self.socket) if self.socket else None
        return run.run(command, run.environment(self.id, socket, self.disks))

    def is_running(self) -> bool:
        """False if it has been released, or its job or server has ended."""
        from vircpt.operations import ownership
        from vircpt.records import exports

        try:
            exports.read(self.id)
        except NotFound:
            return False
        return ownership.is_alive(self._domain.connection, self._directory)

    def withdraw(self, error: BaseException) -> None:
        """Undo it as if it had never been started, because of `error`, with its checkpoint."""
        from vircpt.operations import export

        assert self.start
        export.withdraw(self._domain, self.start, error)

    def release(self, *, force: bool = False) -> ReleasedExport:
        """End the export and remove all that it had; raises Busy if it is attached."""
        from vircpt.operations import release

        return release.release_one(self._domain.connection, self.id, force=force)
