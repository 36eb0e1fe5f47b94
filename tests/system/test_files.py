"""Files of real guests: what changed is found, on each file system; files come out as they are."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab import guestfs
from lab.daemon import Libvirtd
from lab.fixtures import BlankFactory, Cli
from lab.turmoil import Turmoil
from lab.vms import MIB, Disk, Vm, define_guest

# The guest that all share takes its time to be made, and more on a busy machine.
pytestmark = pytest.mark.timeout(900)

# area as vircpt names it → where the guest has it mounted
AREAS = {"vda": "ext4", "vdb": "xfs", "vdc": "ntfs", "vdd": "btrfs", "lab/both": "lvm"}
DEVICES = {**{area: f"/dev/{area}" for area in AREAS}, "lab/both": "/dev/mapper/lab-both"}
KINDS = ("ext4", "xfs", "ntfs", "btrfs")
AREA_OF = {point: area for area, point in AREAS.items()}
STRANGE = (b"bad\xff\xfe", b"new\nline", b"esc\x1b[31mred", b"-rf", "grün".encode())


@dataclass
class World:
    """A guest in which everything has happened, and its export."""

    vm: Vm
    turmoils: dict[str, Turmoil] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)

    def changes(self, point: str) -> dict[str, dict[str, Any]]:
        area = AREA_OF[point]
        return {one["path"][1:]: one for one in self.document["changes"] if one["area"] == area}


@pytest.fixture(scope="module")
def world(libvirtd: Libvirtd, cli: Cli) -> Iterator[World]:
    connection = libvirt.open("qemu:///system")
    disks = [Disk(f"vd{letter}", guestfs.SIZE) for letter in "abcd"]
    disks += [Disk("vde", 64 * MIB), Disk("vdf", 64 * MIB)]
    vm = define_guest(connection, "files", disks)
    try:
        for target, kind in zip(("vda", "vdb", "vdc", "vdd"), KINDS, strict=True):
            guestfs.fill(vm.images[target], kind)
        vm.start()
        vm.wait_agent()
        made = World(vm)
        _prepare(made)
        done = cli("-d", "files", "create", "--name", "before")
        assert done.returncode == 0, done.stderr
        time.sleep(2.5)  # the margin within which times prove nothing
        _stir(made)
        done = cli("-d", "files", "export", "--name", "before", timeout=300)
        assert done.returncode == 0, done.stderr
        done = cli("-d", "files", "diff", "--export", "--json", timeout=300)
        assert done.returncode == 0, done.stderr
        made.document = json.loads(done.stdout)
        yield made
        done = cli("-d", "files", "release")
        assert done.returncode == 0, done.stderr
    finally:
        vm.remove()
        connection.close()


def _prepare(world: World) -> None:
    vm = world.vm
    lvm = "--config devices/use_devicesfile=0"
    vm.guest(
        "modprobe dm_mod; mkdir -p /run/lvm /run/lock/lvm; "
        f"lvm pvcreate -q {lvm} /dev/vde /dev/vdf "
        f"&& lvm vgcreate -q {lvm} -s 1m lab /dev/vde /dev/vdf "
        f"&& lvm lvcreate -q {lvm} --noudevsync -Zn -Wn -l 100%FREE -n both lab "
        f"&& lvm vgmknodes {lvm}; mkfs.ext4 -q -F {DEVICES['lab/both']}"
    )
    for number, (area, point) in enumerate(AREAS.items()):
        kind = "ext4" if point == "lvm" else point
        vm.guest(guestfs.mount(kind, DEVICES[area], f"/mnt/{point}"))
        turmoil = Turmoil(seed=number, modes=point != "ntfs")
        vm.guest(f"cd /mnt/{point} && sh -s", turmoil.prepare(), timeout=300)
        world.turmoils[point] = turmoil
    vm.guest("cd /mnt/ext4 && mkdir strange && sync")


def _stir(world: World) -> None:
    vm = world.vm
    for point, turmoil in world.turmoils.items():
        vm.guest(f"cd /mnt/{point} && sh -s", turmoil.stir(), timeout=300)
        listing = vm.guest(
            f"cd /mnt/{point} && find d* -type f -exec sha256sum {{}} +", timeout=120
        )
        world.hashes[point] = {line[66:]: line[:64] for line in listing.splitlines()}
    names = " ".join(
        "\"$(printf '" + "".join(f"\\{byte:03o}" for byte in name) + "')\"" for name in STRANGE
    )
    vm.guest(f'cd /mnt/ext4/strange && for name in {names}; do echo x >"./$name"; done')
    vm.guest(
        "cd /mnt/ext4 && mkdir kept && cd kept && head -c 100000 /dev/urandom >sparse && "
        "truncate -s 300M sparse && head -c 5000 /dev/urandom >>sparse && ln sparse hard && "
        "ln -s /etc/passwd soft && chmod 4751 hard && chown 12:34 hard && mkfifo pipe && "
        "touch -d '2020-01-02 03:04:05' hard && sync"
    )
    vm.guest("sync; umount /mnt/ntfs; sync")


@pytest.mark.parametrize("point", list(AREAS.values()))
def test_every_file_that_changed_is_found(world: World, point: str) -> None:
    """Neither forged times nor small sizes hide one."""
    found, turmoil = world.changes(point), world.turmoils[point]
    assert turmoil.touched - found.keys() == set()
    assert turmoil.stirred - found.keys() == set()
    assert turmoil.gone & found.keys() == set()


@pytest.mark.parametrize("point", list(AREAS.values()))
def test_what_is_certain_is_so(world: World, point: str) -> None:
    found, turmoil = world.changes(point), world.turmoils[point]
    certain = {path for path, one in found.items() if one["certain"]}
    assert certain & turmoil.quiet == set()
    assert certain & turmoil.touched, "if nothing is certain the word says nothing"


@pytest.mark.parametrize("point", list(AREAS.values()))
def test_files_come_out_as_the_guest_sees_them(
    world: World, cli: Cli, tmp_path: Path, point: str
) -> None:
    source = f"vm:{AREA_OF[point]}:/"
    done = cli("-d", "files", "cp", "-r", source, tmp_path, timeout=300)
    assert done.returncode == (3 if point == "ext4" else 0), done.stderr
    copied = {
        str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.glob("d*/*")
    }
    assert copied == world.hashes[point]


def test_nothing_was_left_out(world: World) -> None:
    assert world.document["not_looked_into"] == []
    names = {one["name"] for one in world.document["areas"]}
    assert set(AREAS) <= names


def test_strange_names_print_safely_and_survive_json(world: World, cli: Cli) -> None:
    found = [one for one in world.document["changes"] if one["path"].startswith("/strange/")]
    paths = {
        base64.b64decode(one["path_base64"]) if one["path_base64"] else one["path"].encode()
        for one in found
    }
    assert paths == {b"/strange/" + name for name in STRANGE}
    assert {one["path"].encode("utf-8", "surrogateescape") for one in found} == paths
    text = cli("-d", "files", "diff", "--export", "--path", "/strange").stdout
    for shown in ("/strange/bad\\udcff\\udcfe\n", "/strange/new\\nline\n", "/strange/esc\\x1b[31m"):
        assert shown in text


def test_cp_keeps_what_can_be_kept(world: World, cli: Cli, tmp_path: Path) -> None:
    done = cli("-d", "files", "cp", "-r", "vm:vda:/kept", tmp_path)
    assert done.returncode == 3, done.stderr
    assert "/kept/pipe: a fifo is not copied" in done.stderr
    kept = tmp_path / "kept"
    hard, sparse = kept / "hard", kept / "sparse"
    facts = hard.stat()
    assert facts.st_ino == sparse.stat().st_ino
    assert facts.st_size == 300 * MIB + 5000
    assert facts.st_blocks * 512 < 2 * MIB, "holes stay holes"
    assert facts.st_mtime == 1577934245
    assert facts.st_mode & 0o7777 == 0o751, "not set-user-ID"
    assert (facts.st_uid, facts.st_gid) == (12, 34)
    assert os.readlink(kept / "soft") == "/etc/passwd"  # noqa: PTH115
    assert not (kept / "pipe").exists()


def test_cp_replaces_nothing_and_follows_no_link(world: World, cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (tmp_path / "sparse").write_text("old")
    done = cli("-d", "files", "cp", "vm:vda:/kept/sparse", tmp_path)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (tmp_path / "sparse").read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mine", "sparse"]
    (tmp_path / "sparse").unlink()
    (tmp_path / "sparse").symlink_to(mine)
    done = cli("-d", "files", "cp", "--force", "vm:vda:/kept/sparse", tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sparse").is_symlink()
    assert mine.read_text() == "precious"
    (tmp_path / "kept").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    done = cli("-d", "files", "cp", "-r", "vm:vda:/kept", tmp_path)
    assert done.returncode == 1
    assert "a symbolic link is never followed there" in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_cat_and_ls(world: World, cli: Cli) -> None:
    path = sorted(world.turmoils["xfs"].quiet)[0]
    inside = world.vm.guest(f"base64 /mnt/xfs/{path}")
    done = cli("-d", "files", "--json", "ls", f"vdb:/{path}")
    (facts,) = json.loads(done.stdout)["files"]
    assert facts["size"] == len(base64.b64decode(inside))
    listed = json.loads(cli("-d", "files", "--json", "ls", "-R", "lab/both:/").stdout)["files"]
    names = {one["path"][1:] for one in listed if one["kind"] == "file"}
    assert {name for name in names if name.startswith("d")} == set(world.hashes["lvm"])


def test_wrong_paths_are_told(world: World, cli: Cli) -> None:
    for path, code, text in (
        ("/d0", 2, "in which file system?"),
        ("vda:/nope", 10, "nope"),
        ("vdz:/", 10, "there is no file system 'vdz'"),
        ("vda:/../x", 2, "leads upwards"),
    ):
        done = cli("-d", "files", "ls", path)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr


def test_layout_shows_what_lies_where(world: World, cli: Cli) -> None:
    areas = json.loads(cli("-d", "files", "--json", "layout", "--export").stdout)["areas"]
    by_name = {one["name"]: one for one in areas}
    for area, point in AREAS.items():
        one = by_name[area]
        assert one["type"] == ("ext4" if point == "lvm" else point)
        assert 0 < one["changed"] < one["size"]
        assert one["used"] is None or 0 < one["used"] < one["size"]
    assert by_name["vde"]["users"] == ["lab/both"]
    assert by_name["lab/both"]["parents"] == ["vde", "vdf"]


def test_it_is_read_little_and_in_little_memory(world: World) -> None:
    assert world.document["spent"]["fetched"] < 100 * MIB
    assert world.document["spent"]["memory"] < 150 * MIB


def test_an_interrupted_diff_leaves_nothing(blank: BlankFactory, cli: Cli) -> None:
    """Wherever the signal comes: no export, no job, no child."""
    vm = blank("interrupted")
    assert cli("-d", vm.name, "create", "--name", "one", "--no-freeze").returncode == 0
    program = Path(__file__).parents[2] / ".venv/bin/vircpt"
    for delay in (0.15, 0.3, 0.45, 0.6, 0.8):
        command = [str(program), "-d", vm.name, "diff", "--since", "one"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        # -SIGINT: it came before vircpt's first line
        assert process.returncode in (0, 130, -signal.SIGINT), said
        running = json.loads(cli("exports", "--json").stdout)["exports"]
        assert vm.name not in [one["domain"] for one in running]
        assert vm.domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE


def test_a_sandbox_that_cannot_be_made_is_an_error(world: World, cli: Cli, tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions' >&2\nexit 1\n")
    program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = cli("-d", "files", "layout", "--export", env=env)
    assert done.returncode == 12
    assert "No permissions" in done.stderr
    assert "--no-sandbox" in done.stderr
    done = cli("-d", "files", "layout", "--export", "--no-sandbox", env=env)
    assert done.returncode == 0, done.stderr
