"""What a guest says on its consoles: read as it comes, searched, its last lines kept.

The guest decides what a console holds: nothing here trusts it, and whoever prints it makes it
harmless first.
"""

from __future__ import annotations

import os
import re
import select
import time
from contextlib import suppress

from vircpt.errors import VircptError
from vircpt.hypervisor import xml
from vircpt.hypervisor.domain import LibvirtDomain

_PIECE = 65536
_KEPT = 65536
"""Bytes of a console that are remembered."""
_PANIC = re.compile(rb"Kernel panic - not syncing[^\r\n]{0,300}")
_PANIC_LINE = re.compile(_PANIC.pattern + rb"[\r\n]")
_PANIC_LIMIT = 512
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])")
"""What a terminal takes for colours and cursor movements (ECMA-48)."""


class ConsoleText:
    """The text of one console. Pure: `feed` it what comes.

    `found` turns True when `wanted` has come, `panic` is the line in which Linux tells that
    it gives up.
    """

    def __init__(self, wanted: bytes | None = None) -> None:
        self._wanted = wanted or None
        self._kept = b""
        self.found = False
        self.panic: str | None = None

    def feed(self, data: bytes) -> None:
        margin = max(len(self._wanted or b""), _PANIC_LIMIT)
        window = self._kept[-margin:] + data
        if self._wanted and self._wanted in window:
            self.found = True
        self._look_for_panic(_PANIC_LINE, window)
        self._kept = (self._kept + data)[-_KEPT:]

    def end(self) -> None:
        """Nothing more comes: a last line may be unfinished."""
        self._look_for_panic(_PANIC, self._kept[-_PANIC_LIMIT:])

    def lines(self, count: int) -> tuple[str, ...]:
        """The last lines that are not blank, without colours, and with whatever else is in."""
        text = _ESCAPES.sub("", self._kept.decode(errors="replace"))
        every = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
        return tuple([line for line in every if line][-count:])

    def _look_for_panic(self, pattern: re.Pattern[bytes], window: bytes) -> None:
        if self.panic is None and (match := pattern.search(window)):
            self.panic = match.group().decode(errors="replace").strip()


class Consoles:
    """All consoles of a running domain; a context manager.

    They are read from the ptys themselves: a libvirt stream that is read in a thread delays
    other calls on its connection by seconds, at times (libvirt 9.0). QEMU has set them raw,
    so that nothing is echoed to the guest.
    """

    def __init__(self, domain: LibvirtDomain, wanted: bytes | None) -> None:
        self._domain = domain
        self._wanted = wanted
        self._texts: dict[int, ConsoleText] = {}
        self._open: set[int] = set()
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._ring, False)

    def __enter__(self) -> Consoles:
        try:
            for path in paths(self._domain):
                self._add(path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in (*self._open, self._bell, self._ring):
            os.close(handle)
        self._open.clear()
        self._ring = -1

    def _add(self, path: str) -> None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise VircptError(
                "cannot open the clone's console", why=f"{path}: {error.strerror}"
            ) from error
        self._open.add(handle)
        self._texts[handle] = ConsoleText(self._wanted)

    def wake(self) -> None:
        """End the `wait` of now or the next one; for other threads."""
        with suppress(OSError):  # as full as can be, or closed: it has been woken
            os.write(self._ring, b"!")

    def wait(self, limit: float) -> None:
        """Read what has come; wait for it `limit` seconds at most."""
        ready, _, _ = select.select([self._bell, *self._open], [], [], limit)
        for handle in ready:
            if handle == self._bell:
                os.read(handle, _PIECE)
            else:
                self._read(handle)

    def drain(self, limit: float) -> None:
        """Wait for the last words of a domain that has ended, `limit` seconds at most."""
        end = time.monotonic() + limit
        while self._open and (left := end - time.monotonic()) > 0:
            self.wait(left)

    def _read(self, handle: int) -> None:
        try:
            data = os.read(handle, _PIECE)
        except BlockingIOError:
            return
        except OSError:  # EIO: QEMU has closed its end
            data = b""
        if data:
            self._texts[handle].feed(data)
            return
        self._texts[handle].end()
        self._open.remove(handle)
        os.close(handle)

    @property
    def found(self) -> bool:
        return any(one.found for one in self._texts.values())

    @property
    def panic(self) -> str | None:
        return next((one.panic for one in self._texts.values() if one.panic), None)

    def lines(self, count: int) -> tuple[str, ...]:
        """The last lines of the first console that said anything."""
        said = (one.lines(count) for one in self._texts.values())
        return next((lines for lines in said if lines), ())


def paths(domain: LibvirtDomain) -> list[str]:
    """The domain's consoles that are ptys, such as /dev/pts/3, serial ones first."""
    root = xml.parse(domain.definition())
    found = [
        xml.attribute(one, "source", "path")
        for path in ("devices/serial[@type='pty']", "devices/console[@type='pty']")
        for one in root.findall(path)
    ]
    return list(dict.fromkeys(one for one in found if one and one.startswith("/dev/pts/")))
