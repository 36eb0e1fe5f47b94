"""vircpt map"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import Columns, Kind

_AT_ONCE = 4096
"""Lines written at once: as many as the processor's cache holds."""


@click.command("map", cls=Command)
@click.option("--disk", metavar="TARGET", shell_complete=complete.disks, help="Which disk.")
@click.option("--base", is_flag=True, help="Only what is allocated and zero, not what is dirty.")
@click.option("--dirty", is_flag=True, help="Only what was written since the checkpoint.")
@click.option("--totals", is_flag=True, help="Only sums.")
@click.option(
    "--picture",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw all disks into the new FILE: .svg, .html or .png.",
)
@click.option("--heat", is_flag=True, help="Draw all disks on the terminal.")
@click.pass_obj
def command(
    session: Session,
    disk: str | None,
    base: bool,
    dirty: bool,
    totals: bool,
    picture: Path | None,
    heat: bool,
) -> None:
    """Print which blocks of a disk in the running export are dirty (written since the
    checkpoint), read as zeroes, and are allocated: offset and length in bytes, then the flags.

    With --picture or --heat draw that: file systems to scale, colours by kind.
    """
    if (picture or heat) and (base or dirty or totals or (picture and heat)):
        raise click.UsageError("--picture and --heat go with no other view")
    if base and dirty:
        raise click.UsageError("--base and --dirty exclude each other")
    if totals and dirty:
        raise click.UsageError("--totals tells the dirty bytes anyway: leave --dirty out")
    if picture or heat:
        from vircpt.cli import drawing

        drawing.draw(session, disk, picture)
        return
    one = session.domain().running_export().disk(disk)
    if dirty and one.bitmap is None:
        raise click.UsageError(f"disk {one.target} is exported in full: nothing says what is dirty")
    if base:
        one = one.without_bitmap()
    if totals:
        _print_totals(session, one.target, one.totals())
        return
    found = (piece.only_dirty() for piece in one.columns()) if dirty else one.columns()
    if session.json:
        _print_json(one.target, found)
    else:
        _print_text(found)


def _print_totals(session: Session, target: str, totals: object) -> None:
    from vircpt.api import Totals

    assert isinstance(totals, Totals)
    if session.json:
        output.document("map-totals/1", disk=target, **totals._asdict())
        return
    for key, value in totals._asdict().items():
        text = str(value) if key == "extents" else output.size(value)
        exact = f" ({value} bytes)" if key != "extents" and value is not None else ""
        output.result(f"{key.replace('_', ' and ') + ':':16} {text}{exact}")


def _print_text(found: Iterable[Columns]) -> None:
    words = {True: "yes", False: "no", None: "-"}

    def ending(length: int, kind: Kind) -> str:
        flags = f"{words[kind.dirty]:5}  {words[kind.zero]:4}  {words[kind.allocated]}"
        return f"  {length:16}  {flags}\n"

    endings = _Endings(ending)
    write = sys.stdout.write
    write(f"{'OFFSET':>16}  {'LENGTH':>16}  DIRTY  ZERO  ALLOCATED\n")
    for text in endings.texts("%16d", found):
        write(text)


def _print_json(target: str, found: Iterable[Columns]) -> None:
    """Written piece by piece: the list may be long."""

    def ending(length: int, kind: Kind) -> str:
        return f", {json.dumps({'length': length, **kind._asdict()})[1:]},\n"

    endings = _Endings(ending)
    write = sys.stdout.write
    write(f'{{"schema": "vircpt/map/1", "disk": {json.dumps(target)}, "extents": [\n')
    between = ""
    for text in endings.texts(' {"offset": %d', found):
        write(between)
        write(text.removesuffix(",\n"))
        between = ",\n"
    write("\n]}\n")


class _Endings(dict[tuple[int, int], str]):
    """What follows the offset in a line, by length and kind, made by `ending` on first use.

    Of a million lines few end differently, and to make each by itself would take seconds.
    """

    def __init__(self, ending: Callable[[int, Kind], str]) -> None:
        from vircpt.api import KINDS

        super().__init__()
        self._ending = ending
        self._kinds = KINDS

    def __missing__(self, key: tuple[int, int]) -> str:
        length, kind = key
        made = self[key] = self._ending(length, self._kinds[kind])
        return made

    def texts(self, start: str, found: Iterable[Columns]) -> Iterator[str]:
        """All lines, some thousands at once; `start` is the format of the offset."""
        for piece in found:
            for first in range(0, len(piece.offsets), _AT_ONCE):
                offsets, lengths, kinds = (one[first : first + _AT_ONCE] for one in piece)
                parts: list[int | str] = [0] * (2 * len(offsets))
                parts[::2] = offsets
                parts[1::2] = map(self.__getitem__, zip(lengths, kinds, strict=True))
                yield f"{start}%s" * len(offsets) % tuple(parts)
