"""vircpt cat"""

from __future__ import annotations

import sys

import click

from vircpt.cli.base import Command
from vircpt.cli.looking import confinement, confinement_options, running_or_own
from vircpt.cli.session import Session


@click.command("cat", cls=Command)
@click.argument("path", metavar="PATH")
@confinement_options
@click.pass_obj
def command(session: Session, path: str, no_sandbox: bool, time_limit: float) -> None:
    """Print the contents of a file of the guest, from the running export or, if there is none, from
    one made for the time. They are printed as they are: mind your terminal.
    """
    if session.json:
        raise click.UsageError("contents are no JSON document: leave --json out")
    with running_or_own(session) as export:
        write = sys.stdout.buffer.write
        export.read_file(path, write, confinement=confinement(no_sandbox, time_limit))
        sys.stdout.buffer.flush()
