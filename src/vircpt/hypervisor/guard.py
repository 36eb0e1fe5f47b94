"""The parent's side of the guard (thawguard.py), and calls that can be given up.

libvirt's calls to the guest agent have no time limit: with an agent that hangs they come
back when it answers, if ever, and Python hears no signal meanwhile. A `Call` runs in a
thread, so that waiting for it can end.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import libvirt

from vircpt.children import let_go
from vircpt.errors import VircptError
from vircpt.hypervisor import thawguard
from vircpt.hypervisor.domain import LibvirtDomain

_START_LIMIT = 5.0
_ANSWER_LIMIT = 5.0


class Call:
    """A libvirt call in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        # not the thread's own join(): interrupted once, Python 3.11 takes the thread for ended
        self._done = threading.Event()
        threading.Thread(target=self._run, name="vircpt-agent-call", daemon=True).start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self._done.set()

    def wait(self, limit: float) -> bool:
        """True once it has come back; False if `limit` seconds passed before."""
        return self._done.wait(limit)

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result


class Guard:
    """The child process that thaws if this one can't; a context manager.

    It is not waited for at the end of the block if the guest may be frozen still: it goes
    on in the background.
    """

    def __init__(self, domain: LibvirtDomain, limit: float) -> None:
        self.safe = True
        """False while the guest may be frozen by us."""
        self.left = False
        """True while the freeze is asked for and has not come back: if we go, the guard thaws."""
        self._fired = False
        self._ended = False
        # without site packages it starts in a third of the time; it finds libvirt by "path"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", thawguard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        orders = {
            "uri": domain.connection.uri,
            "uuid": domain.uuid,
            "limit": limit,
            "path": [str(Path(libvirt.__file__).parent)],
            "user": domain.connection.credentials.user,
            "password": domain.connection.credentials.password,
            "parent": os.getpid(),
        }
        self._tell(json.dumps(orders))

    def __enter__(self) -> Guard:
        if self._hear(_START_LIMIT) != thawguard.READY:
            self.__exit__()
            raise VircptError(
                "the guard that thaws the guest in an emergency did not start",
                why=f"it ended with status {self._process.poll()}",
                hint="nothing was frozen; try again, or use --no-freeze",
            )
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._ended:
            self._tell(thawguard.DONE if self.safe else thawguard.THAW)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            with suppress(OSError):
                stream.close()
        if self.safe:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ANSWER_LIMIT)
        else:
            let_go(self._process)

    def arm(self) -> None:
        """Say that the freeze is asked for now: from here on the guard thaws if we can't."""
        self.safe, self.left = False, True
        self._tell(thawguard.FREEZING)

    def frozen(self) -> None:
        """Say that the freeze has come back."""
        self.left = False
        self._tell(thawguard.FROZEN)

    def fired(self) -> bool:
        """End the guard; True if it has thawed on its own because the limit had passed."""
        if not self._ended:
            self._end(thawguard.DONE)
        return self._fired

    def dismiss(self) -> None:
        """End the guard at once: nothing is frozen by us."""
        self.safe = True
        self._end(thawguard.DONE)

    def take_over(self) -> bool:
        """Have the guard thaw through a connection of its own; True if it has answered so."""
        self.safe = self._end(thawguard.THAW) != ""
        return self.safe

    def _end(self, word: str) -> str:
        self._tell(word)
        answer = self._hear(_ANSWER_LIMIT)
        self._ended = True
        self._fired = answer == thawguard.FIRED
        return answer

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has ended: what it said last is in the other pipe
            self._process.stdin.write(line.encode() + b"\n")

    def _hear(self, limit: float) -> str:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        return self._process.stdout.readline().decode().strip() if ready else ""
