"""vircpt hotadd"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vircpt.cli import complete, output
from vircpt.cli.base import (
    Command,
    disk_options,
    freeze_options,
    freeze_policy,
    one_name,
    timeout_option,
)
from vircpt.cli.session import Session
from vircpt.errors import PartlyDone
from vircpt.interrupts import telling

if TYPE_CHECKING:
    from vircpt.api import AttachedDisk, Hotadded


@click.command("hotadd", cls=Command)
@click.argument(
    "name_argument", metavar="[NAME]", required=False, shell_complete=complete.checkpoints
)
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=complete.checkpoints,
    help="Make the export since this checkpoint [default: in full].",
)
@click.option(
    "--to",
    "other",
    metavar="VM2",
    required=True,
    shell_complete=complete.domains,
    help="The running domain that gets the disks.",
)
@click.option(
    "--to-connect", metavar="URI", help="libvirt's URI of VM2, if that is on another host."
)
@disk_options("attaching")
@click.option(
    "--writable", is_flag=True, help="Through a throw-away overlay each; the export stays as it is."
)
@click.option(
    "--bus",
    type=click.Choice(["virtio", "scsi"]),
    default="virtio",
    show_default=True,
    help="scsi needs a virtio-scsi controller that is there; its disks go without the guest.",
)
@click.option(
    "--scratch-dir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Where overlays go, and what the source overwrites meanwhile [default: /var/lib/vircpt].",
)
@freeze_options
@timeout_option(
    "How long to wait until the guest has looked at the disks; 0: don't wait.", default=10, least=0
)
@click.pass_obj
def command(
    session: Session,
    name_argument: str | None,
    name: str | None,
    other: str,
    to_connect: str | None,
    disks: tuple[str, ...],
    exclude: tuple[str, ...],
    writable: bool,
    bus: str,
    scratch_dir: str | None,
    no_freeze: bool,
    require_freeze: bool,
    freeze_limit: float,
    timeout: float,
) -> None:
    """Attach the disks, frozen in time, to another running domain; read-only, or through
    throw-away overlays. The export that runs is used; if there is none one is made, which
    ends with the last domain that it is attached to. VM2's definition is not touched.
    """
    from pathlib import Path

    policy = freeze_policy(no_freeze, require_freeze)
    domain = session.domain()
    there = session.host if to_connect is None else session.another_host(to_connect)
    with telling():
        done = domain.hotadd(
            there.domain(other),
            one_name(name, name_argument, needed=False),
            disks=disks,
            exclude=exclude,
            writable=writable,
            bus=bus,
            scratch_dir=str(Path(scratch_dir).absolute()) if scratch_dir else None,
            timeout=timeout,
            freeze=policy,
            freeze_limit=freeze_limit,
        )
        try:
            _show(session, done)
            sys.stdout.flush()
        except BaseException as error:  # nobody has been told of it
            domain.withdraw(done, error)
            raise
    unseen = [one.target for one in done.disks if one.seen is False]
    if unseen:
        raise PartlyDone(
            f"the guest of {done.to} has not looked at {', '.join(unseen)}",
            why=f"it is attached, and was not read within {timeout:g} s",
            domain=done.to,
            hint="is the guest up, and not paused? --timeout 0 does not wait",
        )


def _show(session: Session, done: Hotadded) -> None:
    if session.json:
        output.document(
            "hotadd/1",
            export=done.export.record.id,
            domain=done.export.record.domain,
            to=done.to,
            made_export=done.start is not None,
            skipped=done.start.plan.skipped if done.start else (),
            freeze=done.start.freeze if done.start else None,
            disks=[_describe(one) for one in done.disks],
            remove_command=done.remove_command,
        )
        return
    if done.start:
        output.tell_skipped(session, done.start.plan.skipped)
        if not done.start.plan.offline:
            output.tell_freeze(session, done.start.freeze)
    record = done.export.record
    how = "made for it" if done.start else "that ran already"
    output.message(session, f"export {record.id} of domain {output.safe(record.domain)}, {how}")
    for one in done.disks:
        inside = f" ({output.safe(one.name)} in the guest)" if one.name else ""
        kind = "writable, through an overlay" if one.overlay else "read-only"
        output.result(
            f"disk {one.source} is {one.target} of {output.safe(done.to)}{inside}, "
            f"serial {one.serial}, {kind}"
        )
    output.result("\nin the guest, to mount it (a partition: add -part1):")
    for one in done.disks:
        output.result(f"  {one.mount_command}")
    if not (done.start and done.start.freeze.state.value == "frozen"):
        output.message(
            session, "if its journal is to be replayed: -o ro,noload for ext4, "
            "-o ro,norecovery,nouuid for XFS",
        )  # fmt: skip
    output.result("end it with:")
    output.result(f"  {done.remove_command}")


def _describe(one: AttachedDisk) -> dict[str, object]:
    described: dict[str, object] = output.plain(one)
    return described | {"device": one.device, "mount_command": one.mount_command}
