"""backup, backups, verify and restore: what is stored, what is refused, what is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import inject
from lab.chains import hash_of_disk
from lab.daemon import Libvirtd, poll
from lab.fixtures import BlankFactory, Cli
from lab.state import checkpoints, nothing_left
from lab.vms import KIB, MIB, Disk, Vm
from vircpt.api import open_repository
from vircpt.errors import VircptError


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    yield
    inject.sweep()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def back_up(vm: Vm, repository: Path, *more: str) -> dict[str, Any]:
    done = inject.run("-d", vm.name, "--json", "backup", "--to", repository, *more)
    assert done.returncode == 0, inject.shown(done)
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def fails(code: int, *args: str | Path) -> str:
    done = inject.run(*args)
    assert done.returncode == code, inject.shown(done)
    assert "Traceback" not in done.stderr
    return done.stderr


def image(made: dict[str, Any], target: str = "vda") -> Path:
    return Path(made["path"]) / f"{target}.qcow2"


def holds(made: dict[str, Any], offset: int, length: int, pattern: int) -> None:
    command = ["qemu-io", "-r", "-c", f"read -P {pattern} {offset} {length}", str(image(made))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "verification failed" not in done.stdout, done.stdout
    assert done.returncode == 0


def listed(vm: Vm) -> list[str]:
    return [one for one in checkpoints(vm) if one.startswith("vircpt-")]


def test_levels_rest_on_each_other(blank: BlankFactory, repository: Path, tmp_path: Path) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb", 16 * MIB)))
    vm.write("vda", MIB, 2 * MIB, 0xAA)
    full = back_up(vm, repository)
    assert (full["level"], full["parent"], full["read"]) == ("full", None, 2 * MIB)
    vm.write("vda", 2 * MIB, 64 * KIB, 0xBB)
    vm.write_zeroes("vda", MIB, 64 * KIB)
    vm.discard("vda", MIB + 64 * KIB, 64 * KIB)
    first = back_up(vm, repository)
    assert (first["level"], first["parent"], first["read"]) == ("incremental", full["id"], 65536)
    assert first["disks"][0]["zero"] == 128 * KIB
    assert image(first).stat().st_size < MIB
    vm.write("vda", 5 * MIB, 64 * KIB, 0xCC)
    second = back_up(vm, repository, "--compress", "zstd")
    assert second["parent"] == first["id"]
    differential = back_up(vm, repository, "--level", "differential")
    assert (differential["parent"], differential["read"]) == (full["id"], 128 * KIB)
    before = listed(vm)
    copy = back_up(vm, repository, "--level", "copy")
    assert (copy["parent"], copy["checkpoint"]) == (None, False)
    start = f"vircpt-{full['repository']}-"
    assert listed(vm) == before == [start + full["id"], start + differential["id"]]
    assert nothing_left(vm)
    moved = tmp_path / "elsewhere"
    repository.rename(moved)
    for made in (full, first, second, differential, copy):
        made["path"] = made["path"].replace(str(repository), str(moved))
    holds(full, MIB, 2 * MIB, 0xAA)
    holds(first, MIB, 128 * KIB, 0)
    for made in (second, differential, copy):
        holds(made, 2 * MIB, 64 * KIB, 0xBB)
        holds(made, 5 * MIB, 64 * KIB, 0xCC)
        holds(made, MIB, 128 * KIB, 0)


def test_nobody_else_can_read_it(blank: BlankFactory, repository: Path) -> None:
    back_up(blank(), repository)
    for place, _, names in os.walk(repository):
        assert Path(place).stat().st_mode & 0o777 == 0o700
        for name in names:
            assert (Path(place) / name).stat().st_mode & 0o777 == 0o600


def test_a_lost_bitmap_makes_auto_full_and_incremental_an_error(
    blank: BlankFactory, repository: Path
) -> None:
    vm = blank()
    first = back_up(vm, repository)
    vm.kill()
    vm.start()
    told = fails(13, "-d", vm.name, "backup", "--to", repository, "--level", "incremental")
    assert "hint: make a full one" in told
    again = back_up(vm, repository)
    assert again["level"] == "full"
    assert first["id"] in again["why_full"]
    assert listed(vm) == [f"vircpt-{again['repository']}-{again['id']}"]
    assert back_up(vm, repository)["level"] == "incremental"


def test_a_missing_backup_below_makes_auto_full(blank: BlankFactory, repository: Path) -> None:
    vm = blank()
    full = back_up(vm, repository)
    back_up(vm, repository)
    image(full).unlink()
    fails(13, "-d", vm.name, "backup", "--to", repository, "--level", "incremental")
    again = back_up(vm, repository)
    assert again["level"] == "full"
    assert "missing" in again["why_full"]
    fails(4, "verify", "--from", repository)


def test_repositories_are_independent_and_foreign_checkpoints_stay(
    blank: BlankFactory, tmp_path: Path
) -> None:
    vm = blank()
    vm.domain.checkpointCreateXML("<domaincheckpoint><name>foreign</name></domaincheckpoint>")
    inject.run("-d", vm.name, "create", "--name", "vircpt-mine")
    one, two = tmp_path / "one", tmp_path / "two"
    back_up(vm, one)
    vm.write("vda", 0, 64 * KIB)
    back_up(vm, two)
    vm.write("vda", MIB, 64 * KIB)
    assert back_up(vm, one)["read"] == 128 * KIB
    assert back_up(vm, two)["read"] == 64 * KIB
    assert {"foreign", "vircpt-mine"} < set(checkpoints(vm))
    assert len(checkpoints(vm)) == 2 + 4
    inject.run("-d", vm.name, "create", "--name", "last", "--keep-last", "1")
    assert len(listed(vm)) == 4, "those of backups are not for --keep-last"


def test_the_guest_writes_meanwhile(blank: BlankFactory, repository: Path, tmp_path: Path) -> None:
    vm = blank()
    vm.write("vda", 0, 16 * MIB, 0xAA)
    reference = hash_of_disk(vm.images["vda"], tmp_path)
    process = inject.start("-d", vm.name, "backup", "--to", repository, "--rate", "3M")
    poll(lambda: bool(list(repository.glob("*/.partial-*/vda.qcow2"))), 20, "the copying")
    vm.write("vda", 0, 32 * MIB, 0xBB)
    second = inject.run("-d", vm.name, "backup", "--to", repository)
    assert second.returncode == 11, inject.shown(second)
    assert f"process {process.pid}, since" in second.stderr
    fails(11, "-d", vm.name, "backup", "--to", tmp_path / "other")
    done = inject.finish(process)
    assert done.returncode == 0, inject.shown(done)
    (path,) = repository.glob("*/*/vda.qcow2")
    assert hash_of_disk(path, tmp_path) == reference
    made = back_up(vm, repository)
    assert made["read"] == 32 * MIB
    holds(made, 0, 32 * MIB, 0xBB)


def test_a_disk_that_is_new_or_grown_is_full(blank: BlankFactory, repository: Path) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb", 8 * MIB)))
    vm.write("vdb", 0, MIB)
    back_up(vm, repository, "--disk", "vda")
    made = back_up(vm, repository)
    assert made["level"] == "incremental"
    assert [one["parent"] is None for one in made["disks"]] == [False, True]
    assert "does not cover" in made["disks"][1]["why_full"]
    vm.domain.blockResize("vdb", 16 * MIB // KIB)
    vm.write("vdb", 12 * MIB, MIB, 0xEE)
    made = back_up(vm, repository)
    assert "size has changed" in made["disks"][1]["why_full"]
    command = ["qemu-io", "-r", "-c", f"read -P 0xee {12 * MIB} {MIB}"]
    command.append(str(image(made, "vdb")))
    done = subprocess.run(command, capture_output=True, text=True)
    assert "verification failed" not in done.stdout


def test_a_domain_that_is_shut_off(blank: BlankFactory, repository: Path) -> None:
    vm = blank()
    vm.write("vda", 0, MIB)
    full = back_up(vm, repository)
    vm.write("vda", 2 * MIB, 64 * KIB, 0xBB)
    vm.destroy()
    off = back_up(vm, repository)
    assert (off["level"], off["checkpoint"], off["parent"]) == ("incremental", False, full["id"])
    vm.start()
    vm.write("vda", 3 * MIB, 64 * KIB, 0xCC)
    made = back_up(vm, repository)
    assert made["parent"] == full["id"]
    for offset, pattern in ((2, 0xBB), (3, 0xCC)):
        holds(made, offset * MIB, 64 * KIB, pattern)
    never = blank("never", start=False)
    assert back_up(never, repository)["level"] == "full"


# Verification


def test_one_flipped_byte_anywhere_is_found(blank: BlankFactory, repository: Path) -> None:
    vm = blank()
    vm.write("vda", MIB, 2 * MIB)
    back_up(vm, repository, "--compress", "zstd")
    vm.write("vda", 0, 300 * KIB, 0xBB)
    back_up(vm, repository)
    opened = open_repository(repository)
    assert [one.faults for one in opened.verify()] == [(), ()]
    chance = random.Random(1)
    for path in sorted(path for path in repository.rglob("*") if path.is_file()):
        data = path.read_bytes()
        places = (
            {0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(20))} if data else ()
        )
        for place in places:
            bad = bytearray(data)
            bad[place] ^= 1 << chance.randrange(8)
            path.write_bytes(bad)
            try:
                faults = [told for one in open_repository(repository).verify()
                          for told in one.faults]  # fmt: skip
            except VircptError as error:
                faults = [str(error)]
            assert any(path.name in told for told in faults), f"{path} at {place}: {faults}"
            if path.suffix == ".qcow2":
                start = place & -MIB
                assert any(f"between {start} and" in told for told in faults), (place, faults)
            path.write_bytes(data)


def test_what_is_missing_cut_or_foreign_is_named(blank: BlankFactory, repository: Path) -> None:
    vm = blank()
    full = back_up(vm, repository)
    made = back_up(vm, repository)
    place = Path(made["path"])
    for name in ("vda.qcow2", "vda.qcow2.sums", "domain.xml", "manifest.json"):
        data = (place / name).read_bytes()
        (place / name).unlink()
        assert name in inject.run("verify", "--from", repository).stdout
        (place / name).write_bytes(data[: len(data) // 2])
        done = inject.run("verify", "--from", repository)
        assert (done.returncode, name in done.stdout) == (4, True), inject.shown(done)
        (place / name).write_bytes(data)
    (place / "stranger").touch()
    assert (
        "stranger does not belong" in inject.run("verify", made["id"], "--from", repository).stdout
    )
    (place / "stranger").unlink()
    assert inject.run("verify", made["id"], "--deep", "--from", repository).returncode == 0
    image(full).unlink()
    done = inject.run("verify", made["id"], "--from", repository)
    assert (done.returncode, str(image(full)) in done.stdout) == (4, True), inject.shown(done)
    assert "DAMAGED" in inject.run("backups", "--from", repository).stdout


# Hostile repositories


def test_a_backing_file_elsewhere_is_refused(
    blank: BlankFactory, repository: Path, tmp_path: Path
) -> None:
    vm = blank()
    back_up(vm, repository)
    made = back_up(vm, repository)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(secret)]
    subprocess.run([*rebase, str(image(made))], check=True)
    to = ("--from", repository, "--to-dir", tmp_path)
    assert "backing file" in fails(4, "restore", made["id"], *to)
    fails(4, "verify", made["id"], "--from", repository)
    again = back_up(vm, repository)
    assert again["level"] == "full"
    assert not list(tmp_path.glob("blank*"))
    image(made).unlink()
    image(made).symlink_to(secret)
    fails(4, "restore", made["id"], *to)


# Restoring


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_restore(image_format: str, blank: BlankFactory, repository: Path, tmp_path: Path) -> None:
    vm = blank()
    vm.write("vda", MIB, MIB)
    back_up(vm, repository)
    vm.write("vda", 40 * MIB, 64 * KIB, 0xBB)
    made = back_up(vm, repository, "--compress", "zstd")
    vm.qemu_io("vda", "flush")
    reference = hash_of_disk(vm.images["vda"], tmp_path)
    place = tmp_path / "restored"
    place.mkdir()
    to = ("--from", repository, "--to-dir", place, "--format", image_format)
    done = inject.run("restore", made["id"], *to)
    assert done.returncode == 0, inject.shown(done)
    path = place / f"{vm.name}-vda.{image_format}"
    assert hash_of_disk(path, tmp_path) == reference
    assert path.stat().st_blocks * 512 < 4 * MIB, "sparse"
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path]))
    assert info["format"] == image_format
    assert "backing-filename" not in info
    assert not info.get("format-specific", {}).get("data", {}).get("bitmaps")
    assert "exists already" in fails(2, "restore", made["id"], *to)
    data = bytearray(image(made).read_bytes())
    data[-70000] ^= 1
    image(made).write_bytes(data)
    path.unlink()
    assert "is damaged between" in fails(4, "restore", "latest", *to)
    assert list(place.iterdir()) == []


def test_restore_needs_no_libvirt(
    blank: BlankFactory, repository: Path, tmp_path: Path, libvirtd: Libvirtd, cli: Cli
) -> None:
    vm = blank()
    back_up(vm, repository)
    libvirtd.stop()
    try:
        options = ("--repository", repository, "--to-dir", tmp_path, "--disk", "vda")
        assert cli("-d", vm.name, "restore", "latest", *options).returncode == 0
        assert cli("-d", vm.name, "verify", "--from", repository).returncode == 0
        found = cli("backups", env={"VIRCPT_REPOSITORY": str(repository)})
        assert vm.name in found.stdout
    finally:
        libvirtd.start()


def test_restore_onto_a_block_device(blank: BlankFactory, repository: Path, tmp_path: Path) -> None:
    vm = blank()
    vm.write("vda", MIB, MIB)
    made = back_up(vm, repository)
    vm.qemu_io("vda", "flush")
    reference = hash_of_disk(vm.images["vda"], tmp_path)
    file = tmp_path / "device"
    file.write_bytes(random.Random(1).randbytes(64 * MIB))
    device = subprocess.check_output(["losetup", "-f", "--show", file], text=True).strip()
    try:
        options = ("--from", repository, "--disk", "vda", "--to-device", device)
        assert "say --yes" in fails(2, "restore", made["id"], *options)
        done = inject.run("restore", made["id"], *options, "--yes")
        assert done.returncode == 0, inject.shown(done)
        subprocess.run(["blockdev", "--flushbufs", device], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    file.rename(tmp_path / "device.raw")
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", f"{tmp_path}/device.raw"]
    subprocess.run([*command, f"{tmp_path}/again.qcow2"], check=True)
    assert hash_of_disk(tmp_path / "again.qcow2", tmp_path) == reference


def test_a_domain_comes_back_under_a_new_name(
    guest: Vm, conn: Any, repository: Path, tmp_path: Path
) -> None:
    made = back_up(guest, repository)
    place = Path("/var/lib/libvirt/images/restored")  # which QEMU can reach
    place.mkdir()
    options = ("--from", repository, "--to-dir", place, "--as", "copy")
    try:
        done = inject.run("restore", made["id"], *options, "--start")
        copy = Vm(conn.lookupByName("copy"), {}, None)
        try:
            assert done.returncode == 0, inject.shown(done)
            assert copy.domain.isActive()
            assert copy.domain.UUIDString() != guest.domain.UUIDString()
            assert f"{place}/copy-kernel" in copy.domain.XMLDesc()
            assert f"{place}/copy-guest-console.log" in copy.domain.XMLDesc()
            assert copy.domain.listAllCheckpoints() == []
            for path in place.iterdir():
                path.rename(path.with_suffix(".kept"))
            assert "there is a domain copy" in fails(2, "restore", made["id"], *options, "--define")
        finally:
            copy.remove()
    finally:
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


# Failures


def test_a_repository_that_is_full(blank: BlankFactory, tmp_path: Path) -> None:
    vm = blank()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "small", small], check=True)
    repository = small / "repository"
    try:
        vm.write("vda", 0, 4 * MIB)
        first = back_up(vm, repository)
        vm.write("vda", 8 * MIB, 20 * MIB)
        before = checkpoints(vm)
        told = fails(1, "-d", vm.name, "backup", "--to", repository)
        assert "No space left" in told
        assert checkpoints(vm) == before
        assert nothing_left(vm)
        assert [path.name for path in Path(first["path"]).parent.iterdir() if path.is_dir()] == [
            Path(first["path"]).name
        ]
        assert inject.run("verify", "--from", repository).returncode == 0
        subprocess.run(["mount", "-o", "remount,size=60m", small], check=True)
        second = back_up(vm, repository)
        assert (second["level"], second["read"]) == ("incremental", 20 * MIB)
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_in_the_middle(
    number: signal.Signals, blank: BlankFactory, repository: Path, tmp_path: Path
) -> None:
    """After a kill too there is soon no job, no checkpoint of it, no export."""
    vm = blank()
    vm.write("vda", 0, 4 * MIB)
    back_up(vm, repository)
    before = checkpoints(vm)
    vm.write("vda", 0, 16 * MIB, 0xBB)
    process = inject.start("-d", vm.name, "backup", "--to", repository, "--rate", "4M")
    poll(lambda: bool(list(repository.glob("*/.partial-*/vda.qcow2"))), 20, "the copying")
    process.send_signal(number)
    done = inject.finish(process)
    assert done.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    poll(lambda: nothing_left(vm), 20, "the export to be gone")
    assert checkpoints(vm) == before
    inject.wait_alone()
    assert inject.run("verify", "--from", repository).returncode == 0
    made = back_up(vm, repository)
    assert (made["level"], made["read"]) == ("incremental", 16 * MIB)
    assert not list(repository.glob("*/.partial-*"))


def test_the_guest_dies_in_the_middle(blank: BlankFactory, repository: Path) -> None:
    vm = blank()
    vm.write("vda", 0, 4 * MIB)
    full = back_up(vm, repository)
    vm.write("vda", 0, 16 * MIB, 0xBB)
    process = inject.start("-d", vm.name, "backup", "--to", repository, "--rate", "4M")
    poll(lambda: bool(list(repository.glob("*/.partial-*/vda.qcow2"))), 20, "the copying")
    vm.kill()
    done = inject.finish(process)
    assert done.returncode in (1, 14), inject.shown(done)
    assert "Traceback" not in done.stderr
    assert not list(repository.glob("*/.partial-*"))
    vm.start()
    made = back_up(vm, repository)
    assert made["level"] == "full"
    assert listed(vm) == [f"vircpt-{full['repository']}-{made['id']}"]
    assert nothing_left(vm)


def test_libvirtd_dies_in_the_middle(
    blank: BlankFactory, repository: Path, libvirtd: Libvirtd
) -> None:
    vm = blank()
    vm.write("vda", 0, 4 * MIB)
    back_up(vm, repository)
    vm.write("vda", 0, 8 * MIB, 0xBB)
    process = inject.start("-d", vm.name, "backup", "--to", repository, "--rate", "4M")
    poll(lambda: bool(list(repository.glob("*/.partial-*/vda.qcow2"))), 20, "the copying")
    libvirtd.kill()
    try:
        done = inject.finish(process)
    finally:
        libvirtd.start()
    assert done.returncode in (1, 14), inject.shown(done)
    made = back_up(vm, repository)
    assert (made["level"], made["read"]) == ("incremental", 8 * MIB)
    assert inject.leftovers() == []


def test_killed_at_many_steps(blank: BlankFactory, repository: Path, tmp_path: Path) -> None:
    vm = blank()
    qemu = vm.pid()
    args = ("-d", vm.name, "backup", "--to", repository)
    back_up(vm, repository)
    _, steps = inject.trace(*args, file=tmp_path / "trace")
    worth = [one for one in steps if one.changes]
    for step in worth[::3]:
        try:
            vm.qemu_io("vda", "write -P 1 0 64k")
            killed = inject.run(*args, order=f"kill:{step.number}")
            assert killed.returncode in (0, -signal.SIGKILL)
            assert back_up(vm, repository)["level"] == "incremental"
            assert len(listed(vm)) == 2
            inject.wait_alone()
            assert nothing_left(vm)
        except BaseException as error:
            error.add_note(f"killed before step {step.number}, {step.name} {step.detail}")
            raise
    assert vm.pid() == qemu
    assert inject.run("verify", "--deep", "--from", repository).returncode == 0


def test_the_configuration_names_the_repository(
    blank: BlankFactory, cli: Cli, tmp_path: Path
) -> None:
    vm = blank()
    assert "no repository is named" in cli("-d", vm.name, "backup").stderr
    config = tmp_path / "vircpt.toml"
    config.write_text(f'repository = "{tmp_path / "repository"}"\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert cli("-d", vm.name, "backup", env=environment).returncode == 0
    assert vm.name in cli("backups", env=environment).stdout
    config.write_text("repositroy = 1\n")
    assert "repositroy" in cli("-d", vm.name, "backup", env=environment).stderr


def test_all_domains(blank: BlankFactory, repository: Path) -> None:
    one, two = blank(), blank(disks=(Disk("vda", kind="cdrom", bus="ide"),))
    done = inject.run("backup", "--all", "--to", repository)
    assert done.returncode == 3, inject.shown(done)
    assert f"could not be backed up: {two.name}" in done.stderr
    found = inject.run("backups", "--from", repository).stdout
    assert one.name in found
    assert two.name not in found
