"""What goes wrong around vircpt: servers that fail or dawdle, full and broken scratch space, and
guests that are paused, reset, shut off or changed while they are exported."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest

from lab import inject
from lab.daemon import poll
from lab.fixtures import BlankFactory, Cli
from lab.inject import Step
from lab.scenarios import SCENARIOS, Scenario, Stage
from lab.state import EXPORTS, has_job, leftovers
from lab.vms import IMAGES, KIB, MIB, Disk, Vm, disk_xml


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    yield
    inject.sweep()


@pytest.fixture
def vm(blank: BlankFactory) -> Vm:
    vm = blank(disks=(Disk("vda", 16 * MIB),))
    vm.write("vda", 1 * MIB, 2 * MIB, 0x55)
    return vm


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """It failed as it should: with a code of the table, in words."""
    assert done.returncode in (1, 10, 11, 12, 13, 14), f"{done.returncode}: {done.stderr}"
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    return done.stderr


# Servers


@contextmanager
def between(fault: str, setting: str) -> Iterator[subprocess.Popen[bytes]]:
    """For a while an nbdkit stands between the readers and QEMU, which is worse than QEMU."""
    (directory,) = EXPORTS.iterdir()
    front, back = directory / "io/nbd.sock", directory / "io/qemu.sock"
    front.rename(back)
    command = ["nbdkit", "-f", "-U", str(front), f"--filter={fault}", "nbd", f"socket={back}"]
    server = subprocess.Popen(
        [*command, "dynamic-export=true", setting],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        poll(front.is_socket, 10, "nbdkit")
        yield server
    finally:
        server.kill()
        server.wait()
        front.unlink(missing_ok=True)
        back.rename(front)


@pytest.fixture
def exported(vm: Vm, cli: Cli) -> Iterator[Vm]:
    assert cli("-d", vm.name, "export").returncode == 0
    yield vm
    assert cli("-d", vm.name, "release").returncode == 0
    assert leftovers() == []


def test_errors_while_it_is_copied(exported: Vm, cli: Cli, tmp_path: Path) -> None:
    with between("error", "error-pread-rate=100%"):
        told = refused(cli("-d", exported.name, "copy", tmp_path / "copy.qcow2"))
    assert "Input/output error" in told
    assert list(tmp_path.iterdir()) == []


def test_errors_while_its_map_is_read(exported: Vm, cli: Cli) -> None:
    with between("error", "error-extents-rate=100%"):
        for options in (("--base",), ("--base", "--totals"), ("--base", "--json")):
            done = cli("-d", exported.name, "map", *options)
            assert done.returncode in (1, 14), done.stderr
            assert "Traceback" not in done.stderr
            assert "error" in done.stderr


def test_a_server_that_dawdles(exported: Vm, cli: Cli, tmp_path: Path) -> None:
    """Slow is not wrong: the copy is what it should be."""
    with between("delay", "delay-read=50ms"):
        done = cli("-d", exported.name, "copy", "--format", "raw", tmp_path / "copy.raw")
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "copy.raw").read_bytes()
    assert content == bytes(MIB) + b"\x55" * (2 * MIB) + bytes(13 * MIB)


def test_a_server_that_dies(exported: Vm, tmp_path: Path) -> None:
    with between("delay", "delay-read=5") as server:
        copy = inject.start("-d", exported.name, "copy", tmp_path / "copy.qcow2")
        poll(lambda: any(tmp_path.iterdir()), 20, "the copy to begin")
        server.kill()
        refused(inject.finish(copy, 30))
    assert list(tmp_path.iterdir()) == []


# Scratch space


@contextmanager
def small_space(*, broken: bool) -> Iterator[Path]:
    """A file system of 3 MiB; or one that calls itself larger, on a loop device whose file has
    no more room than that: writes to it fail with an input/output error."""
    path = IMAGES / "space"  # where QEMU's user may go
    path.mkdir(mode=0o755)
    tmpfs = path / "tmpfs"
    tmpfs.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=3m,mode=755", "tmpfs", tmpfs)
    place = tmpfs
    try:
        if broken:
            place = path / "broken"
            place.mkdir()
            run("truncate", "-s", "64M", tmpfs / "disk")
            run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", tmpfs / "disk")
            run("mount", "-o", "loop", tmpfs / "disk", place)
        yield place
    finally:
        if place != tmpfs:
            run("umount", place)
        run("umount", tmpfs)
        shutil.rmtree(path)


def run(*command: str | Path) -> None:
    subprocess.run([str(one) for one in command], check=True, capture_output=True)


@pytest.mark.parametrize("broken", [False, True])
def test_scratch_space_that_gives_out(
    blank: BlankFactory, cli: Cli, tmp_path: Path, broken: bool
) -> None:
    """QEMU lives, the export is right or fails in words, release and the next export work."""
    vm = blank(disks=(Disk("vda", 16 * MIB),), start=False)
    with small_space(broken=broken) as place:
        vm.start()  # not before: its QEMU has mounts of its own
        vm.write("vda", 0, 12 * MIB, 0x55)
        done = cli("-d", vm.name, "export", "--scratch-dir", place)
        assert done.returncode == 0, done.stderr
        for start in range(0, 16, 2):
            vm.qemu_io("vda", f"write -P 0x77 {start * MIB} {2 * MIB}")
        subprocess.run(["sync", "-f", place])  # it is this that fails
        assert broken or not vm.holds("vda", 0, 12 * MIB, 0x77), "the space was enough"
        assert vm.domain.isActive()
        copied = cli("-d", vm.name, "copy", "--format", "raw", tmp_path / "copy.raw")
        if copied.returncode == 0:
            content = (tmp_path / "copy.raw").read_bytes()
            assert content == b"\x55" * (12 * MIB) + bytes(4 * MIB)
        else:
            refused(copied)
            assert not (tmp_path / "copy.raw").exists()
        assert cli("-d", vm.name, "release").returncode == 0
        assert leftovers() == []
        assert cli("-d", vm.name, "export").returncode == 0
        assert cli("-d", vm.name, "release").returncode == 0
        vm.destroy()


def test_a_file_system_that_came_after_qemu(vm: Vm, cli: Cli) -> None:
    with small_space(broken=False) as place:
        told = refused(cli("-d", vm.name, "export", "--scratch-dir", place))
        assert "mounted after" in told
        vm.destroy()
    assert leftovers() == []


# The guest


def pause(vm: Vm) -> None:
    vm.domain.suspend()


def reset(vm: Vm) -> None:
    vm.domain.reset()


@pytest.mark.parametrize("event", [pause, reset])
def test_an_export_survives(
    exported: Vm, cli: Cli, tmp_path: Path, event: Callable[[Vm], None]
) -> None:
    event(exported)
    done = cli("-d", exported.name, "copy", "--format", "raw", tmp_path / "copy.raw")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy.raw").read_bytes()[MIB : 3 * MIB] == b"\x55" * (2 * MIB)
    assert has_job(exported)
    if exported.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        assert cli("-d", exported.name, "create", "--name", "paused").returncode == 0
        exported.domain.resume()


def test_a_guest_that_is_shut_off_while_it_is_copied(vm: Vm, cli: Cli, tmp_path: Path) -> None:
    assert cli("-d", vm.name, "export").returncode == 0
    with between("delay", "delay-read=5"):
        copy = inject.start("-d", vm.name, "copy", tmp_path / "copy.qcow2")
        poll(lambda: any(tmp_path.iterdir()), 20, "the copy to begin")
        vm.destroy()
        refused(inject.finish(copy, 30))
    assert list(tmp_path.iterdir()) == []
    refused(cli("-d", vm.name, "map"))
    released = cli("-d", vm.name, "release")
    assert released.returncode == 0
    assert "it had died before" in released.stdout
    assert leftovers() == []


def test_disks_come_and_go_while_it_is_exported(exported: Vm, cli: Cli) -> None:
    """One more is not in the export; the one that is cannot be taken away."""
    new = IMAGES / f"{exported.name}-vdb.qcow2"
    Disk("vdb").create_image(new)
    exported.images["vdb"] = new
    exported.domain.attachDevice(disk_xml(Disk("vdb"), new))
    assert "no disk 'vdb'" in refused(cli("-d", exported.name, "map", "--disk", "vdb"))
    assert cli("-d", exported.name, "map", "--totals").returncode == 0
    with pytest.raises(libvirt.libvirtError, match="active block job"):
        exported.domain.detachDevice(disk_xml(Disk("vda"), exported.images["vda"]))
    assert cli("-d", exported.name, "create", "--name", "both").returncode == 0


def test_saved_to_a_file_and_back(vm: Vm, cli: Cli) -> None:
    """Checkpoints live on in the image; while it is saved it is a domain that is shut off."""
    assert cli("-d", vm.name, "create", "--name", "one").returncode == 0
    vm.write("vda", 0, 64 * KIB)
    file = IMAGES / f"{vm.name}.save"
    vm.domain.save(str(file))
    try:
        assert cli("-d", vm.name, "doctor").returncode == 0
        refused(cli("-d", vm.name, "create"))
        vm.domain.connect().restore(str(file))
    finally:
        file.unlink()
    assert cli("-d", vm.name, "doctor").returncode == 0
    assert cli("-d", vm.name, "export", "--name", "one").returncode == 0
    assert cli("-d", vm.name, "release").returncode == 0


# Links in the way


def predictable(first: list[Step], second: list[Step]) -> set[Path]:
    """What is written at the same path each time: there somebody could wait with a link."""
    kinds = ("open", "os.mkdir", "os.rename", "os.link", "socket.bind")
    paths = [
        {Path(step.detail) for step in steps if step.name in kinds and step.detail.startswith("/")}
        for steps in (first, second)
    ]
    return {one for one in paths[0] & paths[1] if not str(one).startswith(("/dev/", "/proc/"))}


FORESEEN = ("export", "export of a shut-off VM", "save-metadata")


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one.name in FORESEEN])
def test_links_at_every_path_that_can_be_foreseen(
    scenario: Scenario, blank: BlankFactory, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    vm = blank(disks=(Disk("vda", 8 * MIB), Disk("vdb", 8 * MIB)), start=False)
    stage = Stage(vm, tmp_path / "files")
    traces = []
    for _ in range(2):
        scenario.set(stage)
        traces.append(inject.trace(*scenario.line(stage), file=tmp_path / "trace")[1])
    victim = tmp_path / "victim"
    assert {one.parent.name for one in predictable(*traces)} >= {"locks"}, "there is one at least"
    for path in predictable(*traces):
        if path.is_dir():
            continue  # root's own directories: who can replace those needs no link
        for target in (victim, tmp_path / "nowhere"):
            scenario.set(stage)
            path.unlink(missing_ok=True)
            victim.write_text("precious")
            path.symlink_to(target)
            done = inject.run(*scenario.line(stage))
            assert "Traceback" not in done.stderr, inject.shown(done)
            assert victim.read_text() == "precious", path
            assert not os.path.lexists(tmp_path / "nowhere"), path
            path.unlink()
    stage.clear()
