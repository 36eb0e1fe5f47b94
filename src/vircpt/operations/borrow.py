"""An export for a consumer: the one that runs, or a new one that goes with its last consumer."""

from __future__ import annotations

from dataclasses import replace

from vircpt.errors import Busy, quoted
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations import clones, consumers, export, ownership
from vircpt.operations.export import ExportOptions, StartedExport
from vircpt.records import exports as records
from vircpt.records.exports import ExportDirectory


def borrow(
    domain: LibvirtDomain, options: ExportOptions, purpose: str
) -> tuple[ExportDirectory, StartedExport | None]:
    """The export that runs, or a new one for that purpose, and how the new one came about.

    After a new one interruptions wait (see interrupts.hold): the caller resumes. Raises Busy
    if one runs that is based on another checkpoint, and what `export.start` raises.
    """
    for directory in records.of_domain(domain.uuid):
        if ownership.is_alive(domain.connection, directory):
            _refuse_other_base(directory, options.since)
            return directory, None
    started = export.start(domain, replace(options, purpose=purpose))
    return started.directory, started


def give_back(
    domain: LibvirtDomain,
    directory: ExportDirectory,
    started: StartedExport | None,
    error: BaseException,
) -> None:
    """Undo `borrow` because of `error`, unless somebody holds on to the export."""
    used = consumers.written(directory) or clones.on_export(directory.record.id)
    if started is not None and not used:
        export.withdraw(domain, started, error)


def _refuse_other_base(directory: ExportDirectory, since: str | None) -> None:
    record = directory.record
    if since is None or since == record.base:
        return
    raise Busy(
        f"domain {record.domain} is being exported already, "
        + (f"since checkpoint {record.base}" if record.base else "in full"),
        domain=record.domain,
        checkpoint=since,
        hint="leave --name out to use that export, or release it first: "
        f"vircpt -d {quoted(record.domain)} release",
    )
