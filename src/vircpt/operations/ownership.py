"""Which jobs and processes are ours: vircpt ends only what it started."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from vircpt.blocks import storage_daemon
from vircpt.hypervisor import backups
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.records.exports import ExportDirectory


def is_ours(job: backups.BackupJob, directory: ExportDirectory) -> bool:
    """True if the running backup job is the one of that export: it serves from its directory.

    Exports over TCP without scratch files of ours (on remote hosts) are known by their port.
    """
    record = directory.record
    if job.listen.socket:
        return job.listen.socket == str(directory.socket)
    scratch = f"{directory.scratch}{os.sep}"
    if any(path.startswith(scratch) for path in job.scratch_files):
        return True
    return record.port is not None and (job.listen.address, job.listen.port) == (
        record.address,
        record.port,
    )


def job_is_ours(domain: LibvirtDomain, directory: ExportDirectory) -> bool:
    """True if the backup job that runs on the domain now is that export's."""
    job = backups.current(domain)
    return job is not None and is_ours(job, directory)


def is_alive(domain: LibvirtDomain, directory: ExportDirectory) -> bool:
    """True if the export is served still."""
    record = directory.record
    if record.kind == "offline":
        return record.server is not None and record.server.alive()
    return job_is_ours(domain, directory)


def stop_processes(directory: ExportDirectory) -> None:
    """End the export's watcher and its storage daemon, if they live; never ourselves."""
    watcher, server = directory.record.watcher, directory.record.server
    if watcher and watcher.alive() and watcher.pid != os.getpid():
        with suppress(ProcessLookupError):
            os.kill(watcher.pid, signal.SIGTERM)
    if server and server.alive():
        storage_daemon.stop(server.pid)
