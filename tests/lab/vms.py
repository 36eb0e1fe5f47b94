"""Small VMs for tests and the demo: without a guest, or with Linux and an agent.

Works on any libvirt connection: the lab's daemon or `qemu:///embed?root=DIR`. It must not use
vircpt: what tests vircpt has to see with its own eyes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import libvirt
import libvirt_qemu

from .daemon import LabError, poll

KIB = 1024
MIB = 1024 * KIB
IMAGES = Path("/var/lib/libvirt/images")
AGENT_CHANNEL = "org.qemu.guest_agent.0"
READY = "LAB GUEST READY"

Kind = Literal["qcow2", "qcow2-v2", "raw", "cdrom", "floppy"]
Bus = Literal["virtio", "scsi", "ide", "fdc"]


@dataclass(frozen=True)
class Disk:
    """A disk to be; size in bytes. A cdrom and a floppy are empty drives: they have no image."""

    target: str
    size: int = 64 * MIB
    kind: Kind = "qcow2"
    bus: Bus = "virtio"

    @property
    def has_image(self) -> bool:
        return self.kind not in ("cdrom", "floppy")

    @property
    def format(self) -> str:
        return "raw" if self.kind == "raw" or not self.has_image else "qcow2"

    def create_image(self, path: Path) -> None:
        options = ["-o", "compat=0.10"] if self.kind == "qcow2-v2" else []
        create = ["qemu-img", "create", "-q", "-f", self.format, *options]
        subprocess.run([*create, str(path), str(self.size)], check=True)


class Vm:
    """A domain of the lab, and all that a test does to it from outside and from inside."""

    def __init__(self, domain: Any, images: dict[str, Path], serial_log: Path | None) -> None:
        self.domain = domain
        self.images = images
        self.serial_log = serial_log

    @property
    def name(self) -> str:
        return str(self.domain.name())

    # Its life

    def start(self) -> None:
        self.domain.create()

    def destroy(self) -> None:
        """Pull the plug; nothing happens if it is off."""
        if not self.domain.isActive():
            return
        try:
            self.domain.destroy()
        except libvirt.libvirtError:  # sees QEMU die, and calls that "not running"
            if self.domain.isActive():
                raise

    def undefine(self) -> None:
        """With the metadata of its checkpoints; the bitmaps in the images stay."""
        self.domain.undefineFlags(
            libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        )

    def remove(self) -> None:
        """Leave nothing: process, definition, images. A test may have undefined it already."""
        try:
            self.destroy()
            self.undefine()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        for image in self.images.values():
            image.unlink(missing_ok=True)
        if self.serial_log:
            self.serial_log.unlink(missing_ok=True)

    def pid(self) -> int:
        """Of its QEMU."""
        mark = f"\0-uuid\0{self.domain.UUIDString()}\0".encode()
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (directory / "cmdline").read_bytes():
                    return int(directory.name)
            except (FileNotFoundError, ProcessLookupError):
                continue
        raise LabError(f"{self.name} has no QEMU process")

    def kill(self) -> None:
        """SIGKILL to QEMU; returns when libvirt has seen it."""
        os.kill(self.pid(), signal.SIGKILL)
        poll(lambda: not self.domain.isActive(), 20, f"libvirt to see that {self.name} is dead")

    # Its disks, written from outside

    def write(self, target: str, offset: int, length: int, pattern: int = 0xAA) -> None:
        """Fill length bytes from offset with the byte `pattern`, as a guest would.

        :raise LabError: it did not arrive in the image.
        """
        self.qemu_io(target, f"write -P {pattern:#x} {offset} {length}")
        self._must_hold(target, offset, length, pattern)

    def write_zeroes(self, target: str, offset: int, length: int) -> None:
        self.qemu_io(target, f"write -z {offset} {length}")
        self._must_hold(target, offset, length, 0)

    def discard(self, target: str, offset: int, length: int) -> None:
        """In qcow2, whole clusters read as zeroes then; a raw image may keep what was there."""
        self._check_range(target, offset, length)
        self.qemu_io(target, f"discard {offset} {length}")

    def holds(self, target: str, offset: int, length: int, pattern: int) -> bool:
        """Whether that range holds only the byte `pattern`; read from the image, not by QEMU."""
        self._check_range(target, offset, length)
        self.qemu_io(target, "flush")
        image, image_format = self._source(target)
        read = f"read -P {pattern:#x} {offset} {length}"
        command = ["qemu-io", "-r", "-U", "-f", image_format, "-c", read, image]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode and "verification failed" not in result.stdout + result.stderr:
            raise LabError(f"cannot read {image}: {result.stdout}{result.stderr}")
        return result.returncode == 0

    def qemu_io(self, target: str, command: str) -> None:
        """Run a qemu-io command on the device of the running QEMU.

        Its output and its errors go to QEMU's stdout, which nobody sees before QEMU ends: look at
        the image afterwards.

        :raise LabError: QEMU does not know the device.
        """
        self.monitor(f'qemu-io -d {self._device_path(target)} "{command}"')

    def monitor(self, command: str) -> str:
        """Run a command of QEMU's human monitor.

        :raise LabError: the monitor answered with an error.
        """
        flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        answer = str(libvirt_qemu.qemuMonitorCommand(self.domain, command, flags))
        if re.match(r"(?i)error:|unknown command|.*usage:", answer):
            raise LabError(f"{command}: {answer.strip()}")
        return answer

    def _must_hold(self, target: str, offset: int, length: int, pattern: int) -> None:
        if not self.holds(target, offset, length, pattern):
            raise LabError(f"{self.name}: {length} bytes at {offset} did not arrive in {target}")

    def _check_range(self, target: str, offset: int, length: int) -> None:
        capacity = self.domain.blockInfo(target)[0]
        if not 0 <= offset < offset + length <= capacity:
            range_text = f"{length} bytes at {offset}"
            raise LabError(f"{self.name}: {range_text} are not inside {target}, {capacity} bytes")

    def _device_path(self, target: str) -> str:
        disk = self._disk(target)
        path = f"/machine/peripheral/{_attribute(disk, 'alias', 'name')}"
        return f"{path}/virtio-backend" if _attribute(disk, "target", "bus") == "virtio" else path

    def _source(self, target: str) -> tuple[str, str]:
        """The active image of a disk, which an external snapshot changes, and its format."""
        disk = self._disk(target)
        return str(_attribute(disk, "source", "file")), str(_attribute(disk, "driver", "type"))

    def _disk(self, target: str) -> ET.Element:
        for disk in ET.fromstring(self.domain.XMLDesc()).iter("disk"):
            if _attribute(disk, "target", "dev") == target:
                return disk
        raise LabError(f"{self.name} has no disk {target}")

    # Its guest

    def agent(self, command: str, timeout: int = 20, **arguments: object) -> Any:
        """One command to the guest agent; what it returned.

        :raise libvirt.libvirtError: no agent, no answer, or a refusal.
        """
        request = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuAgentCommand(self.domain, request, timeout, 0))["return"]

    def wait_agent(self, timeout: float = 90) -> None:
        def answers() -> bool:
            try:
                self.agent("guest-ping", timeout=5)
            except libvirt.libvirtError:
                if not self.domain.isActive():
                    raise LabError(f"{self.name} went down:\n{self.serial()}") from None
                return False
            return True

        try:
            poll(answers, timeout, f"the agent of {self.name}")
        except LabError as error:
            raise LabError(f"{error}; its console:\n{self.serial()}") from None

    def guest(self, command: str, input: str | None = None, timeout: float = 60) -> str:  # noqa: A002
        """Run `sh -c command` in the guest; its standard output.

        :raise LabError: it ended with another status than 0; the message has its stderr.
        """
        arguments: dict[str, Any] = {"path": "/bin/sh", "arg": ["-c", command]}
        if input is not None:
            arguments["input-data"] = base64.b64encode(input.encode()).decode()
        started = self.agent("guest-exec", **arguments, **{"capture-output": True})
        status = self._wait_for_command(started["pid"], command, timeout)
        output, errors = (_decoded(status.get(key)) for key in ("out-data", "err-data"))
        if status.get("exitcode") != 0:
            how = status.get("exitcode", f"signal {status.get('signal')}")
            raise LabError(f"in {self.name}: {command!r} ended with {how}: {errors or output}")
        return output

    def _wait_for_command(self, pid: int, command: str, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            status: dict[str, Any] = self.agent("guest-exec-status", pid=pid)
            if status["exited"]:
                return status
            if time.monotonic() > deadline:
                raise LabError(f"in {self.name}: {command!r} still runs after {timeout:g} s")
            time.sleep(0.02)  # the agent has no event for it

    def serial(self) -> str:
        """What the guest wrote on its console so far."""
        if self.serial_log is None or not self.serial_log.exists():
            return ""
        return self.serial_log.read_text(errors="replace")


def define_blank(
    connection: Any,
    name: str,
    disks: Sequence[Disk] = (Disk("vda"),),
    *,
    directory: Path = IMAGES,
    memory: int = 32 * MIB,
) -> Vm:
    """A VM without a guest: its disks are written through Vm.write() only. Defined, not started."""
    return _define(connection, _domain(name, memory), name, disks, directory)


def define_guest(
    connection: Any,
    name: str,
    disks: Sequence[Disk] = (Disk("vda", 256 * MIB),),
    *,
    directory: Path = IMAGES,
    memory: int = 256 * MIB,
    assets: Path | None = None,
) -> Vm:
    """A VM that boots Linux from memory and runs a guest agent as root. Defined, not started."""
    domain = _domain(name, memory)
    serial_log = _file(directory, name, "console.log")
    _boot_linux(domain, assets or find_assets())
    _give_entropy(domain)
    _add_console(domain, serial_log)
    _add_agent_channel(domain)
    return _define(connection, domain, name, disks, directory, serial_log)


def find_assets() -> Path:
    """The directory with kernel, initramfs and cmdline, made by tests/lab/assets.py."""
    cache = os.environ.get("VIRCPT_LAB_CACHE", str(Path(__file__).parents[2] / ".lab"))
    assets = Path(os.environ.get("VIRCPT_LAB_ASSETS", f"{cache}/assets"))
    if not (assets / "initramfs").exists():
        raise LabError("the lab's kernel and initramfs are not there: run script/setup")
    return assets


def disk_xml(disk: Disk, image: Path | None) -> str:
    """The <disk> element, for attachDevice too."""
    return ET.tostring(_disk_element(disk, image), encoding="unicode")


def _define(
    connection: Any,
    domain: ET.Element,
    name: str,
    disks: Sequence[Disk],
    directory: Path,
    serial_log: Path | None = None,
) -> Vm:
    devices = domain.find("devices")
    assert devices is not None
    images: dict[str, Path] = {}
    for disk in disks:
        if disk.has_image:
            suffix = "img" if disk.kind == "raw" else "qcow2"
            images[disk.target] = _file(directory, name, f"{disk.target}.{suffix}")
            disk.create_image(images[disk.target])
        devices.append(_disk_element(disk, images.get(disk.target)))
    if any(disk.bus == "scsi" for disk in disks):
        ET.SubElement(devices, "controller", type="scsi", model="virtio-scsi")
    defined = connection.defineXML(ET.tostring(domain, encoding="unicode"))
    return Vm(defined, images, serial_log)


def _domain(name: str, memory: int) -> ET.Element:
    """The least that QEMU starts with; TCG (type='qemu'), as KVM may be there and not work."""
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = name
    ET.SubElement(domain, "memory", unit="KiB").text = str(memory // KIB)
    os_element = ET.SubElement(domain, "os")
    ET.SubElement(os_element, "type", arch="x86_64", machine="pc").text = "hvm"
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")  # PCI hotplug needs it
    devices = ET.SubElement(domain, "devices")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    return domain


def _boot_linux(domain: ET.Element, assets: Path) -> None:
    os_element = domain.find("os")
    assert os_element is not None
    ET.SubElement(os_element, "kernel").text = str(assets / "kernel")
    ET.SubElement(os_element, "initrd").text = str(assets / "initramfs")
    ET.SubElement(os_element, "cmdline").text = (assets / "cmdline").read_text().strip()


def _give_entropy(domain: ET.Element) -> None:
    """Without a source of it, mkfs.ext4 waits 4 s for randomness in a guest just booted."""
    cpu = ET.SubElement(domain, "cpu", mode="custom", match="exact", check="none")
    ET.SubElement(cpu, "model").text = "qemu64"
    ET.SubElement(cpu, "feature", policy="require", name="rdrand")


def _devices(domain: ET.Element) -> ET.Element:
    devices = domain.find("devices")
    assert devices is not None
    return devices


def _add_console(domain: ET.Element, log: Path) -> None:
    serial = ET.SubElement(_devices(domain), "serial", type="file")
    ET.SubElement(serial, "source", path=str(log))


def _add_agent_channel(domain: ET.Element) -> None:
    channel = ET.SubElement(_devices(domain), "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name=AGENT_CHANNEL)


def _disk_element(disk: Disk, image: Path | None) -> ET.Element:
    if disk.kind == "cdrom":
        element = ET.Element("disk", type="file", device="cdrom")
        ET.SubElement(element, "target", dev=disk.target, bus="ide")
    elif disk.kind == "floppy":
        element = ET.Element("disk", type="file", device="floppy")
        ET.SubElement(element, "target", dev=disk.target, bus="fdc")
    else:
        element = ET.Element("disk", type="file", device="disk")
        ET.SubElement(element, "driver", name="qemu", type=disk.format, discard="unmap")
        ET.SubElement(element, "source", file=str(image))
        ET.SubElement(element, "target", dev=disk.target, bus=disk.bus)
    return element


def _file(directory: Path, name: str, suffix: str) -> Path:
    """A name may hold anything and be too long for a file: keep the part that is harmless."""
    return directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:100]}-{suffix}"


def _attribute(parent: ET.Element, child: str, attribute: str) -> str | None:
    element = parent.find(child)
    return None if element is None else element.get(attribute)


def _decoded(data: str | None) -> str:
    return base64.b64decode(data or "").decode(errors="replace")
