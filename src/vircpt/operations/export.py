"""Start an export: the disks as they are now, the blocks written since a checkpoint marked.

The way of one export: plan (which disks, from which checkpoint) → a private directory with
its state → freeze → libvirt's backup job, with a new checkpoint in the same instant if
asked for → thaw. Whatever fails on the way, nothing of it is left; a crash leaves the
directory, by which `release` and the next export find what there is to clean up.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from vircpt.errors import BrokenChain, Busy, NotSupported, VircptError, quoted
from vircpt.hypervisor import agent, backups, checkpoints
from vircpt.hypervisor.agent import Freeze, FreezeReport
from vircpt.hypervisor.checkpoints import Checkpoint
from vircpt.hypervisor.domain import Disk, DomainFacts, LibvirtDomain
from vircpt.interrupts import hold, uninterrupted
from vircpt.operations import expire, jobs, offline, ownership, release
from vircpt.operations.create import CheckpointOptions, CheckpointPlan, draft, refuse_late, undo
from vircpt.operations.selection import Selection, Skipped, select
from vircpt.operations.tcp import TcpListen, check_tcp
from vircpt.records import exports as records
from vircpt.records.exports import ExportDirectory
from vircpt.records.state import DiskRecord, ExportRecord
from vircpt.units import format_age

_PATIENCE = 30.0
"""Seconds to wait for another vircpt before an export is left to be released by hand."""


@dataclass(frozen=True)
class ExportOptions:
    """What may be asked of an export; `ttl` and `freeze_limit` in seconds.

    `since`: mark what was written since that checkpoint. `create`: make that checkpoint in
    the same instant. `scratch_dir`: where the blocks go that the guest overwrites meanwhile.
    `purpose`: the kind of consumer that it is made for, with the last of which it goes.
    """

    since: str | None = None
    create: str | None = None
    disks: Sequence[str] = ()
    exclude: Sequence[str] = ()
    scratch_dir: str | None = None
    tcp: TcpListen | None = None
    ttl: float | None = None
    freeze: Freeze | None = None
    freeze_limit: float = agent.DEFAULT_LIMIT
    purpose: str | None = None
    owned: bool = False
    """Ends with this process, whatever becomes of it, and the new checkpoint with it."""


@dataclass(frozen=True)
class PlannedDisk:
    """A disk of an export: `since` a checkpoint, or in full; `why_full` if that was not asked."""

    target: str
    since: str | None
    why_full: str | None = None


@dataclass(frozen=True)
class ExportPlan:
    """What an export would hold; `offline` if it is served from a shut-off domain's images."""

    domain: str
    offline: bool
    disks: tuple[PlannedDisk, ...]
    skipped: tuple[Skipped, ...]
    since: str | None
    create: str | None
    checkpoint_xml: str | None
    nonce: int | None = None
    """Of the checkpoint to be made: by it we know it again."""


@dataclass(frozen=True)
class StartedExport:
    """An export that runs, and how it came about."""

    directory: ExportDirectory
    plan: ExportPlan
    freeze: FreezeReport
    owner: int | None = None
    """A handle; an owned export is let go when it is closed."""


def plan(domain: LibvirtDomain, options: ExportOptions) -> ExportPlan:
    """What `start` would do now; nothing is changed. Raises what `start` raises."""
    _refuse_second(domain, dead_too=False)
    jobs.refuse(domain)
    return _plan(domain, domain.facts(), options)


def start(domain: LibvirtDomain, options: ExportOptions) -> StartedExport:
    """Start the export. It runs until it is released, whatever becomes of this process.

    Inside of interrupts.telling interruptions wait from its return on.

    Raises Busy if the domain has a job already, NotFound for an unknown checkpoint or disk,
    BrokenChain if the checkpoint's bitmap is damaged, NotSupported where it can't be.
    """
    with records.locked(domain.uuid, domain.name):
        facts = domain.facts()
        _clear_dead(domain)
        _refuse_second(domain)
        jobs.refuse(domain)
        planned = _plan(domain, facts, options)
        owner = facts.qemu_owner or domain.connection.qemu_owner()
        directory: ExportDirectory | None = None
        handle: int | None = None
        try:
            with uninterrupted():
                directory = records.create(
                    _record(domain, planned, options), (owner.uid, owner.gid) if owner else None
                )
                if options.owned:
                    handle = records.take(directory)
            started = replace(_start(domain, facts, planned, options, directory), owner=handle)
            hold()
        except BaseException as error:
            if directory is not None:
                with uninterrupted():
                    _abandon(domain, directory, planned, error)
            if handle is not None:
                os.close(handle)
            raise
        return started


