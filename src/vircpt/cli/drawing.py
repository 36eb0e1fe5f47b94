"""What `map --picture` and `map --heat` draw, and where to."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vircpt.cli import output, pictures
from vircpt.cli.session import Session
from vircpt.errors import InvalidInput, VircptError

if TYPE_CHECKING:
    from vircpt.api import Export, ExportedDisk

_ENDINGS = (".svg", ".html", ".png")
_HEAT_ROWS = 8


def draw(session: Session, target: str | None, file: Path | None) -> None:
    """Draw the disks of the running export into a file, or on the terminal if there is none."""
    if file is not None and file.suffix not in _ENDINGS:
        raise click.UsageError(f"--picture takes names that end in {', '.join(_ENDINGS)}")
    export = session.domain().running_export()
    disks = (export.disk(target),) if target else export.disks
    parts = _parts(session, export)
    if file is None:
        if session.json:
            raise click.UsageError("--heat is no JSON document: leave --json out")
        _heat(disks, parts)
        return
    count = pictures.COLUMNS * pictures.ROWS
    drawn = [_picture(one, parts, count) for one in disks]
    title = f"{export.domain}, written since {export.since or 'ever'}"
    _write(file, {
        ".svg": lambda: pictures.svg(drawn).encode(),
        ".html": lambda: pictures.html(title, drawn).encode(),
        ".png": lambda: pictures.png(drawn),
    }[file.suffix]())  # fmt: skip
    if session.json:
        output.document("map-picture/1", file=file, disks=[one.target for one in drawn])
    else:
        output.done(session, f"{len(drawn)} disks drawn into {output.safe(file)}")


def _picture(
    disk: ExportedDisk, parts: dict[str, list[pictures.Part]], count: int
) -> pictures.DiskPicture:
    size = disk.size()
    cells = pictures.cells(size, disk.columns(), count) if size else [pictures.EMPTY] * count
    return pictures.DiskPicture(disk.target, size, cells, parts.get(disk.target, []))


def _parts(session: Session, export: Export) -> dict[str, list[pictures.Part]]:
    """Partitions and file systems that lie on the disks in one piece."""
    found: dict[str, list[pictures.Part]] = {}
    try:
        areas = [one.area for one in export.layout().areas]
    except VircptError as error:
        output.warning(session, f"file systems are not drawn: {output.safe(error)}")
        return found
    for area in areas:
        label = " ".join(filter(None, (area.name, area.content.type, area.content.label)))
        if area.role.value == "disk" and area.content.holds.value == "file system":
            found.setdefault(area.name, []).append(pictures.Part(0, area.size, label))
        elif area.role.value == "partition" and area.start is not None and area.size > 0:
            found.setdefault(area.parents[0], []).append(
                pictures.Part(area.start, area.size, label)
            )
    return found


def _heat(disks: tuple[ExportedDisk, ...], parts: dict[str, list[pictures.Part]]) -> None:
    width = min(shutil.get_terminal_size().columns, 160)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for disk in disks:
        drawn = _picture(disk, parts, width * _HEAT_ROWS)
        for line in pictures.heat(drawn, width, colour=colour):
            output.result(line.rstrip())
    output.result("█ written since  ░ cleared or discarded since  · data, not written")


def _write(file: Path, content: bytes) -> None:
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as error:
        raise InvalidInput(f"{file} exists already", hint="choose another name") from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
