"""Freezing the guest's file systems through its agent, and the promise to thaw them.

`frozen` is a context manager around whatever must happen in between. A child process, the
guard (thawguard.py), thaws if this process dies or if the limit passes; it is ready before
the freeze is asked for.
"""

from __future__ import annotations

import enum
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt

from vircpt.errors import NotSupported, VircptError
from vircpt.hypervisor import thawguard
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.hypervisor.translate import translate

DEFAULT_LIMIT = 10.0


class Freeze(enum.Enum):
    """What to do about the guest's file systems."""

    AUTO = "auto"
    """freeze if the agent answers, tell if it does not"""
    NEVER = "never"
    REQUIRE = "require"
    """fail if the agent does not answer"""


class FreezeState(enum.Enum):
    FROZEN = "frozen"
    """file systems stood frozen while the work was done"""
    SKIPPED = "skipped"
    """not asked for"""
    NO_AGENT = "no-agent"
    """the agent is not set up, not connected or does not answer"""
    FAILED = "failed"
    """the agent answered that it can't freeze"""
    LATE = "late"
    """the limit passed before the work was done: the guard thawed"""


@dataclass(frozen=True)
class FreezeReport:
    """What was frozen (number of file systems) and for how long in seconds; `why` if it was not."""

    state: FreezeState
    filesystems: int = 0
    seconds: float = 0.0
    why: str | None = None


class FreezeResult:
    """Filled in when the `frozen` block ends."""

    def __init__(self) -> None:
        self.report = FreezeReport(FreezeState.SKIPPED)


@contextmanager
def frozen(
    domain: LibvirtDomain, facts: DomainFacts, policy: Freeze | None, limit: float
) -> Iterator[FreezeResult]:
    """Freeze the guest's file systems, run the block, thaw them, whatever happens.

    With Freeze.AUTO (None stands for it) a guest that can't be frozen is no error: the
    report says so. With Freeze.REQUIRE it raises NotSupported before the block runs; if the
    limit passes while the block runs the report's state is LATE.
    """
    policy = policy or Freeze.AUTO
    result = FreezeResult()
    reason = _unreachable(facts)
    if policy is Freeze.NEVER:
        yield result
        return
    if reason:
        _refuse(policy, domain, reason)
        result.report = FreezeReport(FreezeState.NO_AGENT, why=reason)
        yield result
        return
    with Guard(domain, limit) as guard:
        start = time.monotonic()
        try:
            result.report = _freeze(domain, policy, guard)
            yield result
        finally:
            if not guard.safe:
                _thaw(domain, guard)
            if result.report.state is FreezeState.FROZEN:
                result.report = _measured(result.report, time.monotonic() - start, guard, limit)


def _measured(report: FreezeReport, seconds: float, guard: Guard, limit: float) -> FreezeReport:
    if not guard.fired():
        return replace(report, seconds=seconds)
    return replace(
        report, state=FreezeState.LATE, seconds=seconds, why=f"the limit of {limit:g} s passed"
    )


def _unreachable(facts: DomainFacts) -> str | None:
    if not facts.has_agent_channel:
        return "the domain has no channel for the guest agent"
    if not facts.agent_connected:
        return "the guest agent is not running in the guest"
    return None


def _refuse(policy: Freeze, domain: LibvirtDomain, why: str) -> None:
    if policy is Freeze.REQUIRE:
        raise NotSupported(
            "the guest's file systems can't be frozen", why=why, domain=domain.name,
            hint="install and start qemu-guest-agent in the guest, or use --no-freeze",
        )  # fmt: skip


def _freeze(domain: LibvirtDomain, policy: Freeze, guard: Guard) -> FreezeReport:
    guard.safe = False
    try:
        return FreezeReport(FreezeState.FROZEN, filesystems=domain.raw.fsFreeze(None, 0))
    except libvirt.libvirtError as error:
        told = translate(error, "the guest's file systems can't be frozen", domain=domain.name)
        if "has been disabled" in (told.why or ""):
            guard.safe = True  # frozen by somebody else, who counts on it
        else:
            # an agent that failed half-way, or answered too late, may have frozen some
            _thaw_quietly(domain, guard)
        _refuse(policy, domain, told.why or told.what)
        silent = error.get_error_code() in (
            libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
            libvirt.VIR_ERR_AGENT_UNSYNCED,
        )
        state = FreezeState.NO_AGENT if silent else FreezeState.FAILED
        return FreezeReport(state, why=told.why)


def _thaw(domain: LibvirtDomain, guard: Guard) -> None:
    try:
        domain.raw.fsThaw(None, 0)
        guard.safe = True
    except libvirt.libvirtError as error:
        if guard.take_over():
            return
        told = translate(error, "THE GUEST'S FILE SYSTEMS MAY STILL BE FROZEN", domain=domain.name)
        raise VircptError(
            told.what, why=told.why, domain=domain.name,
            hint=f"thaw them now: virsh -c {domain.connection.uri} domfsthaw {domain.name}",
        ) from error  # fmt: skip


def _thaw_quietly(domain: LibvirtDomain, guard: Guard) -> None:
    with suppress(libvirt.libvirtError):  # the freeze failed as well: that is the error to tell
        domain.raw.fsThaw(None, 0)
    guard.safe = True


class Guard:
    """The child process that thaws if this one can't; a context manager that ends it."""

    def __init__(self, domain: LibvirtDomain, limit: float) -> None:
        orders = {
            "uri": domain.connection.uri,
            "uuid": domain.uuid,
            "limit": limit,
            "path": [str(Path(libvirt.__file__).parent)],
            "user": domain.connection.credentials.user,
            "password": domain.connection.credentials.password,
            "parent": os.getpid(),
        }
        # without site packages it starts in a third of the time; it finds libvirt by "path"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", thawguard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        self._fired: bool | None = None
        self.safe = True
        """False while the guest may be frozen: the guard thaws then when this object ends."""
        self._tell(json.dumps(orders))

    def __enter__(self) -> Guard:
        if self._hear(5) != thawguard.READY:
            self.__exit__()
            raise VircptError(
                "the guard that thaws the guest in an emergency did not start",
                why=f"it ended with status {self._process.poll()}",
                hint="nothing was frozen; try again, or use --no-freeze",
            )
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fired is None:
            self._end(thawguard.DONE if self.safe else thawguard.THAW)
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()

    def fired(self) -> bool:
        """End the guard; True if it has thawed on its own because the limit had passed."""
        if self._fired is None:
            self._end(thawguard.DONE)
        return bool(self._fired)

    def take_over(self) -> bool:
        """Have the guard thaw through a connection of its own; True if that worked."""
        self.safe = self._end(thawguard.THAW) in (thawguard.THAWED, thawguard.FIRED)
        return self.safe

    def _end(self, word: str) -> str:
        self._tell(word)
        answer = self._hear(thawguard.PATIENCE + 5)
        self._fired = answer.startswith(thawguard.FIRED)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return answer

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has ended already: what it said last is still in the other pipe

    def _hear(self, limit: float) -> str:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        return self._process.stdout.readline().strip() if ready else ""
