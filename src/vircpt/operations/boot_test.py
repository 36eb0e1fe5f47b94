"""Let a clone go and watch it: does this point in time boot?

It passes when what was asked for has come (`Until`), or, if nothing was, when it still runs
after the time. It fails at once when the guest panics, reboots or ends, and when the time
is over.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from vircpt.errors import InvalidInput, VircptError
from vircpt.hypervisor import clone_domain, screenshot
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.clone_domain import GuestCommand, Watch
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.console import Consoles
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.hypervisor.guard import Call
from vircpt.units import format_duration

BOOT_LIMIT = 300.0
"""Seconds that a guest gets, if nobody says otherwise."""
LINES = 20
_PAUSE = 0.25
_LAST_WORDS = 1.0

Progress = Callable[[str, float], None]
"""Told what is waited for, and the seconds so far."""


class Wanted(enum.Enum):
    """What a test waits for."""

    AGENT = "agent"
    """the guest's agent answers"""
    CONSOLE = "console"
    """a text comes on a console"""
    COMMAND = "command"
    """a command in the guest ends with status 0"""
    TIME = "time"
    """the time is over, and the guest runs still"""


@dataclass(frozen=True)
class Until:
    """What a test waits for: the text or the command, if it is one of those."""

    wanted: Wanted
    text: str = ""

    def describe(self) -> str:
        return {
            Wanted.AGENT: "the guest's agent answers",
            Wanted.CONSOLE: f"the console says {self.text!r}",
            Wanted.COMMAND: f"the guest's command {self.text!r} succeeds",
            Wanted.TIME: "the time is over",
        }[self.wanted]

    @property
    def needs_agent(self) -> bool:
        return self.wanted in (Wanted.AGENT, Wanted.COMMAND)


@dataclass(frozen=True)
class BootReport:
    """How a test ended: `seconds` since the clone was let go, the consoles' last lines.

    `screenshot` is a PNG, None if none was asked for or could be taken: `no_screenshot` says
    why then.
    """

    passed: bool
    reason: str
    seconds: float
    console: tuple[str, ...]
    screenshot: bytes | None = None
    no_screenshot: str | None = None


def parse_until(text: str) -> Until:
    """`agent`, `console:TEXT`, `command:CMD`; anything else is a text on the console."""
    if text == "agent":
        return Until(Wanted.AGENT)
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("console", "command"):
        kind, rest = "console", text
    if not rest.strip():
        raise InvalidInput(
            f"--until {text!r} waits for nothing",
            hint="write agent, console:TEXT or command:CMD",
        )
    return Until(Wanted(kind), rest)


def run(
    domain: LibvirtDomain,
    until: Until,
    limit: float,
    *,
    picture: bool = False,
    progress: Progress | None = None,
) -> BootReport:
    """Let a clone that was started paused run, until it has passed or failed.

    The clone is there still when this returns, if the guest has not ended it. Raises
    HostUnreachable if libvirt goes away meanwhile.
    """
    text = until.text.encode() if until.wanted is Wanted.CONSOLE else None
    who = domain.connection
    with (
        Connection(who.uri, who.credentials) as asking,
        Consoles(domain, text) as consoles,
        Watch(domain, consoles.wake) as watch,
    ):
        probe = _Probe(domains.lookup(asking, domain.uuid), until, consoles.wake)
        start = time.monotonic()
        clone_domain.resume(domain)
        passed, reason = _wait(until, limit, watch, consoles, probe, progress)
        seconds = time.monotonic() - start
        taken, why_not = _picture(domain) if picture else (None, None)
        return BootReport(passed, reason, seconds, consoles.lines(LINES), taken, why_not)


def _wait(
    until: Until,
    limit: float,
    watch: Watch,
    consoles: Consoles,
    probe: _Probe,
    progress: Progress | None,
) -> tuple[bool, str]:
    start = time.monotonic()
    while True:
        probe.look()
        if probe.ended and not watch.ended:
            consoles.wait(_LAST_WORDS)  # the event that tells why is on its way
        ended = watch.ended or probe.ended
        if ended:
            consoles.drain(_LAST_WORDS)
        if consoles.found or probe.succeeded:
            return True, until.describe()
        if consoles.panic:
            return False, f"{clone_domain.PANIC}: {consoles.panic}"
        if ended:
            return False, ended
        now = time.monotonic() - start
        if now >= limit:
            return _at_the_end(until, limit, probe)
        if progress:
            progress(until.describe(), now)
        consoles.wait(min(_PAUSE, max(0.01, limit - now)))


def _at_the_end(until: Until, limit: float, probe: _Probe) -> tuple[bool, str]:
    if until.wanted is Wanted.TIME:
        return True, f"it still ran after {format_duration(limit)}"
    last = f" ({probe.last})" if probe.last else ""
    within = f"within {format_duration(limit)}"
    return False, f"{within} it did not come about that {until.describe()}{last}"


class _Probe:
    """Asks libvirt and the agent again and again, in a thread: an answer may never come.

    `domain` has a connection of its own: what takes its time there delays nothing else.
    """

    def __init__(self, domain: LibvirtDomain, until: Until, wake: Callable[[], None]) -> None:
        self._domain = domain
        self._until = until
        self._wake = wake
        self._call: Call | None = None
        self._next = 0.0
        self._failed: str | None = None
        self.succeeded = False
        self.ended: str | None = None
        self.last: str | None = None
        """What was the matter at the last try."""

    def look(self) -> None:
        """Take note of an answer, and ask again if it is time. Raises HostUnreachable."""
        if self._call is not None:
            if not self._call.wait(0):
                return
            self.ended, self.last = self._call.result()
            self.succeeded = self._until.needs_agent and not self.ended and self.last is None
            self._call = None
            self._next = time.monotonic() + _PAUSE
        if time.monotonic() >= self._next and not self.succeeded:
            self._call = Call(self._ask)

    def _ask(self) -> tuple[str | None, str | None]:
        """Why the clone has ended, and what is the matter with what is waited for, if anything."""
        try:
            ended = clone_domain.why_not_running(self._domain)
            return ended, None if ended or not self._until.needs_agent else self._try()
        finally:
            self._wake()

    def _try(self) -> str | None:
        failed = clone_domain.agent_answers(self._domain)
        if failed or self._until.wanted is Wanted.AGENT:
            return failed
        try:
            command = GuestCommand(self._domain, self._until.text)
            self.last = self._failed or "it runs still"
            while (ended := command.status()) is None:
                time.sleep(_PAUSE)
        except VircptError as error:
            return error.why or error.what
        status, output = ended
        if status == 0:
            return None
        self._failed = f"it ended with status {status}: {output or 'no output'}"
        return self._failed


def _picture(domain: LibvirtDomain) -> tuple[bytes | None, str | None]:
    try:
        return screenshot.take(domain), None
    except VircptError as error:
        return None, error.why or error.what
