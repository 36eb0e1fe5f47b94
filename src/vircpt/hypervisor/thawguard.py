"""The guard: a process that thaws a guest if the one that froze it can't.

Run by agent.py as a script, without site packages, so that it starts fast; it may import
nothing of vircpt. Orders come as one line of JSON on stdin, the only line out before the
freeze is READY. Then it waits: DONE ends it; THAW, the end of stdin (the parent has died) or
the time limit make it thaw through a connection of its own.
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
DONE = "done"
THAW = "thaw"
THAWED = "thawed"
FAILED = "failed"
FIRED = "fired"
PATIENCE = 45.0
"""Seconds it goes on trying to thaw: longer than the 30 s that libvirt waits for a lock."""


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)
    orders = json.loads(sys.stdin.readline())
    say(READY)
    word = wait(float(orders["limit"]))
    if word == DONE:
        say(DONE)
        return
    if word == "" and orders["uri"].partition("?")[0].endswith("/embed"):
        release_embedded(orders)
    thawed = thaw(orders)
    say({"": FIRED, THAW: THAWED}.get(word, FIRED) if thawed else FAILED)


def say(word: str) -> None:
    try:
        sys.stdout.write(word + "\n")
        sys.stdout.flush()
    except OSError:
        return  # nobody listens any more, and the work is done all the same


def wait(limit: float) -> str:
    """What the parent says; nothing if the limit passed; THAW if the parent has died."""
    ready, _, _ = select.select([sys.stdin], [], [], limit)
    if not ready:
        return ""
    return sys.stdin.readline().strip() or THAW


def release_embedded(orders: dict[str, Any]) -> None:
    """The embedded driver serves one process: the stuck parent must go before anyone can thaw."""
    if os.getppid() == orders["parent"]:
        os.kill(orders["parent"], signal.SIGKILL)


def thaw(orders: dict[str, Any]) -> bool:
    """Thaw, trying again for PATIENCE seconds: the agent may still be at the parent's call."""
    sys.path.extend(orders["path"])
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    embedded = orders["uri"].partition("?")[0].endswith("/embed")
    if embedded:
        start_event_loop(libvirt)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection = libvirt.openAuth(orders["uri"], authentication(libvirt, orders), 0)
            connection.lookupByUUIDString(orders["uuid"]).fsThaw(None, 0)
        except libvirt.libvirtError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.25)
        else:
            return True


def start_event_loop(libvirt: Any) -> None:
    import threading

    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


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
