"""Create a checkpoint, with the guest's file systems frozen if its agent answers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vircpt import names, trace
from vircpt.errors import InvalidInput, NotFound, NotSupported, VircptError, quoted
from vircpt.hypervisor import agent, backups, checkpoints
from vircpt.hypervisor.agent import Freeze, FreezeReport, FreezeState
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.interrupts import hold, uninterrupted
from vircpt.operations import jobs
from vircpt.operations.doctor import quick
from vircpt.operations.selection import Selection, Skipped, select
from vircpt.records import exports as records

_NO_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class CheckpointPlan:
    """What `create` would do; `xml` is what libvirt would be given."""

    domain: str
    name: str
    xml: str
    disks: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    drops: tuple[str, ...]
    """Checkpoints that `keep_last` would delete, oldest first."""
    nonce: int
    """Stands in `xml`: by it we know what we have made."""


@dataclass(frozen=True)
class CreatedCheckpoint:
    """A checkpoint that was made: its disks, those left out, how it went with the freeze.

    `dropped` are the checkpoints that `keep_last` deleted, `kept` those it should have
    deleted but could not, with the reason.
    """

    domain: str
    name: str
    disks: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    freeze: FreezeReport
    dropped: tuple[str, ...] = ()
    kept: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class CheckpointOptions:
    """What may be asked of a new checkpoint; `freeze_limit` in seconds."""

    name: str | None = None
    description: str = ""
    disks: Sequence[str] = ()
    exclude: Sequence[str] = ()
    freeze: Freeze | None = None
    freeze_limit: float = agent.DEFAULT_LIMIT
    keep_last: int | None = None


def plan(domain: LibvirtDomain, options: CheckpointOptions) -> CheckpointPlan:
    """What `create` would do now; nothing is changed. Raises what `create` raises."""
    facts = domain.facts()
    return draft(domain, facts, options)


def create(domain: LibvirtDomain, options: CheckpointOptions) -> CreatedCheckpoint:
    """Make the checkpoint; if anything fails, or we are interrupted, none is left.

    Raises InvalidInput for a bad name, NotFound for a disk that there isn't, NotSupported
    if the domain is not running, no disk can take part or Freeze.REQUIRE can't be met.
    """
    with records.locked(domain.uuid, domain.name):
        facts = domain.facts()
        jobs.refuse(domain, but_backups=True)
        planned = draft(domain, facts, options)
        result = agent.FreezeResult()
        try:
            with agent.frozen(domain, facts, options.freeze, options.freeze_limit) as result:
                checkpoints.create(domain, planned.xml, planned.name)
            refuse_late(options.freeze, result.report, domain)
            hold()  # it is made: what is left is to tell
        except BaseException as error:
            with uninterrupted():
                _undo_for(error, domain, planned)
            raise
        # while an agent hangs, the next call of libvirt's waits for it
        calm = result.report.state in (agent.FreezeState.FROZEN, agent.FreezeState.SKIPPED)
        if calm or not facts.agent_connected:
            _note_parent(domain, planned.name)
        dropped, kept = drop(domain, planned.drops)
    return CreatedCheckpoint(
        domain=domain.name,
        name=planned.name,
        disks=planned.disks,
        skipped=planned.skipped,
        freeze=result.report,
        dropped=dropped,
        kept=kept,
    )


def _note_parent(domain: LibvirtDomain, name: str) -> None:
    """For the history: what was written between the checkpoint before and this one."""
    from vircpt.operations import history

    try:
        made = checkpoints.read(domain, name)
        if made.parent is not None:
            history.note(domain, checkpoints.read(domain, made.parent, sizes=True), made.created)
    except VircptError as error:  # the checkpoint is made: its history matters less
        trace.tell(f"no note in the history: {error}")


def draft(domain: LibvirtDomain, facts: DomainFacts, options: CheckpointOptions) -> CheckpointPlan:
    """What is to be made; raises what `create` raises."""
    if options.name is not None:
        names.check(options.name)
    if options.keep_last is not None and options.keep_last < 1:
        raise InvalidInput("at least one checkpoint must be kept", why="--keep-last is below 1")
    check_description(options.description)
    need_running(facts, "a checkpoint is made by the running QEMU")
    selection = select(
        facts, options.disks, options.exclude, lambda disk: disk.no_checkpoint, "a checkpoint"
    )
    refuse_old_format(domain, selection)
    present = checkpoints.list_all(domain)
    taken = frozenset(one.name for one in present)
    name = options.name or names.by_date(taken)
    if name in taken:
        raise VircptError(
            f"checkpoint {name} exists already", domain=domain.name, checkpoint=name,
            hint="choose another name, or delete it: "
            f"vircpt -d {quoted(domain.name)} delete --name {name}",
        )  # fmt: skip
    quick.refuse_leftovers(domain, selection, name)
    ours = sorted(
        (one for one in present if one.ours and not names.is_of_backup(one.name)),
        key=lambda one: one.created,
    )
    drops = ours[: max(0, len(ours) + 1 - options.keep_last)] if options.keep_last else []
    nonce = int.from_bytes(os.urandom(6), "big")
    definition = checkpoints.build_xml(
        name,
        options.description,
        {target: domain.capacity(target) for target in selection.targets},
        selection.left_out,
        nonce,
    )
    return CheckpointPlan(
        domain=domain.name,
        name=name,
        xml=definition,
        disks=selection.targets,
        skipped=selection.skipped,
        drops=tuple(one.name for one in drops),
        nonce=nonce,
    )


def need_running(facts: DomainFacts, why: str) -> None:
    """Raise NotSupported unless QEMU runs."""
    if not facts.is_active:
        raise NotSupported(
            f"domain {facts.name} is not running ({facts.state})",
            why=why,
            domain=facts.name,
            hint=f"start it: virsh start {quoted(facts.name)}",
        )


def check_description(text: str) -> None:
    """Raise InvalidInput for a text that XML can't hold."""
    if _NO_XML.search(text):
        raise InvalidInput("the description holds characters that XML can't, such as controls")


