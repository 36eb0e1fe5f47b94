"""Each finding of the doctor provoked for real; what it says, what --fix does, what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from lab import inject
from lab.daemon import LOG, Libvirtd, poll
from lab.fixtures import BlankFactory, Cli
from lab.state import EXPORTS, begin_foreign_job, checkpoints, has_job, leftovers
from lab.vms import IMAGES, MIB, Disk, Vm, disk_xml

QUIET = ("no-nbd-module", "agent-missing")
"""True of the lab, whatever is tested."""
REDEFINE = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
METADATA_ONLY = libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY


class Doctor:
    """Runs `vircpt doctor --json` on a VM."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli

    def __call__(
        self, vm: Vm | None, *options: str | Path, status: int = 0, **more: Any
    ) -> dict[str, Any]:
        where = ("-d", vm.name) if vm else ()
        done = self._cli(*where, "--json", "doctor", *options, **more)
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def ids(self, vm: Vm | None, *options: str | Path, status: int = 0, **more: Any) -> list[str]:
        findings = self(vm, *options, status=status, **more)["findings"]
        return sorted({one["id"] for one in findings} - set(QUIET))

    def fixed(self, vm: Vm, *options: str, status: int = 0) -> list[str]:
        """Ids of what `--fix --yes` repaired; afterwards nothing is left to be found."""
        done = self(vm, "--fix", "--yes", *options, status=status)
        assert done["failed"] == []
        assert self.ids(vm) == []
        return sorted(one["id"] for one in done["repaired"])


@pytest.fixture
def doctor(cli: Cli) -> Doctor:
    return Doctor(cli)


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    yield
    inject.sweep()


def create(cli: Cli, vm: Vm, name: str, *options: str) -> None:
    done = cli("-d", vm.name, "create", "--name", name, *options)
    assert done.returncode == 0, done.stderr


def foreign(vm: Vm, name: str, disks: str = "") -> None:
    """A checkpoint as another program makes it."""
    vm.domain.checkpointCreateXML(
        f"<domaincheckpoint><name>{name}</name>{disks}</domaincheckpoint>"
    )


def forget(vm: Vm, name: str) -> None:
    """Have libvirt forget a checkpoint; the bitmap stays."""
    vm.domain.checkpointLookupByName(name).delete(METADATA_ONLY)


def qmp(vm: Vm, command: str, **arguments: Any) -> Any:
    request = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(libvirt_qemu.qemuMonitorCommand(vm.domain, request, 0))["return"]


def live_bitmaps(vm: Vm) -> list[str]:
    devices = qmp(vm, "query-block")
    found = [one["inserted"].get("dirty-bitmaps", []) for one in devices if "inserted" in one]
    return sorted(bitmap["name"] for bitmaps in found for bitmap in bitmaps)


def stored_bitmaps(image: Path) -> list[str]:
    command = ["qemu-img", "info", "-U", "--output=json", str(image)]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return sorted(one["name"] for one in told["format-specific"]["data"].get("bitmaps", []))


def is_tainted(vm: Vm) -> bool:
    return bool(vm.domain.messages(libvirt.VIR_DOMAIN_MESSAGE_TAINTING))


def verdicts(found: dict[str, Any]) -> dict[tuple[str | None, str], str]:
    (domain,) = found["domains"]
    return {(one["checkpoint"], one["target"]): one["state"] for one in domain["verdicts"]}


# Health


def test_a_healthy_domain_is_healthy_and_untainted(
    blank: BlankFactory, cli: Cli, doctor: Doctor
) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    create(cli, vm, "one")
    create(cli, vm, "two")
    found = doctor(vm)
    assert found["healthy"]
    assert set(verdicts(found).values()) == {"ok"}
    assert len(verdicts(found)) == 4
    assert doctor.ids(vm) == []
    assert not is_tainted(vm), "looking leaves no mark"
    assert doctor(vm, "--deep")["domains"][0]["asked_qemu"]
    assert is_tainted(vm)
    assert doctor(vm)["domains"][0]["asked_qemu"], "one more question costs nothing now"
    vm.destroy()
    assert set(verdicts(doctor(vm)).values()) == {"ok"}
    text = cli("-d", vm.name, "doctor").stdout
    assert "one" in text
    assert "ok" in text


