"""A clone as it runs: started, watched, asked through its agent, ended.

A clone is transient: libvirt forgets it when it ends. A `tied` one also ends with the
connection that started it (AUTODESTROY). libvirt 9.0: that holds for a restart of libvirtd,
but one that is killed forgets the tie, and the clone lives on: see operations/clones.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libvirt

from vircpt.errors import NotFound, VircptError
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.hypervisor.translate import code, translated
from vircpt.interrupts import deaf

_ANSWER_LIMIT = 5
_OUTPUT_KEPT = 500
_ENDS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "the guest shut down or rebooted",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "somebody ended the clone",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "the guest crashed, or its QEMU did",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "its QEMU failed",
}
_IO_ERROR = (
    "the clone was paused by an I/O error: is the file system of its overlays full, or has its "
    "export ended?"
)
_WATCHDOG = "the clone's watchdog fired"
_PAUSES = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR: _IO_ERROR,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG: _WATCHDOG,
}
PANIC = "the guest's kernel panicked"
ENDED = "the clone ended"
"""When nothing tells why."""
_PAUSED = {
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: _IO_ERROR,
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: _WATCHDOG,
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: PANIC,
}


def start(connection: Connection, definition: str, *, tied: bool) -> LibvirtDomain:
    """Start a clone; a tied one is paused, so that nothing of its boot is missed."""
    flags = 0
    if tied:
        flags |= libvirt.VIR_DOMAIN_START_AUTODESTROY | libvirt.VIR_DOMAIN_START_PAUSED
    with translated("cannot start the clone"):
        return LibvirtDomain(connection, connection.raw.createXML(definition, flags))


def resume(domain: LibvirtDomain) -> None:
    with translated("cannot let the clone run", domain=domain.name):
        domain.raw.resume()


def destroy(domain: LibvirtDomain) -> None:
    """End it at once; nothing happens if it has gone."""
    try:
        with translated("cannot end the clone", domain=domain.name):
            domain.raw.destroy()
    except NotFound:
        return
    except VircptError as error:
        # it was ending while we asked
        if code(error) != libvirt.VIR_ERR_OPERATION_INVALID or _is_there(domain):
            raise


def _is_there(domain: LibvirtDomain) -> bool:
    try:
        with translated("cannot ask for the clone", domain=domain.name):
            return bool(domain.raw.isActive())
    except NotFound:
        return False


class Watch:
    """Notes how a domain ends or stands still; a context manager.

    Its connection needs an event loop (Connection(events=True)). `ended` says why it runs no
    more, None while it does; `wake` is called then, in another thread.
    """

    def __init__(self, domain: LibvirtDomain, wake: Callable[[], None]) -> None:
        self._domain = domain
        self._wake = wake
        self._number: int | None = None
        self.ended: str | None = None

    def __enter__(self) -> Watch:
        with translated("cannot watch the clone", domain=self._domain.name):
            self._number = self._domain.connection.raw.domainEventRegisterAny(
                self._domain.raw, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._note, None
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._number is not None:
            with suppress(libvirt.libvirtError):  # the connection may have gone
                self._domain.connection.raw.domainEventDeregisterAny(self._number)

    @deaf
    def _note(self, _connection: Any, _domain: Any, event: int, detail: int, _data: Any) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_CRASHED:
            self.ended = PANIC
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self.ended = self.ended or _ENDS.get(detail, ENDED)
        elif event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and detail in _PAUSES:
            self.ended = self.ended or _PAUSES[detail]
        self._wake()


def why_not_running(domain: LibvirtDomain) -> str | None:
    """Why it runs no more, None if it does; asked for in case that an event was lost.

    Raises HostUnreachable if libvirt does not answer.
    """
    try:
        with translated("cannot ask for the clone", domain=domain.name):
            state, reason = domain.raw.state()
    except NotFound:
        return ENDED
    if state == libvirt.VIR_DOMAIN_CRASHED:
        return PANIC
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return _PAUSED.get(reason)
    return ENDED if state == libvirt.VIR_DOMAIN_SHUTOFF else None


# The agent


def agent_answers(domain: LibvirtDomain) -> str | None:
    """None if the guest's agent answers, else what is the matter; takes 5 s at most."""
    try:
        with translated("the guest's agent does not answer", domain=domain.name):
            domain.raw.agentSetResponseTimeout(_ANSWER_LIMIT, 0)
            domain.raw.getTime(0)
    except VircptError as error:
        return error.why or error.what
    return None


class GuestCommand:
    """A shell command in the guest, through its agent; this taints the domain."""

    def __init__(self, domain: LibvirtDomain, command: str) -> None:
        self._domain = domain
        shell = ["cmd.exe", "/c"] if self._is_windows() else ["/bin/sh", "-c"]
        started = self._ask(
            "guest-exec", path=shell[0], arg=[*shell[1:], command], **{"capture-output": True}
        )
        self._pid = started["pid"]

    def status(self) -> tuple[int, str] | None:
        """Exit status and the end of its output; None while it runs."""
        told = self._ask("guest-exec-status", pid=self._pid)
        if not told.get("exited"):
            return None
        output = b"".join(
            base64.b64decode(told.get(key) or "") for key in ("out-data", "err-data")
        ).decode(errors="replace")
        number = told.get("exitcode")
        status = number if isinstance(number, int) else 128 + int(told.get("signal") or 0)
        return status, output.strip()[-_OUTPUT_KEPT:]

    def _is_windows(self) -> bool:
        try:
            told = self._ask("guest-get-osinfo")
        except VircptError:
            return False  # an agent older than the command, and no Windows of late
        return bool(told.get("id") == "mswindows")

    def _ask(self, command: str, **arguments: object) -> dict[str, Any]:
        import libvirt_qemu

        request = json.dumps({"execute": command, "arguments": arguments})
        with translated("the guest's agent can't run the command", domain=self._domain.name):
            answer = libvirt_qemu.qemuAgentCommand(self._domain.raw, request, _ANSWER_LIMIT, 0)
        told = json.loads(answer).get("return")
        return told if isinstance(told, dict) else {}
