"""Pull-mode backup jobs: the XML that starts one, what runs now, and how it ends.

libvirt allows one job on a domain at a time, and a second `backupBegin` waits 30 s for the
first before it fails: ask `current` first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import libvirt

from vircpt.errors import NotFound, VircptError
from vircpt.hypervisor import xml
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.hypervisor.translate import code, translated


@dataclass(frozen=True)
class ExportDisk:
    """A disk to be exported: from checkpoint `since`, or in full; its scratch file."""

    target: str
    since: str | None
    scratch: str


@dataclass(frozen=True)
class Listen:
    """Where QEMU listens: a Unix socket, or an address and port, with TLS or without."""

    socket: str | None = None
    address: str | None = None
    port: int | None = None
    tls: bool = False


@dataclass(frozen=True)
class BackupJob:
    """A running backup job: how it is reached, and the checkpoints it is based on."""

    pull: bool
    listen: Listen
    bases: frozenset[str]
    disks: tuple[str, ...]
    scratch_files: tuple[str, ...]


def build_xml(listen: Listen, disks: Iterable[ExportDisk], exclude: Iterable[str]) -> str:
    """The definition of a pull-mode backup; every disk of the domain must stand in it.

    Each bitmap is exported as backup-TARGET, whichever checkpoint it comes from.
    """
    root = xml.new("domainbackup", mode="pull")
    if listen.socket:
        xml.add(root, "server", transport="unix", socket=listen.socket)
    else:
        xml.add(
            root,
            "server",
            transport="tcp",
            tls="yes" if listen.tls else None,
            name=listen.address,
            port=str(listen.port),
        )
    container = xml.add(root, "disks")
    for disk in disks:
        element = xml.add(
            container,
            "disk",
            name=disk.target,
            backup="yes",
            type="file",
            backupmode="incremental" if disk.since else "full",
            incremental=disk.since,
            exportname=disk.target,
            exportbitmap=bitmap_name(disk.target) if disk.since else None,
        )
        xml.add(element, "scratch", file=disk.scratch)
    for target in exclude:
        xml.add(container, "disk", name=target, backup="no")
    return xml.write(root)


def bitmap_name(target: str) -> str:
    """What the bitmap of a disk is called in the export."""
    return f"backup-{target}"


def parse_xml(text: str) -> BackupJob:
    """The facts in the XML of a running backup job."""
    root = xml.parse(text)
    server = root.find("server")
    listen = Listen()
    if server is not None:
        port = server.get("port") or ""
        listen = Listen(
            socket=server.get("socket"),
            address=server.get("name"),
            port=int(port) if port.isdigit() else None,
            tls=server.get("tls") == "yes",
        )
    disks = [one for one in root.findall("disks/disk") if one.get("backup") == "yes"]
    bases = {one.get("incremental") for one in disks} | {root.findtext("incremental")}
    scratch = (xml.attribute(one, "scratch", "file") for one in disks)
    return BackupJob(
        pull=root.get("mode") == "pull",
        listen=listen,
        bases=frozenset(base for base in bases if base),
        disks=tuple(one.get("name") or "" for one in disks),
        scratch_files=tuple(path for path in scratch if path),
    )


def begin(domain: LibvirtDomain, definition: str, checkpoint: str | None) -> None:
    """Start the export, and make `checkpoint` (its XML) in the same instant.

    If the export fails after the checkpoint was made libvirt leaves the checkpoint behind.
    """
    with translated("cannot start the export", domain=domain.name):
        domain.raw.backupBegin(definition, checkpoint, 0)


def current(domain: LibvirtDomain) -> BackupJob | None:
    """The backup job that runs on the domain now; None if there is none."""
    try:
        with translated("cannot ask for the domain's backup", domain=domain.name):
            return parse_xml(domain.raw.backupGetXMLDesc(0))
    except NotFound:
        return None
    except VircptError as error:
        if code(error) == libvirt.VIR_ERR_OPERATION_INVALID:
            return None
        raise


def end(domain: LibvirtDomain, ours: Callable[[BackupJob], bool], limit: float = 30) -> None:
    """Abort the backup job if it is `ours`, and wait until it has gone, `limit` seconds at most.

    The abort returns before libvirt has removed the socket and the scratch files.
    """

    def runs() -> bool:
        job = current(domain)
        return job is not None and ours(job)

    if not runs():
        return
    try:
        with translated("cannot end the export", domain=domain.name):
            domain.raw.abortJob()
    except VircptError:
        if runs():
            raise
    deadline = time.monotonic() + limit
    pause = 0.005
    while runs():
        if time.monotonic() > deadline:
            raise VircptError(
                "the export did not end", why=f"its job is there {limit:.0f} s after the abort",
                domain=domain.name, hint="see virsh domjobinfo, then try vircpt release again",
            )  # fmt: skip
        time.sleep(pause)
        pause = min(pause * 2, 0.2)
