"""The guard: a process that thaws a guest if the one that froze it can't.

Run by agent.py as a script, without site packages, so that it starts fast; it may import
nothing of vircpt. Orders come as one line of JSON on stdin, and after that words, a line each:

    FREEZING   the freeze is asked for now: from here on the guest may be frozen by us
    FROZEN     the call has come back
    DONE       the guest is thawed: the guard ends
    THAW       the parent can't: thaw through a connection of the guard's own

The end of stdin (the parent has died) and the time limit are as THAW. As long as the domain
runs the guard does not give up: an agent that hangs may carry the freeze out much later.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import Any

READY = "ready"
FREEZING = "freezing"
FROZEN = "frozen"
DONE = "done"
THAW = "thaw"
THAWED = "thawed"
FIRED = "fired"
GONE = "gone"
LOOP = "libvirt-events"

_ONCE_MORE = 1.0
"""Seconds after which the guard looks again, if nothing was frozen when it thawed."""


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)
    words = Words()
    orders = json.loads(words.next(None))
    say(READY)
    if words.next(None) != FREEZING:
        return  # what somebody else has frozen is not ours to thaw
    deadline = time.monotonic() + float(orders["limit"])
    word = words.next(deadline)
    returned = word == FROZEN
    if returned:
        word = words.next(deadline)
    if word == DONE:
        say(DONE)
        return
    thaw_until_done(orders, word, returned)


class Words:
    """The parent's words; read without a buffer that select could not see."""

    def __init__(self) -> None:
        self._read = b""

    def next(self, deadline: float | None) -> str:
        """The next word; "" if the deadline passes first, THAW if the parent has died."""
        while b"\n" not in self._read:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([0], [], [], left)[0]:
                return ""
            piece = os.read(0, 65536)
            if not piece:
                return THAW
            self._read += piece
        word, _, self._read = self._read.partition(b"\n")
        return word.decode()


def say(word: str) -> None:
    try:
        os.write(1, word.encode() + b"\n")
    except OSError:
        return  # nobody listens any more, and the work is done all the same


def thaw_until_done(orders: dict[str, Any], word: str, returned: bool) -> None:
    """Thaw; once more if the freeze may have come after it, having waited for the agent too."""
    if not word and is_embedded(orders) and os.getppid() == orders["parent"]:
        # the embedded driver serves one process: the stuck parent must go first
        os.kill(orders["parent"], signal.SIGKILL)
    thawed = thaw(orders)
    if thawed is None:
        say(GONE)
        return
    say(THAWED if word else FIRED)
    if thawed == 0 and not returned:
        time.sleep(_ONCE_MORE)
        thaw(orders)


def thaw(orders: dict[str, Any]) -> int | None:
    """Try until it is done: the number of file systems; None if the domain has gone."""
    sys.path.extend(path for path in orders["path"] if path not in sys.path)
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    if is_embedded(orders):
        start_event_loop(libvirt)
    pause = 0.1
    while True:
        try:
            connection = libvirt.openAuth(orders["uri"], authentication(libvirt, orders), 0)
            domain = connection.lookupByUUIDString(orders["uuid"])
            return int(domain.fsThaw(None, 0)) if domain.isActive() else None
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            time.sleep(pause)
            pause = min(pause * 2, 5.0)


def is_embedded(orders: dict[str, Any]) -> bool:
    return str(orders["uri"]).partition("?")[0].endswith("/embed")


def start_event_loop(libvirt: Any) -> None:
    import threading

    libvirt.virEventRegisterDefaultImpl()  # does nothing the second time

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    if not any(thread.name == LOOP for thread in threading.enumerate()):
        threading.Thread(target=run, name=LOOP, daemon=True).start()


def authentication(libvirt: Any, orders: dict[str, Any]) -> list[Any]:
    def answer(requests: list[list[Any]], _data: object) -> int:
        for request in requests:
            hidden = request[0] in (libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT)
            given = orders["password"] if hidden else orders["user"]
            if given is None:
                return -1
            request[4] = given
        return 0

    return [[libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE], answer, None]


if __name__ == "__main__":
    main()
