"""Findings about the guest agent: asked through libvirt, in seconds, without freezing anything."""

from __future__ import annotations

from collections.abc import Iterator

from vircpt.errors import VircptError, quoted
from vircpt.hypervisor import probe
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.hypervisor.probe import AgentAnswer, AgentState
from vircpt.operations.doctor.findings import Finding
from vircpt.units import format_duration

CLOCK_TOLERANCE = 60.0
"""Seconds that the clocks of host and guest may be apart."""
_UNFROZEN = (
    "Checkpoints and exports are as after a power cut: journals are replayed, data bases recover."
)


def find(domain: LibvirtDomain, facts: DomainFacts, *, deep: bool) -> Iterator[Finding]:
    """With `deep` the agent is asked for its commands as well, which taints the domain."""
    if facts.state != "running":
        return
    if not facts.has_agent_channel:
        yield Finding(
            "agent-missing",
            "The domain's definition has no channel org.qemu.guest_agent.0.",
            f"The guest's file systems can't be frozen. {_UNFROZEN}",
            f"add the channel with virsh edit {quoted(facts.name)}, install qemu-guest-agent in "
            "the guest, and start it anew",
            facts.name,
        )
        return
    if not facts.agent_connected:
        yield _silent(facts.name, "nobody listens in the guest")
        return
    answer = probe.ask_agent(domain)
    yield from judge(facts.name, answer)
    if deep and answer.state is AgentState.ANSWERS:
        yield from _commands(domain)


def judge(name: str, answer: AgentAnswer) -> Iterator[Finding]:
    """What an agent's answer tells. Pure."""
    if answer.state is AgentState.FROZEN:
        yield Finding(
            "guest-frozen",
            "Somebody has frozen the guest's file systems, and not thawed them: "
            f"{answer.why or 'the agent says so'}.",
            "Everything in the guest that writes is stuck.",
            f"if no backup is at work there: virsh domfsthaw {quoted(name)}",
            name,
        )
    if answer.state is AgentState.SILENT:
        yield _silent(name, answer.why or "no answer")
    ahead = answer.clock_ahead
    if ahead is not None and abs(ahead) > CLOCK_TOLERANCE:
        apart = f"{format_duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"
        yield Finding(
            "clock-off",
            f"The guest's clock is {apart} the host's.",
            "Times of files in the guest and times of checkpoints can't be compared.",
            f"set it: virsh domtime {quoted(name)} --now; and see to NTP in the guest",
            name,
        )


def _silent(name: str, why: str) -> Finding:
    return Finding(
        "agent-unreachable",
        f"The guest agent does not answer: {why}.",
        f"The guest's file systems are not frozen. {_UNFROZEN}",
        "in the guest: install and start qemu-guest-agent (systemctl status qemu-guest-agent)",
        name,
    )


def _commands(domain: LibvirtDomain) -> Iterator[Finding]:
    try:
        commands = probe.agent_commands(domain)
    except VircptError:
        return
    if "guest-fsfreeze-freeze" not in commands:
        yield Finding(
            "agent-without-freeze",
            "The agent has the command guest-fsfreeze-freeze switched off, or was built without.",
            f"The guest's file systems can't be frozen. {_UNFROZEN}",
            "in the guest: take it off the list in /etc/qemu/qemu-ga.conf or "
            "/etc/sysconfig/qemu-ga, and start the agent anew",
            domain.name,
        )
