"""vircpt exports"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import ExportStatus


@click.command("exports", cls=Command)
@click.pass_obj
def command(session: Session) -> None:
    """List all exports on this host: by whom, since when, how much scratch space they use,
    and which domains they are attached to. Backup jobs of other programs are named foreign;
    a dead one's job or guest has ended, and `release` removes what it left.
    """
    found = session.host.exports()
    wanted = session.given_domain
    if wanted:
        found = [one for one in found if one.domain == wanted]
        if not found:
            session.domain()  # an unknown one is an error
    if session.json:
        output.document("exports/1", exports=[_describe(one) for one in found])
        return
    if not found:
        output.message(session, "no exports")
        return
    header = [
        "ID",
        "DOMAIN",
        "STATE",
        "BY",
        "STARTED",
        "SINCE",
        "DISKS",
        "SCRATCH",
        "ENDS",
        "ATTACHED",
        "ADDRESS",
    ]
    output.result(output.table(header, [_row(one) for one in found], right=[7]))
    for one in found:
        if one.note:
            output.warning(
                session, f"export {one.id or output.safe(one.domain)}: {output.safe(one.note)}"
            )


def _row(one: ExportStatus) -> list[str]:
    return [
        one.id or "-",
        one.domain or "-",
        one.state.value,
        one.user or "-",
        output.moment(one.created),
        one.base or "-",
        " ".join(one.disks) or "-",
        output.size(one.scratch_used),
        output.moment(one.expires),
        " ".join([*one.attached, *_others(one)]) or "-",
        _address(one),
    ]


def _others(one: ExportStatus) -> list[str]:
    """Mounts and clones: what `attached` does not name."""
    return [user.name for user in one.consumers if user.alive and user.kind != "hotadd"]


def _address(one: ExportStatus) -> str:
    if one.socket:
        return one.socket
    return f"{one.address}:{one.port}{' (TLS)' if one.tls else ''}" if one.port else "-"


def _describe(one: ExportStatus) -> dict[str, Any]:
    described: dict[str, Any] = output.plain(one)
    described["created"] = output.iso(one.created)
    described["expires"] = output.iso(one.expires)
    return described
