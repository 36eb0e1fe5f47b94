"""vircpt umount"""

from __future__ import annotations

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("umount", cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.pass_obj
def command(session: Session, directory: str) -> None:
    """Unmount what `vircpt mount` mounted; an export that was made for it is released."""
    from pathlib import Path

    done = session.host.umount(Path(directory))
    if session.json:
        output.document("umount/1", **output.plain(done))
        return
    before = "" if done.was_mounted else " (it was gone before)"
    output.done(session, f"{output.safe(done.place)} unmounted{before}")
    if done.released:
        output.done(session, f"export {done.export} of domain {output.safe(done.domain)} released")
