"""The definition of a clone: golden files, and what no clone may ever have.

`VIRCPT_GOLDEN=write script/test unit -k clone` writes the golden files anew: read the diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.hypervisor.clone import (
    CloneDisk,
    CloneSpec,
    Definition,
    FileBacking,
    NbdBacking,
    Network,
    define,
    read_original,
)

DIRECTORY = Path(__file__).parent / "clones"
NAMES = ("virt-manager", "old-server", "exotic", "direct-kernel")
PLACE = "/var/lib/vircpt/clones/0123abcd"
SOCKET = "/var/lib/vircpt/exports/89abcdef/io/nbd.sock"
READ_ONLY = re.compile(
    r"/usr/share/OVMF/OVMF_CODE_4M[.\w]*|/usr/share/OVMF/OVMF_VARS_4M.ms.fd|/srv/acpi/slic.dat"
    r"|/usr/bin/qemu-system-x86_64|/var/lib/libvirt/boot/(vmlinuz|initrd)|/dev/urandom"
)
"""Paths of the original that a clone may name: nothing writes there."""


def original(name: str) -> str:
    return (DIRECTORY / f"{name}.xml").read_text()


def spec(*targets: str, network: Network = Network.NONE, test: bool = False) -> CloneSpec:
    macs, ports = count(1), count(40001)
    return CloneSpec(
        id="0123abcd",
        name="x-boot",
        uuid="00000000-1111-4222-8333-444444444444",
        genid="00000000-1111-4222-8333-555555555555",
        disks=[CloneDisk(one, f"{PLACE}/{one}.qcow2", NbdBacking(SOCKET, one)) for one in targets],
        nvram=f"{PLACE}/nvram.fd",
        new_mac=lambda: f"52:54:00:00:00:{next(macs):02x}",
        local_port=lambda: next(ports),
        network=network,
        test=test,
    )


SPECS = {
    "virt-manager": spec("sda"),
    "old-server": replace(
        spec("vda", "vdb", network=Network.ISOLATED, test=True), agent=True, screen=True
    ),
    "exotic": replace(spec("vda", "sda", network=Network.ISOLATED, test=True), screen=True),
    "direct-kernel": spec("vda", test=True),
}


def defined(name: str) -> Definition:
    return define(original(name), SPECS[name])


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    found = defined(name)
    told = "".join(f"{one.what}: {one.why}\n" for one in found.changes)
    for ending, text in ((".clone.xml", found.xml), (".changes.txt", told)):
        path = DIRECTORY / f"{name}{ending}"
        if os.environ.get("VIRCPT_GOLDEN") == "write":
            path.write_text(text)
        assert text == path.read_text()


# What no clone may have


def values(text: str) -> Iterator[str]:
    for element in ET.fromstring(text).iter():
        yield (element.text or "").strip()
        yield from element.attrib.values()


def is_harmless(value: str) -> bool:
    return (
        not value.startswith("/")
        or value.startswith((PLACE, SOCKET))
        or bool(READ_ONLY.fullmatch(value))
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_names_no_path_of_the_original_that_is_written(name: str) -> None:
    assert [one for one in values(defined(name).xml) if not is_harmless(one)] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_shares_no_identity_with_the_original(name: str) -> None:
    found = ET.fromstring(defined(name).xml)
    old = ET.fromstring(original(name))
    for path in ("uuid", "name", "genid"):
        assert found.findtext(path) != old.findtext(path) or old.find(path) is None
    assert found.find("sysinfo/system/entry[@name='uuid']") is None
    macs = {one.get("address") for one in old.iter("mac")}
    assert not macs & {one.get("address") for one in found.iter("mac")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", list(Network))
def test_no_interface_reaches_anybody(name: str, network: Network) -> None:
    text = define(original(name), replace(SPECS[name], network=network)).xml
    found = ET.fromstring(text).findall("devices/interface")
    if network is Network.NONE:
        assert found == []
    for one in found:
        assert one.get("type") == "udp"
        source = one.find("source")
        assert source is not None
        assert (source.get("address"), source.get("port")) == ("127.0.0.1", "9")


@pytest.mark.parametrize("name", NAMES)
def test_all_that_listens_is_a_private_socket(name: str) -> None:
    found = ET.fromstring(defined(name).xml)
    for one in found.findall("devices/graphics"):
        assert one.attrib == {"type": "vnc"}
        assert [listen.attrib for listen in one] == [{"type": "socket"}]
    for one in [*found.findall("devices/serial"), *found.findall("devices/console")]:
        assert one.attrib == {"type": "pty"}
    assert "passwd" not in defined(name).xml


def test_a_clone_of_a_clone_is_the_same() -> None:
    """What is left is known to be harmless; so it stays."""
    first = defined("virt-manager").xml
    assert define(first, SPECS["virt-manager"]).xml == first.replace(
        'of="5a6d1f1e-8c9e-4d0e-9d52-0a8f5e1c7b11"', f'of="{SPECS["virt-manager"].uuid}"'
    )


def test_another_size_of_memory() -> None:
    found = define(original("old-server"), replace(SPECS["old-server"], memory=512 * 2**20))
    root = ET.fromstring(found.xml)
    for tag in ("memory", "currentMemory"):
        element = root.find(tag)
        assert element is not None
        assert (element.get("unit"), element.text) == ("KiB", "524288")
    assert root.find("maxMemory") is None
    assert root.find("cpu/numa") is None
    assert root.find("devices/memory") is None
    assert {"numa", "memory dimm"} <= {one.what for one in found.changes}


def test_an_image_file_below_the_overlay() -> None:
    disk = CloneDisk("vda", f"{PLACE}/vda.qcow2", FileBacking("/backup/full.qcow2", "qcow2"))
    found = define(original("direct-kernel"), replace(SPECS["direct-kernel"], disks=[disk]))
    backing = ET.fromstring(found.xml).find("devices/disk/backingStore")
    assert backing is not None
    assert backing.get("type") == "file"
    source = backing.find("source")
    assert source is not None
    assert source.get("file") == "/backup/full.qcow2"
    label = source.find("seclabel")
    assert label is not None
    assert label.get("relabel") == "no"
    assert backing.find("backingStore") is None  # libvirt looks what is below


def test_firmware_that_libvirt_chooses_writes_to_our_file() -> None:
    text = original("direct-kernel").replace("<os>", "<os firmware='efi'>")
    found = ET.fromstring(define(text, SPECS["direct-kernel"]).xml)
    assert found.findtext("os/nvram") == f"{PLACE}/nvram.fd"
    assert found.find("os[@firmware='efi']") is not None


def test_no_panic_device_where_there_is_no_isa_bus() -> None:
    text = original("direct-kernel").replace("x86_64", "aarch64")
    assert "panic" not in define(text, SPECS["direct-kernel"]).xml


# The original's facts


def test_facts() -> None:
    found = read_original(original("virt-manager"))
    assert (found.name, found.memory, found.tpm) == ("win11", 8 * 2**30, True)
    assert found.nvram == "/var/lib/libvirt/qemu/nvram/win11_VARS.fd"
    assert found.targets == ("sda",)
    assert read_original(original("exotic")).nvram == "/srv/nvram/exotic.fd"
    assert not read_original(original("exotic")).tpm
    assert read_original(original("old-server")).memory == 9 * 2**30
    assert read_original(original("direct-kernel")).memory == 256 * 2**20


@given(st.integers(1, 10**9), st.sampled_from(["b", "KiB", "MB", "G", None]))
def test_units_of_memory(number: int, unit: str | None) -> None:
    sizes = {"b": 1, "KiB": 1024, "MB": 10**6, "G": 2**30, None: 1024}
    attribute = f" unit='{unit}'" if unit else ""
    text = f"<domain><memory{attribute}>{number}</memory></domain>"
    assert read_original(text).memory == number * sizes[unit]
