"""vircpt export"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command, disk_options, freeze_options, freeze_policy, one_name
from vircpt.cli.session import Session
from vircpt.errors import Interrupted
from vircpt.interrupts import hold, resume

if TYPE_CHECKING:
    from vircpt.api import DiskDetails, Export, ExportPlan

_CERTIFICATES = (
    "; libvirt verifies clients: put client-cert.pem and client-key.pem into the --tls-dir"
)


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
        _show_plan(session, domain.plan_export(name, **what))
        return 0
    export = domain.export(
        name,
        **what,
        scratch_dir=str(Path(scratch_dir).absolute()) if scratch_dir else None,
        ttl=seconds,
        freeze=policy,
        freeze_limit=freeze_limit,
    )
    if run_command is None:
        details = _details(export)
        try:
            _show(session, export, details)
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # who reads has seen what they wanted
        except OSError as error:
            export.withdraw(error)
            raise
        return 0
    with export:
        resume()
        _tell_start(session, export)
        status = export.run(run_command)
        if not export.is_running():
            _tell_early_end(session, export, status)
        return status


def _tell_early_end(session: Session, export: Export, status: int) -> None:
    """Whatever the command says: what it read may not be all."""
    import time

    from vircpt.errors import VircptError

    what = f"the export of domain {export.domain} ended before the command did"
    is_over = export.expires is not None and time.time() >= export.expires
    why = "its --ttl was over" if is_over else "it was released, or the guest died"
    if status == 0:
        raise VircptError(what, why=why, domain=export.domain, hint="what it read may not be all")
    output.warning(session, f"{what}: {why}")


def _details(export: Export) -> tuple[DiskDetails, ...]:
    """Reading the maps may take a while; who interrupts it has been told of nothing."""
    try:
        resume()
        details = export.describe()
        hold()
    except Interrupted as error:
        export.withdraw(error)
        raise
    return details


def _show_plan(session: Session, plan: ExportPlan) -> None:
    if session.json:
        output.document("export-plan/1", plan=output.without_nonce(plan))
        return
    output.tell_skipped(session, plan.skipped)
    rows = [[one.target, _how(one.since, one.why_full)] for one in plan.disks]
    output.result(output.table(["DISK", "EXPORTED"], rows))
    if plan.checkpoint_xml:
        output.result(plan.checkpoint_xml.rstrip())


def _how(since: str | None, why_full: str | None) -> str:
    if since:
        return f"changes since {since} marked"
    return f"in full: {why_full}" if why_full else "in full"


def _tell_start(session: Session, export: Export) -> None:
    assert export.start
    output.tell_skipped(session, export.start.plan.skipped)
    if export.start.plan.offline:
        output.message(session, "the domain is shut off: its images are served read-only, and it "
                       "can't be started until the export is released")  # fmt: skip
    else:
        output.tell_freeze(session, export.start.freeze)
    for one in export.start.plan.disks:
        if one.why_full:
            output.message(session, f"disk {one.target} is exported in full: {one.why_full}")


def _show(session: Session, export: Export, details: tuple[DiskDetails, ...]) -> None:
    assert export.start
    plan = export.start.plan
    if session.json:
        output.document(
            "export/1",
            id=export.id,
            domain=export.domain,
            offline=plan.offline,
            since=plan.since,
            created_checkpoint=plan.create,
            socket=export.socket,
            address=export.address,
            port=export.port,
            tls=export.tls,
            release_command=export.release_command(),
            expires=output.iso(export.expires),
            skipped=plan.skipped,
            freeze=export.start.freeze,
            disks=details,
        )
        return
    _tell_start(session, export)
    output.message(
        session,
        "it shows the disks as they are now"
        + (f", with the blocks marked that were written since {output.safe(plan.since)}"
           if any(one.bitmap for one in details) else ""),
    )  # fmt: skip
    if plan.create:
        output.result(f"checkpoint {output.safe(plan.create)} created in the same instant")
    output.result(f"export {export.id} of domain {output.safe(export.domain)} is running")
    if export.socket:
        output.result(f"socket: {export.socket}")
    if export.expires:
        output.result(f"released at: {output.moment(export.expires)}")
    rows = [
        [
            one.target,
            output.size(one.size),
            output.size(one.changed),
            one.bitmap or "-",
            _how(one.since, one.why_full),
        ]
        for one in details
    ]
    output.result("")
    output.result(output.table(["DISK", "SIZE", "CHANGED", "BITMAP", "EXPORTED"], rows, [1, 2]))
    for one in details:
        if one.unreadable:
            note = _CERTIFICATES if export.tls else ""
            text = output.safe(one.unreadable)
            output.warning(session, f"size and changes of {one.target} are not known: {text}{note}")
        output.result(f"\n{one.target}: {one.uri}")
        for useful in one.commands:
            output.result(f"  # {useful.purpose}\n  {useful.command}")
    output.result("\nend it with:")
    output.result(f"  {export.release_command()}")
