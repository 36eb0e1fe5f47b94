"""What a vircpt may have left behind, looked at from outside: libvirt, the disk, processes."""

from __future__ import annotations

import os
from pathlib import Path

import libvirt

from .daemon import poll
from .vms import Vm

EXPORTS = Path("/var/lib/vircpt/exports")


def leftovers() -> list[str]:
    """Everything below the directory of exports, which may be going away meanwhile."""
    found = []
    for directory, below, files in os.walk(EXPORTS):  # a directory that is gone ends nothing
        found += [os.path.join(directory, name) for name in below + files]  # noqa: PTH118
    return found


def checkpoints(vm: Vm) -> list[str]:
    """Names of the checkpoints that libvirt knows, parents first."""
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL
    return [str(one.getName()) for one in vm.domain.listAllCheckpoints(flags)]


def has_job(vm: Vm) -> bool:
    """True while a job holds the domain."""
    return bool(vm.domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)


def nothing_left(vm: Vm) -> bool:
    """No job, and nothing on disk."""
    return not has_job(vm) and not leftovers()


def begin_foreign_job(vm: Vm, base: str | None = None) -> None:
    """A pull-mode backup job as another program would start it; see end_job."""
    incremental = f"<incremental>{base}</incremental>" if base else ""
    server = "<server transport='tcp' name='127.0.0.1' port='10899'/>"
    xml = f"<domainbackup mode='pull'>{incremental}{server}</domainbackup>"
    vm.domain.backupBegin(xml, None)


def end_job(vm: Vm) -> None:
    """Abort the job, and wait until it has gone: the abort returns before."""
    vm.domain.abortJob()
    poll(lambda: not has_job(vm), 30, "the end of the job")
