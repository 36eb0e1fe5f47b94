"""An export for a consumer: the one that runs, or a new one that goes with its last consumer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vircpt.errors import Busy, quoted
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations import clones, consumers, ownership
from vircpt.records import exports as records
from vircpt.records.exports import ExportDirectory

if TYPE_CHECKING:
    from vircpt.hypervisor.agent import Freeze
    from vircpt.operations.export import StartedExport


@dataclass(frozen=True)
class Wanted:
    """What an export is made with, if one has to be; see ExportOptions, which takes its time."""

    since: str | None = None
    disks: Sequence[str] = ()
    exclude: Sequence[str] = ()
    scratch_dir: str | None = None
    freeze: Freeze | None = None
    freeze_limit: float = 10.0


def borrow(
    domain: LibvirtDomain, wanted: Wanted, purpose: str
) -> tuple[ExportDirectory, StartedExport | None]:
    """The export that runs, or a new one for that purpose, and how the new one came about.

    After a new one interruptions wait (interrupts.hold): the caller resumes. Raises Busy
    if one runs that is based on another checkpoint, and what `export.start` raises.
    """
    for directory in records.of_domain(domain.uuid):
        if ownership.is_alive(domain.connection, directory):
            _refuse_other_base(directory, wanted.since)
            return directory, None
    from vircpt.operations import export
    from vircpt.operations.export_plan import ExportOptions

    started = export.start(domain, ExportOptions(**vars(wanted), purpose=purpose))
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
        from vircpt.operations import export

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
