"""The Python API: hosts, their domains, and exports. The command line is its first user.

Objects here hold a connection and a name; all they tell is asked for anew at each call.
They are not safe to share between threads.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vircpt.blocks import nbd
from vircpt.blocks.extents import Extent, Totals
from vircpt.errors import NotFound, NotSupported, VircptError
from vircpt.hypervisor import checkpoints
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.agent import DEFAULT_LIMIT, Freeze, FreezeReport, FreezeState
from vircpt.hypervisor.connection import (
    Connection,
    Credentials,
    Versions,
    default_uri,
    library_version,
)
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.operations import create as creating
from vircpt.operations import delete as deleting
from vircpt.operations import export as exporting
from vircpt.operations import exports as exports_of_host
from vircpt.operations import inspect, reading
from vircpt.operations import release as releasing
from vircpt.operations import run as running
from vircpt.operations.commands import UsefulCommand, useful_commands
from vircpt.operations.create import CheckpointPlan, CreatedCheckpoint
from vircpt.operations.delete import Deletion, Scope
from vircpt.operations.export import ExportPlan
from vircpt.operations.exports import ExportState, ExportStatus
from vircpt.operations.inspect import (
    CheckpointStatus,
    DiskStatus,
    Health,
    descendants,
    leaves,
    roots,
)
from vircpt.operations.reading import ExportedDisk
from vircpt.operations.release import ReleasedExport
from vircpt.operations.selection import Skipped
from vircpt.operations.tcp import TcpListen, parse_listen
from vircpt.records.exports import ExportDirectory

__all__ = [
    "DEFAULT_LIMIT",
    "CheckpointPlan",
    "CheckpointStatus",
    "CreatedCheckpoint",
    "Deletion",
    "DiskDetails",
    "DiskStatus",
    "Domain",
    "DomainFacts",
    "Export",
    "ExportPlan",
    "ExportState",
    "ExportStatus",
    "ExportedDisk",
    "Extent",
    "Freeze",
    "FreezeReport",
    "FreezeState",
    "Health",
    "Host",
    "ReleasedExport",
    "Scope",
    "Skipped",
    "TcpListen",
    "Totals",
    "UsefulCommand",
    "Versions",
    "connect",
    "descendants",
    "leaves",
    "library_versions",
    "parse_listen",
    "roots",
]


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

    def exports(self) -> list[ExportStatus]:
        """All exports on this host, and backup jobs that other programs run."""
        return exports_of_host.list_exports(self._connection)

    def release(self, domain: str, *, force: bool = False) -> list[ReleasedExport]:
        """Release the export of a domain, which may have been undefined meanwhile.

        Raises NotFound if it has none, Busy if it is attached somewhere (unless `force`) or
        if the running job isn't vircpt's.
        """
        return releasing.release(self._connection, domain, force=force)


class Domain:
    """A domain of a host."""

    def __init__(self, raw: LibvirtDomain) -> None:
        self._raw = raw

    @property
    def name(self) -> str:
        return self._raw.name

    @property
    def uuid(self) -> str:
        return self._raw.uuid

    def facts(self) -> DomainFacts:
        """Its state and its disks, now."""
        return self._raw.facts()

    def checkpoints(self) -> list[CheckpointStatus]:
        """All checkpoints with changed bytes and health, parents before children."""
        return inspect.list_checkpoints(self._raw)

    def checkpoint_names(self) -> frozenset[str]:
        """The names of all checkpoints; faster than `checkpoints`."""
        return checkpoints.names(self._raw)

    def checkpoint(self, name: str) -> CheckpointStatus:
        """One checkpoint; raises NotFound."""
        return inspect.checkpoint(self._raw, name)

    def checkpoint_xml(self, name: str, *, with_domain: bool = True) -> str:
        """A checkpoint's definition in libvirt's XML, such as `redefine_checkpoint` takes."""
        return checkpoints.read_xml(self._raw, name, with_domain=with_domain)

    def plan_checkpoint(
        self,
        name: str | None = None,
        *,
        description: str = "",
        disks: Sequence[str] = (),
        exclude: Sequence[str] = (),
        keep_last: int | None = None,
    ) -> CheckpointPlan:
        """What `create_checkpoint` would do; nothing is changed."""
        options = creating.CheckpointOptions(
            name=name, description=description, disks=disks, exclude=exclude, keep_last=keep_last
        )
        return creating.plan(self._raw, options)

    def create_checkpoint(
        self,
        name: str | None = None,
        *,
        description: str = "",
        disks: Sequence[str] = (),
        exclude: Sequence[str] = (),
        freeze: Freeze = Freeze.AUTO,
        freeze_limit: float = DEFAULT_LIMIT,
        keep_last: int | None = None,
    ) -> CreatedCheckpoint:
        """Make a checkpoint, named by date if no name is given, all disks in one instant.

        The guest's file systems stand frozen meanwhile, `freeze_limit` seconds at the most.
        `keep_last` then deletes the oldest of those that vircpt made. Raises NotSupported if
        the domain is not running, no disk can take part, or the guest can't be frozen though
        it must; InvalidInput for a bad name; NotFound for an unknown disk.
        """
        options = creating.CheckpointOptions(
            name, description, disks, exclude, freeze, freeze_limit, keep_last
        )
        return creating.create(self._raw, options)

    def redefine_checkpoint(self, xml: str, *, validate: bool = False) -> str:
        """Bring back a checkpoint's metadata from its XML; returns its name.

        With `validate` libvirt checks that the bitmaps are there; the domain must run.
        """
        return checkpoints.redefine(self._raw, xml, validate=validate).name

    def plan_deletion(
        self, name: str, *, scope: Scope = Scope.ONE, metadata_only: bool = False
    ) -> Deletion:
        """What `delete_checkpoint` would delete; nothing is changed."""
        return deleting.plan(self._raw, name, scope, metadata_only)

    def delete_checkpoint(
        self, name: str, *, scope: Scope = Scope.ONE, metadata_only: bool = False
    ) -> Deletion:
        """Delete a checkpoint, its descendants, or both; `metadata_only` leaves the bitmaps.

        The children of one that is deleted alone move to its parent, and keep what they
        know. Raises NotFound, Busy if a running export is based on it, NotSupported if the
        domain is not running.
        """
        return deleting.delete(self._raw, name, scope, metadata_only)

    def plan_export(
        self,
        since: str | None = None,
        *,
        create: str | None = None,
        disks: Sequence[str] = (),
        exclude: Sequence[str] = (),
        tcp: TcpListen | None = None,
    ) -> ExportPlan:
        """What `export` would hold; nothing is changed."""
        options = exporting.ExportOptions(
            since=since, create=create, disks=disks, exclude=exclude, tcp=tcp
        )
        return exporting.plan(self._raw, options)

    def export(
        self,
        since: str | None = None,
        *,
        create: str | None = None,
        disks: Sequence[str] = (),
        exclude: Sequence[str] = (),
        scratch_dir: str | None = None,
        tcp: TcpListen | None = None,
        ttl: float | None = None,
        freeze: Freeze = Freeze.AUTO,
        freeze_limit: float = DEFAULT_LIMIT,
    ) -> Export:
        """Export the disks over NBD **as they are now**; blocks written since `since` marked.

        `create` makes a new checkpoint in the same instant: who wants the data *of* a
        checkpoint exports so. The export runs until it is released, or for `ttl` seconds;
        as a context manager it is released at the end of the block. Raises Busy if the
        domain has a job already, BrokenChain if the bitmap of `since` is damaged, NotFound,
        NotSupported.
        """
        options = exporting.ExportOptions(
            since, create, disks, exclude, scratch_dir, tcp, ttl, freeze, freeze_limit
        )
        started = exporting.start(self._raw, options)
        return Export(self._raw, started.directory, Start(started.plan, started.freeze))

    def running_export(self) -> Export:
        """The export that runs on this domain now; raises NotFound."""
        return Export(self._raw, exports_of_host.find_running(self._raw))


@dataclass(frozen=True)
class Start:
    """How an export came about."""

    plan: ExportPlan
    freeze: FreezeReport


class Export:
    """A running export; as a context manager it is released at the end."""

    def __init__(
        self, domain: LibvirtDomain, directory: ExportDirectory, start: Start | None = None
    ) -> None:
        self._domain = domain
        self._directory = directory
        self.start = start
        """How it came about, if this object started it."""

    def __enter__(self) -> Export:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
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
    def expires(self) -> float | None:
        """When it is released by itself."""
        return self._directory.record.expires

    @property
    def since(self) -> str | None:
        """The checkpoint whose changed blocks are marked."""
        return self._directory.record.base

    @property
    def disks(self) -> tuple[ExportedDisk, ...]:
        return reading.disks(self._directory)

    def disk(self, target: str | None = None) -> ExportedDisk:
        """One disk, the only one if `target` is None; raises NotFound, InvalidInput."""
        return reading.disk(self._directory, target)

    def describe(self) -> tuple[DiskDetails, ...]:
        """Its disks with size, changed bytes and useful commands; reads the dirty maps."""
        why = {one.target: one.why_full for one in self.start.plan.disks} if self.start else {}
        return tuple(_details(disk, why.get(disk.target)) for disk in self.disks)

    def release_command(self) -> str:
        """The command line that releases it, ready to paste."""
        uri = self._domain.connection.uri
        connect_to = [] if uri == default_uri() else ["-c", uri]
        return shlex.join(["vircpt", *connect_to, "-d", self.domain, "release"])

    def run(self, command: str) -> int:
        """Run a shell command on it; its exit status. See `operations.run.environment`."""
        socket = str(self.socket) if self.socket else None
        return running.run(command, running.environment(self.id, socket, self.disks))

    def release(self, *, force: bool = False) -> ReleasedExport:
        """End the export and remove all that it had; raises Busy if it is attached."""
        return releasing.release_one(self._domain.connection, self.id, force=force)


@dataclass(frozen=True)
class DiskDetails:
    """A disk of an export for people; sizes in bytes, None if it can't be read from here."""

    target: str
    uri: str
    size: int | None
    changed: int | None
    bitmap: str | None
    since: str | None
    why_full: str | None
    commands: tuple[UsefulCommand, ...]


def _details(disk: ExportedDisk, why_full: str | None) -> DiskDetails:
    size, changed = reading.changed_bytes(disk)
    return DiskDetails(
        target=disk.target,
        uri=disk.uri,
        size=size,
        changed=changed,
        bitmap=disk.bitmap,
        since=disk.since,
        why_full=why_full,
        commands=tuple(useful_commands(disk, size)),
    )
