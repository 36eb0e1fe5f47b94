"""The disks of a domain in another one: what its guest sees, how it ends, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab import certificates, inject
from lab.daemon import Libvirtd, Tcp, poll
from lab.fixtures import MOUNT_POINT, BlankFactory, Cli
from lab.inject import shown
from lab.state import EXPORTS, has_job, leftovers
from lab.vms import MIB, Disk, Vm, define_blank, define_guest


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    yield
    inject.sweep()


@pytest.fixture(scope="module")
def booted_tools(libvirtd: Libvirtd) -> Iterator[Vm]:
    """A second Linux, that gets the disks; it has a SCSI controller, too."""
    connection = libvirt.open("qemu:///system")
    vm = define_guest(
        connection, "tools", [Disk("vda", 16 * MIB), Disk("sda", 16 * MIB, bus="scsi")]
    )
    vm.start()
    vm.wait_agent()
    connection.close()
    yield vm
    connection = libvirt.open("qemu:///system")  # the daemon may have been restarted
    Vm(connection.lookupByName(vm.name), vm.images, vm.serial_log).remove()
    connection.close()


@pytest.fixture
def tools(booted_tools: Vm, conn: Any) -> Iterator[Vm]:
    """A test has to leave it as it was."""
    domain = conn.lookupByName(booted_tools.name)
    vm = Vm(domain, booted_tools.images, booted_tools.serial_log)
    before = definitions(vm)
    yield vm
    assert definitions(vm) == before
    assert leftovers() == []


def definitions(vm: Vm) -> list[str]:
    """The live one and the persistent one."""
    return [vm.domain.XMLDesc(flags) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)]


def must(cli: Cli, *args: str | Path, status: int = 0) -> str:
    done = cli(*args)
    assert done.returncode == status, shown(done)
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def hotadd(cli: Cli, vm: Vm, to: Vm, *options: str | Path) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(
        must(cli, "--json", "-d", vm.name, "hotadd", "--to", to.name, *options)
    )
    return done


def device(vm: Vm, serial: str) -> str:
    """What the guest calls the disk with that serial."""
    found = vm.guest(f"grep -l ^{serial}$ /sys/block/*/serial || true").split()
    if not found:  # SCSI: in page 0x80 of the vital product data
        found = vm.guest(f"grep -l {serial} /sys/block/*/device/vpd_pg80 || true").split()
    assert len(found) == 1, f"no disk with serial {serial} in {vm.name}"
    return f"/dev/{found[0].split('/')[3]}"


def only_export() -> Path:
    (path,) = EXPORTS.iterdir()
    return path


@pytest.mark.parametrize("bus", ["virtio", "scsi"])
def test_the_guest_sees_a_frozen_disk(cli: Cli, guest: Vm, tools: Vm, bus: str) -> None:
    """Its serial, its files as they were; it can't be written to, and the source goes on."""
    guest.guest(f"dd if=/dev/urandom of={MOUNT_POINT}/data bs=1M count=8 2>/dev/null; sync")
    then = guest.guest(f"sha256sum <{MOUNT_POINT}/data")
    started = hotadd(cli, guest, tools, "--disk", "vda", "--bus", bus, "--require-freeze")
    (disk,) = started["disks"]
    assert disk["serial"].startswith("guest-vda-")
    assert len(disk["serial"]) <= 20
    assert disk["seen"] is True
    inside = device(tools, disk["serial"])
    assert disk["name"] == inside
    guest.guest(
        f"dd if=/dev/urandom of={MOUNT_POINT}/data bs=1M count=8 conv=notrunc 2>/dev/null; sync"
    )
    assert guest.guest(f"sha256sum <{MOUNT_POINT}/data") != then
    refused = tools.guest(f"dd if=/dev/zero of={inside} bs=512 count=1 conv=fsync 2>&1 || true")
    assert "not permitted" in refused or "Read-only" in refused
    tools.guest(f"mkdir -p /mnt/x && mount -t ext4 -o ro {inside} /mnt/x")
    try:
        assert tools.guest("sha256sum </mnt/x/data") == then
    finally:
        tools.guest("umount /mnt/x")
    told = must(cli, "hotremove", "--from", "tools")
    assert f"{disk['target']} of tools, disks of guest, detached" in told
    assert "released" in told
    assert not has_job(guest)


