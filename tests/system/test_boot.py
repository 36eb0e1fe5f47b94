"""Throw-away clones: what boots passes, what doesn't fails, and nothing of them is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pytest

from lab import inject
from lab.daemon import Libvirtd, poll
from lab.fixtures import MOUNT_POINT, BlankFactory, Cli
from lab.state import has_job
from lab.vms import IMAGES, MIB, Disk, Vm, define_guest
from vircpt.hypervisor.clone import FileBacking
from vircpt.hypervisor.connection import Connection
from vircpt.operations.boot import BootDisk, BootSource
from vircpt.operations.boot_test import Until, Wanted
from vircpt.operations.prove import prove

CLONES = Path("/var/lib/vircpt/clones")
TPM = Path("/var/lib/libvirt/swtpm")
GOLDEN = Path(__file__).parents[1] / "unit/hypervisor/clones"


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    yield
    for domain in clones_running():
        domain.destroy()
    inject.sweep()
    for path in left():
        subprocess.run(["rm", "-r", str(CLONES / path)], check=True)


def clones_running() -> list[Any]:
    connection = libvirt.open("qemu:///system")
    return [one for one in connection.listAllDomains() if "-boot" in one.name()]


def left() -> list[str]:
    return sorted(path.name for path in CLONES.iterdir()) if CLONES.exists() else []


def nothing_left() -> None:
    assert [one.name() for one in clones_running()] == []
    assert left() == []
    inject.wait_alone()
    assert inject.leftovers() == []


def boot(cli: Cli, vm: Vm, *args: str | Path, code: int = 0) -> dict[str, Any]:
    """The report of a test, after which nothing is left."""
    done = cli("-d", vm.name, "--json", "boot", *args, timeout=120)
    assert done.returncode == code, (done.stdout, done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    nothing_left()
    return report


def must(cli: Cli, vm: Vm, *args: str | Path) -> str:
    done = cli("-d", vm.name, *args)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def running_clone() -> Vm:
    """The clone that a vircpt has started, and let go."""

    def runs() -> bool:
        return any(one.state()[0] == libvirt.VIR_DOMAIN_RUNNING for one in clones_running())

    poll(runs, 20, "the clone")
    (domain,) = clones_running()
    return Vm(domain, {}, None)


def dead_guest(conn: Any, name: str, more: str) -> Vm:
    """A guest that was never started, with another kernel command line."""
    vm = define_guest(conn, name, (Disk("vda", 64 * MIB),))
    text = vm.domain.XMLDesc().replace("</cmdline>", f" {more}</cmdline>")
    conn.defineXML(text)
    return vm


# It boots


def test_a_guest_that_boots_passes(cli: Cli, guest: Vm, tmp_path: Path) -> None:
    """And what it does to its disks is its own."""
    guest.guest(f"echo original > {MOUNT_POINT}/who; sync")
    before = guest.domain.XMLDesc()
    picture = tmp_path / "screen.png"
    check = (
        "mount -t ext4 /dev/vda /mnt && grep -q original /mnt/who && "
        "echo clone > /mnt/who && sync && grep -q clone /mnt/who"
    )
    report = boot(cli, guest, "--until", f"command:{check}", "--screenshot", picture)
    assert report["passed"]
    assert 0 < report["seconds"] < 90
    assert "LAB GUEST READY" in report["console"]
    assert report["uuid"] != guest.domain.UUIDString()
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.stat().st_mode & 0o777 == 0o600
    assert guest.guest(f"cat {MOUNT_POINT}/who").strip() == "original"
    assert guest.domain.XMLDesc() == before
    assert not has_job(guest)


def test_people_are_told(cli: Cli, guest: Vm) -> None:
    done = cli("-d", guest.name, "boot", "--until", "LAB GUEST READY", timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.match(
        r"guest boots: the console says 'LAB GUEST READY' \(.* s\)\n"
        r"the console's last lines:\n(  \| .*\n)*",
        done.stdout,
    )
    assert "file systems stood frozen" in done.stderr or "file system stood frozen" in done.stderr
    nothing_left()


def test_the_agent_answers_on_an_export_that_runs(cli: Cli, guest: Vm) -> None:
    """The export was there before, and stays."""
    must(cli, guest, "export")
    done = cli("-d", guest.name, "boot", "--until", "agent", timeout=120)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "which ran already" in done.stderr
    assert clones_running() == []
    assert left() == []
    assert has_job(guest)
    must(cli, guest, "release")
    nothing_left()


# It does not


@pytest.mark.parametrize("more", ["rdinit=/none", "rdinit=/none panic=-1"])
def test_a_kernel_that_panics_fails_at_once(cli: Cli, conn: Any, more: str) -> None:
    """Also when it reboots at once. The original is shut off, and may start afterwards."""
    vm = dead_guest(conn, "panics", more)
    try:
        report = boot(cli, vm, "--until", "agent", "--for", "90", code=4)
        assert not report["passed"]
        assert "the guest's kernel panicked: Kernel panic - not syncing" in report["reason"]
        assert any("Kernel panic" in line for line in report["console"])
        assert report["seconds"] < 60
        vm.start()
    finally:
        vm.remove()


def test_a_guest_that_hangs_fails_by_the_time(cli: Cli, blank: BlankFactory) -> None:
    report = boot(cli, blank(), "--until", "agent", "--for", "3", code=4)
    assert "within 3.000 s it did not come about" in report["reason"]
    assert "not connected" in report["reason"]
    assert 3 <= report["seconds"] < 5


@pytest.mark.parametrize("command", ["poweroff -f", "reboot -f"])
def test_a_guest_that_ends_fails_at_once(cli: Cli, guest: Vm, command: str) -> None:
    report = boot(cli, guest, "--until", f"command:{command}; sleep 100", "--for", "90", code=4)
    assert "shut down or rebooted" in report["reason"]
    assert report["seconds"] < 80


def test_a_panic_that_only_the_device_tells(blank: BlankFactory, tmp_path: Path) -> None:
    """The driver of pvpanic writes to port 0x505. The screen is there still."""
    vm = blank()
    picture = tmp_path / "panic.png"
    process = inject.start(
        "-d", vm.name, "boot", "--until", "agent", "--for", "60", "--screenshot", picture
    )
    clone = running_clone()
    clone.monitor("o /b 0x505 1")
    done = inject.finish(process)
    assert done.returncode == 4, inject.shown(done)
    assert "DOES NOT BOOT: the guest's kernel panicked" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    nothing_left()


def test_a_command_is_run_until_it_succeeds(cli: Cli, guest: Vm) -> None:
    command = "[ -e /again ] || { touch /again; exit 3; }"
    report = boot(cli, guest, "--until", f"command:{command}", "--for", "90")
    assert report["until"] == "command"
    assert report["text"] == command


def test_for_a_time(cli: Cli, blank: BlankFactory) -> None:
    report = boot(cli, blank(), "--for", "1")
    assert report["passed"]
    assert report["until"] == "time"


# It stays


def test_it_stays_until_it_is_stopped(cli: Cli, blank: BlankFactory) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb", kind="raw"), Disk("hda", kind="cdrom", bus="ide")))
    vm.write("vda", 0, MIB, 0x11)
    made = json.loads(must(cli, vm, "--json", "boot", "--memory", "48M"))
    (clone,) = clones_running()
    assert (clone.name(), clone.UUIDString()) == (made["clone"], made["uuid"])
    assert clone.isPersistent() == 0
    assert clone.info()[1] == 48 * 1024
    text = clone.XMLDesc()
    assert not any(str(image) in text for image in vm.images.values())
    assert f"{vm.name}-boot:vda" in cli("exports").stdout
    refused = cli("-d", vm.name, "release")
    assert refused.returncode == 11
    assert "boot --stop" in refused.stderr
    second = json.loads(must(cli, vm, "--json", "boot"))
    assert second["clone"] == f"{vm.name}-boot-2"
    assert second["export"] == made["export"]
    Vm(clone, {}, None).qemu_io("vda", "write -P 0x22 0 1M")
    assert vm.holds("vda", 0, MIB, 0x11)
    assert "is gone" in must(cli, vm, "boot", "--stop")
    nothing_left()
    assert not has_job(vm)
    assert cli("-d", vm.name, "boot", "--stop").returncode == 10


def test_release_by_force_ends_it(cli: Cli, blank: BlankFactory) -> None:
    vm = blank()
    must(cli, vm, "boot")
    must(cli, vm, "release", "--force")
    nothing_left()
    assert not has_job(vm)


def test_somebody_else_ends_it(cli: Cli, blank: BlankFactory) -> None:
    vm = blank()
    must(cli, vm, "boot")
    clones_running()[0].destroy()
    assert "had ended before" in must(cli, vm, "boot", "--stop")
    nothing_left()


def test_it_is_stopped_by_its_own_name_when_its_original_has_gone(
    cli: Cli, blank: BlankFactory
) -> None:
    vm = blank()
    must(cli, vm, "boot")
    vm.destroy()
    vm.undefine()
    assert cli("-d", f"{vm.name}-boot", "boot", "--stop").returncode == 0
    nothing_left()


def test_isolated_interfaces(cli: Cli, conn: Any, blank: BlankFactory) -> None:
    vm = blank(start=False)
    mac = "52:54:00:12:34:56"
    text = vm.domain.XMLDesc().replace(
        "</devices>", f"<interface type='user'><mac address='{mac}'/></interface></devices>"
    )
    conn.defineXML(text)
    must(cli, vm, "boot", "--network", "isolated")
    root = ET.fromstring(clones_running()[0].XMLDesc())
    (interface,) = root.findall("devices/interface")
    assert interface.get("type") == "udp"
    assert interface.find(f"mac[@address='{mac}']") is None
    must(cli, vm, "boot", "--stop")
    nothing_left()


def test_too_much_memory(cli: Cli, blank: BlankFactory) -> None:
    vm = blank()
    refused = cli("-d", vm.name, "boot", "--memory", "100T")
    assert refused.returncode == 12
    assert re.search("hint: give it less: --memory [0-9]+M", refused.stderr)
    nothing_left()


def test_a_screenshot_replaces_no_file(cli: Cli, blank: BlankFactory, tmp_path: Path) -> None:
    vm = blank()
    there = tmp_path / "there.png"
    there.write_text("mine")
    refused = cli("-d", vm.name, "boot", "--for", "1", "--screenshot", there)
    assert refused.returncode == 2
    assert there.read_text() == "mine"
    nothing_left()


# Firmware and TPM


def test_firmware_variables_and_tpm_state_are_copied(cli: Cli, conn: Any) -> None:
    image = IMAGES / "uefi.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    domain = conn.defineXML(f"""
      <domain type='qemu'><name>uefi</name><memory unit='MiB'>128</memory>
        <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os>
        <features><acpi/><smm state='on'/></features>
        <devices><controller type='usb' model='none'/><memballoon model='none'/>
          <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
            <source file='{image}'/><target dev='vda' bus='virtio'/></disk>
          <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
        </devices></domain>""")
    vm = Vm(domain, {"vda": image}, None)
    try:
        vm.start()
        nvram = Path(ET.fromstring(domain.XMLDesc()).findtext("os/nvram") or "")
        state = TPM / domain.UUIDString() / "tpm2/tpm2-00.permall"
        vm.destroy()
        old = nvram.read_bytes(), state.read_bytes()
        made = json.loads(must(cli, vm, "--json", "boot"))
        (clone,) = clones_running()
        copy = Path(ET.fromstring(clone.XMLDesc()).findtext("os/nvram") or "")
        assert copy.parent.parent == CLONES
        new = TPM / made["uuid"] / "tpm2/tpm2-00.permall"
        assert new.read_bytes() == old[1]  # swtpm would have set up another one
        assert len(copy.read_bytes()) == len(old[0])
        assert [one["what"] for one in made["changes"]] == []
        must(cli, vm, "boot", "--stop")
        nothing_left()
        assert not new.parent.parent.exists()
        assert (nvram.read_bytes(), state.read_bytes()) == old
    finally:
        vm.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        image.unlink()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.clone.xml")), ids=lambda path: path.stem)
def test_libvirt_takes_what_clones_are_made_of(conn: Any, path: Path) -> None:
    """The golden files, against its schema."""
    text = re.sub(r"type=.kvm.", "type='qemu'", path.read_text(), count=1)
    text = text.replace('mode="host-passthrough"', 'mode="maximum"').replace('migratable="on"', "")
    text = text.replace('mode="host-model"', 'mode="maximum"').replace('check="partial"', "")
    domain = conn.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)


# Other disks than an export's


def test_an_image_with_a_chain_below_it_boots(conn: Any) -> None:
    """As a backup may be: image files, and an XML of a domain that is not defined."""
    base, top = IMAGES / "base.qcow2", IMAGES / "top.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*create, base, "64M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x33 0 1M", base], check=True)
    subprocess.run([*create, "-F", "qcow2", "-b", base, top], check=True)
    for path in (base, top):
        path.chmod(0o644)
    vm = define_guest(conn, "backed-up", (Disk("vda", 64 * MIB),))
    text = vm.domain.XMLDesc()
    vm.remove()
    before = [(path.stat(), path.read_bytes()) for path in (base, top)]
    source = BootSource(text, (BootDisk("vda", FileBacking(str(top), "qcow2")),))
    check = "[ $(dd if=/dev/vda bs=4k count=1 | tr -d 3 | wc -c) = 0 ] && echo x > /dev/vda && sync"
    try:
        with Connection("qemu:///system") as connection:
            found = prove(connection, source, Until(Wanted.COMMAND, check), 90)
        assert found.report.passed, found.report
        after = [(path.stat(), path.read_bytes()) for path in (base, top)]
        for (old, then), (new, now) in zip(before, after, strict=True):
            assert now == then
            assert (new.st_uid, new.st_mode) == (old.st_uid, old.st_mode)
        nothing_left()
    finally:
        for path in (base, top):
            path.unlink()


# vircpt dies, others die


def recover(cli: Cli, vm: Vm, how: tuple[str, ...], where: object) -> None:
    """What a vircpt that was killed left is ended by release, or by boot --stop and release."""
    try:
        poll(lambda: not clones_running() or how != (), 5, "the clone to end")
        ended = cli("-d", vm.name, *(how or ("boot", "--stop")))
        assert ended.returncode in (0, 10), (ended.stdout, ended.stderr)
        released = cli("-d", vm.name, "release")
        assert released.returncode in (0, 10), (released.stdout, released.stderr)
        nothing_left()
        assert not has_job(vm)
    except BaseException as error:
        error.add_note(f"killed at {where}")
        raise


def test_killed_at_any_step(blank: BlankFactory, cli: Cli, tmp_path: Path) -> None:
    vm = blank()
    for _ in range(2):  # the first one makes directories that stay
        _, steps = inject.trace("-d", vm.name, "boot", file=tmp_path / "trace")
        must(cli, vm, "boot", "--stop")
    first = next(one.number for one in steps if one.name == "virDomainBackupBegin")
    wanted = [one for one in steps if one.changes and one.number > first]
    assert "virDomainCreateXML" in {one.name for one in wanted}
    for turn, step in enumerate(wanted):
        killed = inject.run("-d", vm.name, "boot", order=f"kill:{step.number}")
        assert killed.returncode == -signal.SIGKILL, inject.shown(killed)
        recover(cli, vm, ("boot", "--stop") if turn % 2 else ("release", "--force"), step)


@pytest.mark.parametrize(
    "step",
    ["after:virDomainCreateXML", "virDomainResume", "after:virDomainResume", "virDomainDestroy",
     "after:virDomainDestroy", "os.remove", "os.rmdir"],
)  # fmt: skip
def test_a_test_that_is_killed(blank: BlankFactory, cli: Cli, step: str) -> None:
    """Its clone ends by itself."""
    vm = blank()
    killed = inject.run("-d", vm.name, "boot", "--for", "1", order=f"kill:{step}")
    assert killed.returncode == -signal.SIGKILL, inject.shown(killed)
    recover(cli, vm, (), step)


def test_the_next_boot_removes_what_a_killed_test_left(
    cli: Cli, blank: BlankFactory, libvirtd: Libvirtd
) -> None:
    """libvirtd was killed as well: it has forgotten that the clone was tied to vircpt."""
    vm = blank()
    process = inject.start("-d", vm.name, "boot", "--for", "60")
    running_clone()
    libvirtd.kill()
    process.kill()
    inject.finish(process)
    libvirtd.start()
    assert [one.name() for one in clones_running()] == [f"{vm.name}-boot"]
    done = cli("-d", vm.name, "boot", "--for", "1")
    assert done.returncode == 0, done.stderr
    nothing_left()


def test_libvirtd_dies_during_a_test(cli: Cli, blank: BlankFactory, libvirtd: Libvirtd) -> None:
    vm = blank()
    process = inject.start("-d", vm.name, "boot", "--for", "60")
    running_clone()
    libvirtd.kill()
    try:
        done = inject.finish(process)
        assert done.returncode == 14, inject.shown(done)
        assert "Traceback" not in done.stderr
    finally:
        libvirtd.start()
    assert cli("-d", vm.name, "boot", "--stop").returncode == 0
    nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(blank: BlankFactory, number: signal.Signals) -> None:
    vm = blank()
    process = inject.start("-d", vm.name, "boot", "--until", "agent")
    running_clone()
    os.killpg(process.pid, number)
    done = inject.finish(process)
    assert done.returncode == 128 + number, inject.shown(done)
    nothing_left()
    assert not has_job(vm)


def test_qemu_of_the_original_dies(cli: Cli, blank: BlankFactory) -> None:
    vm = blank()
    must(cli, vm, "boot")
    vm.kill()
    assert cli("-d", vm.name, "boot", "--stop").returncode == 0
    nothing_left()
