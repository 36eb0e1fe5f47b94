"""Messages of libvirt and QEMU caused for real, and what `doctor --explain` makes of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab.daemon import LabError, poll
from lab.fixtures import BlankFactory, Cli
from lab.state import has_job
from lab.vms import IMAGES, Disk, Vm, define_blank, disk_xml

Explained = Callable[[str], str]
PULL = "<domainbackup mode='pull'>{}<server transport='unix' socket='{}'/>{}</domainbackup>"
SOCKET = "/var/lib/libvirt/qemu/theirs.sock"


@pytest.fixture
def explained(cli: Cli) -> Explained:
    def explain(text: str) -> str:
        done = cli("doctor", "--explain", text)
        assert done.returncode == 0, f"nobody knows {text!r}"
        return done.stdout.partition("]")[0].removeprefix("[")

    return explain


def checkpoint(vm: Vm, name: str, flags: int = 0) -> None:
    vm.domain.checkpointCreateXML(
        f"<domaincheckpoint><name>{name}</name></domaincheckpoint>", flags
    )


def backup(vm: Vm, since: str = "", disks: str = "", socket: str = SOCKET) -> None:
    base = f"<incremental>{since}</incremental>" if since else ""
    vm.domain.backupBegin(PULL.format(base, socket, disks), None)


def refusal(act: Callable[[], object]) -> str:
    """What libvirt says when it refuses."""
    with pytest.raises(libvirt.libvirtError) as error:
        act()
    return str(error.value)


def said(*command: str | Path) -> str:
    """What a tool says when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode
    return done.stdout + done.stderr


def scratch(path: str) -> str:
    return f"<disks><disk name='vda' type='file'><scratch file='{path}'/></disk></disks>"


def test_on_checkpoints(blank: BlankFactory, explained: Explained) -> None:
    vm = blank()
    checkpoint(vm, "one")
    assert explained(refusal(lambda: checkpoint(vm, "one"))) == "checkpoint-exists"
    assert explained(refusal(lambda: backup(vm, "nosuch"))) == "checkpoint-unknown"
    vm.domain.checkpointLookupByName("one").delete(
        libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
    )
    assert explained(refusal(lambda: checkpoint(vm, "one"))) == "bitmap-exists"
    checkpoint(vm, "two")
    vm.destroy()
    assert explained(refusal(vm.domain.undefine)) == "domain-has-checkpoints"
    assert explained(refusal(lambda: checkpoint(vm, "three"))) == "domain-not-running"
    subprocess.run(["qemu-img", "bitmap", "--remove", vm.images["vda"], "two"], check=True)
    vm.start()
    assert explained(refusal(lambda: backup(vm, "two"))) == "broken-bitmap"
    delete = vm.domain.checkpointLookupByName("two").delete
    assert explained(refusal(delete)) in ("not-in-backing-chain", "broken-bitmap")


def test_on_backups(blank: BlankFactory, explained: Explained) -> None:
    vm = blank()
    checkpoint(vm, "one")
    vm.monitor(f"nbd_server_start unix:{SOCKET}")
    assert explained(refusal(lambda: backup(vm, socket=f"{SOCKET}2"))) == "nbd-server-runs"
    vm.monitor("nbd_server_stop")
    existing = IMAGES / "there"
    existing.touch()
    assert explained(refusal(lambda: backup(vm, disks=scratch(str(existing))))) == "scratch-exists"
    existing.unlink()
    nowhere = scratch("/nowhere/scratch")
    assert explained(refusal(lambda: backup(vm, disks=nowhere))) == "scratch-no-directory"
    unnamed = "<disks><disk name='vda' type='file'/></disks>"
    assert explained(refusal(lambda: backup(vm, disks=unnamed))) == "scratch-unnamed"
    denied = refusal(lambda: backup(vm, socket="/root/x/s"))
    assert explained(denied) == "socket-permission"
    tls = "<domainbackup mode='pull'><server transport='tcp' tls='yes' name='127.0.0.1' port='1'/>"
    begin = vm.domain.backupBegin
    assert explained(refusal(lambda: begin(f"{tls}</domainbackup>", None))) == "tls-unset"
    backup(vm)
    size = 2 * vm.domain.blockInfo("vda")[0]
    resize = vm.domain.blockResize
    told = refusal(lambda: resize("vda", size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES))
    assert explained(told) == "disk-in-use"
    detach = vm.domain.detachDevice
    assert (
        explained(refusal(lambda: detach(disk_xml(Disk("vda"), vm.images["vda"])))) == "job-active"
    )
    uri = f"nbd+unix:///nosuch?socket={SOCKET}"
    assert explained(said("qemu-img", "info", uri)) == "export-unknown"
    vm.domain.abortJob()
    poll(lambda: not has_job(vm), 10, "the job to end")
    assert explained(said("qemu-img", "info", uri)) == "export-gone"
    assert explained(said("nbdinfo", uri)) == "export-gone"


