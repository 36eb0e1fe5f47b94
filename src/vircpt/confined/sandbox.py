"""The parent's half: make the sandbox, start the child in it, and doubt what it says.

bubblewrap makes the sandbox: own namespaces of every kind, no capabilities, and a file system
that holds nothing but the interpreter and libraries, read-only. The child locks itself
down further (see lockdown.py) and says so; before that it has seen no byte of a disk.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import socket
from typing import Any

from vircpt import trace
from vircpt.confined import walls, wire
from vircpt.errors import HostUnreachable, InvalidInput, NotFound, NotSupported, VircptError
from vircpt.interrupts import uninterrupted

_PIECE = 1 << 18
_SAID_LIMIT = 8192
_START = 30.0
"""Seconds in which the child has to be ready."""
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from vircpt.confined.child import main; main()"

_TOLD: dict[str, type[VircptError]] = {
    one.__name__: one for one in (HostUnreachable, InvalidInput, NotFound, NotSupported)
}
"""What the child may say has failed; anything else is a VircptError."""


@dataclass(frozen=True)
class Limits:
    """`seconds` in all, and at most so many `frames` of answers."""

    seconds: float = 600.0
    frames: int = 50_000_000


@dataclass(frozen=True)
class ConfinedDisk:
    """A disk for the child: a connected NBD socket, the export's name, and its dirty bytes.

    `dirty`: offset, length, offset, length, …; None if everything is to be taken as written.
    """

    target: str
    socket: socket
    export: str
    dirty: array[int] | None = None


class Confined:
    """A child at work on one request; a context manager, at whose end the child is gone."""

    def __init__(
        self,
        verb: str,
        arguments: Any,
        disks: Sequence[ConfinedDisk],
        *,
        sandbox: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._deadline = time.monotonic() + self._limits.seconds
        self._splitter = wire.Splitter()
        self._frames: deque[wire.Frame] = deque()
        self._count = 0
        self._said = b""
        self._ready = False
        self._sandbox = sandbox
        try:
            self._process = self._start(disks)
        except BaseException:
            _hang_up(disks)
            raise
        try:
            self._request(verb, arguments, disks)
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Confined:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, whatever it does. Idempotent."""
        with uninterrupted():
            process = self._process
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    with suppress(OSError):
                        pipe.close()

    def frames(self) -> Iterator[wire.Frame]:
        """What the child says, until it has ended in peace. Raises VircptError, and what the
        child says has failed."""
        while (frame := self.next_frame()) is not None:
            yield frame

    def next_frame(self) -> wire.Frame | None:
        """The next one; None when the child has said that all is said."""
        while not self._frames:
            self._read()
        frame = self._frames.popleft()
        self._count += 1
        if self._count > self._limits.frames:
            raise self._failed("it talks without end")
        if frame.kind == wire.JSON and frame.payload.startswith(b'{"'):
            return self._heed(self.value(frame))
        return frame

    def value(self, frame: wire.Frame) -> Any:
        """The JSON value in a frame; raises VircptError."""
        try:
            return frame.value()
        except wire.BadFrame as error:
            raise self._failed(str(error)) from error

    def nonsense(self, why: str) -> VircptError:
        """The error for an answer that can't be true."""
        return self._failed(f"it said what can't be: {why}")

    # its start

    def _start(self, disks: Sequence[ConfinedDisk]) -> subprocess.Popen[bytes]:
        interpreter = os.path.realpath(sys.executable)
        paths = walls.import_paths()
        command = [interpreter, "-I", "-S", "-B", "-c", _BOOT, *paths]
        if self._sandbox:
            command = [*walls.bubblewrap(interpreter, paths), "--", *command]
        trace.tell(f"run: {command[0]} … vircpt.confined.child")
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[one.socket.fileno() for one in disks],
            start_new_session=True,
            cwd="/",
            env={"LANG": "C.UTF-8"},
            bufsize=0,
        )

    def _request(self, verb: str, arguments: Any, disks: Sequence[ConfinedDisk]) -> None:
        dirty = [b"" if one.dirty is None else one.dirty.tobytes() for one in disks]
        described = [
            [one.target, one.socket.fileno(), one.export, None if one.dirty is None else len(runs)]
            for one, runs in zip(disks, dirty, strict=True)
        ]
        request = {
            "verb": verb,
            "arguments": arguments,
            "disks": described,
            "confine": self._sandbox,
            "seconds": int(self._limits.seconds) + 1,
        }
        assert self._process.stdin
        try:
            for part in (wire.record(request), *dirty):
                view = memoryview(part)
                while view:
                    view = view[os.write(self._process.stdin.fileno(), view) :]
            self._process.stdin.close()
        except BrokenPipeError:
            return  # it has died: why it did is told when we read
        finally:
            _hang_up(disks)

    def _await_ready(self) -> None:
        whole, self._deadline = self._deadline, time.monotonic() + _START
        self.next_frame()
        if not self._ready:
            raise self._failed("it was not ready")
        self._deadline = whole

    # what it says

    def _heed(self, said: dict[str, Any]) -> wire.Frame | None:
        """What it says of itself: ready, done, failed."""
        match said:
            case {"ready": True} if not self._ready:
                self._ready = True
                return wire.Frame(wire.JSON, b"null")
            case {"done": True} if self._ready:
                return None
            case {"failed": [str(kind), str(what), why, hint]}:
                told = why if isinstance(why, str) else None
                advice = hint if isinstance(hint, str) else None
                raise _TOLD.get(kind, VircptError)(what, why=told, hint=advice)
        raise self._failed("it said what makes no sense")

    def _read(self) -> None:
        """Wait for more of its frames, within the limits."""
        assert self._process.stdout
        assert self._process.stderr
        out, err = self._process.stdout.fileno(), self._process.stderr.fileno()
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise self._failed("it took too long")
            ready, _, _ = select.select([out, err], [], [], left)
            if err in ready:
                self._hear(err)
            if out in ready:
                piece = os.read(out, _PIECE)
                if not piece:
                    raise self._ended()
                try:
                    self._frames.extend(self._splitter.feed(piece))
                except wire.BadFrame as error:
                    raise self._failed(str(error)) from error
                return

    def _hear(self, err: int) -> None:
        piece = os.read(err, _PIECE)
        self._said = (self._said + piece)[-_SAID_LIMIT:]
        if not piece:
            time.sleep(0.001)  # closed: its end is near

    def _ended(self) -> VircptError:
        """It has closed its answers before all was said."""
        assert self._process.stderr
        with suppress(OSError):
            os.set_blocking(self._process.stderr.fileno(), False)
            self._said = (self._said + os.read(self._process.stderr.fileno(), 65536))[-8192:]
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return self._failed("it fell silent")
        if not self._ready and self._sandbox:
            return NotSupported(
                "the sandbox in which guests' disks are looked at can't be made",
                why=self._last_words() or f"bwrap ended with {code}",
                hint="user namespaces may be switched off (sysctl kernel.unprivileged_userns_clone"
                "=1); without protection against hostile guests: --no-sandbox",
            )
        return self._failed(_fate(code))

    def _failed(self, why: str) -> VircptError:
        words = self._last_words()
        return VircptError(
            "what looked at the guest's disks failed",
            why=f"{why}: {words}" if words else why,
            hint="a damaged or hostile file system does that; it was confined to a sandbox"
            if self._sandbox
            else None,
        )

    def _last_words(self) -> str:
        """The last line on its stderr, as far as it can be printed."""
        lines = self._said.decode(errors="replace").strip().splitlines()
        return (
            "".join(char if char.isprintable() else "?" for char in lines[-1][:300])
            if lines
            else ""
        )


def _fate(code: int) -> str:
    """bwrap tells a signal as 128 + n."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return f"it was ended by {signal.Signals(number).name}, as it took too much time or memory"
    if number in signal.valid_signals():
        return f"it was ended by {signal.Signals(number).name}"
    return f"it ended with {code} before all was said"


def _hang_up(disks: Sequence[ConfinedDisk]) -> None:
    """Close our ends: a client that lingers would hold up the export's end."""
    for one in disks:
        one.socket.close()