def test_what_is_told(cli: Cli, guest: Vm, tools: Vm) -> None:
    done = cli("-d", "guest", "hotadd", "--to", "tools", "--disk", "vdb")
    assert done.returncode == 0, shown(done)
    assert "disk vdb is vdb of tools (/dev/vdb in the guest), serial guest-vdb-" in done.stdout
    assert "mount -o ro /dev/disk/by-id/virtio-guest-vdb-" in done.stdout
    assert "vircpt -d guest hotremove --from tools" in done.stdout
    assert "stood frozen" in done.stderr
    (listed,) = json.loads(must(cli, "--json", "exports"))["exports"]
    assert listed["attached"] == ["tools:vdb"]
    assert [(one["kind"], one["alive"]) for one in listed["consumers"]] == [("hotadd", True)]
    assert "tools:vdb" in must(cli, "exports")
    refused = must(cli, "-d", "guest", "release", status=11)
    assert "disk vdb of domain tools" in refused
    assert "hotremove --from tools" in refused
    told = must(cli, "-d", "guest", "release", "--force")
    assert "tools:vdb ended" in told


def test_what_is_written_goes_to_the_overlay(
    cli: Cli, blank: BlankFactory, tools: Vm, tmp_path: Path
) -> None:
    """100 MiB: export and source stay as they are, byte for byte; then nothing is left."""
    source = blank("source", (Disk("vda", 160 * MIB),))
    source.write("vda", 0, 24 * MIB, 0x5A)
    source.qemu_io("vda", "flush")
    image = hashlib.sha256(source.images["vda"].read_bytes()).hexdigest()
    must(cli, "-d", "source", "export")
    must(cli, "-d", "source", "copy", tmp_path / "before.raw")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for parent in elsewhere.parents:
        parent.chmod(parent.stat().st_mode | 0o011)
    elsewhere.chmod(0o755)
    started = hotadd(cli, source, tools, "--writable", "--scratch-dir", elsewhere)
    (disk,) = started["disks"]
    assert started["made_export"] is False
    assert Path(disk["overlay"]).is_relative_to(elsewhere)
    inside = device(tools, disk["serial"])
    assert tools.guest(f"od -An -tx1 -N4 {inside}").split() == ["5a"] * 4
    tools.guest(
        f"dd if=/dev/urandom of={inside} bs=1M count=100 conv=fsync 2>/dev/null", timeout=120
    )
    assert tools.guest(f"od -An -tx1 -N64 {inside}").split() != ["5a"] * 64
    assert Path(disk["overlay"]).stat().st_size >= 100 * MIB
    must(cli, "-d", "source", "copy", tmp_path / "after.raw")
    subprocess.run(["cmp", tmp_path / "before.raw", tmp_path / "after.raw"], check=True)
    assert "released" not in must(cli, "-d", "source", "hotremove", "--from", "tools")
    assert list(elsewhere.iterdir()) == []
    must(cli, "-d", "source", "release")
    assert hashlib.sha256(source.images["vda"].read_bytes()).hexdigest() == image


def test_two_consumers_share_an_export(cli: Cli, blank: BlankFactory, tools: Vm) -> None:
    """Each with an overlay of its own; the export that was made for them goes with the last."""
    source = blank("source")
    second = blank("second", (Disk("sda", bus="scsi"),))
    (disk,) = hotadd(cli, source, tools, "--writable")["disks"]
    inside = device(tools, disk["serial"])
    tools.guest(f"echo mine | dd of={inside} conv=fsync 2>/dev/null")
    again = hotadd(cli, source, second, "--bus", "scsi", "--timeout", "0", "--writable")
    assert again["made_export"] is False
    assert again["disks"][0]["target"] == "sdb"
    assert again["disks"][0]["overlay"] != disk["overlay"]
    assert "released" not in must(cli, "hotremove", "--from", "tools")
    assert "released" in must(cli, "hotremove", "--from", "second")


