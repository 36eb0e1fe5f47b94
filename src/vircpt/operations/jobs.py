"""Jobs that hold a domain: asked for before anything that would wait 30 s for them in vain."""

from __future__ import annotations

from vircpt.errors import Busy, quoted
from vircpt.hypervisor import jobs
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.units import format_age


def refuse(domain: LibvirtDomain, *, but_backups: bool = False) -> None:
    """Raise Busy if a job holds the domain; `but_backups`, which leave checkpoints alone."""
    job = jobs.current(domain)
    if job is None or (but_backups and job.operation == jobs.BACKUP):
        return
    whose = _whose(domain) if job.operation == jobs.BACKUP else None
    raise Busy(
        f"domain {domain.name} is busy",
        why=f"a {job.operation} job{'' if whose else ' that vircpt did not start'} has run for "
        f"{format_age(job.seconds)}{f'; {whose}' if whose else ''}",
        domain=domain.name,
        hint="release it as that user"
        if whose
        else f"see it with: virsh domjobinfo {quoted(domain.name)}",
    )


def _whose(domain: LibvirtDomain) -> str | None:
    from vircpt.hypervisor import backups
    from vircpt.operations import ownership

    job = backups.current(domain)
    return ownership.others_note(job) if job else None


def holds(domain: LibvirtDomain) -> bool:
    """True if a job runs that keeps QEMU from being asked for its bitmaps."""
    job = jobs.current(domain)
    return job is not None and job.operation != jobs.BACKUP
