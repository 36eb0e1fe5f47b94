"""vircpt release"""

from __future__ import annotations

import click

from vircpt.cli import output
from vircpt.cli.base import Command, timeout_option
from vircpt.cli.session import Session
from vircpt.errors import quoted


@click.command("release", cls=Command)
@click.argument("export_id", metavar="[ID]", required=False)
@click.option("--force", is_flag=True, help="End what uses it first: detach it, unmount it.")
@timeout_option("With --force: how long a guest gets to let a disk go.", default=30)
@click.pass_obj
def command(session: Session, export_id: str | None, force: bool, timeout: float) -> None:
    """End the export of the domain named by -d, or the one with that ID (see `exports`), and
    remove its socket and scratch files.

    Refused while it is attached to another domain, or mounted. What a dead export left (the
    guest or vircpt died) is removed as well. A backup job that vircpt did not start is left
    alone.
    """
    if export_id is not None and session.domain_name:
        raise click.UsageError("name the export's ID, or the domain by -d, not both")
    if export_id is not None:
        released = [session.host.release_export(export_id, force=force, timeout=timeout)]
    else:
        name = session.needed_domain  # before a connection is opened
        released = session.host.release(name, force=force, timeout=timeout)
    if session.json:
        output.document("release/1", released=released)
        return
    for one in released:
        for user in one.detached:
            output.done(session, f"{output.safe(user)} ended")
        note = "" if one.was_running else " (it had died before; what it left is removed)"
        output.done(session, f"export {one.id} of domain {output.safe(one.domain)} released{note}")
        if one.guest_paused:
            again = f"virsh resume {output.safe(quoted(one.domain))}"
            output.warning(session, f"the guest is paused, as one of its writes failed: {again}")
