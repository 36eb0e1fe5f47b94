"""vircpt restore"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.progress import parts
from vircpt.cli.repository import repository_of, repository_option
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import RestoredDisk, StoredBackup


@click.command("restore", cls=Command)
@click.argument("backup_id", metavar="ID")
@repository_option
@click.option(
    "--to-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the images go, as NAME-TARGET.qcow2; existing files are not replaced.",
)
@click.option(
    "--to-device",
    metavar="DEVICE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Restore one disk onto this block device; what is on it is lost.",
)
@click.option("--disk", "disks", multiple=True, metavar="TARGET", help="Only this disk.")
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["qcow2", "raw"]),
    default="qcow2",
    show_default=True,
    help="Format of the images.",
)
@click.option("--as", "name", metavar="NAME", help="The new name [default: the old one].")
@click.option("--define", is_flag=True, help="Define a domain on the disks: new UUID, new MACs.")
@click.option("--start", is_flag=True, help="Define it, and start it.")
@click.option("--yes", is_flag=True, help="Don't ask before a device is overwritten.")
@click.pass_obj
def command(
    session: Session,
    backup_id: str,
    repository: str | None,
    to_dir: Path | None,
    to_device: Path | None,
    disks: tuple[str, ...],
    image_format: str,
    name: str | None,
    define: bool,
    start: bool,
    yes: bool,
) -> None:
    """Restore the disks of backup ID ("latest" for the newest) into images of their own.

    All that is read is checked meanwhile: a damaged backup is an error, and leaves no image.
    Without --define and --start libvirt need not run.
    """
    from vircpt.api import open_repository

    define = define or start
    if (to_dir is None) == (to_device is None):
        raise click.UsageError("name one place: --to-dir DIR or --to-device DEVICE")
    if to_device is not None and (len(disks) != 1 or define):
        raise click.UsageError("--to-device goes with one --disk, and not with --define")
    opened = open_repository(repository_of(session, repository))
    backup = opened.find(backup_id, session.given_domain)
    assert backup.manifest
    chosen = name or backup.manifest.domain
    if define:
        session.host.refuse_existing(chosen)
    targets = disks or tuple(one.target for one in backup.manifest.disks)
    if to_device is not None:
        _ask(to_device, yes)
        places = {disks[0]: to_device}
    else:
        assert to_dir
        stem = chosen.replace("/", "_")
        places = {one: to_dir.absolute() / f"{stem}-{one}.{image_format}" for one in targets}
    with parts(session, f"restoring {chosen}") as progress:
        done = opened.restore(backup, places, image_format=image_format, progress=progress)
    content = _define(session, backup, chosen, done, to_dir, start) if define and to_dir else None
    if session.json:
        output.document(
            "restore/1", id=backup.id, domain=chosen, disks=done, defined=content, started=start
        )
        return
    for one in done:
        output.done(session, f"disk {one.target} restored to {output.safe(one.path)}")
    if content:
        for target in content["lost"]:
            output.warning(session, f"disk {target} was not restored: {chosen} is without it")
        what = "defined and started" if start else "defined"
        output.done(session, f"domain {output.safe(chosen)} {what}, UUID {content['uuid']}")


def _ask(device: Path, yes: bool) -> None:
    if not device.is_block_device():
        raise click.UsageError(f"{device} is no block device")
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(f"all that is on {device} would be lost: say --yes if that is meant")
    if not yes:
        click.confirm(f"All that is on {device} will be lost. Go on?", abort=True, err=True)


def _define(
    session: Session,
    backup: StoredBackup,
    name: str,
    disks: list[RestoredDisk],
    directory: Path,
    start: bool,
) -> dict[str, Any]:
    defined = session.host.define_restored(backup, name, disks, directory.absolute())
    if start:
        defined.start()
    return {"uuid": defined.uuid, "files": defined.files, "lost": defined.lost}
