"""What a dirty map promises: nothing that was written since is missing from it, or it is said
that nothing is known. And what other jobs, other URIs and hostile neighbours may not break."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lab import inject
from lab.daemon import poll
from lab.fixtures import BlankFactory, Cli
from lab.state import EXPORTS, checkpoints, has_job, leftovers
from lab.vms import MIB, Disk, Vm

CLUSTER = 65536


def export(cli: Cli, vm: Vm, *args: str) -> dict[str, Any]:
    done = cli("-d", vm.name, "export", "--json", *args)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {one["target"]: one for one in found["disks"]}


def release(cli: Cli, vm: Vm) -> None:
    assert cli("-d", vm.name, "release").returncode == 0
    assert leftovers() == []


def test_after_an_external_snapshot(blank: BlankFactory, cli: Cli) -> None:
    """libvirt spreads the bitmap over the chain, and puts it together for a running domain."""
    vm = blank()
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    vm.write("vda", MIB, CLUSTER)
    overlay = vm.images["vda"].with_suffix(".overlay")
    disk = f"<disk name='vda' snapshot='external'><source file='{overlay}'/></disk>"
    xml = f"<domainsnapshot><disks>{disk}</disks></domainsnapshot>"
    vm.domain.snapshotCreateXML(xml, 16)  # disk only
    vm.images["overlay"] = overlay
    vm.domain.resume() if not vm.domain.isActive() else None
    vm.qemu_io("vda", "write -P 0x55 8M 64k")
    live = export(cli, vm, "--name", "foo")["vda"]
    assert live["changed"] == 2 * CLUSTER
    release(cli, vm)
    vm.destroy()
    off = export(cli, vm, "--name", "foo")["vda"]
    assert off["bitmap"] is None
    assert "spread over a chain" in off["why_full"]
    release(cli, vm)


def test_a_disabled_bitmap(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    vm.destroy()
    disable = ["qemu-img", "bitmap", "--disable", str(vm.images["vda"]), "foo"]
    subprocess.run(disable, check=True)
    (one,) = json.loads(cli("-d", vm.name, "list", "--json").stdout)["checkpoints"]
    assert one["health"] == "disabled"
    done = cli("-d", vm.name, "export", "--name", "foo")
    assert done.returncode == 13
    assert "disabled" in done.stderr
    vm.start()
    assert cli("-d", vm.name, "export", "--name", "foo").returncode == 13
    (one,) = json.loads(cli("-d", vm.name, "list", "--json").stdout)["checkpoints"]
    assert one["health"] != "ok"


def test_images_that_changed_places(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    vm.destroy()
    xml = vm.domain.XMLDesc()
    a, b = str(vm.images["vda"]), str(vm.images["vdb"])
    swapped = xml.replace(a, "@").replace(b, a).replace("@", b)
    vm.domain.connect().defineXML(swapped)
    vm.start()
    found = export(cli, vm, "--name", "foo")
    for target in ("vda", "vdb"):
        assert found[target]["bitmap"] is None
        assert "another image" in found[target]["why_full"]
    release(cli, vm)


@pytest.fixture
def dumped(blank: BlankFactory, cli: Cli, tmp_path: Path) -> object:
    """A VM with checkpoint foo that is held by a dump, which goes into a pipe nobody reads."""
    vm = blank("dumped")
    assert cli("-d", "dumped", "create", "--name", "foo").returncode == 0
    pipe = Path("/var/lib/libvirt/images/dump.pipe")
    os.mkfifo(pipe, 0o666)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    dump = subprocess.Popen(["virsh", "-q", "dump", "dumped", str(pipe), "--memory-only", "--live"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    poll(lambda: has_job(vm), 10, "the dump to begin")
    yield vm
    os.close(reader)  # which ends the dump
    dump.wait()
    pipe.unlink()


@pytest.mark.parametrize(
    "command",
    [("create",), ("export",), ("export", "--name", "foo"), ("delete", "--name", "foo")],
)
def test_another_job_is_told_at_once(dumped: Vm, cli: Cli, command: tuple[str, ...]) -> None:
    start = time.monotonic()
    done = cli("-d", "dumped", *command)
    assert time.monotonic() - start < 2
    assert done.returncode == 11, done.stderr
    assert "memory dump job" in done.stderr
    assert checkpoints(dumped) == ["foo"]


def test_during_another_job_health_is_not_known(dumped: Vm, cli: Cli) -> None:
    start = time.monotonic()
    (one,) = json.loads(cli("-d", "dumped", "list", "--json").stdout)["checkpoints"]
    assert time.monotonic() - start < 2
    assert one["health"] == "unknown"


def test_another_uri_does_not_take_an_export_for_dead(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    export(cli, vm)
    done = cli("-c", "test:///default", "-d", vm.name, "release")
    assert done.returncode == 0
    assert not has_job(vm), "it was ended where it was started"
    assert leftovers() == []


def test_what_became_of_an_export_is_not_known(
    blank: BlankFactory, cli: Cli, libvirtd: Any, conn: Any
) -> None:
    """libvirtd dies after it was asked to begin: the directory stays, by which it is found."""
    vm = blank()
    process = inject.stopped_at("-d", vm.name, "export", "--create", "new",
                                step="after:virDomainBackupBegin")  # fmt: skip
    libvirtd.kill()
    try:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        done = inject.finish(process)
    finally:
        libvirtd.start()
    assert done.returncode != 0
    assert "it is not known what became of export" in done.stderr
    assert cli("-d", vm.name, "release").returncode == 0
    assert leftovers() == []


def test_a_copy_is_for_nobody_else_to_read(blank: BlankFactory, cli: Cli, tmp_path: Path) -> None:
    vm = blank()
    export(cli, vm)
    for command, name in (("copy", "copy.raw"), ("copy", "copy.qcow2"), ("overlay", "over.qcow2")):
        assert cli("-d", vm.name, command, str(tmp_path / name)).returncode == 0
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    release(cli, vm)


def test_an_attached_overlay_is_seen(blank: BlankFactory, cli: Cli) -> None:
    vm, other = blank("source"), blank("reader")
    export(cli, vm)
    overlay = Path("/var/lib/libvirt/images/attached.qcow2")
    assert cli("-d", "source", "overlay", str(overlay)).returncode == 0
    source = f"<driver name='qemu' type='qcow2'/><source file='{overlay}'/>"
    other.domain.attachDevice(
        f"<disk type='file' device='disk'>{source}<target dev='vdx' bus='virtio'/></disk>"
    )
    done = cli("-d", "source", "release")
    assert done.returncode == 11
    assert "disk vdx of domain reader" in done.stderr
    other.destroy()
    overlay.unlink()
    release(cli, vm)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_silent_can_be_left(
    blank: BlankFactory, cli: Cli, number: signal.Signals
) -> None:
    vm = blank()
    export(cli, vm)
    os.kill(vm.pid(), signal.SIGSTOP)
    try:
        process = inject.start("-d", vm.name, "map", "--totals")
        poll(lambda: inject.catches(process.pid, number), 10, "vircpt to be at work")
        time.sleep(0.5)  # what is waited for must not happen
        process.send_signal(number)
        assert inject.finish(process, 5).returncode == 128 + number
    finally:
        os.kill(vm.pid(), signal.SIGCONT)
    release(cli, vm)


def test_a_socket_that_talks_nonsense(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    export(cli, vm)
    (directory,) = EXPORTS.iterdir()
    path = directory / "io" / "nbd.sock"
    path.rename(path.with_suffix(".away"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def talk() -> None:
            with server.accept()[0] as client:
                client.sendall(b"x" * 4096)

        talker = threading.Thread(target=talk)
        talker.start()
        done = cli("-d", vm.name, "map", "--totals")
        talker.join()
    assert done.returncode in (1, 14)
    assert "Traceback" not in done.stderr
    path.unlink()
    path.with_suffix(".away").rename(path)
    release(cli, vm)