def withdraw(domain: LibvirtDomain, started: StartedExport, error: BaseException) -> None:
    """Undo an export that nobody has been told of because of `error`, with its checkpoint.

    What can't be undone is told in a note on `error`.
    """
    with uninterrupted():
        try:
            with records.locked(domain.uuid, domain.name, _PATIENCE):
                _abandon(domain, started.directory, started.plan, error)
        except VircptError as second:
            _note(error, second, started.directory, started.plan)


def _start(
    domain: LibvirtDomain,
    facts: DomainFacts,
    planned: ExportPlan,
    options: ExportOptions,
    directory: ExportDirectory,
) -> StartedExport:
    if options.ttl is not None or options.owned:
        expire.watch(directory)
    if planned.offline:
        offline.serve(directory, facts)
        return StartedExport(directory, planned, agent.FreezeResult().report)
    return _start_live(domain, facts, planned, options, directory)


def _start_live(
    domain: LibvirtDomain,
    facts: DomainFacts,
    planned: ExportPlan,
    options: ExportOptions,
    directory: ExportDirectory,
) -> StartedExport:
    definition = backups.build_xml(
        _listen(options, directory),
        [
            backups.ExportDisk(
                one.target, one.since, _scratch(directory, facts.disk(one.target), domain, options)
            )
            for one in planned.disks
        ],
        [one.target for one in planned.skipped],
    )
    with agent.frozen(domain, facts, options.freeze, options.freeze_limit) as result:
        backups.begin(domain, definition, planned.checkpoint_xml)
    refuse_late(options.freeze, result.report, domain)
    return StartedExport(directory, planned, result.report)


def _plan(domain: LibvirtDomain, facts: DomainFacts, options: ExportOptions) -> ExportPlan:
    _check_place(domain, facts, options)
    selection = select(
        facts, options.disks, options.exclude, lambda disk: disk.not_exportable, "an export"
    )
    drafted = None
    if options.create is not None:
        drafted = _draft_checkpoint(domain, facts, selection, options.create)
    base = None
    sources: dict[str, str] = {}
    if options.since is not None:
        base = checkpoints.read(domain, options.since, sizes=facts.is_active)
        sources = checkpoints.sources(domain, options.since)
    return ExportPlan(
        domain=domain.name,
        offline=not facts.is_active,
        disks=tuple(_plan_disk(domain, disk, base, sources, facts) for disk in selection.disks),
        skipped=selection.skipped,
        since=options.since,
        create=options.create,
        checkpoint_xml=drafted.xml if drafted else None,
        nonce=drafted.nonce if drafted else None,
    )


def _plan_disk(
    domain: LibvirtDomain,
    disk: Disk,
    base: Checkpoint | None,
    sources: Mapping[str, str],
    facts: DomainFacts,
) -> PlannedDisk:
    if base is None:
        return PlannedDisk(disk.target, None)
    if disk.no_checkpoint:
        return PlannedDisk(disk.target, None, disk.no_checkpoint)
    covered = base.disk(disk.target)
    if covered is None:
        return PlannedDisk(disk.target, None, f"checkpoint {base.name} does not cover it")
    moved = _moved(disk, sources.get(disk.target), base.name, facts)
    if moved:
        return PlannedDisk(disk.target, None, moved)
    size = domain.capacity(disk.target)
    if covered.capacity is not None and covered.capacity != size:
        change = f"its size has changed from {covered.capacity} to {size} bytes since {base.name}"
        return PlannedDisk(disk.target, None, f"{change}: the bitmap can't be trusted")
    if not facts.is_active:
        offline.check_stored(disk, base.name)
    elif covered.size is None:
        raise BrokenChain(
            f"the bitmap of checkpoint {base.name} on disk {disk.target} is missing or broken",
            why="which blocks changed since is not known any more, as after a crash of QEMU",
            domain=facts.name,
            checkpoint=base.name,
            disk=disk.target,
            hint="export in full (without --name), or from another checkpoint: see "
            f"vircpt -d {quoted(facts.name)} list",
        )
    return PlannedDisk(disk.target, base.name)


