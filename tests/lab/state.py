"""What a vircpt may have left behind, looked at from outside: libvirt, the disk, processes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import libvirt

from .daemon import LabError, poll
from .vms import Vm

EXPORTS = Path("/var/lib/vircpt/exports")
LASTING = (
    b"thawguard.py",
    b"vircpt.operations.expire",
    b"vircpt.blocks.appliance",
    b"guest=/var/lib/vircpt/",
)
"""Marks of the processes that vircpt starts and that outlive it."""
OURS = (*LASTING, b"bin/vircpt\0", b"qemu-img\0convert\0-p\0")
_SCRATCH = re.compile(r"vircpt-[0-9a-f]{8}")


def processes(marks: tuple[bytes, ...] = OURS) -> dict[int, str]:
    """Pids and command lines of all that runs of vircpt's now, in this namespace."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(mark in line for mark in marks):
            found[int(directory.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def leftovers() -> list[str]:
    """What is left of exports: their directories, scratch files elsewhere, processes.

    Processes may be about to end: they get some seconds for that, if nothing else is there.
    """
    found = _below(EXPORTS)
    elsewhere = (path for path in _below(Path("/var/lib/libvirt")) if "/checkpoint/" not in path)
    found += [path for path in elsewhere if _SCRATCH.search(path)]
    if found:
        return found
    with suppress(LabError):
        poll(lambda: not processes(LASTING), 5, "vircpt's processes to end")
    return list(processes(LASTING).values())


def _below(top: Path) -> list[str]:
    """Everything in a directory, which may be going away meanwhile."""
    found = []
    for directory, below, files in os.walk(top):  # a directory that is gone ends nothing
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
