"""The devices of a throw-away clone: which are kept, changed, left out, added. Pure.

Each kind of device has a rule. A rule changes the element in place and returns True, or
returns False for one that the clone must not have; a kind without a rule is left out.
"""

from __future__ import annotations

from collections.abc import Callable

from vircpt.hypervisor import xml
from vircpt.hypervisor.clone import Change, CloneDisk, CloneSpec, NbdBacking, Network

_AGENT = "org.qemu.guest_agent.0"
_ISA = ("x86_64", "i686")
_DISCARD_PORT = "9"
"""Only root may listen there, and nobody does: frames sent to it reach nobody."""
_DISK_KEPT = frozenset(
    ("target", "address", "boot", "serial", "wwn", "vendor", "product", "blockio", "geometry",
     "readonly", "acpi")
)  # fmt: skip
_DRIVER_KEPT = ("queues", "queue_size", "discard", "iommu", "ats", "packed", "event_idx")


class _Change:
    """The work on one <devices>."""

    def __init__(self, spec: CloneSpec) -> None:
        self.spec = spec
        self.disks = {disk.target: disk for disk in spec.disks}
        self.changes: list[Change] = []

    def tell(self, what: str, why: str) -> bool:
        """Note what is left out; False, for rules to return."""
        self.changes.append(Change(what, why))
        return False


def change(devices: xml.Element, spec: CloneSpec, arch: str) -> list[Change]:
    """Make the original's <devices> the clone's; returns what is different."""
    work = _Change(spec)
    for element in list(devices):
        rule = _RULES.get(str(element.tag))
        if rule is None:
            work.tell(_name(element), "vircpt does not know it to be harmless")
        if rule is None or not rule(element, work):
            devices.remove(element)
            continue
        for alias in element.findall("alias"):
            element.remove(alias)
    _add_missing(devices, work)
    if spec.test and arch in _ISA and devices.find("panic") is None:
        xml.add(devices, "panic", model="isa")
    return work.changes


def _name(element: xml.Element) -> str:
    kind = element.get("type") or xml.attribute(element, "model", "type") or element.get("model")
    return f"{element.tag} {kind}" if kind else str(element.tag)


# Kept, with changes


def _keep(_element: xml.Element, _work: _Change) -> bool:
    return True


def _disk(element: xml.Element, work: _Change) -> bool:
    target = xml.attribute(element, "target", "dev") or ""
    device = element.get("device", "disk")
    if device in ("cdrom", "floppy"):
        return _eject(element, work, target, device)
    disk = work.disks.get(target)
    if device != "disk" or disk is None:
        why = "a SCSI device passed through" if device == "lun" else "it is not among those given"
        return work.tell(f"disk {target}", why)
    driver = element.find("driver")
    kept = {key: driver.get(key) for key in _DRIVER_KEPT} if driver is not None else {}
    for child in list(element):
        if child.tag not in _DISK_KEPT:
            element.remove(child)
    _only(element, "device", "model")
    element.set("type", "file")
    # what the guest flushes need not reach the host's disk: it is thrown away
    xml.add(element, "driver", name="qemu", type="qcow2", cache="unsafe", **kept)
    xml.add(element, "source", file=disk.overlay)
    _add_backing(element, disk)
    return True


def _add_backing(element: xml.Element, disk: CloneDisk) -> None:
    """Written out, so that libvirt need not look into the overlay for it."""
    below = disk.backing
    if isinstance(below, NbdBacking):
        backing = xml.add(element, "backingStore", type="network")
        xml.add(backing, "format", type="raw")
        source = xml.add(backing, "source", protocol="nbd", name=below.export)
        xml.add(source, "host", transport="unix", socket=below.socket)
        xml.add(backing, "backingStore")
        return
    backing = xml.add(element, "backingStore", type="file")
    xml.add(backing, "format", type=below.format)
    source = xml.add(backing, "source", file=below.path)
    # it is somebody's: libvirt is not to give it to QEMU's user
    xml.add(source, "seclabel", model="dac", relabel="no")
    if below.format == "raw":
        xml.add(backing, "backingStore")


def _eject(element: xml.Element, work: _Change, target: str, device: str) -> bool:
    had_medium = element.find("source") is not None
    for child in list(element):
        if child.tag not in ("target", "address", "boot", "readonly", "serial"):
            element.remove(child)
    _only(element, "device")
    element.set("type", "file")
    if had_medium:
        work.tell(f"medium of {device} {target}", "it is of the host")
    return True


def _only(element: xml.Element, *keys: str) -> None:
    for key in set(element.attrib) - set(keys):
        del element.attrib[key]


def _controller(element: xml.Element, _work: _Change) -> bool:
    for driver in element.findall("driver"):
        driver.attrib.pop("iothread", None)
    return True


def _interface(element: xml.Element, work: _Change) -> bool:
    mac = xml.attribute(element, "mac", "address") or "without address"
    if work.spec.network is Network.NONE:
        return work.tell(f"interface {mac}", "no network was asked for")
    model = xml.attribute(element, "model", "type")
    for child in list(element):
        if child.tag not in ("address", "acpi"):
            element.remove(child)
    if element.get("type") == "hostdev":  # its address is that of another kind of device
        for address in element.findall("address"):
            element.remove(address)
    element.attrib.clear()
    element.set("type", "udp")
    xml.add(element, "mac", address=work.spec.new_mac())
    source = xml.add(element, "source", address="127.0.0.1", port=_DISCARD_PORT)
    xml.add(source, "local", address="127.0.0.1", port=str(work.spec.local_port()))
    xml.add(element, "model", type=model or "virtio")
    xml.add(element, "rom", enabled="no")  # there is nobody to boot from
    return True


