"""vircpt overlay"""

from __future__ import annotations

from pathlib import Path

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command, NewFile
from vircpt.cli.session import Session


@click.command("overlay", cls=Command)
@click.argument("destination", metavar="DEST", type=NewFile())
@click.option("--disk", metavar="TARGET", shell_complete=complete.disks, help="Which disk.")
@click.pass_obj
def command(session: Session, destination: Path, disk: str | None) -> None:
    """Make the new qcow2 image DEST on top of a disk of the running export: it reads from
    the export and takes writes itself. It is of use as long as the export runs.
    """
    one = session.domain().running_export().disk(disk)
    one.overlay(destination)
    if session.json:
        output.document("overlay/1", disk=one.target, file=destination, backing=one.uri)
    else:
        output.done(session, f"overlay {output.safe(destination)} made on disk {one.target}")
        output.message(session, "it can be read only while the export runs")
