"""vircpt verify"""

from __future__ import annotations

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.progress import bar
from vircpt.cli.repository import repository_of, repository_option
from vircpt.cli.session import Session
from vircpt.errors import Mismatch


@click.command("verify", cls=Command)
@click.argument("backup_id", metavar="[ID]", required=False)
@repository_option
@click.option("--deep", is_flag=True, help="Have QEMU read every disk through its chain, too.")
@click.pass_obj
def command(session: Session, backup_id: str | None, repository: str | None, deep: bool) -> int:
    """Check every byte of backup ID and of all that it rests on, or of the whole repository.

    Names the file, and for images the offset, that is not what was written; exit code 4.
    libvirt need not run.
    """
    from vircpt.api import open_repository

    opened = open_repository(repository_of(session, repository))
    chosen = opened.find(backup_id, session.given_domain) if backup_id else None
    with bar(session, "verifying") as shown:
        found = opened.verify(
            chosen,
            domain=session.given_domain,
            deep=deep,
            progress=(lambda done, total: shown(done / max(1, total))) if shown else None,
        )
    faults = sum(len(one.faults) for one in found)
    if session.json:
        output.document("verify/1", deep=deep, faults=faults, backups=found)
        return Mismatch.exit_code if faults else 0
    for one in found:
        for fault in one.faults:
            output.result(f"{one.id}: {output.safe(fault)}")
    if faults:
        raise Mismatch(
            f"{faults} faults in {opened.path}" if faults > 1 else f"a fault in {opened.path}",
            hint="don't trust these backups, nor those that rest on them; make a full one",
        )
    output.done(session, f"{len(found)} backups are whole")
    return 0
