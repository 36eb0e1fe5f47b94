"""vircpt export"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import complete, export_told, output
from vircpt.cli.base import Command, disk_options, freeze_options, freeze_policy, one_name
from vircpt.cli.session import Session
from vircpt.interrupts import hold, resume, telling

if TYPE_CHECKING:
    from vircpt.api import DiskDetails, Export


@click.command("export", cls=Command)
@click.argument(
    "name_argument", metavar="[NAME]", required=False, shell_complete=complete.checkpoints
)
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=complete.checkpoints,
    help="Mark what was written since this checkpoint [default: a full export].",
)
@click.option("--create", metavar="NEW", help="Make this checkpoint in the same instant.")
@disk_options("exporting")
@freeze_options
@click.option(
    "--scratch-dir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Where blocks go that the guest overwrites meanwhile [default: /var/lib/vircpt].",
)
@click.option("--tcp", metavar="ADDR[:PORT]", help="Listen there, not on a Unix socket.")
@click.option(
    "--tls-dir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Certificates for --tcp; for a running domain those that libvirt's qemu.conf names.",
)
@click.option("--insecure", is_flag=True, help="Listen on TCP without TLS.")
@click.option("--ttl", metavar="TIME", help="Release after that time by itself: 90s, 15m, 2h, 1d.")
@click.option(
    "--run",
    "run_command",
    metavar="CMD",
    help="Run a shell command on it (VIRCPT_URI, VIRCPT_URI_VDA, ... are set), then release; "
    "stdout and the exit code are the command's. A checkpoint made by --create stays.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be exported; change nothing.")
@click.pass_obj
def command(
    session: Session,
    name_argument: str | None,
    name: str | None,
    create: str | None,
    disks: tuple[str, ...],
    exclude: tuple[str, ...],
    no_freeze: bool,
    require_freeze: bool,
    freeze_limit: float,
    scratch_dir: str | None,
    tcp: str | None,
    tls_dir: str | None,
    insecure: bool,
    ttl: str | None,
    run_command: str | None,
    dry_run: bool,
) -> int:
    """Serve the disks over NBD, frozen in time, while the guest goes on.

    The export shows the disks AS THEY ARE WHEN IT STARTS, not as they were when checkpoint
    NAME was made; the checkpoint only says which blocks were written since. For the data of
    a checkpoint make both at once: export --create NEW. It runs until `vircpt release`.
    """
    from pathlib import Path

    from vircpt.api import parse_listen
    from vircpt.units import parse_duration

    if run_command is not None and not run_command.strip():
        raise click.UsageError("--run got no command")
    if not tcp and (tls_dir or insecure):
        raise click.UsageError("--tls-dir and --insecure go with --tcp")
    name = one_name(name, name_argument, needed=False)
    policy = freeze_policy(no_freeze, require_freeze)
    what: dict[str, Any] = {
        "create": create,
        "disks": disks,
        "exclude": exclude,
        "tcp": parse_listen(tcp, tls_dir, insecure) if tcp else None,
    }
    seconds = parse_duration(ttl) if ttl else None
    domain = session.domain()
    if dry_run:
        export_told.plan(session, domain.plan_export(name, **what))
        return 0
    what |= {
        "scratch_dir": str(Path(scratch_dir).absolute()) if scratch_dir else None,
        "ttl": seconds,
        "freeze": policy,
        "freeze_limit": freeze_limit,
    }
    with telling():
        export = domain.export(name, **what)
        if run_command is not None:
            return _run(session, export, run_command)
        try:
            details = _details(export)
            export_told.result(session, export, details)
            sys.stdout.flush()
        except BaseException as error:  # nobody has been told of it
            export.withdraw(error)
            if isinstance(error, BrokenPipeError):
                output.warning(session, f"nobody reads the output: export {export.id} is released")
            raise
    return 0


def _run(session: Session, export: Export, run_command: str) -> int:
    with export:
        try:
            resume()
            export_told.start(session, export)
        except BaseException as error:
            export.withdraw(error)
            raise
        status = export.run(run_command)
        if not export.is_running():
            export_told.early_end(session, export, status)
        return status


def _details(export: Export) -> tuple[DiskDetails, ...]:
    """Reading the maps may take a while: here it may be interrupted."""
    resume()
    details = export.describe()
    hold()
    return details
