"""What is told of an export that is planned, has started, or has ended early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vircpt.cli import output
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import DiskDetails, Export, ExportPlan

_CERTIFICATES = (
    "; libvirt verifies clients: put client-cert.pem and client-key.pem into the --tls-dir"
)


def plan(session: Session, plan: ExportPlan) -> None:
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


def start(session: Session, export: Export) -> None:
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


def result(session: Session, export: Export, details: tuple[DiskDetails, ...]) -> None:
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
    start(session, export)
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
    output.result("")
    disks(session, export, details)


def disks(session: Session, export: Export, details: tuple[DiskDetails, ...]) -> None:
    """What each disk of a running export is, and the commands that are of use."""
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


def early_end(session: Session, export: Export, status: int) -> None:
    """Whatever the command says: what it read may not be all."""
    import time

    from vircpt.errors import VircptError

    what = f"the export of domain {export.domain} ended before the command did"
    is_over = export.expires is not None and time.time() >= export.expires
    why = "its --ttl was over" if is_over else "it was released, or the guest died"
    if status == 0:
        raise VircptError(what, why=why, domain=export.domain, hint="what it read may not be all")
    output.warning(session, f"{what}: {why}")
