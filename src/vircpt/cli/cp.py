"""vircpt cp"""

from __future__ import annotations

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.looking import (
    confinement,
    confinement_options,
    path_json,
    path_text,
    running_or_own,
)
from vircpt.cli.session import Session
from vircpt.errors import PartlyDone


@click.command("cp", cls=Command)
@click.argument("sources", metavar="vm:PATH…", nargs=-1, required=True)
@click.argument("destination", metavar="DEST", type=click.Path())
@click.option("-r", "-R", "--recursive", is_flag=True, help="Directories with all below them.")
@click.option("-f", "--force", is_flag=True, help="Replace files that exist.")
@confinement_options
@click.pass_obj
def command(
    session: Session,
    sources: tuple[str, ...],
    destination: str,
    recursive: bool,
    force: bool,
    no_sandbox: bool,
    time_limit: float,
) -> int:
    """Copy files of the guest to this host, from the running export or, if there is none, from one
    made for the time: into the directory DEST, or one file to the new name DEST.

    Holes stay holes; times, modes and what the destination allows of extended attributes are kept,
    owners if you are root. Set-user-ID bits, file capabilities, devices and sockets are left out.
    """
    with running_or_own(session) as export:
        done = export.copy_files(
            sources,
            destination,
            recursive=recursive,
            force=force,
            confinement=confinement(no_sandbox, time_limit),
        )
    if session.json:
        left = [{"area": one.area, **path_json(one.path), "why": one.why} for one in done.left]
        output.document(
            "cp/1", destination=destination, files=done.files, bytes=done.size, left=left
        )
    else:
        for one in done.left:
            output.warning(session, f"not copied: {path_text(one.path)}: {output.safe(one.why)}")
        noun = "file" if done.files == 1 else "files"
        output.done(
            session,
            f"{done.files} {noun} with {output.size(done.size)} copied to "
            f"{output.safe(destination)}",
        )
    return PartlyDone.exit_code if done.left else 0
