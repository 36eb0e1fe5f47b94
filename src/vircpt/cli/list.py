"""vircpt list"""

from __future__ import annotations

import click

from vircpt.cli import complete, listing
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("list", cls=Command)
@click.option("--tree", is_flag=True, help="Show which checkpoint came after which.")
@click.option("--roots", is_flag=True, help="Only those without a parent.")
@click.option("--leaves", is_flag=True, help="Only those without children.")
@click.option(
    "--descendants-of",
    metavar="NAME",
    shell_complete=complete.checkpoints,
    help="Only those made after this one.",
)
@click.pass_obj
def command(
    session: Session, tree: bool, roots: bool, leaves: bool, descendants_of: str | None
) -> None:
    """List checkpoints: when made, on which disks, how much was written since, and health.

    Sizes are cumulative: all that was written from the checkpoint until now. Without -d the
    checkpoints of all domains are listed. Health is ok, or what is wrong with a bitmap:
    inconsistent (QEMU crashed), missing, no-disk, unknown (it can't be looked at from here).
    """
    if roots + leaves + (descendants_of is not None) > 1:
        raise click.UsageError("--roots, --leaves and --descendants-of exclude each other")
    if descendants_of and not session.given_domain:
        raise click.UsageError("--descendants-of needs a domain: use -d DOMAIN")
    choice = "roots" if roots else "leaves" if leaves else None
    listing.show(session, tree=tree, choice=choice, descendants_of=descendants_of)
