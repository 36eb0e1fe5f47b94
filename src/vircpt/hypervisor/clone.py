"""The definition of a throw-away clone, made of its original's. Pure: XML in, XML out.

What is kept stands in lists: what a future libvirt adds is left out, and told, until somebody
has found it harmless. Nothing of the clone may reach a file, a device, an address or a name of
the original or of the host, but for what is only read: kernel, initrd, firmware code. Devices
are the matter of clone_devices.py.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vircpt.hypervisor import xml

NAMESPACE = "urn:vircpt:clone"
_QUIET_METADATA = "{http://libosinfo.org/xmlns/libvirt/domain/1.0}"
_UNITS = {"b": 1, "bytes": 1, "KB": 10**3, "k": 2**10, "KiB": 2**10, "MB": 10**6, "M": 2**20,
          "MiB": 2**20, "GB": 10**9, "G": 2**30, "GiB": 2**30, "TB": 10**12, "T": 2**40,
          "TiB": 2**40}  # fmt: skip

_KEPT = ("memory", "currentMemory", "maxMemory", "vcpu", "vcpus", "os", "features", "cpu",
         "clock", "pm", "sysinfo", "seclabel", "devices")  # fmt: skip
_RENEWED = ("name", "uuid", "title", "description", "metadata", "genid", "resource",
            "on_poweroff", "on_reboot", "on_crash", "on_lockfailure")  # fmt: skip
_TUNING = ("memtune", "cputune", "numatune", "blkiotune", "memoryBacking", "perf",
           "iothreads", "iothreadids", "defaultiothread", "throttlegroups")  # fmt: skip
_OS_KEPT = ("type", "loader", "nvram", "boot", "kernel", "initrd", "cmdline", "dtb", "bootmenu",
            "smbios", "bios", "acpi", "firmware")  # fmt: skip


class Network(enum.Enum):
    """What becomes of the clone's network interfaces."""

    NONE = "none"
    """they are left out"""
    ISOLATED = "isolated"
    """they are there, with new addresses, and reach nobody"""


@dataclass(frozen=True)
class NbdBacking:
    """What is below an overlay: an export on a Unix socket."""

    socket: str
    export: str


@dataclass(frozen=True)
class FileBacking:
    """What is below an overlay: an image file, which may have a chain below it."""

    path: str
    format: str


@dataclass(frozen=True)
class CloneDisk:
    """A disk of the clone: its overlay (qcow2), and what the overlay reads from."""

    target: str
    overlay: str
    backing: NbdBacking | FileBacking


@dataclass(frozen=True)
class CloneSpec:
    """What the clone is to be.

    `id` is the record's, `nvram` the path for its firmware's variables, `memory` bytes or None
    for the original's. `test`: it ends when the guest does, and a panic is noticed.
    """

    id: str
    name: str
    uuid: str
    genid: str
    disks: Sequence[CloneDisk]
    nvram: str
    new_mac: Callable[[], str]
    local_port: Callable[[], int]
    """A free UDP port for each interface."""
    memory: int | None = None
    network: Network = Network.NONE
    test: bool = False
    agent: bool = False
    """True if a channel for the guest's agent is needed."""
    screen: bool = False
    """True if a screen is needed."""


@dataclass(frozen=True)
class Change:
    """Something of the original that the clone has not, or not so."""

    what: str
    why: str


@dataclass(frozen=True)
class Definition:
    """The clone's XML, and what is different from the original, for people."""

    xml: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Original:
    """Facts of the original that decide what has to be copied; sizes in bytes.

    `nvram` is the file of its firmware's variables, if it has one; `tpm` if an emulated TPM.
    """

    name: str
    uuid: str
    memory: int
    nvram: str | None
    tpm: bool
    targets: tuple[str, ...]


def read_original(text: str) -> Original:
    """The facts in a domain's XML."""
    root = xml.parse(text)
    nvram = root.find("os/nvram")
    path = None
    if nvram is not None and nvram.get("type", "file") == "file":
        path = xml.attribute(nvram, "source", "file") or (nvram.text or "").strip() or None
    return Original(
        name=root.findtext("name") or "",
        uuid=root.findtext("uuid") or "",
        memory=_bytes(root.find("memory")),
        nvram=path,
        tpm=root.find("devices/tpm/backend[@type='emulator']") is not None,
        targets=tuple(
            xml.attribute(one, "target", "dev") or ""
            for one in root.findall("devices/disk")
            if one.get("device", "disk") == "disk"
        ),
    )


def define(text: str, spec: CloneSpec) -> Definition:
    """The clone of the domain whose XML (running or not) is `text`."""
    from vircpt.hypervisor import clone_devices

    old = xml.parse(text)
    new = xml.new("domain", type=old.get("type") or "qemu")
    changes: list[Change] = []
    xml.add(new, "name", spec.name)
    xml.add(new, "uuid", spec.uuid)
    _add_metadata(old, new, spec)
    if old.find("genid") is not None:
        xml.add(new, "genid", spec.genid)
    for element in old:
        if element.tag in _KEPT and _keep(element, spec, changes):
            new.append(element)
    _set_ends(new, spec.test)
    _tell_dropped(old, changes)
    devices = new.find("devices")
    if devices is None:
        devices = xml.add(new, "devices")
    arch = xml.attribute(new, "os/type", "arch") or ""
    changes += clone_devices.change(devices, spec, arch)
    return Definition(xml.write(new), tuple(changes))


