"""vircpt save-metadata"""

from __future__ import annotations

from pathlib import Path

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("save-metadata", cls=Command)
@click.argument("directory", type=click.Path(path_type=Path))
@click.pass_obj
def command(session: Session, directory: Path) -> None:
    """Write the definitions of all checkpoints into the new directory DIRECTORY.

    libvirt forgets them when a domain is undefined, renamed or moved to another host, and the
    bitmaps in the images are of no use then. `restore-metadata` brings them back.
    """
    saved = session.domain().save_metadata(directory)
    if session.json:
        output.document("save-metadata/1", saved=saved)
        return
    count = len(saved.checkpoints)
    noun = "checkpoint" if count == 1 else "checkpoints"
    output.done(session, f"{count} {noun} of domain {output.safe(saved.domain)} saved in "
                f"{output.safe(saved.directory)}")  # fmt: skip
