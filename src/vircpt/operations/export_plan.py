"""Plan an export: which disks, since which checkpoint, which in full and why, what can't be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vircpt.errors import BrokenChain, NotSupported, quoted
from vircpt.hypervisor import agent, checkpoints
from vircpt.hypervisor.agent import Freeze
from vircpt.hypervisor.checkpoints import Checkpoint
from vircpt.hypervisor.domain import Disk, DomainFacts, LibvirtDomain
from vircpt.operations import offline
from vircpt.operations.create import CheckpointOptions, CheckpointPlan, draft
from vircpt.operations.selection import Selection, Skipped, select
from vircpt.operations.tcp import TcpListen, check_tcp


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


def plan(domain: LibvirtDomain, facts: DomainFacts, options: ExportOptions) -> ExportPlan:
    """What an export would hold; nothing is changed.

    Raises NotFound for an unknown checkpoint or disk, BrokenChain if the checkpoint's bitmap is
    damaged, NotSupported where it can't be.
    """
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
