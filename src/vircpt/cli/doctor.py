"""vircpt doctor"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vircpt.cli.base import Command
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import Finding

_BROKEN = 13
_PARTLY = 3


@click.command("doctor", cls=Command)
@click.option("--all", "every", is_flag=True, help="All domains, which is also so without -d.")
@click.option("--fix", is_flag=True, help="Repair; ask before anything goes.")
@click.option("--yes", is_flag=True, help="With --fix: don't ask, except about what is foreign.")
@click.option("--foreign", is_flag=True, help="With --yes: also what vircpt did not make.")
@click.option("--dry-run", is_flag=True, help="Say what --fix would do; change nothing.")
@click.option(
    "--deep",
    is_flag=True,
    help="Ask QEMU and the guest agent past libvirt, which marks the domain as tainted.",
)
@click.option(
    "--log",
    "logs",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read this log instead of the host's; may be repeated.",
)
@click.option("--explain", metavar="TEXT", help="Say what a pasted error means; - reads stdin.")
@click.pass_obj
def command(
    session: Session,
    every: bool,
    fix: bool,
    yes: bool,
    foreign: bool,
    dry_run: bool,
    deep: bool,
    logs: tuple[Path, ...],
    explain: str | None,
) -> int:
    """Look for what is wrong with checkpoints, exports, guest agents and the host.

    libvirt's checkpoints, QEMU's bitmaps and those in the images are held against each other.
    Nothing is changed without --fix. Ends with 0 if all is well, 13 if something is broken, 3
    if some of it was repaired.
    """
    from vircpt.cli import doctoring

    if explain is not None:
        return doctoring.explain(session, explain)
    if every and session.domain_name:
        raise click.UsageError("--all and -d exclude each other")
    if (yes or foreign) and not fix:
        raise click.UsageError("--yes and --foreign go with --fix")
    name = None if every else session.given_domain
    examined = session.host.examine(name, deep=deep, logs=logs)
    repaired: list[Finding] = []
    failed: list[tuple[Finding, str]] = []
    if dry_run:
        doctoring.show_plan(session, examined)
    elif fix:
        policy = doctoring.Policy(yes, foreign, asks=not session.json)
        repaired, failed = doctoring.repair(session, examined, policy)
        if repaired:
            examined = session.host.examine(name, deep=deep, logs=logs)
    doctoring.show(session, examined, repaired, failed, dry_run=dry_run)
    if examined.is_broken or failed:
        return _PARTLY if repaired else _BROKEN
    return 0
