"""vircpt map"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("map", cls=Command)
@click.option("--disk", metavar="TARGET", shell_complete=complete.disks, help="Which disk.")
@click.option("--base", is_flag=True, help="Only what is allocated and zero, not what is dirty.")
@click.option("--dirty", is_flag=True, help="Only what was written since the checkpoint.")
@click.option("--totals", is_flag=True, help="Only sums.")
@click.pass_obj
def command(session: Session, disk: str | None, base: bool, dirty: bool, totals: bool) -> None:
    """Print which blocks of a disk in the running export are dirty (written since the
    checkpoint), read as zeroes, and are allocated: offset and length in bytes, then the flags.
    """
    if base and dirty:
        raise click.UsageError("--base and --dirty exclude each other")
    if totals and dirty:
        raise click.UsageError("--totals tells the dirty bytes anyway: leave --dirty out")
    one = session.domain().running_export().disk(disk)
    if dirty and one.bitmap is None:
        raise click.UsageError(f"disk {one.target} is exported in full: nothing says what is dirty")
    if base:
        one = one.without_bitmap()
    if totals:
        _print_totals(session, one.target, one.totals())
        return
    found = one.dirty() if dirty else one.extents()
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


_Extents = Iterable[tuple[int, int, bool | None, bool, bool]]


def _print_text(found: _Extents) -> None:
    """One line an extent; a million of them must not take long."""
    words = {True: "yes", False: "no", None: "-"}
    endings = {
        (dirty, zero, allocated): f"  {words[dirty]:5}  {words[zero]:4}  {words[allocated]}\n"
        for dirty in words
        for zero in (True, False)
        for allocated in (True, False)
    }
    write = sys.stdout.write
    write(f"{'OFFSET':>16}  {'LENGTH':>16}  DIRTY  ZERO  ALLOCATED\n")
    for offset, length, dirty, zero, allocated in found:
        write(f"{offset:16}  {length:16}{endings[dirty, zero, allocated]}")


def _print_json(target: str, found: _Extents) -> None:
    """Written piece by piece: the list may be long."""
    keys = ("offset", "length", "dirty", "zero", "allocated")
    write = sys.stdout.write
    write(f'{{"schema": "vircpt/map/1", "disk": {json.dumps(target)}, "extents": [')
    lead = "\n"
    for extent in found:
        write(f"{lead} {json.dumps(dict(zip(keys, extent, strict=True)))}")
        lead = ",\n"
    write("\n]}\n")
