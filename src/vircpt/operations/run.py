"""Run a command on an export: its URIs in the environment, its exit status as the result."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

from vircpt.errors import Interrupted
from vircpt.interrupts import uninterrupted
from vircpt.operations.reading import ExportedDisk

_PATIENCE = 10.0
"""Seconds that an interrupted command gets to end before it is killed."""


def environment(
    export_id: str, socket: str | None, disks: Sequence[ExportedDisk]
) -> dict[str, str]:
    """What the command finds in its environment, beside our own.

    VIRCPT_EXPORT, VIRCPT_SOCKET (not with TCP), VIRCPT_DISKS (targets, by spaces),
    VIRCPT_URI (of the only disk, or the first), and per disk VIRCPT_URI_VDA and, if it has
    a bitmap, VIRCPT_BITMAP_VDA.
    """
    found = {
        "VIRCPT_EXPORT": export_id,
        "VIRCPT_DISKS": " ".join(disk.target for disk in disks),
        "VIRCPT_URI": disks[0].uri if disks else "",
    }
    if socket:
        found["VIRCPT_SOCKET"] = socket
    for disk in disks:
        found[f"VIRCPT_URI_{disk.target.upper()}"] = disk.uri
        if disk.bitmap:
            found[f"VIRCPT_BITMAP_{disk.target.upper()}"] = disk.bitmap
    return found


def run(command: str, variables: dict[str, str]) -> int:
    """Run `command` with /bin/sh; return its exit status, 128 + n if signal n ended it.

    If we are interrupted it gets the same signal and some time to end.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted():  # else a signal could come between its start and our knowing it
            process = subprocess.Popen(["/bin/sh", "-c", command], env={**os.environ, **variables})
        status = process.wait()
    except BaseException as error:
        if process is not None:
            number = error.signum if isinstance(error, Interrupted) else signal.SIGTERM
            process.send_signal(number)
            _wait_or_kill(process)
        raise
    return 128 - status if status < 0 else status


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
