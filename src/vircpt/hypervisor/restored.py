"""The definition of a domain from a backup, changed so that it can stand beside the old one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vircpt.errors import InvalidInput, VircptError
from vircpt.hypervisor import xml
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain, find_by_name
from vircpt.hypervisor.translate import translated


@dataclass(frozen=True)
class NewDisk:
    """Where a disk of the new domain stands, and in which format."""

    path: str
    format: str
    is_block_device: bool


def rewrite(
    definition: str,
    name: str,
    disks: Mapping[str, NewDisk],
    files: Mapping[str, str],
    logs: Callable[[str], str],
) -> tuple[str, tuple[str, ...]]:
    """The definition of domain `name` on these disks (by target), and what it lost.

    UUID, MAC addresses and generation id are left out: libvirt draws new ones. `files` are
    the new paths of nvram, kernel and initrd; `logs` gives that of a file that a serial port
    or the like writes to. A disk that was not restored goes.
    """
    root = xml.parse_input(definition, "domain.xml of the backup")
    if root.tag != "domain":
        raise InvalidInput("domain.xml of the backup is no definition of a domain")
    _set(root, "name", name)
    for tag in ("uuid", "genid", "title"):
        for element in root.findall(tag):
            root.remove(element)
    for interface in root.findall("devices/interface"):
        for element in interface.findall("mac"):
            interface.remove(element)
    for key, path in files.items():
        place = root.find("os")
        if place is not None and place.find(key) is not None:
            _set(place, key, path)
    for place in root.iterfind("devices/*[@type='file']/source[@path]"):
        place.set("path", logs(place.get("path") or ""))
    for place in root.iterfind("devices/*/log[@file]"):
        place.set("file", logs(place.get("file") or ""))
    lost = _move_disks(root, disks)
    return xml.write(root), lost


def _set(parent: xml.Element, tag: str, text: str) -> None:
    element = parent.find(tag)
    if element is None:
        element = xml.add(parent, tag)
    element.text = text


def _move_disks(root: xml.Element, disks: Mapping[str, NewDisk]) -> tuple[str, ...]:
    devices = root.find("devices")
    lost: list[str] = []
    if devices is None:
        return ()
    for element in devices.findall("disk"):
        target = xml.attribute(element, "target", "dev") or ""
        new = disks.get(target)
        if new is not None:
            _move_disk(element, new)
        elif element.get("device", "disk") == "disk":
            devices.remove(element)
            lost.append(target)
    return tuple(lost)


def _move_disk(element: xml.Element, new: NewDisk) -> None:
    for tag in ("source", "backingStore", "mirror"):
        for one in element.findall(tag):
            element.remove(one)
    element.set("type", "block" if new.is_block_device else "file")
    key = "dev" if new.is_block_device else "file"
    xml.add(element, "source", **{key: new.path})
    driver = element.find("driver")
    if driver is None:
        driver = xml.add(element, "driver", name="qemu")
    driver.set("type", new.format)


def define(connection: Connection, definition: str) -> LibvirtDomain:
    """Define it."""
    with translated("cannot define the restored domain"):
        return LibvirtDomain(connection, connection.raw.defineXML(definition))


def start(domain: LibvirtDomain) -> None:
    """Start it; if that fails it stays defined."""
    try:
        with translated("cannot start the restored domain", domain=domain.name):
            domain.raw.create()
    except VircptError as error:
        error.add_note(f"domain {domain.name} is defined, on the restored disks")
        raise


def refuse_existing(connection: Connection, name: str) -> None:
    """Raise InvalidInput if there is a domain of that name."""
    if find_by_name(connection, name) is not None:
        raise InvalidInput(
            f"there is a domain {name} already", domain=name, hint="choose another with --as NAME"
        )
