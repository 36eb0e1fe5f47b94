"""vircpt restore-metadata"""

from __future__ import annotations

from pathlib import Path

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("restore-metadata", cls=Command)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--no-validate", is_flag=True, help="Don't have libvirt look for the bitmaps.")
@click.pass_obj
def command(session: Session, directory: Path, no_validate: bool) -> None:
    """Bring back the checkpoints in DIRECTORY, which `save-metadata` made.

    Those that libvirt knows already are left as they are. If one can't be brought back none
    is. The bitmaps are looked for if the domain runs.
    """
    done = session.domain().restore_metadata(directory, validate=not no_validate)
    if session.json:
        output.document("restore-metadata/1", restored=done)
        return
    for name in done.restored:
        output.done(session, f"checkpoint {output.safe(name)} of domain {output.safe(done.domain)} "
                    "restored")  # fmt: skip
    for name in done.present:
        output.message(session, f"checkpoint {output.safe(name)} is there already")
    if done.restored and not done.validated:
        output.message(
            session, "the bitmaps were not looked for; see: vircpt doctor, when the domain runs"
        )