def refuse_late(policy: Freeze | None, report: FreezeReport, domain: LibvirtDomain) -> None:
    """With Freeze.REQUIRE a thaw that came before the work was done is a failure."""
    if policy is Freeze.REQUIRE and report.state is FreezeState.LATE:
        raise NotSupported(
            "the guest's file systems had to be thawed too early", why=report.why,
            domain=domain.name, hint="allow more with --freeze-limit, or use --no-freeze",
        )  # fmt: skip


def undo(domain: LibvirtDomain, name: str, nonce: int) -> None:
    """Delete the checkpoint that a failed operation may have made, if it is there and ours."""
    try:
        if checkpoints.read(domain, name).nonce == nonce:
            checkpoints.delete(domain, name)
    except NotFound:
        return


def _undo_for(error: BaseException, domain: LibvirtDomain, planned: CheckpointPlan) -> None:
    try:
        undo(domain, planned.name, planned.nonce)
    except VircptError:
        error.add_note(f"it is not known whether checkpoint {planned.name} was made")


def refuse_old_format(domain: LibvirtDomain, selection: Selection) -> None:
    """Raise NotSupported for qcow2 version 2, where the image can be read from here."""
    from vircpt.blocks import headers

    for disk in selection.disks:
        local = not domain.connection.is_remote and disk.source_type in ("file", "block")
        if local and disk.source and headers.qcow2_version(disk.source) == 2:
            raise NotSupported(
                f"disk {disk.target} can't be in a checkpoint",
                why=f"its image {disk.source} has the old qcow2 version 2 (compat 0.10), "
                "which holds no bitmaps",
                domain=domain.name,
                disk=disk.target,
                hint=f"leave it out with --exclude {disk.target}; or, while the domain is shut "
                f"off: qemu-img amend -o compat=1.1 {quoted(disk.source)}",
            )


def drop(
    domain: LibvirtDomain, drops: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Delete checkpoints, oldest first; those in use or stuck are kept, and told."""
    if not drops:
        return (), ()
    job = backups.current(domain)
    bases = job.bases if job else frozenset()
    dropped: list[str] = []
    kept: list[Skipped] = []
    for name in drops:
        if name in bases:
            kept.append(Skipped(name, "a running export is based on it"))
            continue
        try:
            checkpoints.delete(domain, name)
            dropped.append(name)
        except NotFound:
            continue  # somebody else was faster
        except VircptError as error:
            kept.append(Skipped(name, str(error)))
    return tuple(dropped), tuple(kept)
