"""vircpt create"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import output
from vircpt.cli.base import Command, disk_options, freeze_options, freeze_policy, one_name
from vircpt.cli.session import Session
from vircpt.errors import PartlyDone
from vircpt.interrupts import telling

if TYPE_CHECKING:
    from vircpt.api import CreatedCheckpoint


@click.command("create", cls=Command)
@click.argument("name_argument", metavar="[NAME]", required=False)
@click.option("--name", metavar="NAME", help="Its name [default: by date].")
@click.option("--description", metavar="TEXT", default="", help="What it is for.")
@disk_options("making the checkpoint")
@freeze_options
@click.option(
    "--keep-last",
    type=click.IntRange(min=1),
    metavar="K",
    help="Afterwards delete the oldest checkpoints that vircpt made, all but K.",
)
@click.option("--dry-run", is_flag=True, help="Print the XML; change nothing.")
@click.pass_obj
def command(
    session: Session,
    name_argument: str | None,
    name: str | None,
    description: str,
    disks: tuple[str, ...],
    exclude: tuple[str, ...],
    no_freeze: bool,
    require_freeze: bool,
    freeze_limit: float,
    keep_last: int | None,
    dry_run: bool,
) -> int:
    """Make a checkpoint: from now on QEMU notes which blocks are written.

    All disks take part at the same instant, but cdroms, floppies, passed-through and raw
    ones. The guest's file systems are frozen meanwhile if its agent answers.
    """
    name = one_name(name, name_argument, needed=False)
    what: dict[str, Any] = {
        "description": description,
        "disks": disks,
        "exclude": exclude,
        "keep_last": keep_last,
    }
    policy = freeze_policy(no_freeze, require_freeze)
    domain = session.domain()
    if dry_run:
        plan = domain.plan_checkpoint(name, **what)
        if session.json:
            output.document("create-plan/1", plan=output.without_nonce(plan))
            return 0
        output.tell_skipped(session, plan.skipped)
        for one in plan.drops:
            output.message(session, f"would delete checkpoint {output.safe(one)}")
        output.result(plan.xml.rstrip())
        return 0
    with telling():
        made = domain.create_checkpoint(name, **what, freeze=policy, freeze_limit=freeze_limit)
        _tell(session, made)
        sys.stdout.flush()
    return PartlyDone.exit_code if made.kept else 0


def _tell(session: Session, made: CreatedCheckpoint) -> None:
    if session.json:
        output.document("create/1", checkpoint=made)
        return
    output.tell_skipped(session, made.skipped)
    output.tell_freeze(session, made.freeze)
    output.done(
        session,
        f"checkpoint {output.safe(made.name)} of domain {output.safe(made.domain)} created: "
        f"{', '.join(made.disks)}",
    )
    for one in made.dropped:
        output.done(session, f"checkpoint {output.safe(one)} deleted")
    for kept in made.kept:
        output.warning(session, f"checkpoint {output.safe(kept.target)} kept: {kept.why}")