def _add_metadata(old: xml.Element, new: xml.Element, spec: CloneSpec) -> None:
    """Ours, and what the guest's system is; what belongs to other programs is theirs."""
    metadata = xml.add(new, "metadata")
    of = old.findtext("uuid") or ""
    xml.add(metadata, f"{{{NAMESPACE}}}clone", id=spec.id, of=of)
    for element in old.findall("metadata/*"):
        if element.tag.startswith(_QUIET_METADATA):
            metadata.append(element)


def _set_ends(new: xml.Element, test: bool) -> None:
    """A test that reboots has failed; after a panic its screen is still of interest."""
    ends = {
        "on_poweroff": "destroy",
        "on_reboot": "destroy" if test else "restart",
        "on_crash": "preserve" if test else "destroy",
    }
    for tag, action in ends.items():
        xml.add(new, tag, action)


def _tell_dropped(old: xml.Element, changes: list[Change]) -> None:
    tuning = [one.tag for one in old if one.tag in _TUNING]
    if tuning:
        changes.append(Change(", ".join(tuning), "tuning for this host is of no use to a clone"))
    for one in old:
        if one.tag in (*_KEPT, *_RENEWED, *_TUNING):
            continue
        name = str(one.tag).rpartition("}")[2]
        if str(one.tag).startswith("{"):
            changes.append(Change(f"qemu:{name}", "it may name files and devices of the host"))
        elif name == "launchSecurity":
            changes.append(Change(name, "it ties the guest to keys of the original"))
        else:
            changes.append(Change(name, "vircpt does not know it to be harmless"))


def _keep(element: xml.Element, spec: CloneSpec, changes: list[Change]) -> bool:
    """Change an element of the original for the clone; False to leave it out."""
    rule = _RULES.get(str(element.tag))
    return rule is None or rule(element, spec, changes)


def _memory(element: xml.Element, spec: CloneSpec, _changes: list[Change]) -> bool:
    if spec.memory is not None:
        element.attrib.clear()
        element.set("unit", "KiB")
        element.text = str(spec.memory // 1024)
    element.attrib.pop("dumpCore", None)
    return True


def _max_memory(_element: xml.Element, spec: CloneSpec, _changes: list[Change]) -> bool:
    return spec.memory is None


def _vcpu(element: xml.Element, _spec: CloneSpec, _changes: list[Change]) -> bool:
    for key in ("cpuset", "placement"):
        element.attrib.pop(key, None)
    return True


def _cpu(element: xml.Element, spec: CloneSpec, changes: list[Change]) -> bool:
    numa = element.find("numa")
    if numa is None:
        return True
    if spec.memory is not None:
        element.remove(numa)
        changes.append(Change("numa", "its cells would not fit the other size of memory"))
    for cell in numa.findall("cell"):
        for key in ("memAccess", "discard"):
            cell.attrib.pop(key, None)
    return True


def _sysinfo(element: xml.Element, _spec: CloneSpec, _changes: list[Change]) -> bool:
    """The UUID there has to be the domain's; fwcfg may name files of the host."""
    if element.get("type") == "fwcfg":
        for entry in element.findall("entry"):
            if entry.get("file"):
                element.remove(entry)
    for system in element.findall("system"):
        for entry in system.findall("entry[@name='uuid']"):
            system.remove(entry)
    return True


def _seclabel(element: xml.Element, _spec: CloneSpec, _changes: list[Change]) -> bool:
    """A dynamic one is made anew; a static one is what may read the export."""
    for child in element.findall("imagelabel"):
        element.remove(child)
    return element.get("type") in ("static", "none")


def _os(element: xml.Element, spec: CloneSpec, _changes: list[Change]) -> bool:
    for child in list(element):
        if child.tag not in _OS_KEPT:
            element.remove(child)
    loader = element.find("loader")
    has_path = loader is not None and bool((loader.text or "").strip())
    if has_path:
        # what libvirt chose is written out: choosing again might end elsewhere
        element.attrib.pop("firmware", None)
        for child in element.findall("firmware"):
            element.remove(child)
    if loader is not None and loader.get("type") == "pflash":
        loader.set("readonly", "yes")
    _nvram(element, loader, spec.nvram)
    return True


def _nvram(element: xml.Element, loader: xml.Element | None, path: str) -> None:
    old = element.find("nvram")
    kept: dict[str, str | None] = {}
    if old is not None:
        kept = {key: old.get(key) for key in ("template", "templateFormat", "format")}
        element.remove(old)
    is_flash = loader is not None and loader.get("type") == "pflash"
    if loader is not None and loader.get("stateless") == "yes":
        return
    if old is not None or is_flash or element.get("firmware") == "efi":
        xml.add(element, "nvram", path, **kept)


_Rule = Callable[[xml.Element, CloneSpec, list[Change]], bool]
_RULES: dict[str, _Rule] = {
    "memory": _memory,
    "currentMemory": _memory,
    "maxMemory": _max_memory,
    "vcpu": _vcpu,
    "cpu": _cpu,
    "sysinfo": _sysinfo,
    "seclabel": _seclabel,
    "os": _os,
}


def _bytes(element: xml.Element | None) -> int:
    """The size in an element such as <memory unit='KiB'>; KiB if no unit is given."""
    text = (element.text or "").strip() if element is not None else ""
    if element is None or not text.isdigit():
        return 0
    return int(text) * _UNITS.get(element.get("unit") or "KiB", 1024)
