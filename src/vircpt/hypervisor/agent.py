"""Freezing the guest's file systems through its agent, and the promise to thaw them.

`frozen` is a context manager around whatever must happen in between. A child process, the
guard (guard.py), thaws if this process dies or if the limit passes; it is ready before the
freeze is asked for.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import libvirt

from vircpt import trace
from vircpt.errors import NotSupported, VircptError, quoted
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.hypervisor.guard import Call, Guard
from vircpt.hypervisor.translate import translate
from vircpt.interrupts import uninterrupted

DEFAULT_LIMIT = 10.0
_THAW_LIMIT = 10.0
_GRACE = 1.0
_CLOCK_LIMIT = 2.0


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


_WAKE = {"paused": "resume", "suspended": "dompmwakeup"}


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
        _refuse(policy, domain, *reason)
        result.report = FreezeReport(FreezeState.NO_AGENT, why=reason[0])
        yield result
        return
    with Guard(domain, limit) as guard:
        start = time.monotonic()
        try:
            result.report = _freeze(domain, policy, guard, limit)
            yield result
        finally:
            with uninterrupted():
                _finish(domain, guard, result, start, limit)


def clock_skew(domain: LibvirtDomain, facts: DomainFacts) -> float | None:
    """Seconds by which the guest's clock is ahead of ours; None if its agent does not tell."""
    if not facts.is_active or _unreachable(facts):
        return None
    before = time.time()
    call = Call(domain.raw.getTime)
    if not call.wait(_CLOCK_LIMIT):
        return None
    try:
        told = call.result()
    except libvirt.libvirtError:
        return None
    return float(told["seconds"] + told["nseconds"] / 1e9 - (before + time.time()) / 2)


def _finish(
    domain: LibvirtDomain, guard: Guard, result: FreezeResult, start: float, limit: float
) -> None:
    if not guard.safe and not guard.left:
        _thaw(domain, guard)
    if result.report.state is FreezeState.FROZEN:
        result.report = _measured(result.report, time.monotonic() - start, guard, limit)


def _measured(report: FreezeReport, seconds: float, guard: Guard, limit: float) -> FreezeReport:
    if not guard.fired():
        return replace(report, seconds=seconds)
    return replace(
        report, state=FreezeState.LATE, seconds=seconds, why=f"the limit of {limit:g} s passed"
    )


def _unreachable(facts: DomainFacts) -> tuple[str, str | None] | None:
    """Why the agent need not be asked, and what helps, if it is not the usual."""
    wake = _WAKE.get(facts.state)
    if not facts.has_agent_channel:
        return "the domain has no channel for the guest agent", None
    if wake:
        return f"the guest is {facts.state}", f"virsh {wake} {quoted(facts.name)}"
    if not facts.agent_connected:
        return "the guest agent is not running in the guest", None
    return None


def _refuse(policy: Freeze, domain: LibvirtDomain, why: str, hint: str | None = None) -> None:
    if policy is Freeze.REQUIRE:
        raise NotSupported(
            "the guest's file systems can't be frozen", why=why, domain=domain.name,
            hint=hint or "install and start qemu-guest-agent in the guest, or use --no-freeze",
        )  # fmt: skip


def _freeze(domain: LibvirtDomain, policy: Freeze, guard: Guard, limit: float) -> FreezeReport:
    trace.tell(f"agent: freeze the file systems of {domain.name}")
    guard.arm()
    call = Call(lambda: domain.raw.fsFreeze(None, 0))
    try:
        answered = call.wait(limit)
    except BaseException:  # interrupted: thaw ourselves if the answer is near
        with uninterrupted():
            if call.wait(_GRACE):
                guard.frozen()
        raise
    if not answered:
        why = f"the guest agent did not answer within {limit:g} s"
        _refuse(policy, domain, why)
        return FreezeReport(FreezeState.NO_AGENT, why=why)
    guard.frozen()
    try:
        return FreezeReport(FreezeState.FROZEN, filesystems=call.result())
    except libvirt.libvirtError as error:
        told = translate(error, "the guest's file systems can't be frozen", domain=domain.name)
        if "has been disabled" not in (told.why or ""):
            # an agent that failed half-way, or answered too late, may have frozen some
            _thaw_quietly(domain)
        guard.dismiss()  # what somebody else has frozen stays: they count on it
        _refuse(policy, domain, told.why or told.what, told.hint)
        silent = error.get_error_code() in (
            libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
            libvirt.VIR_ERR_AGENT_UNSYNCED,
        )
        state = FreezeState.NO_AGENT if silent else FreezeState.FAILED
        return FreezeReport(state, why=told.why)


def _thaw(domain: LibvirtDomain, guard: Guard) -> None:
    trace.tell(f"agent: thaw the file systems of {domain.name}")
    why: str | None = f"the guest agent did not answer within {_THAW_LIMIT:g} s"
    call = Call(lambda: domain.raw.fsThaw(None, 0))
    if call.wait(_THAW_LIMIT):
        try:
            call.result()
            guard.safe = True
            return
        except libvirt.libvirtError as error:
            why = translate(error, "", domain=domain.name).why
    if guard.take_over():
        return
    raise VircptError(
        "THE GUEST'S FILE SYSTEMS MAY STILL BE FROZEN",
        why=why,
        domain=domain.name,
        hint="a process of vircpt goes on trying to thaw them; by hand: "
        f"virsh -c {quoted(domain.connection.uri)} domfsthaw {quoted(domain.name)}",
    )


def _thaw_quietly(domain: LibvirtDomain) -> None:
    with suppress(libvirt.libvirtError):  # the freeze failed as well: that is the error to tell
        Call(lambda: domain.raw.fsThaw(None, 0)).wait(_THAW_LIMIT)
