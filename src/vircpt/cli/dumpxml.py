"""vircpt dumpxml"""

from __future__ import annotations

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command, one_name
from vircpt.cli.session import Session


@click.command("dumpxml", cls=Command)
@click.argument(
    "name_argument", metavar="[NAME]", required=False, shell_complete=complete.checkpoints
)
@click.option(
    "--name", metavar="NAME", shell_complete=complete.checkpoints, help="Which one, as well."
)
@click.option("--no-domain", is_flag=True, help="Leave the domain's definition out.")
@click.pass_obj
def command(session: Session, name_argument: str | None, name: str | None, no_domain: bool) -> None:
    """Print a checkpoint's definition, as libvirt holds it and `redefine` takes it."""
    chosen = one_name(name, name_argument)
    assert chosen is not None
    xml = session.domain().checkpoint_xml(chosen, with_domain=not no_domain)
    if session.json:
        output.document("dumpxml/1", name=chosen, xml=xml)
    else:
        output.result(xml.strip())