def _serial(element: xml.Element, _work: _Change) -> bool:
    """Whatever it was connected to, the clone's ends with us; old contents stay untouched."""
    for child in list(element):
        if child.tag not in ("target", "address"):
            element.remove(child)
    element.attrib.clear()
    element.set("type", "pty")
    return True


def _console(element: xml.Element, work: _Change) -> bool:
    if xml.attribute(element, "target", "type") in (None, "serial"):
        return False  # the serial device once more: libvirt adds it by itself
    return _serial(element, work)


def _channel(element: xml.Element, work: _Change) -> bool:
    name = xml.attribute(element, "target", "name") or ""
    if name != _AGENT:
        return work.tell(f"channel {name or element.get('type')}", "its other end is on the host")
    for child in list(element):
        if child.tag not in ("target", "address"):
            element.remove(child)
    element.attrib.clear()
    element.set("type", "unix")  # without a path libvirt makes a private one
    for target in element.findall("target"):
        target.attrib.pop("state", None)
    return True


def _input(element: xml.Element, work: _Change) -> bool:
    if element.get("type") in ("mouse", "keyboard", "tablet"):
        return True
    return work.tell(_name(element), "a device of the host")


def _video(element: xml.Element, _work: _Change) -> bool:
    for driver in element.findall("driver"):
        driver.attrib.pop("name", None)
    for model in element.findall("model"):
        model.attrib.pop("blob", None)
        for acceleration in model.findall("acceleration"):
            model.remove(acceleration)
    return True


def _audio(element: xml.Element, _work: _Change) -> bool:
    for child in list(element):
        element.remove(child)
    _only(element, "id")
    element.set("type", "none")
    return True


def _rng(element: xml.Element, _work: _Change) -> bool:
    for backend in element.findall("backend"):
        element.remove(backend)
    xml.add(element, "backend", "/dev/urandom", model="random")
    return True


def _watchdog(element: xml.Element, _work: _Change) -> bool:
    if element.get("action") == "dump":  # would write a file of the guest's memory
        element.set("action", "reset")
    return True


def _tpm(element: xml.Element, work: _Change) -> bool:
    backend = element.find("backend")
    kind = backend.get("type") if backend is not None else None
    if backend is None or kind != "emulator":
        return work.tell(f"tpm {kind}", "a device of the host")
    _only(backend, "type", "version")
    for child in list(backend):
        if child.tag != "encryption":
            backend.remove(child)
    return True


def _memory(element: xml.Element, work: _Change) -> bool:
    if element.get("model") != "dimm":
        return work.tell(f"memory {element.get('model')}", "it is backed by the host")
    if work.spec.memory is not None:
        return work.tell("memory dimm", "another size of memory was asked for")
    for source in element.findall("source"):
        element.remove(source)
    return True


def _left_out(why: str) -> Callable[[xml.Element, _Change], bool]:
    def rule(element: xml.Element, work: _Change) -> bool:
        return work.tell(_name(element), why)

    return rule


def _replaced(_element: xml.Element, _work: _Change) -> bool:
    return False


# Added


def _add_missing(devices: xml.Element, work: _Change) -> None:
    spec = work.spec
    if devices.find("serial") is None:
        xml.add(devices, "serial", type="pty")
    if spec.agent and devices.find(f"channel/target[@name='{_AGENT}']") is None:
        channel = xml.add(devices, "channel", type="unix")
        xml.add(channel, "target", type="virtio", name=_AGENT)
        work.tell("the agent's channel", "the original has none: it was added")
    screen = devices.find("video/model")
    if spec.screen and (screen is None or screen.get("type") == "none"):
        for video in devices.findall("video"):
            devices.remove(video)
        screen = xml.add(xml.add(devices, "video"), "model", type="vga")
        work.tell("video vga", "the original has no screen: it was added")
    if screen is not None and screen.get("type") != "none":
        # on a socket in a directory of libvirt's: who may reach it is libvirt's to say
        xml.add(xml.add(devices, "graphics", type="vnc"), "listen", type="socket")


_HOST = "it is of the host"
_SHARED = "it is shared with the host"
_RULES: dict[str, Callable[[xml.Element, _Change], bool]] = {
    "emulator": _keep,
    "disk": _disk,
    "controller": _controller,
    "interface": _interface,
    "serial": _serial,
    "console": _console,
    "channel": _channel,
    "input": _input,
    "hub": _keep,
    "video": _video,
    "graphics": _replaced,
    "audio": _audio,
    "sound": _keep,
    "memballoon": _keep,
    "rng": _rng,
    "watchdog": _watchdog,
    "panic": _keep,
    "iommu": _keep,
    "tpm": _tpm,
    "memory": _memory,
    "parallel": _left_out(_HOST),
    "hostdev": _left_out(_HOST),
    "redirdev": _left_out(_HOST),
    "redirfilter": _replaced,
    "smartcard": _left_out(_HOST),
    "filesystem": _left_out(_SHARED),
    "shmem": _left_out(_SHARED),
    "vsock": _left_out(_SHARED),
    "lease": _left_out(_HOST),
    "pstore": _left_out(_HOST),
}
