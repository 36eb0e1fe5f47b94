"""vircpt help"""

from __future__ import annotations

import click

from vircpt.cli.base import Command, LazyGroup


@click.command("help", cls=Command)
@click.argument("name", metavar="[COMMAND]", required=False)
@click.pass_context
def command(context: click.Context, name: str | None) -> None:
    """Show what a command does and takes, or name them all; the same as --help."""
    top = context.find_root()
    assert isinstance(top.command, LazyGroup)
    if name is None:
        click.echo(top.get_help())
        return
    _, wanted, _ = top.command.resolve_command(top, [name])
    assert wanted
    with click.Context(wanted, info_name=name, parent=top) as inner:
        click.echo(wanted.get_help(inner))
