"""Start a throw-away clone on a set of disks: an export's, or a backup's.

The disks and the XML are all that is needed: `BootSource`. Each disk gets an overlay that
takes the clone's writes; firmware variables and the TPM's state are copied. The clone is
written down (records/clones.py) before anything is made for it; a vircpt that is killed leaves
something that `boot --stop`, `release` or the next `boot` removes: operations/clones.py.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vircpt.blocks import headers, images, nbd
from vircpt.errors import NotSupported, VircptError, quoted
from vircpt.hypervisor import clone, clone_domain
from vircpt.hypervisor import domain as domains
from vircpt.hypervisor.clone import Change, CloneDisk, CloneSpec, NbdBacking, Network
from vircpt.hypervisor.connection import Connection, Owner
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.interrupts import hold, uninterrupted
from vircpt.operations import clone_state, clones
from vircpt.records import clones as records
from vircpt.records import exports
from vircpt.records.clones import CloneDirectory, CloneRecord
from vircpt.units import format_size

_NAME_LIMIT = 150
"""Bytes of the original's name in the clone's: libvirt makes file names of it."""


@dataclass(frozen=True)
class BootDisk:
    """A disk to boot from: an export on a Unix socket, or an image file of this host."""

    target: str
    backing: NbdBacking | clone.FileBacking

    @property
    def location(self) -> str:
        if isinstance(self.backing, NbdBacking):
            return nbd.unix_uri(self.backing.export, self.backing.socket)
        return self.backing.path

    @property
    def format(self) -> str:
        return "raw" if isinstance(self.backing, NbdBacking) else self.backing.format

    def size(self) -> int:
        """Bytes."""
        if isinstance(self.backing, NbdBacking):
            with nbd.Reader(self.location, None) as reader:
                return reader.size
        return headers.read(self.backing.path, self.backing.format).size


@dataclass(frozen=True)
class BootSource:
    """What a clone is made of: the XML of a domain, and the disks that it shall have.

    `export` is the id of the export that serves them, None if something else does. `nvram`:
    a file of firmware variables to be copied in place of the one that the XML names.
    `owner`: the user that QEMU runs as for this domain, None for libvirt's usual one.
    """

    xml: str
    disks: tuple[BootDisk, ...]
    export: str | None = None
    nvram: str | None = None
    owner: Owner | None = None


@dataclass(frozen=True)
class BootOptions:
    """What may be asked of a clone; `memory` in bytes, None for the original's.

    `test`: the clone belongs to this process and starts paused, for `boot_test.run`. `agent`:
    it needs a channel for the agent. `screen`: it needs a screen.
    """

    memory: int | None = None
    network: Network = Network.NONE
    test: bool = False
    agent: bool = False
    screen: bool = False


@dataclass(frozen=True)
class StartedClone:
    """A clone that runs (a test's: that waits to be let go), and what it has not of its original.

    `claim` is the handle of the claim on it, None if it belongs to nobody.
    """

    directory: CloneDirectory
    domain: LibvirtDomain
    changes: tuple[Change, ...]
    claim: int | None


def start(connection: Connection, source: BootSource, options: BootOptions) -> StartedClone:
    """Start the clone. From its return on interruptions wait (see interrupts.hold).

    A test's ends with `connection`, which must be one with events. Raises NotSupported if
    the host is another one, or has not the memory.
    """
    refuse(connection, source.xml, options)
    original = clone.read_original(source.xml)
    with exports.locked(original.uuid, original.name):
        clones.clear_dead(connection, original.uuid)
        record = _record(connection, original, source, options)
        directory: CloneDirectory | None = None
        try:
            with uninterrupted():
                directory = records.create(record)
            started = _start(connection, source, options, original, directory)
            hold()
        except BaseException as error:
            if directory is not None:
                with uninterrupted():
                    _abandon(connection, directory, error)
            raise
        return started


def refuse(connection: Connection, definition: str, options: BootOptions) -> None:
    """Raise NotSupported if a clone of that domain can't be booted here; nothing is changed."""
    _refuse_remote(connection)
    _refuse_memory(options.memory or clone.read_original(definition).memory, options.memory is None)


def _start(
    connection: Connection,
    source: BootSource,
    options: BootOptions,
    original: clone.Original,
    directory: CloneDirectory,
) -> StartedClone:
    claim = directory.claim() if options.test else None
    try:
        owner = source.owner or connection.qemu_owner()
        disks = [_make_overlay(directory, disk, owner) for disk in source.disks]
        notes = clone_state.copy(directory, original, source.nvram, owner)
        definition = clone.define(source.xml, _spec(directory.record, options, disks, directory))
        domain = clone_domain.start(connection, definition.xml, tied=options.test)
    except BaseException:
        if claim is not None:
            os.close(claim)
        raise
    return StartedClone(directory, domain, (*definition.changes, *notes), claim)


def _make_overlay(directory: CloneDirectory, disk: BootDisk, owner: Owner | None) -> CloneDisk:
    path = directory.overlay(disk.target)
    size = disk.size()
    try:
        handle = directory.make_file(path, owner)
    except OSError as error:
        raise VircptError(f"cannot make {path}", why=error.strerror) from error
    try:
        images.format_overlay(handle, disk.location, size, disk.format)
    finally:
        os.close(handle)
    return CloneDisk(disk.target, str(path), disk.backing)


def _spec(
    record: CloneRecord,
    options: BootOptions,
    disks: Iterable[CloneDisk],
    directory: CloneDirectory,
) -> CloneSpec:
    return CloneSpec(
        id=record.id,
        name=record.name,
        uuid=record.uuid,
        genid=str(uuid.uuid4()),
        disks=tuple(disks),
        nvram=str(directory.nvram),
        new_mac=_new_mac,
        local_port=_free_port,
        memory=options.memory,
        network=options.network,
        test=options.test,
        agent=options.agent,
        screen=options.screen,
    )


def _record(
    connection: Connection, original: clone.Original, source: BootSource, options: BootOptions
) -> CloneRecord:
    new = str(uuid.uuid4())
    tpm = clone_state.tpm_directory(connection, original, new)
    return CloneRecord(
        id=records.new_id(),
        uri=connection.uri,
        name=_free_name(connection, original.name),
        uuid=new,
        original=original.name,
        original_uuid=original.uuid,
        user=os.environ.get("SUDO_USER") or getpass.getuser(),
        created=time.time(),
        export=source.export,
        test=options.test,
        tpm=str(tpm) if tpm else None,
    )


def _free_name(connection: Connection, name: str) -> str:
    """vm1-boot, vm1-boot-2, …"""
    taken = {domain.name for domain in domains.list_domains(connection)}
    stem = os.fsencode(name)[:_NAME_LIMIT].decode(errors="ignore") + "-boot"
    number = 1
    while (found := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    return found


def _new_mac() -> str:
    """In the range that QEMU's guests use."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _refuse_remote(connection: Connection) -> None:
    if connection.is_remote:
        raise NotSupported(
            "a clone can be booted only on this host",
            why=f"its overlays would be here, and QEMU on the host of {connection.uri}",
            hint="run vircpt there",
        )


def _refuse_memory(wanted: int, is_original: bool) -> None:
    """The kernel's own estimate of what can be had without swapping (MemAvailable)."""
    available = memory_available()
    if available is not None and wanted > available:
        raise NotSupported(
            "there is not enough memory on this host for the clone",
            why=f"it needs {format_size(wanted)}{', as its original' if is_original else ''}, "
            f"and {format_size(available)} can be had",
            hint=f"give it less: --memory {available // 2**21}M",
        )


def memory_available() -> int | None:
    """Bytes of memory that can be had on this host; None if the kernel does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _abandon(connection: Connection, directory: CloneDirectory, error: BaseException) -> None:
    """Leave nothing of a clone that did not come about; `error` is the one to tell."""
    try:
        clones.remove(connection, directory)
    except VircptError as second:
        error.add_note(
            f"({second})\nit is not known what became of clone {directory.record.name}; end it "
            f"with vircpt -d {quoted(directory.record.original)} boot --stop"
        )
