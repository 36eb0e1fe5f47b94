"""map, copy, overlay, nbdinfo, completion, --version: the helpers around an export."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab.fixtures import BlankFactory, Cli
from lab.vms import MIB, Disk, Vm

CLUSTER = 65536


@pytest.fixture
def exported(blank: BlankFactory, cli: Cli) -> object:
    """A VM exported since foo: 64 KiB of data, 64 KiB zeroed, 64 KiB discarded since."""
    vm = blank("vm1", (Disk("vda"), Disk("vdb")))
    vm.write("vda", 0, MIB, 0x11)
    assert cli("-d", "vm1", "create", "--name", "foo").returncode == 0
    vm.write("vda", 8 * MIB, CLUSTER, 0x22)
    vm.write_zeroes("vda", 0, CLUSTER)
    vm.discard("vda", 2 * CLUSTER, CLUSTER)
    assert cli("-d", "vm1", "export", "--name", "foo").returncode == 0
    yield vm
    assert cli("-d", "vm1", "release").returncode == 0


def test_map_prints_what_nbdinfo_prints(exported: Vm, cli: Cli) -> None:
    document = json.loads(cli("-d", "vm1", "map", "--disk", "vda", "--json").stdout)
    uri = json.loads(cli("-d", "vm1", "nbdinfo", "--disk", "vda", "--json").stdout)["disks"][0][
        "nbdinfo"
    ]["exports"][0]["uri"]
    for context, keys in (
        ("qemu:dirty-bitmap:backup-vda", ("dirty",)),
        ("base:allocation", ("zero", "allocated")),
    ):
        told = subprocess.run(
            ["nbdinfo", f"--map={context}", "--json", uri], capture_output=True, check=True
        )
        flags = bytearray(64 * MIB // CLUSTER)
        for one in json.loads(told.stdout):
            start, end = one["offset"] // CLUSTER, (one["offset"] + one["length"]) // CLUSTER
            flags[start:end] = bytes([one["type"]]) * (end - start)
        ours = bytearray(64 * MIB // CLUSTER)
        for one in document["extents"]:
            start, end = one["offset"] // CLUSTER, (one["offset"] + one["length"]) // CLUSTER
            value = one["dirty"] if keys == ("dirty",) else one["zero"] * 2 + (not one["allocated"])
            ours[start:end] = bytes([value]) * (end - start)
        assert ours == flags, context


def test_map_covers_the_disk_without_gaps(exported: Vm, cli: Cli) -> None:
    lines = cli("-d", "vm1", "map", "--disk", "vda").stdout.splitlines()
    assert lines[0].split() == ["OFFSET", "LENGTH", "DIRTY", "ZERO", "ALLOCATED"]
    end = 0
    for line in lines[1:]:
        offset, length, *flags = line.split()
        assert int(offset) == end
        assert set(flags) <= {"yes", "no"}
        end = int(offset) + int(length)
    assert end == 64 * MIB


def test_map_dirty_and_base(exported: Vm, cli: Cli) -> None:
    dirty = [
        line.split()[:2]
        for line in cli("-d", "vm1", "map", "--disk", "vda", "--dirty").stdout.splitlines()[1:]
    ]
    assert sum(int(length) for _, length in dirty) == 3 * CLUSTER
    base = cli("-d", "vm1", "map", "--disk", "vda", "--base").stdout.splitlines()[1:]
    assert {line.split()[2] for line in base} == {"-"}


def test_map_totals(exported: Vm, cli: Cli) -> None:
    totals = json.loads(cli("-d", "vm1", "map", "--disk", "vda", "--totals", "--json").stdout)
    assert totals["size"] == 64 * MIB
    assert totals["dirty"] == 3 * CLUSTER
    assert totals["dirty_zero"] == 2 * CLUSTER
    text = cli("-d", "vm1", "map", "--disk", "vda", "--totals").stdout
    assert f"dirty:           192 KiB ({3 * CLUSTER} bytes)" in text


def test_map_into_a_closed_pipe_is_quiet(exported: Vm, cli: Cli) -> None:
    program = Path(__file__).parents[2] / ".venv/bin/vircpt"
    command = f"'{program}' -d vm1 map --disk vda | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 141)


def test_a_copy_where_files_have_no_owners(exported: Vm, cli: Cli, tmp_path: Path) -> None:
    """As on NTFS and FAT, and over NFS for root."""
    device, place = tmp_path / "ntfs", tmp_path / "place"
    place.mkdir()
    with device.open("wb") as file:
        file.truncate(128 * MIB)
    subprocess.run(["mkntfs", "-F", "-Q", "-q", device], check=True, capture_output=True)
    options = "uid=1234,gid=1234,umask=000"
    subprocess.run(["mount.ntfs-3g", "-o", options, device, place], check=True)
    try:
        done = cli("-d", "vm1", "copy", "--disk", "vda", str(place / "copy.raw"))
        assert done.returncode == 0, done.stderr
        assert [one.name for one in place.iterdir()] == ["copy.raw"]
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_copy_is_the_disk(exported: Vm, cli: Cli, tmp_path: Path, image_format: str) -> None:
    target = tmp_path / f"copy.{image_format}"
    done = cli("-d", "vm1", "copy", "--disk", "vda", str(target))
    assert done.returncode == 0, done.stderr
    info = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", str(target)], capture_output=True, check=True
        ).stdout
    )
    assert info["format"] == image_format
    assert info["actual-size"] < 4 * MIB, "sparse"
    uri = json.loads(cli("-d", "vm1", "nbdinfo", "--disk", "vda", "--json").stdout)["disks"][0][
        "nbdinfo"
    ]["exports"][0]["uri"]
    subprocess.run(["qemu-img", "compare", "-f", image_format, "-F", "raw", str(target), uri],
                   check=True, capture_output=True)  # fmt: skip
    assert list(tmp_path.iterdir()) == [target]


def test_all_disks_are_copied_into_a_directory(exported: Vm, cli: Cli, tmp_path: Path) -> None:
    done = cli("-d", "vm1", "copy", str(tmp_path), "--json")
    files = [one["file"] for one in json.loads(done.stdout)["copies"]]
    assert files == [f"{tmp_path}/vm1-vda.qcow2", f"{tmp_path}/vm1-vdb.qcow2"]


def test_a_full_disk_leaves_no_part_of_a_copy(exported: Vm, cli: Cli, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=True)
    try:
        done = cli("-d", "vm1", "copy", "--disk", "vda", str(small / "x.raw"))
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_an_overlay_takes_writes_and_the_export_stays(
    exported: Vm, cli: Cli, tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay.qcow2"
    assert cli("-d", "vm1", "overlay", "--disk", "vda", str(overlay)).returncode == 0
    io = ["qemu-io", "-c", "read -P 0x22 8M 64k", "-c", "write -P 0x77 8M 64k"]
    subprocess.run([*io, str(overlay)], check=True, capture_output=True)
    other = tmp_path / "other.qcow2"
    assert cli("-d", "vm1", "overlay", "--disk", "vda", str(other)).returncode == 0
    again = ["qemu-io", "-c", "read -P 0x22 8M 64k", str(other)]
    told = subprocess.run(again, check=True, capture_output=True, text=True).stdout
    assert "verification failed" not in told


def test_nbdinfo_tells_of_every_disk(exported: Vm, cli: Cli) -> None:
    text = cli("-d", "vm1", "nbdinfo").stdout
    assert 'export="vda"' in text
    assert 'export="vdb"' in text
    assert "qemu:dirty-bitmap:backup-vda" in text


def test_version_tells_of_all_that_we_stand_on(blank: BlankFactory, cli: Cli) -> None:
    found = json.loads(cli("--version", "--json").stdout)
    assert set(found) >= {"vircpt", "libvirt", "libvirt_daemon", "qemu", "libnbd"}
    assert all(found.values())
    text = cli("--version").stdout
    assert text.startswith("vircpt ")
    assert "QEMU " in text


def test_version_where_libvirt_is_not_reached(cli: Cli) -> None:
    done = cli("-c", "qemu+unix:///system?socket=/nowhere", "--version")
    assert done.returncode == 0
    assert "QEMU not reached" in done.stdout


class TestCompletion:
    def completed(self, cli: Cli, line: str) -> list[str]:
        words = line.split(" ")
        done = cli(
            env={
                "_VIRCPT_COMPLETE": "bash_complete",
                "COMP_WORDS": line,
                "COMP_CWORD": str(len(words) - 1),
            }
        )
        assert done.returncode == 0, done.stderr
        return [one.partition(",")[2] for one in done.stdout.splitlines() if one]

    def test_commands_and_options(self, cli: Cli) -> None:
        assert {"export", "exports"} == set(self.completed(cli, "vircpt exp"))
        assert "--scratch-dir" in self.completed(cli, "vircpt export --s")

    def test_domains_checkpoints_and_disks(self, exported: Vm, cli: Cli) -> None:
        assert self.completed(cli, "vircpt -d v") == ["vm1"]
        assert self.completed(cli, "vircpt -d vm1 export --name f") == ["foo"]
        assert self.completed(cli, "vircpt info -d vm1 f") == ["foo"]
        assert self.completed(cli, "vircpt -d vm1 create --disk v") == ["vda", "vdb"]

    def test_a_failure_offers_nothing(self, cli: Cli) -> None:
        assert self.completed(cli, "vircpt -d nosuch export --name f") == []
        assert self.completed(cli, "vircpt -c qemu+tcp://127.0.0.1:1/system -d v") == []

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_scripts(self, cli: Cli, shell: str) -> None:
        script = cli("completion", shell).stdout
        assert "_VIRCPT_COMPLETE" in script
        if shell == "bash":
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)
