"""One examination: all families asked in turn, of one domain or of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vircpt.errors import VircptError
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations.doctor import agent, bitmaps, chain, disks, exports, facts, host, logs
from vircpt.operations.doctor.facts import Picture
from vircpt.operations.doctor.findings import Finding, Severity
from vircpt.operations.doctor.verdicts import Verdict


@dataclass(frozen=True)
class DomainHealth:
    """The verdicts on one domain; `failed` says why it could not be examined."""

    name: str
    verdicts: tuple[Verdict, ...] = ()
    asked_qemu: bool = False
    failed: str | None = None


@dataclass(frozen=True)
class Examination:
    """What was found, of the domains and then of the host."""

    domains: tuple[DomainHealth, ...]
    findings: tuple[Finding, ...]

    @property
    def is_broken(self) -> bool:
        return any(one.severity is Severity.BROKEN for one in self.findings)


def examine(
    connection: Connection,
    name: str | None,
    *,
    deep: bool = False,
    log_files: Sequence[Path] = (),
) -> Examination:
    """Examine domain `name`, or all. Nothing is changed, and with `deep` nothing but libvirt's
    mark that QEMU and the agent were spoken to past it. Raises NotFound, HostUnreachable."""
    if name is None:
        chosen = domains.list_domains(connection)
    else:
        chosen = [domains.lookup(connection, name)]
    found: list[Finding] = []
    health: list[DomainHealth] = []
    pictures: list[tuple[LibvirtDomain, Picture]] = []
    for domain in chosen:
        try:
            picture = facts.gather(domain, deep=deep)
            found += of_picture(picture)
        except VircptError as error:
            health.append(_failed(domain, error, name))
            continue
        pictures.append((domain, picture))
        health.append(DomainHealth(domain.name, picture.verdicts, picture.asked_qemu))
    found += exports.find(connection, chosen[0].name if name is not None else None)
    found += exports.of_scratch(connection, [picture for _, picture in pictures])
    found += host.find(connection)
    found += logs.find(log_files)
    # at the end: while an agent hangs, libvirt 9.0 answers no other question about its domain
    for domain, picture in pictures:
        found += agent.find(domain, picture.domain, deep=deep)
    return Examination(tuple(health), tuple(found))


def of_picture(picture: Picture) -> Iterator[Finding]:
    """The findings that follow from a domain's picture alone. Pure."""
    for family in (bitmaps, chain, disks):
        yield from family.find(picture)


def _failed(domain: LibvirtDomain, error: VircptError, asked: str | None) -> DomainHealth:
    if asked is not None:
        raise error
    return DomainHealth(domain.name, failed=str(error))