def test_all_domains(blank: BlankFactory, cli: Cli, doctor: Doctor) -> None:
    one, two = blank("one"), blank("two", start=False)
    found = doctor(None, "--all")
    assert {domain["name"] for domain in found["domains"]} >= {one.name, two.name}
    assert cli("-d", "one", "doctor", "--all").returncode == 2
    assert cli("doctor", "--yes").returncode == 2
    assert cli("-d", "nosuch", "doctor").returncode == 10


# Bitmaps


@pytest.mark.finding("orphan-bitmap")
@pytest.mark.parametrize("runs", [True, False])
def test_a_bitmap_without_a_checkpoint(
    blank: BlankFactory, cli: Cli, doctor: Doctor, runs: bool
) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    create(cli, vm, "left")
    create(cli, vm, "kept")
    forget(vm, "left")
    if not runs:
        vm.destroy()
    assert doctor.ids(vm, *(["--deep"] if runs else [])) == ["orphan-bitmap"]
    left = doctor(vm, "--fix", "--yes")
    assert left["repaired"] == [], "foreign: --yes is not enough"
    assert doctor.fixed(vm, "--foreign") == ["orphan-bitmap"] * 2  # one on each disk
    assert checkpoints(vm) == ["kept"]
    if runs:
        assert live_bitmaps(vm) == ["kept", "kept"]
    else:
        assert stored_bitmaps(vm.images["vda"]) == ["kept"]
        vm.start()
    create(cli, vm, "left")
    (made,) = [one for one in vm.domain.listAllCheckpoints() if one.getName() == "left"]
    assert made.getParent().getName() == "kept"


@pytest.mark.finding("orphan-bitmap")
def test_bitmaps_of_a_domain_that_was_undefined(
    blank: BlankFactory, conn: Any, cli: Cli, doctor: Doctor
) -> None:
    vm = blank(start=False)
    xml = vm.domain.XMLDesc(0)
    vm.start()
    create(cli, vm, "left")
    vm.destroy()
    vm.undefine()
    vm.domain = conn.defineXML(xml)
    vm.start()
    assert doctor.ids(vm) == ["lost-metadata", "orphan-bitmap"], "from the file, untainted"
    assert not is_tainted(vm)
    refused = cli("-d", vm.name, "create", "--name", "left")
    assert refused.returncode == 13
    assert "doctor --fix" in refused.stderr
    assert doctor.fixed(vm, "--foreign") == ["orphan-bitmap"]
    assert not is_tainted(vm), "nor does the repair leave a mark"
    create(cli, vm, "left")


@pytest.mark.finding("orphan-bitmap")
def test_a_bitmap_by_hand_with_a_name_that_no_checkpoint_can_have(
    blank: BlankFactory, doctor: Doctor
) -> None:
    vm = blank(start=False)
    image = vm.images["vda"]
    for name in ("a b", "--remove", "../x"):
        subprocess.run(["qemu-img", "bitmap", "--add", "--", image, name], check=True)
    done = doctor(vm, "--fix", "--yes", "--foreign")
    assert len(done["repaired"]) == 3
    assert stored_bitmaps(image) == []


@pytest.mark.finding("orphan-bitmap")
@pytest.mark.parametrize("runs", [True, False])
def test_killed_while_it_removes_a_bitmap(
    blank: BlankFactory, cli: Cli, doctor: Doctor, runs: bool
) -> None:
    """The checkpoint that stands for the bitmap is known, and goes the next time."""
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    create(cli, vm, "left")
    create(cli, vm, "kept")
    forget(vm, "left")
    fix = ("doctor", "--fix", "--yes", "--foreign", "--deep")
    order = "kill:after:virDomainCheckpointCreateXML"
    assert inject.run("-d", vm.name, *fix, order=order).returncode == -signal.SIGKILL
    assert checkpoints(vm) == ["left", "kept"]
    if not runs:
        vm.destroy()
    doctor(vm, "--fix", "--yes", "--foreign", "--deep")
    assert checkpoints(vm) == ["kept"]
    if runs:
        assert live_bitmaps(vm) == ["kept", "kept"]
    assert doctor.ids(vm) == []