def test_on_images(blank: BlankFactory, conn: Any, explained: Explained) -> None:
    vm = blank()
    image = vm.images["vda"]
    assert explained(said("qemu-img", "bitmap", "--add", image, "x")) == "image-locked"
    vm.monitor("savevm s")
    checkpoint(vm, "one")
    with pytest.raises(LabError) as error:
        vm.monitor("loadvm s")
    assert explained(str(error.value)) == "revert-with-bitmaps"
    vm.destroy()
    good = image.read_bytes()
    with image.open("r+b") as file:
        file.seek(79)
        file.write(b"\x02")  # the bit of incompatible features that says corrupt
    assert explained(refusal(vm.start)) == "image-corrupt"
    image.write_bytes(bytes(1 << 20))
    assert explained(refusal(vm.start)) == "image-wrong-format"
    image.unlink()
    assert explained(refusal(vm.start)) == "image-missing"
    image.write_bytes(good)
    unsafe = ["qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "/nowhere/base", str(image)]
    subprocess.run(unsafe, check=True)
    assert explained(refusal(vm.start)) == "image-missing"
    old = blank("old", (Disk("vda", kind="qcow2-v2"),))
    assert explained(refusal(lambda: checkpoint(old, "one"))) == "qcow2-v2"
    raw = blank("raw", (Disk("vda", kind="raw"),))
    xml = (
        "<domaincheckpoint><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>"
    )
    assert explained(refusal(lambda: raw.domain.checkpointCreateXML(xml))) == "raw-bitmap"


def test_on_domains(blank: BlankFactory, conn: Any, explained: Explained) -> None:
    vm = blank()
    assert explained(refusal(vm.domain.fsFreeze)) == "agent-unreachable"
    stiff = define_blank(conn, "stiff")
    conn.defineXML(stiff.domain.XMLDesc().replace("<acpi/>", ""))
    extra = IMAGES / "extra.qcow2"
    Disk("vdb").create_image(extra)
    try:
        stiff.start()
        attach = stiff.domain.attachDevice
        told = refusal(lambda: attach(disk_xml(Disk("vdb"), extra)))
        assert explained(told) == "no-hotplug"
    finally:
        stiff.remove()
        extra.unlink()


def test_on_hosts(explained: Explained) -> None:
    open_uri = libvirt.open
    assert explained(refusal(lambda: open_uri("qemu+tcp://127.0.0.1:1/system"))) == "daemon-down"
    assert explained(refusal(lambda: open_uri("nosuch:///"))) == "driver-absent"
    if not Path("/sys/module/nbd").exists():
        assert explained(said("modprobe", "nbd")) == "nbd-module"


def test_what_nobody_knows(cli: Cli) -> None:
    done = cli("doctor", "--explain", "the moon is full")
    assert done.returncode == 10
    assert "not known" in done.stderr
    assert (
        cli(
            "doctor", "--explain", "-", input="\x00\udcff".encode(errors="replace").decode()
        ).returncode
        == 10
    )


def test_from_stdin_without_a_libvirt(cli: Cli) -> None:
    log = 'line\nerror: Failed to get "write" lock\nIs another process using the image?\n'
    done = cli("-c", "qemu+tcp://127.0.0.1:1/system", "doctor", "--explain", "-", input=log)
    assert done.returncode == 0
    assert done.stdout.startswith("[image-locked]")
