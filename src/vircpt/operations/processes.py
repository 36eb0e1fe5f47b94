"""Find the processes of an export, whatever became of the vircpt that started them.

They are known by their command line, which names the export: a note of their pid could be
missing (we were killed before it was written) or stale.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE = 10.0
_PROGRAMS = ("qemu", "python")
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


def find(*words: str, owner: int | None = None) -> list[int]:
    """Pids of processes of our user, root or `owner` whose command line holds these words in
    a row."""
    wanted = _row(words)
    return [pid for pid in _pids() if _matches(pid, wanted, owner)]


def end(*words: str, owner: int | None = None) -> None:
    """End those processes, and wait until they have gone; never ourselves."""
    wanted = _row(words)
    for pid in _pids():
        if pid != os.getpid() and _matches(pid, wanted, owner):
            _end(pid, wanted, owner)


def end_leaders(*words: str) -> None:
    """End those that lead a session, and wait for the others, which follow by themselves."""
    wanted = _row(words)
    for pid in find(*words):
        with suppress(ProcessLookupError):
            if os.getsid(pid) == pid:
                _end(pid, wanted, None)
    wait(*words, limit=_PATIENCE)
    end(*words)


def wait(*words: str, limit: float) -> None:
    """Wait until those processes have ended by themselves, `limit` seconds at the most."""
    deadline = time.monotonic() + limit
    pause = 0.01
    while find(*words) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.2)


def _end(pid: int, wanted: bytes, owner: int | None) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # now the pid can't be given to another process unnoticed
        if not _matches(pid, wanted, owner):
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


def _matches(pid: int, wanted: bytes, owner: int | None) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        uid = Path(f"/proc/{pid}").stat().st_uid
        program = Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False
    if uid not in (os.geteuid(), 0, owner) or wanted not in b"\0" + command:
        return False
    # su and sudo, which run as root, take any words, from anybody
    return uid not in (os.geteuid(), 0) or program.startswith(_PROGRAMS)


def _row(words: tuple[str, ...]) -> bytes:
    """The words as /proc shows them, between NULs."""
    return b"".join(b"\0" + os.fsencode(word) for word in words) + b"\0"


@contextmanager
def adopting() -> Iterator[None]:
    """Inside, descendants whose parents end become our children (prctl(2))."""
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    before = ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def descendants() -> list[int]:
    """Pids of our living descendants that are in our session."""
    session = os.getsid(0)
    children: dict[int, list[tuple[int, bool]]] = {}
    for pid in _pids():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            continue
        # after the name in parentheses: state, parent, process group, session (proc(5))
        state, parent, _, sid = text.rpartition(")")[2].split()[:4]
        lives = state not in ("Z", "X") and int(sid) == session
        children.setdefault(int(parent), []).append((pid, lives))
    found = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += [pid for pid, lives in below if lives]
        todo += [pid for pid, _ in below]
    return found


def tell(pids: Iterable[int], number: int) -> None:
    """Send a signal to those that are our descendants; they may have gone."""
    handles: dict[int, int] = {}
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                handles[pid] = os.pidfd_open(pid)
        # now none of the pids can be given to another process unnoticed
        for pid in handles.keys() & set(descendants()):
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handles[pid], number)
    finally:
        for handle in handles.values():
            os.close(handle)
