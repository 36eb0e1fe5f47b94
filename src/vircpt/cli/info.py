"""vircpt info"""

from __future__ import annotations

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command, one_name
from vircpt.cli.listing import describe
from vircpt.cli.session import Session


@click.command("info", cls=Command)
@click.argument(
    "name_argument", metavar="[NAME]", required=False, shell_complete=complete.checkpoints
)
@click.option(
    "--name", metavar="NAME", shell_complete=complete.checkpoints, help="Which one, as well."
)
@click.pass_obj
def command(session: Session, name_argument: str | None, name: str | None) -> None:
    """Show one checkpoint: its parent and children, and per disk the bytes changed since."""
    chosen = one_name(name, name_argument)
    assert chosen is not None
    one = session.domain().checkpoint(chosen)
    if session.json:
        output.document("info/1", checkpoint=describe(one))
        return
    lines = {
        "name": one.name,
        "domain": one.domain,
        "description": one.description or "-",
        "created": output.moment(one.created),
        "made by": "vircpt" if one.ours else "another program",
        "parent": one.parent or "-",
        "children": ", ".join(one.children) or "-",
        "changed": output.size(one.changed),
    }
    for key, value in lines.items():
        output.result(f"{key + ':':13} {output.safe(value)}")
    if one.disks:
        rows = [
            [disk.target, disk.bitmap, output.size(disk.changed), disk.health.value]
            for disk in one.disks
        ]
        output.result("")
        output.result(output.table(["DISK", "BITMAP", "CHANGED", "HEALTH"], rows, right=[2]))