def _moved(disk: Disk, then: str | None, name: str, facts: DomainFacts) -> str | None:
    """Why an image that is not the one of the checkpoint has no use for its bitmap.

    An external snapshot spreads the bitmap over the chain; QEMU puts it together again.
    """
    if not then or then == disk.source:
        return None
    if disk.chain and then not in disk.chain:
        return f"it had another image ({then}) at {name}"
    return None if facts.is_active else "its bitmap is spread over a chain of images"


def _draft_checkpoint(
    domain: LibvirtDomain, facts: DomainFacts, selection: Selection, name: str
) -> CheckpointPlan:
    can = [disk.target for disk in selection.disks if not disk.no_checkpoint]
    if not can:
        raise NotSupported(
            "none of the exported disks can be in a checkpoint",
            why="; ".join(f"{disk.target}: {disk.no_checkpoint}" for disk in selection.disks),
            domain=facts.name,
        )
    return draft(domain, facts, CheckpointOptions(name=name, disks=can))


def _check_place(domain: LibvirtDomain, facts: DomainFacts, options: ExportOptions) -> None:
    """Refuse what this host or this way of listening can't do."""
    if options.tcp:
        check_tcp(options.tcp, domain.connection, live=facts.is_active)
    if options.ttl is not None and domain.connection.was_asked:
        raise NotSupported(
            "the export could not be released by itself",
            why="a password was typed, which the process that waits for the end does not have",
            domain=domain.name,
            hint="put the password into libvirt's auth.conf, or leave --ttl out",
        )
    remote = domain.connection.is_remote
    if remote and not facts.is_active:
        raise NotSupported(
            "a domain that is shut off can be exported only on its own host",
            why=f"its images are not readable from here, over {domain.connection.uri}",
            domain=domain.name,
            hint="run vircpt there, or start the domain",
        )
    if remote and not options.tcp:
        raise NotSupported(
            "this export could not be reached from here",
            why=f"its Unix socket would be on the host of {domain.connection.uri}",
            domain=domain.name,
            hint="export over TCP (--tcp ADDRESS --tls-dir DIR), or run vircpt on that host",
        )
    if not facts.is_active and options.create is not None:
        raise NotSupported(
            f"domain {domain.name} is not running ({facts.state})",
            why="a checkpoint is made by the running QEMU",
            domain=domain.name,
            hint=f"start it, or export without --create: virsh start {quoted(domain.name)}",
        )


def _record(domain: LibvirtDomain, planned: ExportPlan, options: ExportOptions) -> ExportRecord:
    now = time.time()
    tcp = options.tcp
    return ExportRecord(
        id="",
        kind="offline" if planned.offline else "live",
        uri=domain.connection.uri,
        domain=domain.name,
        uuid=domain.uuid,
        user=_user(),
        created=now,
        disks=tuple(DiskRecord(one.target, since=one.since) for one in planned.disks),
        base=planned.since,
        checkpoint=planned.create,
        address=tcp.address if tcp else None,
        port=tcp.port if tcp else None,
        tls_dir=tcp.tls_dir if tcp else None,
        remote=domain.connection.is_remote,
        scratch_dir=None if domain.connection.is_remote else options.scratch_dir,
        expires=now + options.ttl if options.ttl else None,
        purpose=options.purpose,
        owned=options.owned,
        nonce=planned.nonce if options.owned else None,
    )


def _listen(options: ExportOptions, directory: ExportDirectory) -> backups.Listen:
    tcp = options.tcp
    if tcp is None:
        return backups.Listen(socket=str(directory.socket))
    return backups.Listen(address=tcp.address, port=tcp.port, tls=tcp.tls_dir is not None)


