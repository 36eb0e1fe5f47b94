"""Findings about the host: versions, programs, the nbd module."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vircpt.errors import NotSupported
from vircpt.hypervisor.connection import Connection, Versions
from vircpt.operations.doctor.findings import Finding

OLDEST_LIBVIRT = (7, 2, 0)
"""The first with checkpoints and pull-mode backups switched on by default."""
OLDEST_QEMU = (5, 2, 0)
_TOOLS = {
    "qemu-img": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "nbdinfo": "libnbd-bin",
}


def find(connection: Connection) -> Iterator[Finding]:
    yield from judge_versions(connection.versions())
    if not connection.is_remote:
        yield from judge_tools(shutil.which)
        yield from _nbd_module()
    yield from _binding()


def judge_versions(versions: Versions) -> Iterator[Finding]:
    """What is too old. Pure."""
    for what, found, oldest in (
        ("libvirt", versions.daemon, OLDEST_LIBVIRT),
        ("QEMU", versions.hypervisor, OLDEST_QEMU),
    ):
        if tuple(int(part) for part in found.split(".")) < oldest:
            yield Finding(
                "version-too-old",
                f"The host has {what} {found}.",
                "Checkpoints and exports work reliably from "
                f"{what} {'.'.join(map(str, oldest))} on.",
                f"update {what} on the host, and start the domains anew",
            )


def judge_tools(which: Callable[[str], str | None]) -> Iterator[Finding]:
    """Which programs are missing, says `which`. Pure."""
    for tool, package in _TOOLS.items():
        if which(tool) is None:
            yield Finding(
                "missing-tool",
                f"The program {tool} is not installed, or not on the PATH.",
                "Some commands of vircpt need it.",
                f"apt-get install {package}",
            )


def _binding() -> Iterator[Finding]:
    from vircpt.blocks import nbd

    try:
        nbd.version()
    except NotSupported as error:
        yield Finding(
            "wrong-nbd-binding",
            f"{error}.",
            "Exports can be started, and not read by vircpt: no map, no changed bytes.",
            error.hint or "apt-get install python3-libnbd",
        )


def _nbd_module() -> Iterator[Finding]:
    if not Path("/sys/block/nbd0").exists():
        yield Finding(
            "no-nbd-module",
            "There are no devices /dev/nbd0, /dev/nbd1, …: the module nbd is not loaded, or the "
            "kernel has none.",
            "qemu-nbd -c does not work. vircpt itself never needs it.",
            "modprobe nbd max_part=16",
        )
