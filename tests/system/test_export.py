"""vircpt export, exports, release: on real VMs that run."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab.daemon import poll
from lab.fixtures import BlankFactory, Cli
from lab.state import EXPORTS, begin_foreign_job, checkpoints, end_job, has_job, leftovers
from lab.vms import MIB, Disk, Vm

CLUSTER = 65536


def export(cli: Cli, vm: Vm, *args: str) -> dict[str, Any]:
    done = cli("-d", vm.name, "export", "--json", *args)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def release(cli: Cli, vm: Vm) -> None:
    done = cli("-d", vm.name, "release")
    assert done.returncode == 0, done.stderr
    assert not has_job(vm)
    assert leftovers() == []


def read(uri: str, offset: int, length: int) -> bytes:
    """Bytes of an export, read by libnbd."""
    code = f"import sys; sys.stdout.buffer.write(h.pread({length}, {offset}))"
    return subprocess.run(
        ["/usr/bin/python3", "-c", f"import nbd; h = nbd.NBD(); h.connect_uri({uri!r}); {code}"],
        capture_output=True,
        check=True,
    ).stdout


def dirty(cli: Cli, vm: Vm, *args: str) -> list[tuple[int, int]]:
    done = cli("-d", vm.name, "map", "--dirty", "--json", *args)
    assert done.returncode == 0, done.stderr
    return [(one["offset"], one["length"]) for one in json.loads(done.stdout)["extents"]]


def test_the_export_stands_still_while_the_guest_writes(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    vm.write("vda", 0, 2 * MIB, 0x11)
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    vm.write("vda", 5 * MIB, 3 * CLUSTER, 0x22)
    vm.write("vda", 9 * MIB + 4096, 512, 0x33)
    uri = export(cli, vm, "--name", "foo")["disks"][0]["uri"]
    expected = [(5 * MIB, 3 * CLUSTER), (9 * MIB, CLUSTER)]
    assert dirty(cli, vm) == expected
    vm.write("vda", MIB // 2, MIB, 0x44)
    assert read(uri, 0, 2 * MIB) == b"\x11" * (2 * MIB)
    assert read(uri, 5 * MIB, CLUSTER) == b"\x22" * CLUSTER
    assert dirty(cli, vm) == expected, "what is written later is not in the map"
    release(cli, vm)


def test_what_the_guest_writes_into_a_file_later_is_not_in_the_export(guest: Vm, cli: Cli) -> None:
    guest.guest("head -c 1048576 /dev/zero | tr '\\0' A > /mnt/vda/file && sync")
    uri = export(cli, guest)["disks"][0]["uri"]
    guest.guest("head -c 1048576 /dev/zero | tr '\\0' B > /mnt/vda/file && sync")
    copied = cli("-d", guest.name, "copy", "--disk", "vda", "/var/lib/libvirt/images/c.raw")
    assert copied.returncode == 0, copied.stderr
    release(cli, guest)
    command = ["debugfs", "-R", "cat /file", "/var/lib/libvirt/images/c.raw"]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    Path("/var/lib/libvirt/images/c.raw").unlink()
    assert content == b"A" * 1048576, uri


def test_people_see_socket_sizes_and_commands(blank: BlankFactory, cli: Cli) -> None:
    vm = blank("vm1", (Disk("vda"), Disk("vdb", kind="raw"), Disk("hda", kind="cdrom")))
    assert cli("-d", "vm1", "create", "--name", "foo").returncode == 0
    vm.write("vda", 0, CLUSTER)
    done = cli("-d", "vm1", "export", "--name", "foo")
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines() if line.startswith("vd")]
    assert table[0][:6] == ["vda", "64.0", "MiB", "64.0", "KiB", "backup-vda"]
    assert table[1][:5] == ["vdb", "64.0", "MiB", "-", "-"]
    assert "skipped hda: a cdrom" in done.stderr
    assert "disk vdb is exported in full: format raw" in done.stderr
    assert "shows the disks as they are now" in done.stderr
    for part in (
        "socket: /var/lib/vircpt/exports/",
        "nbdinfo 'nbd+unix:///vda?socket=",
        "--map=qemu:dirty-bitmap:backup-vda",
        "qemu-img create -f qcow2 -F raw -b",
        "qemu-nbd -c /dev/nbd0 -f qcow2 vm1-vda-overlay.qcow2",
        "virsh attach-disk",
        "qemu-nbd -c /dev/nbd1 -r -f raw",
        "fdisk -l /dev/nbd1",
        "vm1-vda.raw",
        "vm1-vda.qcow2",
        "vircpt -d vm1 release",
    ):
        assert part in done.stdout, part
    release(cli, vm)


def test_the_printed_commands_can_be_pasted(blank: BlankFactory, cli: Cli, tmp_path: Path) -> None:
    vm = blank("a vm's $name")
    vm.write("vda", MIB, CLUSTER, 0x5A)
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    commands = export(cli, vm, "--name", "foo")["disks"][0]["commands"]
    ran = []
    for one in commands:
        if "/dev/nbd" in one["command"]:  # there is no nbd module here; at least the shell reads it
            assert shlex.split(one["command"])
            continue
        subprocess.run(one["command"], shell=True, check=True, cwd=tmp_path, capture_output=True)
        ran.append(one["command"].split()[0])
    assert ran == ["nbdinfo", "nbdinfo", "qemu-img", "nbdcopy", "qemu-img"]
    raw = (tmp_path / f"{vm.name}-vda.raw").read_bytes()
    assert raw[MIB : MIB + CLUSTER] == b"\x5a" * CLUSTER
    compare = ["qemu-img", "compare", f"{vm.name}-vda.raw", f"{vm.name}-vda.qcow2"]
    subprocess.run(compare, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    release(cli, vm)


def test_a_disk_that_the_checkpoint_does_not_cover_comes_in_full(
    blank: BlankFactory, cli: Cli
) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    assert cli("-d", vm.name, "create", "--name", "foo", "--disk", "vda").returncode == 0
    vm.write("vdb", 0, CLUSTER)
    found = {one["target"]: one for one in export(cli, vm, "--name", "foo")["disks"]}
    assert found["vda"]["bitmap"] == "backup-vda"
    assert found["vdb"]["bitmap"] is None
    assert found["vdb"]["why_full"] == "checkpoint foo does not cover it"
    assert read(found["vdb"]["uri"], 0, 4) == b"\xaa" * 4
    release(cli, vm)


@pytest.mark.parametrize("running", [True, False])
def test_a_disk_that_has_grown_since_comes_in_full(
    blank: BlankFactory, cli: Cli, running: bool
) -> None:
    """QEMU's bitmap says that the new part is clean."""
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    vm.domain.blockResize("vda", 96 * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    vm.write("vda", 80 * MIB, CLUSTER)
    if not running:
        vm.destroy()
    found = {one["target"]: one for one in export(cli, vm, "--name", "foo")["disks"]}
    assert found["vda"]["bitmap"] is None
    assert "its size has changed from 67108864 to 100663296 bytes" in found["vda"]["why_full"]
    assert found["vdb"]["bitmap"] == "backup-vdb"
    assert read(found["vda"]["uri"], 80 * MIB, 4) == b"\xaa" * 4
    assert cli("-d", vm.name, "release").returncode == 0


def test_create_makes_a_checkpoint_in_the_same_instant(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    assert cli("-d", vm.name, "create", "--name", "old").returncode == 0
    vm.write("vda", 0, CLUSTER)
    document = export(cli, vm, "--name", "old", "--create", "new")
    assert document["created_checkpoint"] == "new"
    assert document["disks"][0]["changed"] == CLUSTER
    assert checkpoints(vm) == ["old", "new"]
    vm.write("vda", 4 * MIB, CLUSTER)
    release(cli, vm)
    assert export(cli, vm, "--name", "new")["disks"][0]["changed"] == CLUSTER
    assert dirty(cli, vm) == [(4 * MIB, CLUSTER)]
    release(cli, vm)


def test_disk_and_exclude_choose(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb"), Disk("vdc")))
    found = export(cli, vm, "--disk", "vdb")
    assert [one["target"] for one in found["disks"]] == ["vdb"]
    release(cli, vm)
    found = export(cli, vm, "--exclude", "vdb")
    assert [one["target"] for one in found["disks"]] == ["vda", "vdc"]
    release(cli, vm)


def test_the_directory_of_an_export_is_private(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    document = export(cli, vm)
    directory = EXPORTS / document["id"]
    io = (directory / "io").stat()
    state = (directory / "state.json").stat()
    assert stat.S_IMODE(io.st_mode) == 0o700
    assert io.st_uid != 0, "QEMU does not run as root in the lab"
    assert (state.st_uid, stat.S_IMODE(state.st_mode)) == (0, 0o600)
    assert (directory.stat().st_uid, stat.S_IMODE(directory.stat().st_mode)) == (0, 0o711)
    scratch = directory / "scratch"
    assert (scratch / "vda.scratch").stat().st_uid == io.st_uid
    assert (scratch.stat().st_uid, stat.S_IMODE(scratch.stat().st_mode)) == (0, 0o711)
    plant = ["ln", "-s", "/etc/planted", str(scratch / "vdz.scratch")]
    refused = subprocess.run(plant, user=io.st_uid, capture_output=True, text=True, check=False)
    assert "Permission denied" in refused.stderr, "libvirtd would follow that link as root"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(document["socket"])
    release(cli, vm)


def test_scratch_files_go_where_asked(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    place = Path("/var/lib/libvirt/images/scratch")
    place.mkdir(mode=0o711)
    document = export(cli, vm, "--scratch-dir", str(place))
    assert (place / f"vircpt-{document['id']}" / "vda.scratch").exists()
    release(cli, vm)
    assert list(place.iterdir()) == []
    place.rmdir()


@pytest.mark.parametrize(("owner", "mode"), [("nobody", 0o755), ("libvirt-qemu", 0o700)])
def test_a_scratch_directory_of_somebody_else_is_refused(
    blank: BlankFactory, cli: Cli, owner: str, mode: int
) -> None:
    """Who owns it could rename what we make there, and put a link for libvirtd in its place."""
    vm = blank()
    place = Path("/var/lib/libvirt/images/theirs")
    place.mkdir()
    shutil.chown(place, owner)
    place.chmod(mode)
    done = cli("-d", vm.name, "export", "--scratch-dir", str(place))
    shutil.rmtree(place)
    assert done.returncode == 12
    assert "can't be trusted" in done.stderr
    assert f"other users may write to {place}, or own it" in done.stderr
    assert leftovers() == []
    assert not has_job(vm)


def test_a_scratch_directory_that_is_none_leaves_nothing(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    done = cli("-d", vm.name, "export", "--scratch-dir", "/nowhere/at/all")
    assert done.returncode == 2
    assert leftovers() == []
    assert not has_job(vm)


def test_two_domains_at_once(blank: BlankFactory, cli: Cli) -> None:
    first, second = blank("one"), blank("two")
    export(cli, first)
    export(cli, second)
    states = json.loads(cli("exports", "--json").stdout)["exports"]
    assert {(one["domain"], one["state"]) for one in states} == {
        ("one", "running"),
        ("two", "running"),
    }
    assert cli("-d", "one", "release").returncode == 0
    assert has_job(second)
    release(cli, second)


def test_exports_tells_by_whom_since_when_and_scratch_use(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    vm.write("vda", 0, MIB)
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    export(cli, vm, "--name", "foo")
    vm.write("vda", 0, MIB, 0x77)
    (one,) = json.loads(cli("exports", "--json").stdout)["exports"]
    assert one["user"] == "root"
    assert one["base"] == "foo"
    assert one["scratch_used"] >= MIB
    assert one["created"].endswith("Z")
    line = cli("exports").stdout.splitlines()[1].split()
    assert line[1:4] == [vm.name, "running", "root"]
    release(cli, vm)


def test_exports_names_foreign_jobs_and_release_leaves_them(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    begin_foreign_job(vm)
    (one,) = json.loads(cli("exports", "--json").stdout)["exports"]
    assert one["state"] == "foreign"
    done = cli("-d", vm.name, "release")
    assert done.returncode == 11
    assert "not vircpt's" in done.stderr
    assert cli("-d", vm.name, "release", "--force").returncode == 11
    assert has_job(vm)
    end_job(vm)


def test_the_export_of_another_vircpt_is_named_as_such(
    blank: BlankFactory, cli: Cli, tmp_path: Path
) -> None:
    vm = blank()
    export(cli, vm)
    tmp_path.chmod(0o755)
    elsewhere = {"VIRCPT_STATE_DIR": str(tmp_path / "state")}
    refused = cli("-d", vm.name, "export", env=elsewhere)
    assert refused.returncode == 11
    for done in (refused, cli("-d", vm.name, "release", env=elsewhere)):
        assert done.returncode == 11
        assert "a vircpt of another user" in done.stderr
        assert "domjob" not in done.stderr
    (one,) = json.loads(cli("exports", "--json", env=elsewhere).stdout)["exports"]
    assert "a vircpt of another user" in one["note"]
    assert cli("-d", vm.name, "release").returncode == 0


def test_release_without_an_export(blank: BlankFactory, cli: Cli) -> None:
    done = cli("-d", blank().name, "release")
    assert done.returncode == 10
    assert "has no export" in done.stderr


def test_release_by_id(blank: BlankFactory, cli: Cli) -> None:
    one, other = blank("one"), blank("other")
    started = export(cli, one)
    export(cli, other)
    assert cli("-d", "one", "release", started["id"]).returncode == 2
    assert cli("release", started["id"]).returncode == 0
    assert not has_job(one)
    assert has_job(other)
    done = cli("release", started["id"])
    assert done.returncode == 10
    assert "see vircpt exports" in done.stderr
    assert cli("-d", "other", "release").returncode == 0


def test_exports_of_one_domain_tell_again_what_export_told(blank: BlankFactory, cli: Cli) -> None:
    vm, other = blank(), blank("other")
    told = cli("-d", vm.name, "export").stdout
    export(cli, other)
    again = cli("-d", vm.name, "exports").stdout
    commands = told[told.index("vda: nbd+unix:") :]
    assert again.endswith(commands)
    assert cli("-d", vm.domain.UUIDString(), "exports").stdout.endswith(commands)
    assert "nbd+unix:" not in cli("exports").stdout
    for one in (vm, other):
        assert cli("-d", one.name, "release").returncode == 0
    assert cli("-d", vm.name, "exports").stdout == ""


def test_release_cleans_up_after_a_guest_that_died(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    export(cli, vm)
    vm.kill()
    (one,) = json.loads(cli("exports", "--json").stdout)["exports"]
    assert one["state"] == "dead"
    assert "is dead" in cli("-d", vm.name, "map").stderr
    done = cli("-d", vm.name, "release")
    assert done.returncode == 0
    assert "had died before" in done.stdout
    assert leftovers() == []


def test_a_new_export_cleans_up_after_a_dead_one(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    export(cli, vm)
    vm.kill()
    vm.start()
    export(cli, vm)
    assert len(list(EXPORTS.iterdir())) == 1
    release(cli, vm)


def test_release_after_the_domain_has_been_undefined(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    export(cli, vm)
    vm.remove()
    assert cli("-d", vm.name, "release").returncode == 0
    assert leftovers() == []


def test_release_refuses_while_another_domain_reads(
    blank: BlankFactory, cli: Cli, conn: Any
) -> None:
    vm, other = blank("source"), blank("reader")
    path = export(cli, vm)["socket"]
    disk = (
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
        f"<source protocol='nbd' name='vda'><host transport='unix' socket='{path}'/></source>"
        "<target dev='vdx' bus='virtio'/><readonly/></disk>"
    )
    other.domain.attachDevice(disk)
    done = cli("-d", "source", "release")
    assert done.returncode == 11
    assert "disk vdx of domain reader" in done.stderr
    (one,) = json.loads(cli("exports", "--json").stdout)["exports"]
    assert one["attached"] == ["reader:vdx"]
    assert has_job(vm)
    other.destroy()
    release(cli, vm)


def test_dry_run_tells_and_changes_nothing(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb", kind="raw")))
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    done = cli("-d", vm.name, "export", "--name", "foo", "--create", "bar", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "changes since foo marked" in done.stdout
    assert "<name>bar</name>" in done.stdout
    assert not has_job(vm)
    assert leftovers() == []
    assert checkpoints(vm) == ["foo"]
    begin_foreign_job(vm)
    assert cli("-d", vm.name, "export", "--dry-run").returncode == 11
    end_job(vm)


class TestRun:
    def test_the_command_gets_the_uris_and_its_status_counts(
        self, blank: BlankFactory, cli: Cli
    ) -> None:
        vm = blank()
        assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
        script = 'nbdinfo --size "$VIRCPT_URI_VDA"; echo $VIRCPT_DISKS $VIRCPT_BITMAP_VDA; exit 7'
        done = cli("-d", vm.name, "export", "--name", "foo", "--run", script)
        assert done.returncode == 7
        assert done.stdout == f"{64 * MIB}\nvda backup-vda\n"
        assert not has_job(vm)
        assert leftovers() == []

    def test_it_is_released_when_the_command_is_killed(self, blank: BlankFactory, cli: Cli) -> None:
        vm = blank()
        done = cli("-d", vm.name, "export", "--run", "kill -9 $$")
        assert done.returncode == 128 + 9
        assert not has_job(vm)
        assert leftovers() == []

    def test_only_the_command_writes_to_stdout(self, blank: BlankFactory, cli: Cli) -> None:
        done = cli("-d", blank().name, "export", "--run", "true")
        assert (done.returncode, done.stdout) == (0, "")


def test_names_with_dots_and_of_200_characters(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    for name in ("v1.2.3-rc.1", "n" * 200):
        assert cli("-d", vm.name, "create", "--name", name).returncode == 0
        assert name in cli("-d", vm.name, "list").stdout
        assert name in cli("-d", vm.name, "info", name).stdout
        xml = cli("-d", vm.name, "dumpxml", name).stdout
        assert cli("-d", vm.name, "export", "--name", name).returncode == 0
        assert cli("-d", vm.name, "map", "--totals").returncode == 0
        release(cli, vm)
        assert cli("-d", vm.name, "delete", "--name", name, "--metadata").returncode == 0
        assert cli("-d", vm.name, "redefine", "-", "--validate", input=xml).returncode == 0
        assert cli("-d", vm.name, "delete", "--name", name).returncode == 0
    assert checkpoints(vm) == []


def test_the_time_is_over_while_the_command_runs(blank: BlankFactory, cli: Cli) -> None:
    """What it read may not be all, whatever it says itself."""
    blank("vm1")
    wait = "while [ -e $VIRCPT_SOCKET ]; do sleep 0.05; done"
    for command, status in ((wait, 1), (f"{wait}; exit 42", 42)):
        done = cli("-d", "vm1", "export", "--ttl", "1s", "--run", command)
        assert done.returncode == status
        assert "ended before the command did: its --ttl was over" in done.stderr
        assert leftovers() == []


def test_it_is_released_while_the_command_runs(blank: BlankFactory, cli: Cli) -> None:
    vm = blank("vm1")
    vircpt = Path(__file__).parents[2] / ".venv/bin/vircpt"
    done = cli("-d", vm.name, "export", "--run", f"{vircpt} -d vm1 release --force")
    assert done.returncode == 1
    assert "ended before the command did: it was released" in done.stderr
    assert leftovers() == []


def test_the_guest_is_paused_because_scratch_files_find_no_space(guest: Vm, cli: Cli) -> None:
    small = Path("/var/lib/libvirt/images/small")
    small.mkdir()
    guest.destroy()  # a QEMU in a mount namespace of its own sees only what was there before
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        guest.start()
        guest.wait_agent()
        guest.guest("dd if=/dev/urandom of=/dev/vdb bs=1M count=8 && sync")
        done = cli("-d", "guest", "export", "--scratch-dir", str(small))
        assert done.returncode == 0, done.stderr
        overwrite = ["if=/dev/zero", "of=/dev/vdb", "bs=1M", "count=8", "conv=fsync"]
        guest.agent("guest-exec", path="dd", arg=overwrite)
        stuck = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
        poll(lambda: guest.domain.state() == stuck, 30, "the guest to be paused")
        (one,) = json.loads(cli("exports", "--json").stdout)["exports"]
        assert "no space left for scratch files" in one["note"]
        assert "virsh resume guest" in one["note"]
        assert "no space left for scratch files" in cli("exports").stderr
        done = cli("-d", "guest", "release")
        assert done.returncode == 0
        assert "the guest is paused, as one of its writes failed: virsh resume guest" in done.stderr
        guest.domain.resume()
        guest.wait_agent()
    finally:
        guest.destroy()
        subprocess.run(["umount", small], check=True)
        small.rmdir()
    assert leftovers() == []
