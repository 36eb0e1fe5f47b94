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
from contextlib import suppress
from dataclasses import dataclass, replace

from vircpt.errors import Busy, NotSupported, VircptError, quoted
from vircpt.hypervisor import agent, backups
from vircpt.hypervisor.agent import FreezeReport
from vircpt.hypervisor.domain import Disk, DomainFacts, LibvirtDomain
from vircpt.interrupts import hold, uninterrupted
from vircpt.operations import consumers, expire, export_plan, jobs, offline, ownership, release
from vircpt.operations.create import refuse_late, undo
from vircpt.operations.export_plan import ExportOptions, ExportPlan
from vircpt.records import exports as records
from vircpt.records.exports import ExportDirectory
from vircpt.records.state import DiskRecord, ExportRecord
from vircpt.units import format_age


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
    _refuse_second(domain)
    jobs.refuse(domain)
    return export_plan.plan(domain, domain.facts(), options)


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
        planned = export_plan.plan(domain, facts, options)
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
            with records.locked(domain.uuid, domain.name, records.END_PATIENCE):
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
    alive = [one.name for one in consumers.list_of(domain.connection, directory) if one.alive]
    if alive:
        raise Busy(
            f"a dead export of domain {domain.name} is in use still",
            why=f"{directory.record.id}, by {', '.join(alive)}",
            domain=domain.name,
            hint=f"end that first: vircpt -d {quoted(domain.name)} release",
        )
    consumers.end_all(domain.connection, directory, 0, others=False)


def _refuse_second(domain: LibvirtDomain) -> None:
    for damaged in ownership.damaged_that_live(domain):
        raise Busy(
            f"domain {domain.name} is being exported already",
            why=f"export {damaged.id}, whose state is damaged ({damaged.why})",
            domain=domain.name,
            hint=f"release it first: vircpt -d {quoted(domain.name)} release",
        )
    for directory in records.of_domain(domain.uuid):
        if not ownership.is_alive(domain.connection, directory):
            continue  # `start` removes such
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