def _scratch(
    directory: ExportDirectory, disk: Disk, domain: LibvirtDomain, options: ExportOptions
) -> str:
    """The scratch file of a disk; on a remote host, where we can't make a directory, beside
    the image or in the directory that was asked for. libvirt makes and removes it."""
    if not domain.connection.is_remote:
        return str(directory.scratch / f"{disk.target}.scratch")
    name = ownership.scratch_mark(directory)
    if options.scratch_dir:
        return f"{options.scratch_dir}/{name}-{disk.target}"
    if disk.source is None or disk.source_type != "file":
        raise NotSupported(
            f"there is no place for the scratch file of disk {disk.target}",
            why="its image is no file, beside which it could be made",
            domain=domain.name,
            disk=disk.target,
            hint="name a directory of that host with --scratch-dir",
        )
    return f"{disk.source}.{name}"


def _clear_dead(domain: LibvirtDomain) -> None:
    """Remove what dead exports of this domain left: their job, server or owner is gone.

    Raises Busy if somebody holds on to one: what they write to must not be torn away.
    """
    for directory in records.of_domain(domain.uuid):
        alive = ownership.is_alive(domain.connection, directory)
        if not alive or records.is_abandoned(directory):
            _clear_consumers(domain, directory)
            release.remove(domain, directory, alive=alive)


def _clear_consumers(domain: LibvirtDomain, directory: ExportDirectory) -> None:
    from vircpt.operations import consumers

    alive = [one.name for one in consumers.list_of(domain.connection, directory) if one.alive]
    if alive:
        raise Busy(
            f"a dead export of domain {domain.name} is in use still",
            why=f"{directory.record.id}, by {', '.join(alive)}",
            domain=domain.name,
            hint=f"end that first: vircpt -d {quoted(domain.name)} release",
        )
    consumers.end_all(domain.connection, directory, 0, others=False)


def _refuse_second(domain: LibvirtDomain, *, dead_too: bool = True) -> None:
    for damaged in ownership.damaged_that_live(domain):
        raise Busy(
            f"domain {domain.name} is being exported already",
            why=f"export {damaged.id}, whose state is damaged ({damaged.why})",
            domain=domain.name,
            hint=f"release it first: vircpt -d {quoted(domain.name)} release",
        )
    for directory in records.of_domain(domain.uuid):
        if not dead_too and not ownership.is_alive(domain.connection, directory):
            continue  # it would be removed first
        record = directory.record
        raise Busy(
            f"domain {domain.name} is being exported already",
            why=f"export {record.id}, started by {record.user} "
            f"{format_age(time.time() - record.created)} ago",
            domain=domain.name,
            hint=f"release it first: vircpt -d {quoted(domain.name)} release",
        )


def _abandon(
    domain: LibvirtDomain, directory: ExportDirectory, planned: ExportPlan, error: BaseException
) -> None:
    """Leave nothing of an export that did not come about; `error`, the first, is the one to tell.

    If it can't be learnt whether its job runs, its directory stays: by it the job is found.
    """
    try:
        if ownership.job_is_ours(domain, directory):
            backups.end(domain, lambda job: ownership.is_ours(job, directory))
        if planned.create and planned.nonce is not None:
            undo(domain, planned.create, planned.nonce)
    except VircptError as second:
        _note(error, second, directory, planned)
        return
    ownership.stop_processes(directory)
    with suppress(VircptError):
        directory.remove()


def _note(
    error: BaseException, second: VircptError, directory: ExportDirectory, planned: ExportPlan
) -> None:
    error.add_note(
        f"({second})\nit is not known what became of export {directory.record.id}"
        + (f" and checkpoint {planned.create}" if planned.create else "")
        + f"; look with vircpt exports, end it with vircpt -d {quoted(planned.domain)} release"
    )


def _user() -> str:
    """Who started it: the user behind sudo, if that is how we became root."""
    sudo = os.environ.get("SUDO_USER")
    if sudo and os.geteuid() == 0:
        return sudo
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
