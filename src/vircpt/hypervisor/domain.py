"""Domains and their disks: looked up once, then held as facts.

`LibvirtDomain` is the handle that the other modules of this room work on; outside it is
opaque but for `facts()`, which reads the XML anew at each call.
"""

from __future__ import annotations

from typing import NamedTuple

import libvirt

from vircpt.errors import InvalidInput, NotFound
from vircpt.hypervisor import xml
from vircpt.hypervisor.connection import Connection, Owner, parse_owner
from vircpt.hypervisor.translate import translated

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended",
}
_AGENT_PORT = "org.qemu.guest_agent.0"


class Disk(NamedTuple):
    """A disk of a domain, as its XML describes it.

    `device` is disk, cdrom, floppy or lun; `source` the path of the image or block device,
    None without a medium or for network disks; `nbd_sockets` the Unix sockets that it or an
    image below it is read from over NBD; `alias` QEMU's name of the device while the domain
    runs; `chain` the paths of the image and, while it runs, of all images below it; `below`
    type, format and path of those below it that the XML names, `is_chain_complete` if it
    says that there are no more.
    """

    target: str
    device: str
    format: str
    source_type: str
    source: str | None
    read_only: bool = False
    nbd_sockets: tuple[str, ...] = ()
    alias: str | None = None
    chain: tuple[str, ...] = ()
    below: tuple[tuple[str, str, str | None], ...] = ()
    is_chain_complete: bool = False

    @property
    def has_medium(self) -> bool:
        return self.source is not None or self.source_type not in ("file", "block", "dir", "volume")

    @property
    def not_exportable(self) -> str | None:
        """Why this disk can't be in an export; None if it can."""
        if self.device != "disk":
            return {"lun": "a SCSI device passed through"}.get(self.device, f"a {self.device}")
        return None if self.has_medium else "without a medium"

    @property
    def no_checkpoint(self) -> str | None:
        """Why this disk can't be in a checkpoint; None if it can."""
        if self.not_exportable:
            return self.not_exportable
        if self.format != "qcow2":
            return f"format {self.format}: only qcow2 holds bitmaps"
        return "read-only" if self.read_only else None


class DomainFacts(NamedTuple):
    """A domain as it is at one moment. `qemu_owner` is known only while it runs."""

    name: str
    uuid: str
    state: str
    is_active: bool
    disks: tuple[Disk, ...]
    has_agent_channel: bool
    agent_connected: bool
    qemu_owner: Owner | None
    emulator: str | None = None

    def disk(self, target: str) -> Disk:
        """The disk with that target; raises NotFound, naming those that there are."""
        for disk in self.disks:
            if disk.target == target:
                return disk
        known = ", ".join(disk.target for disk in self.disks) or "none"
        raise NotFound(
            f"no disk {target!r} in domain {self.name}",
            hint=f"its disks are: {known}",
            domain=self.name,
            disk=target,
        )


class LibvirtDomain:
    """A handle on one domain."""

    def __init__(self, connection: Connection, raw: libvirt.virDomain) -> None:
        self.connection = connection
        self.raw = raw
        self.name = str(raw.name())
        self.uuid = str(raw.UUIDString())

    def is_active(self) -> bool:
        with translated("cannot ask whether the domain runs", domain=self.name):
            return bool(self.raw.isActive())

    def is_stuck(self) -> bool:
        """True if it is paused because a disk could not be read or written."""
        with translated("cannot ask for the domain's state", domain=self.name):
            state: list[int] = self.raw.state()
        return state == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]

    def definition(self) -> str:
        """Its XML: of the running domain, or of one that is shut off as it would start."""
        with translated("cannot read the domain's definition", domain=self.name):
            return str(self.raw.XMLDesc(0))

    def capacity(self, target: str) -> int:
        """The size of a disk in bytes, as the guest sees it."""
        with translated("cannot ask for the size of the disk", domain=self.name, disk=target):
            return int(self.raw.blockInfo(target)[0])

    def full_definition(self) -> str:
        """Its XML as it can be defined again, secrets included; of a running one as it runs now."""
        flags = libvirt.VIR_DOMAIN_XML_SECURE
        with translated("cannot read the domain's definition", domain=self.name):
            if self.raw.isActive():
                flags |= libvirt.VIR_DOMAIN_XML_MIGRATABLE
            else:
                flags |= libvirt.VIR_DOMAIN_XML_INACTIVE
            return str(self.raw.XMLDesc(flags))

    def facts(self) -> DomainFacts:
        """Its state and disks, now."""
        with translated("cannot read the domain's definition", domain=self.name):
            state = self.raw.state()[0]
            active = bool(self.raw.isActive())
            text = self.raw.XMLDesc(0)
        return parse_domain(text, _STATES.get(state, "unknown"), active)