def test_a_source_that_is_shut_off(cli: Cli, blank: BlankFactory, tools: Vm) -> None:
    """Its images are served by a process of vircpt's, which QEMU's user can reach as well."""
    source = blank("source", start=False)
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 0 1M", str(source.images["vda"])]
    subprocess.run(write, check=True, capture_output=True)
    (disk,) = hotadd(cli, source, tools)["disks"]
    assert tools.guest(f"od -An -tx1 -N4 {device(tools, disk['serial'])}").split() == ["5a"] * 4
    assert "released" in must(cli, "hotremove", "--from", "tools")
    inject.wait_alone()


def test_a_guest_that_does_not_let_go(cli: Cli, blank: BlankFactory) -> None:
    """No OS answers the unplug: exit in time, nothing torn down; then the VM ends."""
    source, stuck = blank("source"), blank("stuck")
    done = cli("-d", "source", "hotadd", "--to", "stuck", "--writable", "--timeout", "0.5")
    assert done.returncode == 3, shown(done)
    assert "has not looked at vdb" in done.stderr
    overlay = next((only_export() / "consumers").glob("*/vda.qcow2"))
    attached = stuck.domain.XMLDesc()
    for command in (
        ("hotremove", "--from", "stuck", "--timeout", "1"),
        ("-d", "source", "release", "--force", "--timeout", "1"),
    ):
        start = time.monotonic()
        told = must(cli, *command, status=11)
        assert time.monotonic() - start < 3
        assert "does not let the disk go" in told
        assert stuck.domain.XMLDesc() == attached
        assert has_job(source)
        stuck.qemu_io("vdb", "write 0 65536")
        assert overlay.exists()
    (listed,) = json.loads(must(cli, "--json", "exports"))["exports"]
    assert listed["attached"] == ["stuck:vdb"]
    stuck.destroy()
    (listed,) = json.loads(must(cli, "--json", "exports"))["exports"]
    assert listed["attached"] == []
    assert "has gone" in listed["note"]
    must(cli, "-d", "source", "release")
    assert leftovers() == []


def test_a_disk_that_was_attached_by_hand(cli: Cli, blank: BlankFactory, tools: Vm) -> None:
    """It is named, and detached by force."""
    blank("source")
    must(cli, "-d", "source", "export")
    socket = only_export() / "io/nbd.sock"
    tools.domain.attachDeviceFlags(
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
        f"<source protocol='nbd' name='vda'><host transport='unix' socket='{socket}'/></source>"
        "<target dev='vdq' bus='virtio'/><readonly/></disk>",
        libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )
    assert "disk vdq of domain tools" in must(cli, "-d", "source", "release", status=11)
    must(cli, "hotremove", "--from", "tools", status=10)
    must(cli, "-d", "source", "release", "--force")


# Who dies


def test_the_source_dies(cli: Cli, blank: BlankFactory, tools: Vm) -> None:
    source = blank("source")
    hotadd(cli, source, tools, "--writable")
    source.kill()
    (listed,) = json.loads(must(cli, "--json", "exports"))["exports"]
    assert (listed["state"], listed["attached"]) == ("dead", ["tools:vdb"])
    assert "I/O errors" in listed["note"]
    source.start()
    assert "in use still" in must(cli, "-d", "source", "export", status=11)
    must(cli, "-d", "source", "release")


def test_the_other_domain_dies(cli: Cli, blank: BlankFactory) -> None:
    source, other = blank("source"), blank("other", (Disk("sda", bus="scsi"),))
    for recovery in (("-d", "source", "release"), ("hotremove", "--from", "other")):
        hotadd(cli, source, other, "--bus", "scsi", "--writable", "--timeout", "0")
        other.kill()
        (listed,) = json.loads(must(cli, "--json", "exports"))["exports"]
        assert listed["attached"] == []
        must(cli, *recovery)
        assert leftovers() == []
        assert not has_job(source)
        other.start()


