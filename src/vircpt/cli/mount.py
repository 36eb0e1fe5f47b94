"""vircpt mount"""

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
    timeout_option,
)
from vircpt.cli.session import Session
from vircpt.interrupts import telling

if TYPE_CHECKING:
    from vircpt.api import Mounted


@click.command("mount", cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=complete.checkpoints,
    help="Make the export since this checkpoint [default: in full].",
)
@disk_options("mounting")
@click.option(
    "--scratch-dir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Where blocks go that the guest overwrites meanwhile [default: /var/lib/vircpt].",
)
@freeze_options
@timeout_option("How long libguestfs gets.", default=180)
@click.pass_obj
def command(
    session: Session,
    directory: str,
    name: str | None,
    disks: tuple[str, ...],
    exclude: tuple[str, ...],
    scratch_dir: str | None,
    no_freeze: bool,
    require_freeze: bool,
    freeze_limit: float,
    timeout: float,
) -> None:
    """Mount the guest's file systems, frozen in time, read-only on an empty directory. libguestfs
    reads them in a small VM of its own: this host's kernel never sees them. The export that
    runs is used; if there is none one is made, which ends with `vircpt umount`.
    """
    from pathlib import Path

    policy = freeze_policy(no_freeze, require_freeze)
    domain = session.domain()
    with telling():
        done = domain.mount(
            Path(directory),
            name,
            disks=disks,
            exclude=exclude,
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


def _show(session: Session, done: Mounted) -> None:
    record = done.export.record
    if session.json:
        output.document(
            "mount/1",
            export=record.id,
            domain=record.domain,
            place=done.place,
            made_export=done.start is not None,
            skipped=done.start.plan.skipped if done.start else (),
            freeze=done.start.freeze if done.start else None,
            filesystems=done.filesystems,
            unmount_command=done.unmount_command,
        )
        return
    if done.start:
        output.tell_skipped(session, done.start.plan.skipped)
        if not done.start.plan.offline:
            output.tell_freeze(session, done.start.freeze)
    for one in done.filesystems:
        if one.why:
            output.message(session, f"not mounted: {output.safe(one.device)}: "
                           f"{output.safe(one.why)}")  # fmt: skip
    rows = [
        [one.device, one.kind, f"{done.place}{(one.path or '').rstrip('/')}"]
        for one in done.filesystems
        if not one.why
    ]
    output.result(output.table(["DEVICE", "FILE SYSTEM", "MOUNTED AT"], rows))
    output.result("end it with:")
    output.result(f"  {done.unmount_command}")