@pytest.mark.finding("missing-bitmap")
@pytest.mark.parametrize("runs", [True, False])
def test_a_checkpoint_without_its_bitmap(
    blank: BlankFactory, cli: Cli, doctor: Doctor, runs: bool
) -> None:
    """On one of two disks: what is left on the other goes with it."""
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    create(cli, vm, "one")
    create(cli, vm, "two")
    vm.destroy()
    subprocess.run(["qemu-img", "bitmap", "--remove", vm.images["vda"], "one"], check=True)
    if runs:
        vm.start()
    found = doctor(vm, status=13)
    assert verdicts(found)["one", "vda"] == "missing"
    assert verdicts(found)["one", "vdb"] == verdicts(found)["two", "vda"] == "ok"
    assert doctor.fixed(vm) == ["missing-bitmap"]
    assert checkpoints(vm) == ["two"]
    if runs:
        assert live_bitmaps(vm) == ["two", "two"]
        vm.destroy()
    assert stored_bitmaps(vm.images["vdb"]) == ["two"]


@pytest.mark.finding("inconsistent-bitmap")
@pytest.mark.parametrize("runs", [True, False])
def test_bitmaps_after_a_crash(blank: BlankFactory, cli: Cli, doctor: Doctor, runs: bool) -> None:
    vm = blank()
    create(cli, vm, "one")
    foreign(vm, "theirs")
    vm.destroy()
    vm.start()
    vm.kill()
    if runs:
        vm.start()
    found = doctor(vm, status=13)
    assert set(verdicts(found).values()) == {"inconsistent"}
    plan = cli("-d", vm.name, "doctor", "--dry-run")
    assert plan.returncode == 13
    assert "delete checkpoint one and" in plan.stdout
    assert "checkpoint theirs, which vircpt did not make" in plan.stdout
    assert cli("-d", vm.name, "doctor", "--fix").returncode == 13, "nobody there to ask"
    assert checkpoints(vm) == ["one", "theirs"]
    part = doctor(vm, "--fix", "--yes", status=3)
    assert [one["checkpoint"] for one in part["repaired"]] == ["one"]
    assert checkpoints(vm) == ["theirs"]
    assert doctor.fixed(vm, "--foreign") == ["inconsistent-bitmap"]
    if not runs:
        assert stored_bitmaps(vm.images["vda"]) == []
        vm.start()
    create(cli, vm, "one")


@pytest.mark.finding("disabled-bitmap")
@pytest.mark.parametrize("runs", [True, False])
def test_a_bitmap_that_was_switched_off(
    blank: BlankFactory, cli: Cli, doctor: Doctor, runs: bool
) -> None:
    vm = blank()
    create(cli, vm, "one")
    if runs:
        (device,) = qmp(vm, "query-block")
        node = device["inserted"]["node-name"]
        qmp(vm, "block-dirty-bitmap-disable", node=node, name="one")
    else:
        vm.destroy()
        subprocess.run(["qemu-img", "bitmap", "--disable", vm.images["vda"], "one"], check=True)
    assert set(verdicts(doctor(vm, status=13)).values()) == {"disabled"}
    assert doctor.fixed(vm) == ["disabled-bitmap"]
    assert checkpoints(vm) == []


@pytest.mark.finding("chain-gap")
@pytest.mark.parametrize("runs", [True, False])
def test_an_overlay_that_somebody_made_by_hand(
    blank: BlankFactory, conn: Any, cli: Cli, doctor: Doctor, runs: bool
) -> None:
    vm = blank()
    create(cli, vm, "one")
    vm.destroy()
    with on_top_of(vm, conn):
        if runs:
            vm.start()
        assert set(verdicts(doctor(vm, status=13)).values()) == {"chain-gap"}
        assert doctor.fixed(vm) == ["chain-gap"]
        assert checkpoints(vm) == []
        vm.destroy()


@contextmanager
def on_top_of(vm: Vm, conn: Any) -> Iterator[Path]:
    """For a while vda is an overlay on what it was, made without libvirt."""
    base = vm.images["vda"]
    overlay = IMAGES / f"{vm.name}-overlay.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]
    subprocess.run([*make, base, overlay], check=True)
    conn.defineXML(vm.domain.XMLDesc(0).replace(str(base), str(overlay)))
    try:
        yield overlay
    finally:
        overlay.unlink()


