"""The lab's own tests: that what the other system tests stand on is real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab.daemon import LabError, Libvirtd, Tcp
from lab.fixtures import MOUNT_POINT, BlankFactory
from lab.vms import MIB, Disk, Vm

TESTS = Path(__file__).parents[1]
EVERY_KIND = (
    Disk("vda"),
    Disk("vdb", kind="raw"),
    Disk("vdc", kind="qcow2-v2"),
    Disk("sda", bus="scsi"),
    Disk("hda", kind="cdrom"),
    Disk("fda", kind="floppy"),
)


def checkpoint_size(vm: Vm, name: str, target: str) -> int:
    """What libvirt says has changed on a disk since a checkpoint, in bytes."""
    checkpoint = vm.domain.checkpointLookupByName(name)
    xml = ET.fromstring(checkpoint.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE))
    disk = xml.find(f"disks/disk[@name='{target}']")
    assert disk is not None
    return int(disk.attrib["size"])


def create_checkpoint(vm: Vm, name: str) -> None:
    vm.domain.checkpointCreateXML(f"<domaincheckpoint><name>{name}</name></domaincheckpoint>")


def test_the_daemon_is_ours(libvirtd: Libvirtd, conn: Any) -> None:
    assert conn.getURI() == "qemu:///system"
    assert "libvirt version" in libvirtd.log()
    assert not Path("/dev/kvm").exists()


def test_vms_outlive_the_daemon(libvirtd: Libvirtd, blank: BlankFactory) -> None:
    vm = blank("survivor")
    pid = vm.pid()
    libvirtd.kill()
    libvirtd.start()
    connection = libvirt.open("qemu:///system")
    assert connection.lookupByName("survivor").isActive()
    assert vm.pid() == pid
    connection.close()


def test_qemu_is_not_root(blank: BlankFactory) -> None:
    owner = Path(f"/proc/{blank().pid()}").stat().st_uid
    assert owner == Path("/var/lib/libvirt/qemu").stat().st_uid != 0


def test_every_kind_of_disk_takes_writes(blank: BlankFactory) -> None:
    vm = blank('n&me "in" <need> of quoting', EVERY_KIND)
    for target in ("vda", "vdb", "vdc", "sda"):
        vm.write(target, MIB, 65536)
        assert vm.holds(target, MIB, 65536, 0xAA)
        assert not vm.holds(target, MIB, 65537, 0xAA)
        vm.write_zeroes(target, MIB, 65536)
        assert vm.holds(target, MIB, 65536, 0)


def test_a_write_that_misses_the_disk_is_an_error(blank: BlankFactory) -> None:
    vm = blank()
    with pytest.raises(LabError, match="not inside vda"):
        vm.write("vda", 64 * MIB, 512)
    with pytest.raises(LabError, match="no disk vdz"):
        vm.write("vdz", 0, 512)
    with pytest.raises(LabError, match="unknown command"):
        vm.monitor("frobnicate")


def test_a_checkpoint_sees_writes(blank: BlankFactory) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    create_checkpoint(vm, "one")
    assert checkpoint_size(vm, "one", "vda") == 0
    vm.write("vda", 10 * MIB, 2 * 65536)
    assert checkpoint_size(vm, "one", "vda") == 2 * 65536
    vm.discard("vda", 20 * MIB, 65536)
    assert checkpoint_size(vm, "one", "vda") == 3 * 65536
    assert checkpoint_size(vm, "one", "vdb") == 0


def test_killing_qemu_is_seen(blank: BlankFactory) -> None:
    vm = blank()
    vm.kill()
    assert vm.domain.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF
    with pytest.raises(LabError, match="no QEMU"):
        vm.pid()


def test_the_agent_runs_commands(guest: Vm) -> None:
    assert guest.guest("cat; echo and more", input="some text\n") == "some text\nand more\n"
    with pytest.raises(LabError, match=r"ended with 3: it went wrong"):
        guest.guest("echo it went wrong >&2; exit 3")


def test_the_guest_has_a_file_system(guest: Vm) -> None:
    guest.guest(f"echo hello >{MOUNT_POINT}/greeting && sync")
    assert f"/dev/vda {MOUNT_POINT} ext4 " in guest.guest("cat /proc/mounts")
    create_checkpoint(guest, "one")
    guest.guest(f"dd if=/dev/urandom of={MOUNT_POINT}/noise bs=1M count=1 conv=fsync")
    assert checkpoint_size(guest, "one", "vda") >= MIB


def test_checkpoints_of_the_shared_guest_are_gone(guest: Vm) -> None:
    assert guest.domain.listAllCheckpoints() == []


def test_freezing_is_real(guest: Vm) -> None:
    assert guest.agent("guest-fsfreeze-freeze") == 1
    try:
        assert guest.agent("guest-fsfreeze-status") == "frozen"
    finally:
        assert guest.agent("guest-fsfreeze-thaw") == 1
    assert guest.agent("guest-fsfreeze-status") == "thawed"


@pytest.mark.parametrize("module", ["xfs", "btrfs", "dm_mod"])
def test_the_guest_knows_other_storage(guest: Vm, module: str) -> None:
    guest.guest(f"modprobe {module}")
    assert module in guest.guest("lsmod")


def test_the_daemon_listens_on_tcp(libvirtd: Libvirtd) -> None:
    with libvirtd.listening(Tcp()):
        connection = libvirt.open("qemu+tcp://127.0.0.1/system")
        assert connection.isAlive()
        connection.close()


def test_sasl_lets_in_who_knows_the_password(libvirtd: Libvirtd, tmp_path: Path) -> None:
    tcp = Tcp(auth="sasl")
    with libvirtd.listening(tcp):
        right = list_over_tcp(tmp_path / "right", tcp.user, tcp.password)
        assert right.returncode == 0, right.stderr
        wrong = list_over_tcp(tmp_path / "wrong", tcp.user, "a guess")
        assert wrong.returncode == 1
        assert "authentication failed" in wrong.stderr


def list_over_tcp(auth_file: Path, user: str, password: str) -> subprocess.CompletedProcess[str]:
    """`virsh list`, with a libvirt auth file: https://libvirt.org/auth.html"""
    credentials = f"authname={user}\npassword={password}\n"
    auth_file.write_text(
        f"[credentials-lab]\n{credentials}[auth-libvirt-127.0.0.1]\ncredentials=lab\n"
    )
    uri = f"qemu+tcp://127.0.0.1/system?authfile={auth_file}"
    return subprocess.run(
        ["virsh", "-c", uri, "list"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_embedded_libvirt_works_too() -> None:
    """In a process of its own, because libvirt's event loop can never be unregistered."""
    result = subprocess.run(
        [sys.executable, "-c", EMBEDDED],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


EMBEDDED = """
from lab.embed import embedded
from lab.fixtures import MOUNT_POINT, BlankFactory
from lab.vms import IMAGES, define_blank

root = IMAGES / "embedded"
with embedded(root) as connection:
    vm = define_blank(connection, "inside", directory=root)
    vm.start()
    vm.write("vda", 0, 65536)
    print(vm.holds("vda", 0, 65536, 0xAA))
    vm.kill()
    vm.remove()
"""


def run_enter(*command: str) -> subprocess.Popen[bytes]:
    """From in here enter refuses, so it is told that it is outside; the namespaces nest."""
    environment = {key: value for key, value in os.environ.items() if key != "VIRCPT_LAB"}
    return subprocess.Popen(
        [TESTS / "lab/enter", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_enter_hands_on_the_exit_status() -> None:
    with run_enter("sh", "-c", "exit 7") as lab:
        assert lab.wait(20) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_enter_hands_on_signals(number: signal.Signals) -> None:
    trap = f"trap 'echo got it; exit 5' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with run_enter("sh", "-c", trap) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"ready\n"
        lab.send_signal(number)
        assert lab.wait(20) == 5
        assert lab.stdout.read() == b"got it\n"


def test_killing_enter_ends_everything_in_it() -> None:
    """The pipe ends when its last writer has: the orphan, here."""
    with run_enter("sh", "-c", "setsid sleep 1000 & echo ready; wait") as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"ready\n"
        lab.kill()
        assert lab.stdout.read() == b""
    with run_enter("true") as next_lab:  # removes what the killed one left on disk
        assert next_lab.wait(20) == 0
