"""vircpt history"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import Noted

_WIDTH = 40


@click.command("history", cls=Command)
@click.option("--plot", is_flag=True, help="Draw bars of the bytes written per hour.")
@click.pass_obj
def command(session: Session, plot: bool) -> None:
    """Show how many bytes changed between checkpoints, over time. Each create notes what was
    written since the checkpoint before, each diff what was written since its checkpoint.
    """
    found = session.domain().history()
    if session.json:
        lines = [
            {
                "checkpoint": one.checkpoint,
                "since": output.iso(one.since),
                "until": output.iso(one.until),
                "disk": one.disk,
                "changed": one.changed,
            }
            for one in found
        ]
        output.document("history/1", lines=lines)
        return
    rows = [
        [output.moment(one.since), output.moment(one.until), one.checkpoint, one.disk,
         output.size(one.changed)]
        for one in found
    ]  # fmt: skip
    if plot:
        _plot(found)
    else:
        header = ("FROM", "UNTIL", "CHECKPOINT", "DISK", "CHANGED")
        output.result(output.table(header, rows, right=(4,)))


def _plot(found: list[Noted]) -> None:
    """One bar for each look, all disks together: bytes per hour."""
    rates = []
    for (until, name, since), disks in groupby(
        found, key=lambda one: (one.until, one.checkpoint, one.since)
    ):
        changed = sum(one.changed for one in disks)
        rates.append((until, name, changed, changed * 3600 / max(until - since, 1.0)))
    most = max((rate for *_, rate in rates), default=0.0) or 1.0
    rows = [
        [output.moment(until), name, output.size(changed), f"{output.size(int(rate))}/h",
         "█" * round(_WIDTH * rate / most)]
        for until, name, changed, rate in rates
    ]  # fmt: skip
    output.result(output.table(("UNTIL", "SINCE", "CHANGED", "RATE", ""), rows, right=(2, 3)))