@pytest.mark.finding("granularity-mismatch")
def test_parts_of_a_bitmap_with_different_granularities(
    blank: BlankFactory, conn: Any, cli: Cli, doctor: Doctor
) -> None:
    vm = blank()
    create(cli, vm, "one")
    vm.destroy()
    with on_top_of(vm, conn) as overlay:
        add = ["qemu-img", "bitmap", "--add", "-g", "128k"]
        subprocess.run([*add, overlay, "one"], check=True)
        assert set(verdicts(doctor(vm)).values()) == {"granularity-mismatch"}
        assert doctor.ids(vm) == ["granularity-mismatch"]
        assert doctor.fixed(vm) == ["granularity-mismatch"]


@pytest.mark.finding("bitmap-below")
def test_a_bitmap_spread_by_an_external_snapshot(
    blank: BlankFactory, cli: Cli, doctor: Doctor
) -> None:
    vm = blank()
    create(cli, vm, "one")
    vm.domain.snapshotCreateXML(
        "<domainsnapshot><name>s</name></domainsnapshot>",
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    overlay = IMAGES / f"{vm.name}-vda.s"
    try:
        assert set(verdicts(doctor(vm)).values()) == {"ok"}
        vm.destroy()
        assert doctor.ids(vm) == ["bitmap-below"]
    finally:
        vm.destroy()
        overlay.unlink()


@pytest.mark.finding("unknown-bitmap")
def test_a_bitmap_that_cannot_be_looked_at(blank: BlankFactory, cli: Cli, doctor: Doctor) -> None:
    vm = blank()
    create(cli, vm, "one")
    vm.destroy()
    moved = vm.images["vda"].with_suffix(".moved")
    vm.images["vda"].rename(moved)
    try:
        assert doctor.ids(vm) == ["image-unreadable", "unknown-bitmap"]
    finally:
        moved.rename(vm.images["vda"])


# The chain of checkpoints


@pytest.mark.finding("unsaved-metadata")
def test_a_renamed_domain(
    blank: BlankFactory, libvirtd: Libvirtd, cli: Cli, doctor: Doctor
) -> None:
    vm = blank("before")
    create(cli, vm, "one")
    create(cli, vm, "two")
    vm.destroy()
    vm.domain.rename("after")
    try:
        assert doctor.ids(vm) == ["unsaved-metadata"]
        assert doctor.fixed(vm) == ["unsaved-metadata"]
        libvirtd.restart()
        vm.domain = libvirt.open("qemu:///system").lookupByName("after")
        assert checkpoints(vm) == ["one", "two"]
        assert doctor.ids(vm) == []
    finally:
        vm.domain.rename("before")


@pytest.mark.finding("lost-metadata")
def test_a_renamed_domain_whose_checkpoints_are_forgotten(
    blank: BlankFactory, libvirtd: Libvirtd, cli: Cli, doctor: Doctor, tmp_path: Path
) -> None:
    vm = blank("before")
    create(cli, vm, "one")
    create(cli, vm, "two")
    assert cli("-d", "before", "save-metadata", tmp_path / "saved").returncode == 0
    vm.destroy()
    vm.domain.rename("after")
    libvirtd.restart()
    vm.domain = libvirt.open("qemu:///system").lookupByName("after")
    assert checkpoints(vm) == []
    assert doctor.ids(vm) == ["lost-metadata", "orphan-bitmap"]
    restored = cli("-d", "after", "restore-metadata", tmp_path / "saved")
    assert restored.returncode == 0, restored.stderr
    assert checkpoints(vm) == ["one", "two"]
    assert doctor.ids(vm) == []
    vm.start()
    vm.write("vda", 0, 65536)
    assert doctor.ids(vm) == []
    assert cli("-d", "after", "export", "--name", "two").returncode == 0, "it is of use again"
    assert cli("-d", "after", "release").returncode == 0


@pytest.mark.finding("coverage-gap")
def test_a_checkpoint_in_the_middle_that_leaves_a_disk_out(
    blank: BlankFactory, cli: Cli, doctor: Doctor
) -> None:
    vm = blank(disks=(Disk("vda"), Disk("vdb")))
    create(cli, vm, "first")
    create(cli, vm, "middle", "--exclude", "vdb")
    create(cli, vm, "last")
    (gap,) = [one for one in doctor(vm)["findings"] if one["id"] == "coverage-gap"]
    assert (gap["checkpoint"], gap["disk"]) == ("middle", "vdb")


@pytest.mark.finding("foreign-checkpoint")
def test_checkpoints_of_another_program(blank: BlankFactory, cli: Cli, doctor: Doctor) -> None:
    vm = blank()
    foreign(vm, "theirs")
    assert doctor.ids(vm) == [], "theirs alone are their business"
    create(cli, vm, "ours")
    assert doctor.ids(vm) == ["foreign-checkpoint"]


# Disks


@pytest.mark.finding("disk-added")
@pytest.mark.finding("disk-gone")
def test_a_disk_that_came_and_one_that_went(blank: BlankFactory, cli: Cli, doctor: Doctor) -> None:
    vm = blank(disks=(Disk("vda"), Disk("sda", bus="scsi")))
    create(cli, vm, "one")
    new = Disk("sdb", bus="scsi")
    vm.images["sdb"] = IMAGES / f"{vm.name}-sdb.qcow2"
    new.create_image(vm.images["sdb"])
    vm.domain.attachDevice(disk_xml(new, vm.images["sdb"]))
    assert doctor.ids(vm) == ["disk-added"]
    vm.domain.detachDevice(disk_xml(Disk("sda", bus="scsi"), vm.images["sda"]))
    poll(lambda: "'sda'" not in vm.domain.XMLDesc(0), 10, "the disk to go")
    assert doctor.ids(vm) == ["disk-added", "disk-gone"]


@pytest.mark.finding("disk-grown")
def test_a_disk_that_has_grown(blank: BlankFactory, cli: Cli, doctor: Doctor) -> None:
    vm = blank()
    create(cli, vm, "one")
    vm.domain.blockResize("vda", 128 * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    (grown,) = [one for one in doctor(vm)["findings"] if one["id"] == "disk-grown"]
    assert "64.0 MiB" in grown["cause"]
    assert "128 MiB" in grown["cause"]


@pytest.mark.finding("qcow2-v2")
@pytest.mark.finding("raw-disk")
@pytest.mark.parametrize("runs", [True, False])
def test_images_that_hold_no_bitmaps(blank: BlankFactory, doctor: Doctor, runs: bool) -> None:
    vm = blank(disks=(Disk("vda", kind="qcow2-v2"), Disk("vdb", kind="raw")), start=runs)
    found = {one["id"]: one for one in doctor(vm)["findings"]}
    assert found["qcow2-v2"]["disk"] == "vda"
    assert "amend -o compat=1.1" in found["qcow2-v2"]["advice"]
    assert found["raw-disk"]["disk"] == "vdb"
    assert "data_file" in found["raw-disk"]["advice"]


@pytest.mark.finding("internal-snapshot")
def test_an_internal_snapshot_beside_bitmaps(blank: BlankFactory, cli: Cli, doctor: Doctor) -> None:
    vm = blank()
    create(cli, vm, "one")
    vm.domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")
    vm.destroy()
    assert doctor.ids(vm) == ["internal-snapshot"]


@pytest.mark.finding("image-unreadable")
def test_an_image_whose_backing_file_is_missing(
    blank: BlankFactory, conn: Any, doctor: Doctor
) -> None:
    vm = blank(start=False)
    with on_top_of(vm, conn):
        vm.images["vda"].unlink()
        assert doctor.ids(vm) == ["image-unreadable"]


# Exports


@pytest.mark.finding("dead-export")
def test_what_a_dead_export_left(blank: BlankFactory, cli: Cli, doctor: Doctor) -> None:
    vm = blank()
    assert cli("-d", vm.name, "export").returncode == 0
    assert doctor.ids(vm) == []
    vm.kill()
    assert leftovers()
    assert doctor.ids(vm) == ["dead-export"]
    assert doctor(vm, "--fix")["repaired"][0]["id"] == "dead-export", "safe: it asks nobody"
    assert leftovers() == []
    assert doctor.ids(vm) == []


@pytest.mark.finding("damaged-export")
def test_an_export_whose_state_is_damaged(blank: BlankFactory, cli: Cli, doctor: Doctor) -> None:
    vm = blank()
    assert cli("-d", vm.name, "export").returncode == 0
    (directory,) = EXPORTS.iterdir()
    state = directory / "state.json"
    good = state.read_text()
    state.write_text(good[:50])
    assert doctor.ids(vm) == ["damaged-export"]
    assert doctor(vm, "--fix", "--yes", "--foreign")["repaired"] == []
    assert has_job(vm)
    assert cli("-d", vm.name, "release").returncode == 0, "as it advises"
    assert doctor.ids(vm) == []


@pytest.mark.finding("unfinished-export")
def test_what_a_killed_vircpt_left(blank: BlankFactory, doctor: Doctor) -> None:
    vm = blank()
    killed = inject.run("-d", vm.name, "export", order="kill:os.rename")
    assert killed.returncode == -signal.SIGKILL
    assert doctor.ids(vm) == ["unfinished-export"]
    assert doctor.fixed(vm) == ["unfinished-export"]
    assert leftovers() == []


@pytest.mark.finding("foreign-job")
def test_a_backup_job_of_another_program(blank: BlankFactory, doctor: Doctor) -> None:
    vm = blank()
    begin_foreign_job(vm)
    assert doctor.ids(vm) == ["foreign-job"]
    assert doctor(vm, "--fix", "--yes", "--foreign")["repaired"] == []
    assert has_job(vm)
    vm.domain.abortJob()
    poll(lambda: not has_job(vm), 10, "the job to end")


@pytest.mark.finding("scratch-small")
def test_too_little_space_for_scratch_files(
    blank: BlankFactory, cli: Cli, doctor: Doctor, tmp_path: Path
) -> None:
    vm = blank()
    create(cli, vm, "one")
    vm.write("vda", 0, 8 * MIB)
    tmp_path.chmod(0o755)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=711", "tmpfs", tmp_path], check=True
    )
    try:
        env = {"VIRCPT_STATE_DIR": str(tmp_path)}
        assert "scratch-small" in doctor.ids(vm, env=env)
        assert "scratch-small" not in doctor.ids(vm)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.finding("scratch-unreachable")
def test_scratch_files_where_qemu_may_not_go(
    blank: BlankFactory, cli: Cli, doctor: Doctor, tmp_path: Path
) -> None:
    vm = blank()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    env = {"VIRCPT_STATE_DIR": str(closed / "state")}
    assert "scratch-unreachable" in doctor.ids(vm, env=env)
    assert cli("-d", vm.name, "export", env=env).returncode == 12, "it is as the doctor says"
    assert doctor.ids(vm) == []


# The guest


@pytest.mark.finding("agent-missing")
def test_no_channel_for_an_agent(blank: BlankFactory, doctor: Doctor) -> None:
    vm = blank()
    assert "agent-missing" in {one["id"] for one in doctor(vm)["findings"]}


@pytest.mark.finding("guest-frozen")
def test_a_frozen_guest(guest: Vm, doctor: Doctor) -> None:
    assert doctor.ids(guest) == []
    guest.agent("guest-fsfreeze-freeze")
    try:
        assert doctor.ids(guest, status=13) == ["guest-frozen"]
        doctor(guest, "--fix", "--yes", "--foreign", status=13)
        assert guest.agent("guest-fsfreeze-status") == "frozen", "somebody may count on it"
    finally:
        guest.agent("guest-fsfreeze-thaw")
    assert doctor.ids(guest) == []


@pytest.mark.finding("clock-off")
def test_a_guest_whose_clock_is_wrong(guest: Vm, doctor: Doctor) -> None:
    guest.domain.setTime({"seconds": int(time.time()) - 7200, "nseconds": 0})
    (found,) = [one for one in doctor(guest)["findings"] if one["id"] == "clock-off"]
    assert "behind" in found["cause"]
    guest.domain.setTime({"seconds": int(time.time()), "nseconds": 0})
    assert doctor.ids(guest) == []


@pytest.mark.finding("agent-unreachable")
def test_an_agent_that_hangs(guest: Vm, doctor: Doctor) -> None:
    """Stopped for a while, as by a guest that swaps itself to death."""
    guest.agent("guest-exec", path="/bin/sh", arg=[
        "-c", "p=$(pidof qemu-ga); kill -STOP $p; sleep 12; kill -CONT $p",
    ])  # fmt: skip
    start = time.monotonic()
    assert doctor.ids(guest) == ["agent-unreachable"]
    assert time.monotonic() - start < 10
    guest.wait_agent()


@pytest.mark.finding("agent-without-freeze")
def test_an_agent_that_may_not_freeze(guest: Vm, doctor: Doctor) -> None:
    restart_agent(guest, 'a="$a -b guest-fsfreeze-freeze"')
    try:
        assert doctor.ids(guest) == [], "not to be seen without --deep"
        assert doctor.ids(guest, "--deep") == ["agent-without-freeze"]
    finally:
        restart_agent(guest, "a=${a%% -b *}")


def restart_agent(guest: Vm, change: str) -> None:
    """Have the agent started anew with other arguments, which `change` makes of `$a`."""
    script = (
        "p=$(pidof qemu-ga); a=$(tr '\\0' ' ' </proc/$p/cmdline); "
        f"{change}; sleep 0.3; kill $p; while kill -0 $p; do sleep 0.1; done; exec $a"
    )
    guest.agent("guest-exec", path="/bin/sh", arg=["-c", script])
    poll(lambda: "'disconnected'" in guest.domain.XMLDesc(), 10, "the agent to end")
    guest.wait_agent()


# The host


@pytest.mark.finding("missing-tool")
def test_a_program_that_is_not_installed(
    blank: BlankFactory, doctor: Doctor, tmp_path: Path
) -> None:
    vm = blank()
    for tool in ("qemu-img", "qemu-storage-daemon"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    (found,) = [
        one
        for one in doctor(vm, env={"PATH": str(tmp_path)})["findings"]
        if one["id"] == "missing-tool"
    ]
    assert "nbdinfo" in found["cause"]
    assert "libnbd-bin" in found["advice"]


@pytest.mark.finding("no-nbd-module")
def test_a_kernel_without_nbd(blank: BlankFactory, doctor: Doctor) -> None:
    vm = blank()
    ids = {one["id"] for one in doctor(vm)["findings"]}
    assert ("no-nbd-module" in ids) == (not Path("/sys/block/nbd0").exists())


@pytest.mark.finding("wrong-nbd-binding")
def test_the_wrong_module_nbd(blank: BlankFactory, doctor: Doctor, tmp_path: Path) -> None:
    vm = blank()
    (tmp_path / "nbd.py").write_text("# another thing of the same name\n")
    ids = doctor.ids(vm, env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]})
    assert ids == ["wrong-nbd-binding"]


