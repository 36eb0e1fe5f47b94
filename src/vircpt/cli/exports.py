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
    a dead one's job or guest has ended, and `release` removes what it left. With -d the
    disks of that domain's export, and the useful commands, are told as `export` told them.
    """
    found = session.host.exports()
    if session.given_domain:
        found = _of_domain(session, found)
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
    if session.given_domain and any(one.state.value == "running" for one in found):
        _tell_disks(session)


def _of_domain(session: Session, found: list[ExportStatus]) -> list[ExportStatus]:
    """Those of the domain that is named, which may have been undefined meanwhile."""
    named = [one for one in found if one.domain == session.given_domain]
    if named:
        return named
    name = session.domain().name  # an unknown one is an error; it may be named by its UUID
    return [one for one in found if one.domain == name]


def _tell_disks(session: Session) -> None:
    from vircpt.cli import export_told
    from vircpt.errors import NotFound

    try:
        export = session.domain().running_export()
    except NotFound:
        return  # it has ended since it was listed
    output.result("")
    export_told.disks(session, export, export.describe())


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
