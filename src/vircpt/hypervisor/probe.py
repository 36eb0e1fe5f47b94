"""Looking at a domain for the doctor, without leaving a mark on it.

Only what libvirt's own calls tell: those don't taint the domain, as a command to QEMU or to
the guest agent would.
"""

from __future__ import annotations

import enum
import os
import time
from dataclasses import dataclass
from pathlib import Path

import libvirt

from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.hypervisor.guard import Call
from vircpt.hypervisor.translate import translate, translated

_DEFINITIONS = Path("/var/lib/libvirt/qemu/checkpoint")
_QMP_TAINT = "custom monitor"
AGENT_LIMIT = 5.0
"""Seconds that the guest agent gets to answer."""


class AgentState(enum.Enum):
    ANSWERS = "answers"
    SILENT = "silent"
    FROZEN = "frozen"
    REFUSES = "refuses"
    """it answers that it does not do this"""


@dataclass(frozen=True)
class AgentAnswer:
    """What became of a question to the agent; `clock_ahead` is seconds of the guest's clock
    before (positive) or behind the host's."""

    state: AgentState
    clock_ahead: float | None = None
    why: str | None = None


def is_tainted_by_qmp(domain: LibvirtDomain) -> bool:
    """True if somebody has sent QEMU commands past libvirt already: one more changes nothing."""
    try:
        messages = domain.raw.messages(libvirt.VIR_DOMAIN_MESSAGE_TAINTING)
    except libvirt.libvirtError:
        return False  # this libvirt can't tell, or it does not run
    return any(_QMP_TAINT in one for one in messages)


def saved_checkpoints(domain: LibvirtDomain) -> frozenset[str] | None:
    """The checkpoints whose definitions stand on disk, which is where libvirt reads them from
    when its daemon starts; None if this can't be seen: another host, another user, a session."""
    connection = domain.connection
    if connection.is_remote or connection.uri != "qemu:///system" or os.geteuid() != 0:
        return None
    if not _DEFINITIONS.is_dir():
        return None
    try:
        files = [one.name for one in (_DEFINITIONS / domain.name).iterdir()]
    except OSError:
        files = []
    return frozenset(name.removesuffix(".xml") for name in files if name.endswith(".xml"))


def ask_agent(domain: LibvirtDomain) -> AgentAnswer:
    """Ask the guest for its time. A frozen guest's agent refuses, and says why."""
    with translated("cannot ask the guest agent", domain=domain.name):
        call = Call(lambda: domain.raw.getTime(0))
    before = time.time()
    if not call.wait(AGENT_LIMIT):
        return AgentAnswer(AgentState.SILENT, why=f"no answer within {AGENT_LIMIT:g} s")
    try:
        answer = call.result()
    except libvirt.libvirtError as error:
        why = translate(error, "", domain=domain.name).why or ""
        if "frozen" in why:
            return AgentAnswer(AgentState.FROZEN, why=why)
        silent = error.get_error_code() in (
            libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
            libvirt.VIR_ERR_AGENT_UNSYNCED,
        )
        return AgentAnswer(AgentState.SILENT if silent else AgentState.REFUSES, why=why)
    guest = answer["seconds"] + answer["nseconds"] / 1e9
    return AgentAnswer(AgentState.ANSWERS, clock_ahead=guest - (before + time.time()) / 2)


def agent_commands(domain: LibvirtDomain) -> frozenset[str]:
    """The commands that the agent has switched on. This taints the domain (custom-ga-command)."""
    import json

    import libvirt_qemu

    with translated("cannot ask the guest agent for its commands", domain=domain.name):
        text = libvirt_qemu.qemuAgentCommand(
            domain.raw, json.dumps({"execute": "guest-info"}), int(AGENT_LIMIT), 0
        )
    commands = json.loads(text)["return"]["supported_commands"]
    return frozenset(one["name"] for one in commands if one["enabled"])
