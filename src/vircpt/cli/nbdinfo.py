"""vircpt nbdinfo"""

from __future__ import annotations

import json

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("nbdinfo", cls=Command)
@click.option("--disk", metavar="TARGET", shell_complete=complete.disks, help="Only this disk.")
@click.pass_obj
def command(session: Session, disk: str | None) -> None:
    """Show what the domain's running export offers, as the tool nbdinfo tells it."""
    export = session.domain().running_export()
    disks = (export.disk(disk),) if disk else export.disks
    if session.json:
        described = [{"target": one.target, "nbdinfo": json.loads(one.nbdinfo(as_json=True))}
                     for one in disks]  # fmt: skip
        output.document("nbdinfo/1", disks=described)
        return
    for one in disks:
        output.result(one.nbdinfo().rstrip())
