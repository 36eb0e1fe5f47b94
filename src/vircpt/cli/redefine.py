"""vircpt redefine"""

from __future__ import annotations

from typing import IO

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("redefine", cls=Command)
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--validate", is_flag=True, help="Have libvirt check that the bitmaps are there.")
@click.pass_obj
def command(session: Session, file: IO[str], validate: bool) -> None:
    """Bring a checkpoint's metadata back from FILE (- for stdin), which `dumpxml` made.

    The bitmaps must be in the images still; --validate checks that, on a running domain.
    Parents are to be redefined before their children.
    """
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file.name} is no text: {error}") from error
    domain = session.domain()
    name = domain.redefine_checkpoint(text, validate=validate)
    if session.json:
        output.document("redefine/1", name=name)
    else:
        output.done(
            session,
            f"checkpoint {output.safe(name)} of domain {output.safe(domain.name)} redefined",
        )
