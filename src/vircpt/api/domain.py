"""A domain: its checkpoints, and the way to an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vircpt.hypervisor import checkpoints

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vircpt.api.clone import Clone
    from vircpt.api.export import Export
    from vircpt.hypervisor.agent import Freeze
    from vircpt.hypervisor.clone import Network
    from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
    from vircpt.operations.backup import Backup
    from vircpt.operations.backup_copy import Watch
    from vircpt.operations.create import CheckpointPlan, CreatedCheckpoint
    from vircpt.operations.delete import Deletion, Scope
    from vircpt.operations.export_plan import ExportPlan
    from vircpt.operations.hotadd import Hotadded
    from vircpt.operations.inspect import CheckpointStatus
    from vircpt.operations.metadata import RestoredMetadata, SavedMetadata
    from vircpt.operations.mounts import Mounted
    from vircpt.operations.tcp import TcpListen
    from vircpt.records.history import Noted
    from vircpt.repository.manifest import Level

DEFAULT_FREEZE_LIMIT = 10.0
"""Seconds after which a frozen guest is thawed, whatever happens."""


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
        from vircpt.operations import inspect

        return inspect.list_checkpoints(self._raw)

    def checkpoint_names(self) -> frozenset[str]:
        """The names of all checkpoints; faster than `checkpoints`."""
        return checkpoints.names(self._raw)

    def checkpoint(self, name: str) -> CheckpointStatus:
        """One checkpoint; raises NotFound."""
        from vircpt.operations import inspect

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
        from vircpt.operations import create

        options = create.CheckpointOptions(
            name=name, description=description, disks=disks, exclude=exclude, keep_last=keep_last
        )
        return create.plan(self._raw, options)

    def create_checkpoint(
        self,
        name: str | None = None,
        *,
        description: str = "",
        disks: Sequence[str] = (),
        exclude: Sequence[str] = (),
        freeze: Freeze | None = None,
        freeze_limit: float = DEFAULT_FREEZE_LIMIT,
        keep_last: int | None = None,
    ) -> CreatedCheckpoint:
        """Make a checkpoint, named by date if no name is given, all disks in one instant.

        The guest's file systems stand frozen meanwhile, `freeze_limit` seconds at the most.
        `keep_last` then deletes the oldest of those that vircpt made. Raises NotSupported if
        the domain is not running, no disk can take part, or the guest can't be frozen though
        it must; InvalidInput for a bad name; NotFound for an unknown disk.
        """
        from vircpt.operations import create

        options = create.CheckpointOptions(
            name, description, disks, exclude, freeze, freeze_limit, keep_last
        )
        return create.create(self._raw, options)

    def history(self) -> list[Noted]:
        """How much changed between which moments, as noted by each create and diff."""
        from vircpt.operations import history

        return history.read(self._raw)

    def redefine_checkpoint(self, xml: str, *, validate: bool = False) -> str:
        """Bring back a checkpoint's metadata from its XML; returns its name.

        With `validate` libvirt checks that the bitmaps are there; the domain must run.
        """
        return checkpoints.redefine(self._raw, xml, validate=validate).name

    def save_metadata(self, directory: Path) -> SavedMetadata:
        """Write the definitions of all checkpoints into a new directory. Raises InvalidInput if
        there is something already, NotFound if the domain has no checkpoints."""
        from vircpt.operations import metadata

        return metadata.save(self._raw, directory)

    def restore_metadata(self, directory: Path, *, validate: bool = True) -> RestoredMetadata:
        """Bring back those of `save_metadata` that libvirt does not know, parents first.

        With `validate` the bitmaps must be there, which is looked at before anything is
        changed. Raises InvalidInput for a directory that is not whole, BrokenChain.
        """
        from vircpt.operations import metadata

        return metadata.restore(self._raw, directory, validate=validate)

    def plan_deletion(
        self, name: str, *, scope: Scope | None = None, metadata_only: bool = False
    ) -> Deletion:
        """What `delete_checkpoint` would delete; nothing is changed."""
        from vircpt.operations import delete

        return delete.plan(self._raw, name, scope or delete.Scope.ONE, metadata_only)

    def delete_checkpoint(
        self, name: str, *, scope: Scope | None = None, metadata_only: bool = False
    ) -> Deletion:
        """Delete a checkpoint, its descendants, or both; `metadata_only` leaves the bitmaps.

        The children of one that is deleted alone move to its parent, and keep what they
        know. Raises NotFound, Busy if a running export is based on it, NotSupported if the
        domain is not running.
        """
        from vircpt.operations import delete

        return delete.delete(self._raw, name, scope or delete.Scope.ONE, metadata_only)

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
        from vircpt.operations import export
        from vircpt.operations.export_plan import ExportOptions

        options = ExportOptions(since=since, create=create, disks=disks, exclude=exclude, tcp=tcp)
        return export.plan(self._raw, options)

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
        freeze: Freeze | None = None,
        freeze_limit: float = DEFAULT_FREEZE_LIMIT,
    ) -> Export:
        """Export the disks over NBD **as they are now**; blocks written since `since` marked.

        `create` makes a new checkpoint in the same instant: who wants the data *of* a
        checkpoint exports so. The export runs until it is released, or for `ttl` seconds;
        as a context manager it is released at the end of the block. Raises Busy if the
        domain has a job already, BrokenChain if the bitmap of `since` is damaged, NotFound,
        NotSupported.
        """
        from vircpt.api.export import Export
        from vircpt.operations import export
        from vircpt.operations.export_plan import ExportOptions

        options = ExportOptions(
            since, create, disks, exclude, scratch_dir, tcp, ttl, freeze, freeze_limit
        )
        started = export.start(self._raw, options)
        return Export(self._raw, started.directory, started)

    def boot(
        self,
        since: str | None = None,
        *,
        memory: int | None = None,
        network: Network | None = None,
        test: bool = False,
        agent: bool = False,
        screen: bool = False,
    ) -> Clone:
        """Start a throw-away clone on overlays over the running export, or over a new one.

        The export is one in full, or from checkpoint `since`; a new one goes with the clone.
        `memory` in bytes, by default the original's; no network by default. `agent`,
        `screen`: it gets a channel for the agent, a screen, if the original has none. A
        `test` belongs to this process, and waits until `Clone.run` lets it go. Raises
        NotSupported for want of memory and on other hosts, and what `export` raises.
        """
        from vircpt.api.clone import Clone
        from vircpt.hypervisor.clone import Network as Networks
        from vircpt.hypervisor.connection import Connection
        from vircpt.operations import boot_source
        from vircpt.operations.boot import BootOptions

        options = BootOptions(memory, network or Networks.NONE, test, agent, screen)
        connection = self._raw.connection
        if test:  # it ends with the connection, and tells of its end
            connection = Connection(connection.uri, connection.credentials, events=True)
        try:
            booted = boot_source.start(self._raw, since, options, connection)
        except BaseException:
            if test:
                connection.close()
            raise
        return Clone(booted.clone, connection, booted.source)

    def hotadd(
        self,
        to: Domain,
        since: str | None = None,
        *,
        disks: Sequence[str] = (),
        exclude: Sequence[str] = (),
        writable: bool = False,
        bus: str = "virtio",
        scratch_dir: str | None = None,
        timeout: float | None = None,
        freeze: Freeze | None = None,
        freeze_limit: float = DEFAULT_FREEZE_LIMIT,
    ) -> Hotadded:
        """Attach the disks of this domain's export to the running domain `to`.

        If no export runs one is made, as by `export`, which goes with its last consumer. With
        `writable` each disk gets a throw-away overlay, in `scratch_dir` if given. Waits until
        the guest has looked at the disks, `timeout` seconds (10) at the most; with 0 it does
        not wait. `Host.hotremove` ends it. Raises InvalidInput, NotFound, Busy, NotSupported.
        """
        from vircpt.operations import hotadd
        from vircpt.operations.borrow import Wanted

        options = hotadd.HotaddOptions(
            Wanted(
                since=since,
                disks=disks,
                exclude=exclude,
                scratch_dir=scratch_dir,
                freeze=freeze,
                freeze_limit=freeze_limit,
            ),
            writable=writable,
            bus=bus,
            overlay_dir=scratch_dir,
            look_limit=hotadd.LOOK_LIMIT if timeout is None else timeout,
        )
        return hotadd.hotadd(self._raw, to._raw, options)

    def mount(
        self,
        place: Path,
        since: str | None = None,
        *,
        disks: Sequence[str] = (),
        exclude: Sequence[str] = (),
        scratch_dir: str | None = None,
        timeout: float | None = None,
        freeze: Freeze | None = None,
        freeze_limit: float = DEFAULT_FREEZE_LIMIT,
    ) -> Mounted:
        """Mount the guest's file systems read-only at `place`, an empty directory.

        If no export runs one is made, as by `export`, which goes with `Host.umount`. It is
        libguestfs that reads them; it gets `timeout` seconds (180). Raises InvalidInput, Busy,
        NotSupported without libguestfs, VircptError if nothing can be mounted.
        """
        from vircpt.operations import mounts
        from vircpt.operations.borrow import Wanted

        wanted = Wanted(
            since=since,
            disks=disks,
            exclude=exclude,
            scratch_dir=scratch_dir,
            freeze=freeze,
            freeze_limit=freeze_limit,
        )
        limit = mounts.LIMIT if timeout is None else timeout
        return mounts.mount(self._raw, place, wanted, limit)

    def withdraw(self, done: Hotadded | Mounted, error: BaseException) -> None:
        """Undo a hotadd or a mount as if it had never been, because of `error`."""
        from vircpt.operations import hotadd, mounts

        if isinstance(done, hotadd.Hotadded):
            hotadd.withdraw(self._raw, done, error)
        else:
            mounts.withdraw(self._raw, done, error)

    def backup(
        self,
        repository: Path | str,
        *,
        level: Level | None = None,
        disks: Sequence[str] = (),
        exclude: Sequence[str] = (),
        zstd: bool = False,
        rate: int | None = None,
        freeze: Freeze | None = None,
        freeze_limit: float = DEFAULT_FREEZE_LIMIT,
        scratch_dir: str | None = None,
        watch: Watch | None = None,
    ) -> Backup:
        """Back the domain up into a repository, which is made if there is nothing yet.

        `level` None makes an incremental backup if that is possible, else a full one and says
        why. `rate` in bytes a second; `watch` is told how far it is, ten times a second.
        Raises Busy if the domain has a job or another backup runs, BrokenChain if `level`
        can't be had, Mismatch for a damaged repository. What fails leaves nothing.
        """
        from pathlib import Path

        from vircpt.operations import backup

        options = backup.BackupOptions(
            Path(repository), level, disks, exclude, zstd, rate, freeze, freeze_limit, scratch_dir
        )
        return backup.backup(self._raw, options, watch)

    def running_export(self) -> Export:
        """The export that runs on this domain now; raises NotFound."""
        from vircpt.api.export import Export
        from vircpt.operations import exports

        return Export(self._raw, exports.find_running(self._raw))
