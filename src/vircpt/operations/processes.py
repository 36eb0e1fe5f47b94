"""Find the processes of an export, whatever became of the vircpt that started them.

They are known by their command line, which names the export: a note of their pid could be
missing (we were killed before it was written) or stale.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE = 10.0
_PROGRAMS = ("qemu-storage-daemon", "python")


def find(*words: str) -> list[int]:
    """Pids of processes of our user, or root's, whose command line holds these words in a row."""
    wanted = _row(words)
    return [pid for pid in _pids() if _matches(pid, wanted)]


def end(*words: str) -> None:
    """End those processes, and wait until they have gone; never ourselves."""
    wanted = _row(words)
    for pid in _pids():
        if pid != os.getpid() and _matches(pid, wanted):
            _end(pid, wanted)


def end_leaders(*words: str) -> None:
    """End those that lead a session, and wait for the others, which follow by themselves."""
    wanted = _row(words)
    for pid in find(*words):
        with suppress(ProcessLookupError):
            if os.getsid(pid) == pid:
                _end(pid, wanted)
    wait(*words, limit=_PATIENCE)
    end(*words)


def wait(*words: str, limit: float) -> None:
    """Wait until those processes have ended by themselves, `limit` seconds at the most."""
    deadline = time.monotonic() + limit
    pause = 0.01
    while find(*words) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.2)


def _end(pid: int, wanted: bytes) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # now the pid can't be given to another process unnoticed
        if not _matches(pid, wanted):
            return
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], _PATIENCE)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], _PATIENCE)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        os.close(handle)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _matches(pid: int, wanted: bytes) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        owner = Path(f"/proc/{pid}").stat().st_uid
        program = Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False
    if not program.startswith(_PROGRAMS):  # su and sudo take any words, from anybody
        return False
    return owner in (os.geteuid(), 0) and wanted in b"\0" + command


def _row(words: tuple[str, ...]) -> bytes:
    """The words as /proc shows them, between NULs."""
    return b"".join(b"\0" + os.fsencode(word) for word in words) + b"\0"
