"""Where an export is attached: disks of domains that read from it over NBD.

Those that `hotadd` made are written down as consumers, and known by their aliases; others,
which somebody attached by hand, by the export's Unix socket. Here is also how `hotadd`'s end.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from vircpt.errors import Busy, NotFound, quoted
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor import hotplug
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations.ownership import connected_to
from vircpt.records.consumers import Consumer

LIMIT = 30.0
"""Seconds that a guest gets to let a disk go: PCIe's button alone takes five."""
_ASK_AGAIN = 3.0
_LONGEST_PAUSE = 0.1


@dataclass(frozen=True)
class Attachment:
    """A disk of a domain that reads from an export's socket."""

    domain: LibvirtDomain
    target: str
    alias: str | None
    socket: str


def find_all(connection: Connection) -> list[Attachment]:
    """All disks of running domains that are read over NBD from a Unix socket, or lie on one."""
    found = []
    for domain in domains.list_domains(connection, active=True):
        with suppress(NotFound):  # it has gone since it was listed
            disks = domain.facts().disks
            found += [
                Attachment(domain, disk.target, disk.alias, socket)
                for disk in disks
                for socket in disk.nbd_sockets
            ]
    return found


def aliases(consumer: Consumer) -> frozenset[str]:
    """libvirt's names of a consumer's disks."""
    return frozenset(disk.alias for disk in consumer.record.disks if disk.alias)


def is_alive(connection: Connection, consumer: Consumer) -> bool:
    """True if a disk of that consumer is plugged into its domain now."""
    domain = _domain(connection, consumer)
    return domain is not None and bool(hotplug.aliases(domain) & aliases(consumer))


def place(consumer: Consumer) -> str:
    """Where it is attached, for people: DOMAIN:TARGET."""
    record = consumer.record
    return " ".join(f"{record.domain}:{disk.target}" for disk in record.disks)


def end(connection: Connection, consumer: Consumer, limit: float) -> None:
    """Detach a consumer's disks, and return when they are gone; raises Busy if they stay."""
    domain = _domain(connection, consumer)
    if domain is not None and domain.is_active():
        hotplug.settle(domain)  # an attach that is under way comes about first
        detach(domain, aliases(consumer), limit)


def detach(domain: LibvirtDomain, wanted: Collection[str], limit: float) -> None:
    """Have the guest let these disks go, and return when libvirt has closed them.

    Raises Busy if some are there still after `limit` seconds; nothing was torn down then.
    """
    start = asked = time.monotonic()
    pause = 0.005
    left = hotplug.aliases(domain) & frozenset(wanted)
    if not left:
        return
    hotplug.ask_to_let_go(domain, left)
    while left := hotplug.aliases(domain) & left:
        now = time.monotonic()
        if now - start > limit:
            raise _stuck(domain, limit)
        if now - asked > _ASK_AGAIN:
            asked = now
            hotplug.ask_to_let_go(domain, left)
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    hotplug.settle(domain)


def _stuck(domain: LibvirtDomain, limit: float) -> Busy:
    facts = domain.facts()
    why = f"it was asked, and has not answered for {limit:g} s"
    if facts.state != "running":
        why += f": the domain is {facts.state}"
    return Busy(
        f"the guest of {domain.name} does not let the disk go",
        why=why,
        domain=domain.name,
        hint="all is left as it was. Does the guest run, and is nothing mounted from the disk? "
        "Try again, with a longer --timeout; or shut the domain down: "
        f"virsh shutdown {quoted(domain.name)}",
    )


def _domain(connection: Connection, consumer: Consumer) -> LibvirtDomain | None:
    record = consumer.record
    if record.uri is None or record.uuid is None:
        return None
    return domains.find(connected_to(connection, record.uri), record.uuid)


def foreign(
    connection: Connection, socket: str, ours: Sequence[Consumer], every: list[Attachment] | None
) -> list[Attachment]:
    """Disks that read from that socket and that `hotadd` did not attach; `every` if known."""
    known = frozenset().union(*(aliases(one) for one in ours))
    found = find_all(connection) if every is None else every
    return [one for one in found if one.socket == socket and one.alias not in known]
