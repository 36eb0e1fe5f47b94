"""vircpt layout"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.looking import confinement, confinement_options, own_export
from vircpt.cli.session import Session
from vircpt.errors import PartlyDone

if TYPE_CHECKING:
    from vircpt.api import DiskLayout, Found


@click.command("layout", cls=Command)
@click.option("--since", metavar="NAME", help="Count what was written since that checkpoint.")
@click.option("--export", "use_running", is_flag=True, help="Look at the running export.")
@confinement_options
@click.pass_obj
def command(
    session: Session, since: str | None, use_running: bool, no_sandbox: bool, time_limit: float
) -> int:
    """Show what lies on the disks: partitions, volume groups, file systems, encrypted and unknown
    areas, and how many bytes of each were written since a checkpoint.

    It makes an export of its own for the time, unless --export is given.
    """
    if since and use_running:
        raise click.UsageError("--since and --export exclude each other: the export has its own")
    limits = confinement(no_sandbox, time_limit)
    if use_running:
        found = session.domain().running_export().layout(limits)
    else:
        with own_export(session, since) as export:
            found = export.layout(limits)
    damaged = bool(found.oddities) or any(one.problem for one in found.areas)
    if session.json:
        output.document(
            "layout/1", areas=[as_json(one) for one in found.areas], oddities=found.oddities
        )
    else:
        _print(session, found)
    return PartlyDone.exit_code if damaged else 0


def _print(session: Session, found: DiskLayout) -> None:
    rows = [_row(one, depth) for one, depth in _deepened(found.areas)]
    header = ("AREA", "SIZE", "USED", "CHANGED", "HOLDS", "LABEL", "UUID")
    output.result(output.table(header, rows, right=(1, 2, 3)))
    for one in found.areas:
        reason = one.problem or one.area.content.reason
        if reason:
            output.message(session, f"{output.safe(one.area.name)}: {output.safe(reason)}")
    for oddity in found.oddities:
        output.warning(session, output.safe(oddity))


def _deepened(areas: Iterable[Found]) -> Iterable[tuple[Found, int]]:
    depths: dict[str, int] = {}
    for one in areas:
        depth = max((depths.get(name, -1) + 1 for name in one.area.parents), default=0)
        depths[one.area.name] = depth
        yield one, depth


def _row(one: Found, depth: int) -> list[str]:
    area, content = one.area, one.area.content
    holds = content.type or content.holds.value
    if area.role.value in ("unpartitioned", "extended partition"):
        holds = area.role.value
    return [
        "  " * depth + area.name,
        output.size(area.size),
        output.size(one.facts.used if one.facts else None),
        output.size(one.changed),
        holds,
        content.label or "-",
        content.uuid or "-",
    ]


def as_json(one: Found) -> dict[str, Any]:
    """An area and what is in it; sizes and offsets in bytes."""
    area, content, facts = one.area, one.area.content, one.facts
    return {
        "name": area.name,
        "role": area.role.value,
        "parents": area.parents,
        "start": area.start,
        "size": area.size,
        "changed": one.changed,
        "holds": content.holds.value,
        "type": content.type,
        "label": content.label,
        "uuid": content.uuid,
        "used": facts.used if facts else None,
        "block_size": facts.block_size if facts else None,
        "crash_consistent": facts.dirty_journal if facts else None,
        "users": area.users,
        "why_not": one.problem or content.reason,
    }
