"""vircpt hotremove"""

from __future__ import annotations

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command, timeout_option
from vircpt.cli.session import Session


@click.command("hotremove", cls=Command)
@click.option(
    "--from",
    "other",
    metavar="VM2",
    required=True,
    shell_complete=complete.domains,
    help="The domain that has the disks.",
)
@timeout_option("How long the guest gets to let the disks go.", default=30)
@click.pass_obj
def command(session: Session, other: str, timeout: float) -> None:
    """Detach what hotadd attached to VM2, and wait until the guest has let it go. With -d only
    the disks of that domain. An export that was made for it is released. Unmount in the guest
    first. If the guest does not let go all stays as it is, and the exit code is 11.
    """
    removed = session.host.hotremove(other, session.given_domain, timeout=timeout)
    if session.json:
        output.document("hotremove/1", removed=removed)
        return
    for one in removed:
        names = " ".join(one.targets)
        if names:
            before = "" if one.was_attached else " (it was gone before)"
            output.done(
                session,
                f"{names} of {output.safe(one.domain)}, disks of {output.safe(one.came_from)}, "
                f"detached{before}",
            )
        if one.released:
            output.done(
                session, f"export {one.export} of domain {output.safe(one.came_from)} released"
            )