class BootFiles(NamedTuple):
    """Paths of what a domain needs besides its disks, None for what it hasn't."""

    nvram: str | None
    kernel: str | None
    initrd: str | None
    tpm: bool
    """It has an emulated TPM, whose state libvirt keeps."""


def boot_files(definition: str) -> BootFiles:
    """What stands in a domain's XML of such files."""
    root = xml.parse(definition)
    return BootFiles(
        nvram=root.findtext("os/nvram"),
        kernel=root.findtext("os/kernel"),
        initrd=root.findtext("os/initrd"),
        tpm=root.find("devices/tpm/backend[@type='emulator']") is not None,
    )


def lookup(connection: Connection, name: str) -> LibvirtDomain:
    """The domain of that name or UUID; raises NotFound, naming some that exist."""
    try:
        with translated(f"cannot find domain {name!r}"):
            return LibvirtDomain(connection, connection.raw.lookupByName(name))
    except NotFound:
        pass
    try:
        with translated(f"cannot find domain {name!r}"):
            return LibvirtDomain(connection, connection.raw.lookupByUUIDString(name))
    except (NotFound, InvalidInput):
        known = [domain.name for domain in list_domains(connection)]
        hint = f"domains there: {', '.join(known[:10])}" if known else "no domain is defined there"
        raise NotFound(f"no domain {name!r} on {connection.uri}", hint=hint, domain=name) from None


def find(connection: Connection, uuid: str) -> LibvirtDomain | None:
    """The domain with that UUID, or None."""
    try:
        with translated(f"cannot find domain {uuid}"):
            return LibvirtDomain(connection, connection.raw.lookupByUUIDString(uuid))
    except NotFound:
        return None


def find_by_name(connection: Connection, name: str) -> LibvirtDomain | None:
    """The domain of that name, or None."""
    try:
        with translated(f"cannot find domain {name!r}"):
            return LibvirtDomain(connection, connection.raw.lookupByName(name))
    except NotFound:
        return None


def list_domains(connection: Connection, *, active: bool = False) -> list[LibvirtDomain]:
    """All domains, or the running ones only, by name."""
    flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE if active else 0
    with translated(f"cannot list the domains of {connection.uri}"):
        found = connection.raw.listAllDomains(flags)
    return sorted((LibvirtDomain(connection, raw) for raw in found), key=lambda domain: domain.name)


def parse_domain(text: str, state: str, active: bool) -> DomainFacts:
    """The facts in a domain's XML."""
    root = xml.parse(text)
    channel = root.find(f"devices/channel/target[@name='{_AGENT_PORT}']")
    label = root.findtext("seclabel[@model='dac']/label")
    return DomainFacts(
        name=root.findtext("name") or "",
        uuid=root.findtext("uuid") or "",
        state=state,
        is_active=active,
        disks=parse_disks(root),
        has_agent_channel=channel is not None,
        agent_connected=channel is not None and channel.get("state") == "connected",
        qemu_owner=parse_owner(label or ""),
        emulator=root.findtext("devices/emulator"),
    )


def parse_disks(parent: xml.Element) -> tuple[Disk, ...]:
    """The disks of a <domain> element."""
    return tuple(_parse_disk(element) for element in parent.findall("devices/disk"))


def _parse_disk(element: xml.Element) -> Disk:
    source = element.find("source")
    path = None
    if source is not None:
        path = source.get("file") or source.get("dev") or source.get("dir")
        if source.get("volume"):
            path = f"{source.get('pool')}/{source.get('volume')}"
    sources = list(element.iter("source"))
    hosts = [one.find("host[@transport='unix']") for one in sources if one.get("protocol") == "nbd"]
    files = [one.get("file") or one.get("dev") for one in sources]
    below, is_chain_complete = _parse_below(element)
    return Disk(
        target=xml.attribute(element, "target", "dev") or "",
        device=element.get("device") or "disk",
        format=xml.attribute(element, "driver", "type") or "raw",
        source_type=element.get("type") or "file",
        source=path,
        read_only=element.find("readonly") is not None,
        nbd_sockets=tuple(host.get("socket") or "" for host in hosts if host is not None),
        alias=xml.attribute(element, "alias", "name"),
        chain=tuple(one for one in files if one),
        below=below,
        is_chain_complete=is_chain_complete,
    )


def _parse_below(disk: xml.Element) -> tuple[tuple[tuple[str, str, str | None], ...], bool]:
    """The nested <backingStore>s; an empty one says that nothing is below."""
    found: list[tuple[str, str, str | None]] = []
    store = disk.find("backingStore")
    while store is not None and len(store):
        path = xml.attribute(store, "source", "file") or xml.attribute(store, "source", "dev")
        image_format = xml.attribute(store, "format", "type") or "raw"
        found.append((store.get("type") or "file", image_format, path))
        store = store.find("backingStore")
    return tuple(found), store is not None
