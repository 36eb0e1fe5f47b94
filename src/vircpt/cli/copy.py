"""vircpt copy"""

from __future__ import annotations

from pathlib import Path

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command, NewFile
from vircpt.cli.progress import bar
from vircpt.cli.session import Session


@click.command("copy", cls=Command)
@click.argument("destination", metavar="DEST", type=NewFile(or_directory=True))
@click.option("--disk", metavar="TARGET", shell_complete=complete.disks, help="Only this disk.")
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["qcow2", "raw"]),
    help="Format of the copy [default: by the name's ending, else qcow2].",
)
@click.pass_obj
def command(
    session: Session, destination: Path, disk: str | None, image_format: str | None
) -> None:
    """Copy disks of the running export into images: one disk into the new file DEST, all of
    them into an existing directory DEST as DOMAIN-TARGET.qcow2. Existing files are not replaced.
    """
    export = session.domain().running_export()
    if destination.is_dir():
        disks = (export.disk(disk),) if disk else export.disks
        chosen = image_format or "qcow2"
        plan = [(one, destination / f"{one.domain}-{one.target}.{chosen}") for one in disks]
    else:
        chosen = image_format or _by_ending(destination)
        plan = [(export.disk(disk), destination)]
    done = []
    for one, path in plan:
        with bar(session, f"copying {one.target}") as progress:
            one.copy(path, chosen, progress)
        done.append({"disk": one.target, "file": path, "format": chosen, "size": one.size()})
        if not session.json:
            output.done(session, f"disk {one.target} copied to {output.safe(path)} ({chosen})")
    if session.json:
        output.document("copy/1", copies=done)


def _by_ending(path: Path) -> str:
    if path.suffix in (".vmdk", ".vdi", ".vhd", ".vhdx"):
        raise click.UsageError(
            f"a copy is qcow2 or raw, which {path.name} does not look like: name it by --format"
        )
    return "raw" if path.suffix in (".raw", ".img") else "qcow2"
