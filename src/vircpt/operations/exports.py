"""All exports on this host: ours, by whom and since when, and other programs' backup jobs."""

from __future__ import annotations

import enum
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vircpt.errors import NotFound, VircptError, quoted
from vircpt.hypervisor import backups, jobs
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations import ownership
from vircpt.records import exports as records
from vircpt.records.exports import Damaged, ExportDirectory

if TYPE_CHECKING:
    from vircpt.operations import attachments, consumers


_NO_SPACE = 1 << 20


class ExportState(enum.Enum):
    RUNNING = "running"
    DEAD = "dead"
    """its job or server has ended, as when the guest died; release removes what it left"""
    ELSEWHERE = "elsewhere"
    """it was started through another connection URI, where it was not looked at"""
    FOREIGN = "foreign"
    """a backup job that vircpt did not start"""
    DAMAGED = "damaged"
    """its state file can't be read"""


@dataclass(frozen=True)
class ExportStatus:
    """An export; sizes in bytes, times in seconds since 1970, None for what isn't known.

    `attached` names the disks of domains that read from it, as DOMAIN:TARGET, whoever attached
    them; `consumers` are those that vircpt gave it to, `purpose` what it was made for if that
    was for one of them.
    """

    id: str | None
    domain: str | None
    state: ExportState
    kind: str | None = None
    uri: str | None = None
    user: str | None = None
    created: float | None = None
    expires: float | None = None
    base: str | None = None
    checkpoint: str | None = None
    disks: tuple[str, ...] = ()
    socket: str | None = None
    address: str | None = None
    port: int | None = None
    tls: bool = False
    scratch_used: int | None = None
    attached: tuple[str, ...] = ()
    consumers: tuple[consumers.ConsumerStatus, ...] = ()
    purpose: str | None = None
    note: str | None = None


def list_exports(connection: Connection) -> list[ExportStatus]:
    """All that is written down on this host, and other backup jobs of this connection."""
    from vircpt.operations import attachments

    attached = attachments.find_all(connection)
    written = records.list_all()
    ours = {one.uuid if isinstance(one, Damaged) else one.record.uuid for one in written}
    found = [_status(connection, one, attached) for one in written]
    return found + _foreign(connection, ours)


def find_running(domain: LibvirtDomain) -> ExportDirectory:
    """The export of that domain that is served now; raises NotFound."""
    name = quoted(domain.name)
    why, hint = None, f"start one: vircpt -d {name} export"
    for directory in records.of_domain(domain.uuid):
        if ownership.is_alive(domain.connection, directory):
            return directory
        why = f"export {directory.record.id} is dead: its guest or its server has ended"
        hint = f"release it (vircpt -d {name} release), and start another"
    if why is None and backups.current(domain) is not None:
        why, hint = "the backup job that runs there is not vircpt's", "see vircpt exports"
    raise NotFound(
        f"domain {domain.name} has no running export", why=why, domain=domain.name, hint=hint
    )


def _damaged(connection: Connection, one: Damaged) -> ExportStatus:
    domain = domains.find(connection, one.uuid) if one.uuid else None
    advice = one.advice
    if one.uuid:
        advice = f"vircpt -d {quoted(domain.name if domain else one.uuid)} release"
    return ExportStatus(
        one.id,
        domain.name if domain else one.uuid,
        ExportState.DAMAGED,
        note=f"its state is damaged ({one.why}); end it: {advice}",
    )


def _status(
    connection: Connection,
    one: ExportDirectory | Damaged,
    attached: list[attachments.Attachment],
) -> ExportStatus:
    if isinstance(one, Damaged):
        return _damaged(connection, one)
    record = one.record
    from vircpt.operations import consumers

    state, scratch, note = _state(connection, one)
    users = tuple(consumers.list_of(connection, one))
    by_hand = (
        f"{place.domain.name}:{place.target}"
        for place in attached
        if place.socket == str(one.socket)
    )
    recorded = (
        f"{user.domain}:{disk.target}"
        for user in users
        if user.kind == "hotadd" and user.alive
        for disk in user.disks
    )
    return ExportStatus(
        id=record.id,
        domain=record.domain,
        state=state,
        kind=record.kind,
        uri=record.uri,
        user=record.user,
        created=record.created,
        expires=record.expires,
        base=record.base,
        checkpoint=record.checkpoint,
        disks=tuple(disk.target for disk in record.disks),
        socket=None if record.port else str(one.socket),
        address=record.address,
        port=record.port,
        tls=record.tls_dir is not None,
        scratch_used=scratch,
        attached=tuple(dict.fromkeys([*by_hand, *recorded])),
        consumers=users,
        purpose=record.purpose,
        note=_note(state, users) or note,
    )


def _note(state: ExportState, users: tuple[consumers.ConsumerStatus, ...]) -> str | None:
    """What should be seen to: who reads from it has gone, or reads in vain."""
    if state is ExportState.DEAD and any(one.alive for one in users):
        names = ", ".join(one.name for one in users if one.alive)
        return f"it is dead, and {names} gets I/O errors: release it"
    gone = [one for one in users if not one.alive]
    if gone:
        return f"{', '.join(one.name for one in gone)} has gone: release removes what it left"
    return None


def _state(
    connection: Connection, one: ExportDirectory
) -> tuple[ExportState, int | None, str | None]:
    """How it is, the bytes in its scratch files, and what people should know."""
    record = one.record
    if record.kind == "live" and record.uri != connection.uri:
        return ExportState.ELSEWHERE, None, None
    domain = domains.find(connection, record.uuid)
    if not ownership.is_alive_on(domain, one):
        return ExportState.DEAD, None, None
    job = jobs.current(domain) if domain else None
    note = _why_stuck(domain, one) if domain and record.kind == "live" else None
    return ExportState.RUNNING, job.scratch_used if job else None, note


def _why_stuck(domain: LibvirtDomain, one: ExportDirectory) -> str | None:
    """The guest's writes fail, and it is paused, when its old blocks find no space."""
    if not domain.is_stuck():
        return None
    name = quoted(domain.name)
    if not one.record.remote and _free(one.scratch) < _NO_SPACE:
        return (
            f"the guest is paused: there is no space left for scratch files in {one.scratch}; make "
            f"room, or release the export (vircpt -d {name} release), then: virsh resume {name}"
        )
    return (
        f"the guest is paused, as it could not read or write a disk: see virsh domblkerror {name}; "
        f"then: virsh resume {name}"
    )


def _free(directory: Path) -> int:
    """Bytes free for others than root."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _foreign(connection: Connection, ours: set[str | None]) -> list[ExportStatus]:
    found = []
    for domain in domains.list_domains(connection, active=True):
        if domain.uuid in ours:
            continue
        try:
            job, running = backups.current(domain), jobs.current(domain)
        except VircptError:
            continue  # it has ended since we listed it
        if job:
            found.append(
                ExportStatus(
                    id=None,
                    domain=domain.name,
                    state=ExportState.FOREIGN,
                    kind="live" if job.pull else "push",
                    uri=connection.uri,
                    created=time.time() - running.seconds if running else None,
                    base=", ".join(sorted(job.bases)) or None,
                    disks=job.disks,
                    socket=job.listen.socket,
                    address=job.listen.address,
                    port=job.listen.port,
                    tls=job.listen.tls,
                    scratch_used=running.scratch_used if running else None,
                    note=ownership.others_note(job),
                )
            )
    return found
