"""The XML of disks that are plugged in, and what a domain has to plug them into."""

from __future__ import annotations

from itertools import islice
from xml.etree import ElementTree as ET

from vircpt.hypervisor.hotplug import (
    NbdSource,
    NewDisk,
    ScsiController,
    ScsiPlace,
    Sockets,
    build_xml,
    parse_sockets,
)

UNIX = NbdSource("vda", socket="/run/x.sock")
DOMAIN = """<domain><features>{acpi}</features><devices>
<disk><target dev='vda'/><serial>one</serial></disk>
<disk><target dev='sda'/><address type='drive' controller='0' bus='0' target='0' unit='0'/></disk>
<disk><target dev='sdb'/><address type='drive' controller='0' bus='0' target='3' unit='2'/></disk>
<controller type='scsi' index='0' model='virtio-scsi'/>
<controller type='scsi' index='1' model='lsilogic'/>
<controller type='usb' index='0'/>
</devices></domain>"""


def test_a_read_only_disk() -> None:
    root = ET.fromstring(build_xml(NewDisk(UNIX, "vdb", "virtio", "vm1-vda-1a2b", "ua-x")))
    assert root.attrib == {"type": "network", "device": "disk"}
    assert root.find("readonly") is not None
    source = root.find("source")
    assert source is not None
    assert source.attrib == {"protocol": "nbd", "name": "vda"}
    host = source.find("host")
    assert host is not None
    assert host.attrib == {"transport": "unix", "socket": "/run/x.sock"}
    assert root.findtext("serial") == "vm1-vda-1a2b"


def test_an_overlay_has_its_whole_chain() -> None:
    """Else libvirt would open the images to look for it."""
    disk = NewDisk(UNIX, "vdb", "virtio", "s", "ua-x", overlay="/x/vda.qcow2")
    root = ET.fromstring(build_xml(disk))
    assert root.get("type") == "file"
    assert root.find("readonly") is None
    backing = root.find("backingStore")
    assert backing is not None
    assert backing.find("source/host") is not None
    assert len(backing.find("backingStore") or ()) == 0
    assert backing.find("backingStore") is not None


def test_tcp_and_scsi() -> None:
    source = NbdSource("vda", address="::1", port=10809, tls=True)
    disk = NewDisk(source, "sdc", "scsi", "s", "ua-x", place=ScsiPlace(2, 5))
    root = ET.fromstring(build_xml(disk))
    found = root.find("source")
    assert found is not None
    assert found.get("tls") == "yes"
    assert [one.attrib for one in found] == [{"name": "::1", "port": "10809"}]
    address = root.find("address")
    assert address is not None
    assert (address.get("controller"), address.get("unit")) == ("2", "5")


def test_what_a_domain_has() -> None:
    found = parse_sockets(
        DOMAIN.format(acpi="<acpi/>"), "<domain><disk><target dev='vdb'/></disk></domain>"
    )
    assert found == Sockets(
        has_acpi=True,
        targets=frozenset({"vda", "vdb", "sda", "sdb"}),
        serials=frozenset({"one"}),
        controllers=(ScsiController(0, frozenset({0, 2})),),
    )
    assert not parse_sockets(DOMAIN.format(acpi="")).has_acpi


def test_free_names_and_places() -> None:
    every = frozenset(f"vd{chr(97 + number)}" for number in range(26)) - {"vdq"}
    sockets = Sockets(True, every, frozenset(), (ScsiController(3, frozenset({0, 2})),))
    assert list(islice(sockets.free_targets("virtio"), 3)) == ["vdq", "vdaa", "vdab"]
    assert next(sockets.free_targets("scsi")) == "sda"
    assert list(islice(sockets.free_places(), 2)) == [ScsiPlace(3, 1), ScsiPlace(3, 3)]
