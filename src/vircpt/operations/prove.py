"""Prove that a set of disks boots: start a clone on them, watch it, take all of it away.

For callers that have the disks and an XML, such as a backup. `Domain.boot` of the API does the
same on an export.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from vircpt.errors import VircptError
from vircpt.hypervisor.clone import Change
from vircpt.hypervisor.connection import Connection
from vircpt.interrupts import resume, uninterrupted
from vircpt.operations import boot, boot_stop, boot_test
from vircpt.operations.boot import BootOptions, BootSource, StartedClone
from vircpt.operations.boot_test import BootReport, Progress, Until


@dataclass(frozen=True)
class Proof:
    """How it went, and what the clone had not, or not as the XML says."""

    report: BootReport
    changes: tuple[Change, ...]


def prove(
    connection: Connection,
    source: BootSource,
    until: Until,
    limit: float = boot_test.BOOT_LIMIT,
    *,
    options: BootOptions | None = None,
    progress: Progress | None = None,
) -> Proof:
    """Boot a clone of `source`; its report has a screenshot if `options.screen`.

    Nothing of it is left when this returns or raises. Raises what `boot.start` raises, and
    HostUnreachable if libvirt goes away meanwhile.
    """
    wanted = replace(options or BootOptions(), test=True)
    if until.needs_agent:
        wanted = replace(wanted, agent=True)
    with Connection(connection.uri, connection.credentials, events=True) as tied:
        started = boot.start(tied, source, wanted)
        try:
            resume()
            report = boot_test.run(
                started.domain, until, limit, picture=wanted.screen, progress=progress
            )
        except BaseException as error:
            with uninterrupted():
                _stop_after(tied, started, error)
            raise
        with uninterrupted():
            _stop(tied, started)
    return Proof(report, started.changes)


def _stop_after(connection: Connection, started: StartedClone, error: BaseException) -> None:
    try:
        _stop(connection, started)
    except VircptError as second:
        error.add_note(f"and the clone could not be ended: {second}")


def _stop(connection: Connection, started: StartedClone) -> None:
    """Over a connection of its own: libvirtd may have gone, and be there again."""
    with Connection(connection.uri, connection.credentials) as fresh:
        boot_stop.stop_one(fresh, started.directory)
    if started.claim is not None:
        os.close(started.claim)