def test_the_other_domain_is_undefined_and_dies(cli: Cli, blank: BlankFactory) -> None:
    source, other = blank("source"), blank("other", (Disk("sda", bus="scsi"),))
    hotadd(cli, source, other, "--bus", "scsi", "--timeout", "0")
    other.undefine()
    other.destroy()
    assert "gone before" in must(cli, "hotremove", "--from", "other")
    assert leftovers() == []


def test_libvirtd_dies(cli: Cli, blank: BlankFactory, libvirtd: Libvirtd) -> None:
    """During the attach; the next commands find what came about."""
    blank("source")
    blank("other", (Disk("sda", bus="scsi"),))
    command = ("-d", "source", "hotadd", "--to", "other", "--bus", "scsi", "--writable")
    for when in ("before", "after"):
        step = f"{when}:virDomainAttachDeviceFlags"
        process = inject.stopped_at(*command, "--timeout", "0", step=step)
        libvirtd.kill()
        libvirtd.start()
        process.send_signal(signal.SIGCONT)
        done = inject.finish(process)
        assert done.returncode == (14 if when == "before" else 0), shown(done)
        must(cli, "-d", "source", "release", "--force")
        assert leftovers() == []
        connection = libvirt.open("qemu:///system")
        assert "nbd" not in connection.lookupByName("other").XMLDesc()
        assert connection.lookupByName("source").jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE
        connection.close()


def test_an_interruption_takes_all_back(cli: Cli, blank: BlankFactory) -> None:
    """While it waits for a guest that does not look."""
    source, other = blank("source"), blank("other", (Disk("sda", bus="scsi"),))
    before = other.domain.XMLDesc()
    process = inject.start(
        "-d", "source", "hotadd", "--to", "other", "--bus", "scsi", "--timeout", "60"
    )
    poll(lambda: "ua-vircpt" in other.domain.XMLDesc(), 20, "the disk")
    poll(lambda: inject.catches(process.pid, signal.SIGINT), 5, "vircpt to catch signals")
    process.send_signal(signal.SIGINT)
    done = inject.finish(process)
    assert done.returncode == 130, shown(done)
    assert other.domain.XMLDesc() == before
    assert leftovers() == []
    assert not has_job(source)


