"""vircpt completion"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.session import Session


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell. For bash put this into ~/.bashrc:

    eval "$(vircpt completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(context.find_root().command, {}, "vircpt", "_VIRCPT_COMPLETE").source()
    session: Session = context.obj
    if session.json:
        output.document("completion/1", shell=shell, script=script)
    else:
        output.result(script)
