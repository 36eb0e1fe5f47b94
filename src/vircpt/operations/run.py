"""Run a command on an export: its URIs in the environment, its exit status as the result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from vircpt.errors import Interrupted
from vircpt.interrupts import uninterrupted
from vircpt.operations import processes
from vircpt.operations.reading import ExportedDisk

_PATIENCE = 10.0
"""Seconds that an interrupted command gets to end before it is killed."""
_GRACE = 1.0
"""Seconds in which it may end by itself: Ctrl-C reaches it without us."""


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

    If we are interrupted it gets the same signal and some time to end, and so do its
    children: those of our session. A daemon that made a session of its own is left alone.
    It stays in our process group, so that it can use the terminal.
    """
    with processes.adopting():
        return _run(command, variables)


def _run(command: str, variables: dict[str, str]) -> int:
    process: subprocess.Popen[bytes] | None = None
    others = frozenset(processes.descendants())  # such as the ssh of libvirt's connection
    try:
        with uninterrupted():  # else a signal could come between its start and our knowing it
            process = subprocess.Popen(["/bin/sh", "-c", command], env={**os.environ, **variables})
        status = process.wait()
    except BaseException as error:
        if process is not None:
            number = error.signum if isinstance(error, Interrupted) else signal.SIGTERM
            _end(process, number, others)
        raise
    return 128 - status if status < 0 else status


def _end(process: subprocess.Popen[bytes], number: int, others: frozenset[int]) -> None:
    """The command itself is ended even if it has left our session."""
    by_keyboard = number == signal.SIGINT and any(
        stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)
    )
    if by_keyboard and _all_gone(process, _GRACE, others):
        return
    _tell_all(process, number, others)
    if not _all_gone(process, _PATIENCE, others):
        _tell_all(process, signal.SIGKILL, others)
        _all_gone(process, _PATIENCE, others)


def _tell_all(process: subprocess.Popen[bytes], number: int, others: frozenset[int]) -> None:
    process.send_signal(number)
    processes.tell({*processes.descendants()} - others - {process.pid}, number)


def _all_gone(process: subprocess.Popen[bytes], limit: float, others: frozenset[int]) -> bool:
    deadline = time.monotonic() + limit
    while process.poll() is None or not others.issuperset(processes.descendants()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
