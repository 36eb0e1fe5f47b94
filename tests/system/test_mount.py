"""The guest's file systems on this host: what is seen, how it ends. One mount takes 20 s here."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab import inject, schemas
from lab.daemon import poll
from lab.fixtures import MOUNT_POINT, BlankFactory, Cli
from lab.inject import shown
from lab.state import has_job
from lab.vms import Vm


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "mnt with spaces"
    directory.mkdir()
    yield directory
    subprocess.run(["umount", "-l", directory], capture_output=True)
    inject.sweep()


def must(cli: Cli, *args: str | Path, status: int = 0) -> str:
    done = cli(*args, timeout=170)
    assert done.returncode == status, shown(done)
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def nothing_left(vm: Vm) -> None:
    inject.wait_alone()
    assert inject.leftovers() == []
    assert not has_job(vm)
    assert "fuse" not in Path("/proc/mounts").read_text()
    assert appliances() == []


def appliances() -> list[str]:
    """QEMUs of libguestfs: those that boot its kernel."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (directory / "cmdline").read_bytes()
            if b"guestfs_network" in line or b"/appliance/kernel" in line:
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_what_is_seen(cli: Cli, guest: Vm, place: Path) -> None:
    """The files as they were, while the guest goes on; in use it stays; then it ends."""
    guest.guest(f"dd if=/dev/urandom of={MOUNT_POINT}/data bs=1M count=4 2>/dev/null; sync")
    then = guest.guest(f"sha256sum <{MOUNT_POINT}/data")
    told = must(cli, "--json", "-d", guest.name, "mount", place, "--require-freeze")
    made = schemas.check(told, "mount/1")
    assert made["made_export"] is True
    assert made["freeze"]["state"] == "frozen"
    found = {one["device"]: one for one in made["filesystems"]}
    assert (found["vda"]["kind"], found["vda"]["path"], found["vda"]["why"]) == (
        "ext4", "/vda", None,
    )  # fmt: skip
    guest.guest(f"echo other >{MOUNT_POINT}/data; sync")
    assert hashlib.sha256((place / "vda/data").read_bytes()).hexdigest() == then.split()[0]
    with pytest.raises(OSError, match="Read-only"):
        (place / "vda/new").write_text("x")
    assert str(place) in must(cli, "exports")
    assert "umount" in must(cli, "-d", guest.name, "release", status=11)
    with (place / "vda/data").open():
        assert "can't be unmounted" in must(cli, "umount", place, status=11)
    assert "is not empty" in must(cli, "-d", guest.name, "mount", place, status=2)
    done = schemas.check(must(cli, "--json", "umount", place), "umount/1")
    assert (done["was_mounted"], done["released"]) == (True, True)
    nothing_left(guest)
    assert "mounted nothing" in must(cli, "umount", place, status=10)


def test_its_process_dies(cli: Cli, guest: Vm, place: Path) -> None:
    """The export was there before: it stays until it is released."""
    must(cli, "-d", guest.name, "export")
    must(cli, "-d", guest.name, "mount", place, "--disk", "vda")
    os.kill(process_of_the_mount(), signal.SIGKILL)
    poll(lambda: not appliances(), 20, "the appliance to end")
    with pytest.raises(OSError, match="not connected"):
        list(place.iterdir())
    assert "released" not in must(cli, "umount", place)
    must(cli, "-d", guest.name, "release")
    nothing_left(guest)


@pytest.mark.parametrize("way", [("release", "--force"), ("umount",)])
def test_vircpt_is_killed_while_it_mounts(
    cli: Cli, blank: BlankFactory, place: Path, way: tuple[str, ...]
) -> None:
    vm = blank()
    process = inject.start("-d", vm.name, "mount", place)
    poll(lambda: bool(appliances()), 60, "the appliance")
    process.kill()
    inject.finish(process)
    must(cli, "-d", vm.name, *way, *([place] if way == ("umount",) else []))
    nothing_left(vm)


def test_an_interruption_leaves_nothing(blank: BlankFactory, place: Path) -> None:
    vm = blank()
    process = inject.start("-d", vm.name, "mount", place)
    poll(lambda: bool(appliances()), 60, "the appliance")
    process.send_signal(signal.SIGINT)
    done = inject.finish(process)
    assert done.returncode == 130, shown(done)
    nothing_left(vm)


def test_what_can_not_be_mounted(cli: Cli, blank: BlankFactory, place: Path) -> None:
    vm = blank()
    told = must(cli, "-d", vm.name, "mount", place, status=12)
    assert "vda: it is unknown" in told
    nothing_left(vm)
    must(cli, "-d", vm.name, "mount", place / "nothing", status=2)
    told = must(cli, "-d", vm.name, "mount", place, "--timeout", "0.1", status=11)
    assert "longer --timeout" in told
    nothing_left(vm)


def process_of_the_mount() -> int:
    """The first of the two: the other one watches it."""
    pids = []
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"vircpt.blocks.appliance" in (directory / "cmdline").read_bytes():
                pids.append(int(directory.name))
    return min(pids)
