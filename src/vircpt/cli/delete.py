"""vircpt delete"""

from __future__ import annotations

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command, one_name
from vircpt.cli.session import Session


@click.command("delete", cls=Command)
@click.argument(
    "name_argument", metavar="[NAME]", required=False, shell_complete=complete.checkpoints
)
@click.option("--name", metavar="NAME", shell_complete=complete.checkpoints, help="Which one.")
@click.option("--children", is_flag=True, help="Delete its descendants as well.")
@click.option("--children-only", is_flag=True, help="Delete its descendants, and keep it.")
@click.option(
    "--metadata", is_flag=True, help="Only have libvirt forget it; its bitmap stays in the image."
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; change nothing.")
@click.pass_obj
def command(
    session: Session,
    name_argument: str | None,
    name: str | None,
    children: bool,
    children_only: bool,
    metadata: bool,
    dry_run: bool,
) -> None:
    """Delete a checkpoint. Its children move to its parent and keep what they know.

    The base of a running export is not deleted.
    """
    from vircpt.api import Scope

    if children and children_only:
        raise click.UsageError("--children and --children-only exclude each other")
    scope = Scope.WITH_CHILDREN if children else Scope.ONE
    scope = Scope.CHILDREN_ONLY if children_only else scope
    chosen = one_name(name, name_argument)
    assert chosen is not None
    domain = session.domain()
    act = domain.plan_deletion if dry_run else domain.delete_checkpoint
    done = act(chosen, scope=scope, metadata_only=metadata)
    if session.json:
        output.document("delete/1", dry_run=dry_run, deletion=done)
        return
    verb = "would be deleted" if dry_run else "deleted"
    note = " (metadata only)" if metadata else ""
    for one in done.checkpoints:
        output.done(
            session,
            f"checkpoint {output.safe(one)} of domain {output.safe(done.domain)} {verb}{note}",
        )
    if not done.checkpoints:
        output.message(session, "nothing to delete")