def test_nobody_can_be_told(blank: BlankFactory) -> None:
    """stdout is full: what was attached is taken back."""
    source, other = blank("source"), blank("other", (Disk("sda", bus="scsi"),))
    before = other.domain.XMLDesc()
    command = ("-d", "source", "hotadd", "--to", "other", "--bus", "scsi", "--timeout", "0")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([inject.PROGRAM, *command], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert other.domain.XMLDesc() == before
    assert leftovers() == []
    assert not has_job(source)


# Refusals


def test_what_can_not_be(cli: Cli, blank: BlankFactory, conn: Any) -> None:
    source = blank("source")
    off = blank("off", start=False)
    bare = blank("bare", start=False)
    conn.defineXML(bare.domain.XMLDesc().replace("<acpi/>", "<apic/>"))
    bare.start()
    blank("plain")
    must(cli, "-d", "source", "create", "--name", "friday")
    cases = [
        (2, "its own disks", ("--to", "source")),
        (10, "no domain 'nobody'", ("--to", "nobody")),
        (12, "is not running", ("--to", "off")),
        (12, "has no ACPI", ("--to", "bare")),
        (12, "no virtio-scsi controller", ("--to", "plain", "--bus", "scsi")),
        (10, "no disk 'vdx'", ("--to", "plain", "--disk", "vdx")),
        (10, "'monday'", ("--to", "plain", "--name", "monday")),
        (2, "Missing option '--to'", ()),
    ]
    for status, text, options in cases:
        assert text in must(cli, "-d", "source", "hotadd", *options, status=status)
        assert leftovers() == []
        assert not has_job(source)
    assert off.domain.isActive() == 0
    must(cli, "-d", "source", "export")
    for status, text, options in (
        (11, "being exported already, in full", ("--to", "plain", "--name", "friday")),
        (10, "holds no disk 'vdx'", ("--to", "plain", "--disk", "vdx")),
    ):
        assert text in must(cli, "-d", "source", "hotadd", *options, status=status)
    must(cli, "-d", "source", "release")
    assert "nothing is attached" in must(cli, "hotremove", "--from", "plain", status=10)


def fill_up(vm: Vm, image: Path) -> None:
    """Plug in the same disk again and again, until libvirt refuses."""
    for number in range(40):
        name = "vd" + chr(ord("b") + number % 25) + ("" if number < 25 else "a")
        vm.domain.attachDeviceFlags(
            f"<disk type='file' device='disk'><source file='{image}'/><readonly/>"
            f"<shareable/><target dev='{name}' bus='virtio'/></disk>",
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )


def test_no_free_slot(cli: Cli, blank: BlankFactory) -> None:
    """Also half-way: what fitted is taken back, as far as the guest lets it go."""
    source, full = blank("source"), blank("full")
    image = source.images["vda"].with_name("filler.raw")
    image.write_bytes(bytes(MIB))
    with pytest.raises(libvirt.libvirtError, match="No more available PCI slots"):
        fill_up(full, image)
    before = full.domain.XMLDesc()
    told = must(cli, "-d", "source", "hotadd", "--to", "full", status=12)
    assert "no free PCI slot" in told
    assert "pcie-root-port" in told
    assert full.domain.XMLDesc() == before
    assert leftovers() == []
    assert not has_job(source)
    full.destroy()
    image.unlink()


# Other hosts


def test_a_domain_on_another_host(cli: Cli, libvirtd: Libvirtd) -> None:
    """A Unix socket can't be reached from there; TCP with TLS can."""
    tls = certificates.make(Path("/run/lab/hotadd-tls"))
    before = libvirtd.backup_tls_directory
    libvirtd.backup_tls_directory = tls
    uri = "qemu+tcp://127.0.0.1/system"
    try:
        with libvirtd.listening(Tcp()):
            connection = libvirt.open("qemu:///system")
            source = define_blank(connection, "source")
            other = define_blank(connection, "other", (Disk("sda", bus="scsi"),))
            source.start()
            other.start()
            there = ("--to", "other", "--to-connect", uri, "--bus", "scsi", "--timeout", "0")
            told = must(cli, "-d", "source", "hotadd", *there, status=12)
            assert "on another host" in told
            assert "--tcp" in told
            assert leftovers() == []
            must(cli, "-d", "source", "export", "--tcp", "127.0.0.1:10810", "--tls-dir", tls)
            must(cli, "-d", "source", "hotadd", *there)
            assert "tls='yes'" in other.domain.XMLDesc()
            assert "disk sdb of domain other" in must(cli, "-d", "source", "release", status=11)
            (listed,) = json.loads(must(cli, "--json", "exports"))["exports"]
            assert listed["attached"] == ["other:sdb"]
            must(cli, "-d", "source", "hotremove", "--from", "other")
            assert "nbd" not in other.domain.XMLDesc()
            must(cli, "-d", "source", "release")
            source.remove()
            other.remove()
    finally:
        libvirtd.backup_tls_directory = before
        libvirtd.restart()


def test_a_socket_that_qemu_may_not_use(cli: Cli, blank: BlankFactory) -> None:
    """What file permissions do here AppArmor and SELinux do elsewhere: the rules are named."""
    blank("source")
    other = blank("other", (Disk("sda", bus="scsi"),))
    must(cli, "-d", "source", "export")
    (only_export() / "io").chmod(0o700)
    os.chown(only_export() / "io", 0, 0)
    told = must(
        cli, "-d", "source", "hotadd", "--to", "other", "--bus", "scsi", "--timeout", "0", status=12
    )
    assert "Permission denied" in told
    assert "docs/security.md" in told
    assert "nbd" not in other.domain.XMLDesc()
    must(cli, "-d", "source", "release")
