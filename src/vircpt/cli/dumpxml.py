"""vircpt dumpxml"""

from __future__ import annotations

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("dumpxml", cls=Command)
@click.argument("name", shell_complete=complete.checkpoints)
@click.option("--no-domain", is_flag=True, help="Leave the domain's definition out.")
@click.pass_obj
def command(session: Session, name: str, no_domain: bool) -> None:
    """Print a checkpoint's definition, as libvirt holds it and `redefine` takes it."""
    xml = session.domain().checkpoint_xml(name, with_domain=not no_domain)
    if session.json:
        output.document("dumpxml/1", name=name, xml=xml)
    else:
        output.result(xml.strip())