DENIED = """\
Nov 23 12:00:01 host kernel: [10.5] audit: type=1400 audit(1763895601.123:77): apparmor="DENIED" \
operation="open" profile="libvirt-{uuid}" name="/var/lib/vircpt/exports/0a/io/vda.scratch" \
pid=812 comm="qemu-system-x86" requested_mask="rw" denied_mask="rw" fsuid=64055 ouid=64055
type=AVC msg=audit(1763895602.456:78): avc:  denied  {{ write }} for  pid=900 comm="qemu-kvm" \
path="/backup/x y" dev="sda1" ino=7 scontext=system_u:system_r:svirt_t:s0:c1,c2 \
tcontext=unconfined_u:object_r:user_home_t:s0 tclass=file permissive=0
Nov 23 12:00:03 host kernel: audit: type=1400 audit(1763895603.1:79): apparmor="DENIED" \
operation="open" profile="/usr/sbin/cupsd" name="/etc/passwd" pid=1 comm="cupsd"
"""


@pytest.mark.finding("access-denied-by-policy")
@pytest.mark.finding("harmless-message")
def test_what_logs_say(blank: BlankFactory, doctor: Doctor, tmp_path: Path) -> None:
    """Neither module is there in the lab: the lines have their documented formats."""
    vm = blank()
    log = tmp_path / "kern.log"
    log.write_text(DENIED.format(uuid=vm.domain.UUIDString()))
    denied = [
        one["cause"]
        for one in doctor(vm, "--log", log)["findings"]
        if one["id"] == "access-denied-by-policy"
    ]
    assert len(denied) == 2
    assert "AppArmor" in denied[0]
    assert "vda.scratch" in denied[0]
    assert "SELinux" in denied[1]
    real = tmp_path / "libvirtd.log"
    qemu = Path(f"/var/log/libvirt/qemu/{vm.name}.log")
    libvirt_qemu.qemuMonitorCommand(vm.domain, '{"execute":"query-name"}', 0)
    poll(lambda: "is tainted" in qemu.read_text(), 5, "the log")
    real.write_text(LOG.read_text() + qemu.read_text())
    assert "harmless-message" in doctor.ids(vm, "--log", real)
