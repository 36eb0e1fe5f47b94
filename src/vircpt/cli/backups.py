"""vircpt backups"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.repository import repository_of, repository_option
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import StoredBackup


@click.command("backups", cls=Command)
@repository_option
@click.pass_obj
def command(session: Session, repository: str | None) -> None:
    """List the backups of a repository: what rests on what, sizes, when they were verified.

    Backups with the same CHAIN rest on one full backup. libvirt need not run.
    """
    from vircpt.api import open_repository

    opened = open_repository(repository_of(session, repository))
    found = opened.backups(session.given_domain)
    if session.json:
        output.document(
            "backups/1",
            repository={"id": opened.id, "path": opened.path},
            backups=[_describe(one) for one in found],
        )
        return
    if not found:
        output.message(session, "no backups")
        return
    header = ["ID", "DOMAIN", "CREATED", "LEVEL", "CHAIN", "DISKS", "SIZE", "STORED", "VERIFIED"]
    output.result(output.table(header, [_row(one) for one in found], [6, 7]))
    for one in found:
        if one.why_damaged:
            output.warning(session, f"backup {one.id} is damaged: {output.safe(one.why_damaged)}")


def _row(one: StoredBackup) -> list[str]:
    found = one.manifest
    if found is None:
        return [one.id, one.vm.short_name, "-", "damaged", "-", "-", "-", "-", "-"]
    return [
        one.id,
        found.domain,
        output.moment(found.created),
        found.level.value,
        one.chain or "broken",
        " ".join(disk.target for disk in found.disks),
        output.size(sum(disk.size for disk in found.disks)),
        output.size(found.stored),
        _verified(one),
    ]


def _verified(one: StoredBackup) -> str:
    if one.verified is None:
        return "never"
    if one.verified.fault:
        return "DAMAGED"
    return output.moment(one.verified.when) + (" deep" if one.verified.deep else "")


def _describe(one: StoredBackup) -> dict[str, Any]:
    content = output.plain(one.manifest) if one.manifest else {"id": one.id}
    if one.manifest:
        content["created"] = output.iso(one.manifest.created)
    verified = output.plain(one.verified)
    if one.verified:
        verified["when"] = output.iso(one.verified.when)
    return {
        **content,
        "path": one.path,
        "chain": one.chain,
        "stored": one.manifest.stored if one.manifest else None,
        "verified": verified,
        "why_damaged": one.why_damaged,
    }
