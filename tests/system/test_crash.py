"""kill -9 at every step, and the deaths of QEMU and libvirtd: the next command puts it right.

A dry run tells which steps an operation has (tests/lab/inject); then it is run again and again,
killed before another step each time.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab import inject
from lab.daemon import Libvirtd, poll
from lab.fixtures import BlankFactory
from lab.inject import Step
from lab.state import EXPORTS, checkpoints, has_job, processes
from lab.vms import MIB, Disk, Vm

MOMENTS = 8


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    yield
    inject.sweep()


def must(vm: Vm, *args: str | Path) -> str:
    """What undisturbed must succeed."""
    done = inject.run("-d", vm.name, *args)
    assert done.returncode == 0, inject.shown(done)
    assert "Traceback" not in done.stderr
    return done.stdout


def exports_of(vm: Vm) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(must(vm, "--json", "exports"))["exports"]
    return found


def release(vm: Vm) -> None:
    """The end of every test: after this nothing is left, whatever was there."""
    done = inject.run("-d", vm.name, "release")
    assert done.returncode in (0, 10), inject.shown(done)
    nothing_left(vm)


def nothing_left(vm: Vm) -> None:
    inject.wait_alone()
    assert inject.leftovers() == []
    if vm.domain.isActive():
        assert not has_job(vm)


class Operation:
    """A command on a VM: how it is set up, and what must be possible when it was killed."""

    args: tuple[str, ...]
    running = True

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    def prepare(self) -> None:
        """Set the stage, the same each time."""

    def recover(self) -> None:
        """The next commands."""


class Create(Operation):
    args = ("create", "--name", "new")

    def recover(self) -> None:
        """The checkpoint is there, or it can be made."""
        if "new" not in checkpoints(self.vm):
            must(self.vm, *self.args)
        delete(self.vm, "new")


class Export(Operation):
    """Killed half-way, what it left is no obstacle to the next one, unless it runs."""

    args = ("export", "--name", "old", "--create", "new", "--ttl", "1h")

    def prepare(self) -> None:
        if "old" not in checkpoints(self.vm):
            must(self.vm, "create", "--name", "old")

    def recover(self) -> None:
        ran = has_job(self.vm)
        again = inject.run("-d", self.vm.name, "export", "--name", "old", "--ttl", "1h")
        assert again.returncode == (11 if ran else 0), inject.shown(again)
        must(self.vm, "release")
        assert ("new" in checkpoints(self.vm)) == ran
        if ran:
            delete(self.vm, "new")

    def settle(self) -> None:
        """What the daemon was asked for may come about after vircpt's death."""
        again = inject.run("-d", self.vm.name, "export", "--name", "old", "--ttl", "1h")
        assert again.returncode in (0, 11), inject.shown(again)
        must(self.vm, "release")
        if "new" in checkpoints(self.vm):
            delete(self.vm, "new")


class Offline(Operation):
    args = ("export", "--ttl", "1h")
    running = False

    def recover(self) -> None:
        served = any("guest=/var/lib/vircpt/" in line for line in processes().values())
        again = inject.run("-d", self.vm.name, *self.args)
        assert again.returncode in ((0, 11) if served else (0,)), inject.shown(again)
        must(self.vm, "release")
        # takes the lock that starting the VM would need
        subprocess.run(["qemu-io", "-c", "quit", self.vm.images["vda"]], check=True)


class Release(Operation):
    args = ("release",)

    def prepare(self) -> None:
        must(self.vm, "export", "--ttl", "1h")


class ReleaseOffline(Release):
    running = False


class Delete(Operation):
    args = ("delete", "--name", "middle")

    def prepare(self) -> None:
        for name in ("first", "middle", "last"):
            if name not in checkpoints(self.vm):
                xml = f"<domaincheckpoint><name>{name}</name></domaincheckpoint>"
                self.vm.domain.checkpointCreateXML(xml)

    def recover(self) -> None:
        if "middle" in checkpoints(self.vm):
            must(self.vm, *self.args)
        assert checkpoints(self.vm) == ["first", "last"]
        delete(self.vm, "last")  # so that the next one is made in the right place


class Hotadd(Operation):
    """To a domain with a SCSI controller, whose disks go without a guest."""

    args: tuple[str, ...] = (
        "hotadd", "--to", "other", "--bus", "scsi", "--timeout", "0", "--writable",
    )  # fmt: skip

    def __init__(self, vm: Vm, other: Vm) -> None:
        super().__init__(vm)
        self.other = other
        self.definitions = self._definitions()

    def _definitions(self) -> list[str]:
        return [
            one.domain.XMLDesc(flags)
            for one in (self.vm, self.other)
            for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)
        ]

    def recover(self) -> None:
        done = inject.run("-d", self.vm.name, "release", "--force")
        assert done.returncode in (0, 10), inject.shown(done)
        self.check()

    def check(self) -> None:
        """Both are as they were."""
        nothing_left(self.vm)
        assert self._definitions() == self.definitions


class HotaddThenRemove(Hotadd):
    """The other way out, which tells an export that it was made for, too."""

    def recover(self) -> None:
        args = ("-d", self.vm.name, "hotremove", "--from", "other")
        done = inject.run(*args)
        assert done.returncode in (0, 10), inject.shown(done)
        self.check()


class Hotremove(Hotadd):
    args: tuple[str, ...] = ("hotremove", "--from", "other")

    def prepare(self) -> None:
        must(self.vm, *Hotadd.args)


class ForcedRelease(Hotremove):
    args = ("release", "--force")


OPERATIONS = [Create, Export, Offline, Release, ReleaseOffline, Delete]
HOTADDS = [Hotadd, HotaddThenRemove, Hotremove, ForcedRelease]


def delete(vm: Vm, name: str) -> None:
    vm.domain.checkpointLookupByName(name).delete()


def worth_killing_at(steps: list[Step]) -> list[Step]:
    """All but those before which nothing has changed since the step before."""
    return [
        step
        for step, before in zip(steps, [None, *steps], strict=False)
        if before is None or before.changes
    ]


@pytest.mark.parametrize("kind", OPERATIONS)
def test_killed_at_every_step(kind: type[Operation], blank: BlankFactory, tmp_path: Path) -> None:
    kill_at_every_step(kind(blank(start=kind.running)), tmp_path)


@pytest.mark.parametrize("kind", HOTADDS)
def test_a_hotadd_killed_at_every_step(
    kind: type[Hotadd], blank: BlankFactory, tmp_path: Path
) -> None:
    kill_at_every_step(kind(blank(), blank("other", (Disk("sda", bus="scsi"),))), tmp_path)


def kill_at_every_step(operation: Operation, tmp_path: Path) -> None:
    vm = operation.vm
    operation.prepare()
    _, steps = inject.trace("-d", vm.name, *operation.args, file=tmp_path / "trace")
    operation.recover()
    release(vm)
    qemu = vm.pid() if operation.running else None
    ended = set()
    for step in worth_killing_at(steps):
        operation.prepare()
        killed = inject.run("-d", vm.name, *operation.args, order=f"kill:{step.number}")
        try:
            assert killed.returncode in (0, -signal.SIGKILL)
            ended.add(killed.returncode)
            operation.recover()
            release(vm)
            assert qemu is None or vm.pid() == qemu
        except Exception as error:
            error.add_note(f"killed before step {step.number}, {step.name}")
            raise
    assert -signal.SIGKILL in ended, "no step was killed at"


def test_killed_at_any_moment(blank: BlankFactory) -> None:
    """In the middle of a call into libvirt too, which the daemon carries out all the same."""
    operation = Export(blank())
    operation.prepare()
    start = time.monotonic()
    must(operation.vm, *operation.args)
    seconds = time.monotonic() - start
    release(operation.vm)
    delete(operation.vm, "new")
    for piece in range(MOMENTS):
        process = inject.start("-d", operation.vm.name, *operation.args)
        time.sleep(seconds * (piece + MOMENTS) / 2 / MOMENTS)
        process.kill()
        inject.finish(process)
        try:
            operation.settle()
            release(operation.vm)
            assert inject.run("-d", operation.vm.name, "list").returncode == 0
        except Exception as error:
            error.add_note(f"killed in piece {piece} of {MOMENTS}")
            raise


# What becomes of an export


def test_it_is_listed_and_released_after_a_crash(blank: BlankFactory) -> None:
    vm = blank()
    killed = inject.run("-d", vm.name, "export", order="kill:after:virDomainBackupBegin")
    assert killed.returncode == -signal.SIGKILL
    assert [(one["state"], one["domain"]) for one in exports_of(vm)] == [("running", vm.name)]
    assert "released" in must(vm, "release")
    nothing_left(vm)


def test_the_end_of_run_is_made_up_for(blank: BlankFactory, tmp_path: Path) -> None:
    """vircpt is killed while its command runs; the export is there until it is released."""
    vm = blank()
    process = inject.running(vm.name, "sleep 0.5", tmp_path)
    process.kill()
    inject.finish(process)
    assert [one["state"] for one in exports_of(vm)] == ["running"]
    must(vm, "release")
    nothing_left(vm)


@pytest.mark.parametrize("when", ["before:virDomainBackupBegin", "after:virDomainBackupBegin"])
def test_the_time_is_over_though_vircpt_has_gone(blank: BlankFactory, when: str) -> None:
    vm = blank()
    killed = inject.run("-d", vm.name, "export", "--ttl", "2s", order=f"kill:{when}")
    assert killed.returncode == -signal.SIGKILL
    assert len(inject.leftovers()) == 1
    poll(lambda: inject.leftovers() == [], 10, "the export to be released")
    nothing_left(vm)


def test_the_time_of_an_offline_export_is_over(blank: BlankFactory) -> None:
    vm = blank(start=False)
    must(vm, "export", "--ttl", "2s")
    poll(lambda: inject.leftovers() == [], 10, "the export to be released")
    nothing_left(vm)
    vm.start()


def test_released_early_the_watcher_goes(blank: BlankFactory) -> None:
    vm = blank()
    must(vm, "export", "--ttl", "1h")
    assert any("vircpt.operations.expire" in line for line in processes().values())
    must(vm, "release")
    nothing_left(vm)


def test_the_watcher_waits_for_a_daemon_that_is_down(
    blank: BlankFactory, libvirtd: Libvirtd
) -> None:
    vm = blank()
    must(vm, "export", "--ttl", "1s")
    end = datetime.fromisoformat(exports_of(vm)[0]["expires"]).timestamp()
    libvirtd.kill()
    try:
        poll(lambda: time.time() > end + 0.5, 10, "the end of the export's time")
    finally:
        libvirtd.start()
    connection = libvirt.open("qemu:///system")
    vm = Vm(connection.lookupByName(vm.name), vm.images, None)
    poll(lambda: inject.leftovers() == [], 20, "the export to be released")
    nothing_left(vm)
    connection.close()


# Others die


def test_qemu_dies(blank: BlankFactory) -> None:
    vm = blank()
    must(vm, "create", "--name", "old")
    must(vm, "export", "--name", "old", "--ttl", "1h")
    vm.kill()
    assert [one["state"] for one in exports_of(vm)] == ["dead"]
    assert "it had died before" in must(vm, "release")
    nothing_left(vm)


def test_qemu_dies_and_runs_again(blank: BlankFactory) -> None:
    """The next export removes what the dead one left."""
    vm = blank()
    must(vm, "export")
    vm.kill()
    vm.start()
    assert [one["state"] for one in exports_of(vm)] == ["dead"]
    must(vm, "export")
    assert [one["state"] for one in exports_of(vm)] == ["running"]
    must(vm, "release")
    nothing_left(vm)


def test_qemu_dies_while_a_command_runs(blank: BlankFactory, tmp_path: Path) -> None:
    vm = blank()
    mark, go = tmp_path / "mark", tmp_path / "go"
    wait = f"touch {mark}; until [ -e {go} ]; do sleep 0.05; done"
    command = f"{wait}; nbdinfo --size $VIRCPT_URI"
    process = inject.start("-d", vm.name, "export", "--run", command)
    poll(mark.exists, 10, "the command")
    vm.kill()
    go.touch()
    done = inject.finish(process)
    assert done.returncode == 1, inject.shown(done)
    assert "Traceback" not in done.stderr
    nothing_left(vm)


def test_qemu_dies_while_it_is_exported(blank: BlankFactory) -> None:
    vm = blank()
    process = inject.stopped_at("-d", vm.name, "export", step="before:virDomainBackupBegin")
    vm.kill()
    process.send_signal(signal.SIGCONT)
    done = inject.finish(process)
    assert done.returncode == 12, inject.shown(done)
    nothing_left(vm)


def test_libvirtd_dies_during_an_export(
    blank: BlankFactory, libvirtd: Libvirtd, tmp_path: Path
) -> None:
    vm = blank()
    vm.write("vda", MIB, 65536)
    must(vm, "export", "--ttl", "1h")
    libvirtd.kill()
    refused = inject.run("-d", vm.name, "release")
    assert refused.returncode == 14, inject.shown(refused)
    libvirtd.start()
    assert [one["state"] for one in exports_of(vm)] == ["running"]
    must(vm, "copy", tmp_path / "copy.raw")
    assert (tmp_path / "copy.raw").read_bytes()[MIB : MIB + 65536] == b"\xaa" * 65536
    must(vm, "release")
    connection = libvirt.open("qemu:///system")
    nothing_left(Vm(connection.lookupByName(vm.name), vm.images, None))
    connection.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_libvirtd_dies_while_it_is_exported(
    blank: BlankFactory, libvirtd: Libvirtd, when: str
) -> None:
    vm = blank()
    step = f"{when}:virDomainBackupBegin"
    process = inject.stopped_at("-d", vm.name, "export", "--ttl", "1h", step=step)
    libvirtd.kill()
    libvirtd.start()
    process.send_signal(signal.SIGCONT)
    done = inject.finish(process)
    assert done.returncode == (14 if when == "before" else 0), inject.shown(done)
    connection = libvirt.open("qemu:///system")
    vm = Vm(connection.lookupByName(vm.name), vm.images, None)
    release(vm)
    connection.close()


def test_the_domain_is_undefined_meanwhile(blank: BlankFactory) -> None:
    """It goes on running, and is gone when it ends; the name is all that is left to go by."""
    vm = blank()
    must(vm, "export", "--ttl", "1h")
    vm.undefine()
    vm.destroy()
    assert [one["state"] for one in exports_of(vm)] == ["dead"]
    must(vm, "release")
    inject.wait_alone()
    assert inject.leftovers() == []


def test_an_offline_export_of_a_domain_that_is_undefined_meanwhile(blank: BlankFactory) -> None:
    vm = blank(start=False)
    must(vm, "export", "--ttl", "1h")
    vm.undefine()
    assert [one["state"] for one in exports_of(vm)] == ["running"]
    must(vm, "release")
    inject.wait_alone()
    assert inject.leftovers() == []


# The state of an export is damaged


def damage() -> Path:
    """Make the state of the only export useless; its directory."""
    (name,) = inject.leftovers()
    (EXPORTS / name / "state.json").write_text("{")
    return EXPORTS / name


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_damaged_export_is_released(elsewhere: bool, blank: BlankFactory, tmp_path: Path) -> None:
    vm = blank()
    scratch = Path(f"/var/lib/libvirt/images/scratch-{tmp_path.name}")
    scratch.mkdir()
    must(vm, "create", "--name", "old")
    there = ("--scratch-dir", str(scratch)) if elsewhere else ()
    must(vm, "export", "--name", "old", "--ttl", "1h", *there)
    damage()
    (one,) = exports_of(vm)
    assert (one["state"], one["domain"]) == ("damaged", vm.name)
    assert f"vircpt -d {vm.name} release" in one["note"]
    for args in (["delete", "--name", "old"], ["export"]):
        refused = inject.run("-d", vm.name, *args)
        assert refused.returncode == 11, inject.shown(refused)
    assert "released" in must(vm, "release")
    nothing_left(vm)
    assert list(scratch.iterdir()) == []
    scratch.rmdir()
    delete(vm, "old")


def test_a_damaged_export_is_released_by_its_id(blank: BlankFactory) -> None:
    vm = blank()
    must(vm, "export", "--ttl", "1h")
    done = inject.run("release", damage().name)
    assert done.returncode == 0, inject.shown(done)
    assert f"of domain {vm.name}" in done.stdout or vm.name in done.stdout
    nothing_left(vm)


def watcher_sleeps() -> bool:
    """The only process that watches is in clock_nanosleep(2), which /proc calls 230."""
    (pid,) = processes((b"vircpt.operations.expire",))
    return Path(f"/proc/{pid}/syscall").read_text().startswith("230 ")


def test_the_time_of_a_damaged_export_is_over(blank: BlankFactory) -> None:
    vm = blank()
    must(vm, "export", "--ttl", "5s")
    poll(watcher_sleeps, 5, "the watcher to have read the state")
    damage()
    poll(lambda: inject.leftovers() == [], 15, "the export to be released")
    nothing_left(vm)


def test_a_damaged_export_of_a_domain_that_is_shut_off(blank: BlankFactory) -> None:
    vm = blank()
    must(vm, "create", "--name", "old")
    vm.destroy()
    must(vm, "export", "--name", "old", "--ttl", "1h")
    damage()
    for args in (["delete", "--name", "old", "--metadata"], ["export"]):
        refused = inject.run("-d", vm.name, *args)
        assert refused.returncode == 11, inject.shown(refused)
        assert "state is damaged" in refused.stderr
    assert "released" in must(vm, "release")
    nothing_left(vm)
    must(vm, "delete", "--name", "old", "--metadata")


def test_a_damaged_export_of_which_nothing_is_known(blank: BlankFactory) -> None:
    vm = blank()
    must(vm, "export")
    path = damage()
    (mark,) = path.glob("of-*")
    mark.unlink()
    (one,) = json.loads(inject.run("--json", "exports").stdout)["exports"][:1]
    assert "virsh domjobabort" in one["note"]
    refused = inject.run("release", path.name)
    assert refused.returncode == 1, inject.shown(refused)
    assert "virsh domjobabort" in refused.stderr
    assert f"rm -r {path}" in refused.stderr
    assert str(path) in one["note"]
    vm.domain.abortJob()


# More than one


def test_two_exports_of_two_vms(blank: BlankFactory, tmp_path: Path) -> None:
    one, two = blank("one"), blank("two")
    one.write("vda", 0, 65536, 0x11)
    two.write("vda", 0, 65536, 0x22)
    started = [inject.start("-d", vm.name, "export") for vm in (one, two)]
    assert [inject.finish(process).returncode for process in started] == [0, 0]
    assert len(inject.leftovers()) == 2
    must(one, "copy", tmp_path / "one.raw")
    must(one, "release")
    nothing = inject.leftovers()
    assert len(nothing) == 1
    must(two, "copy", tmp_path / "two.raw")
    must(two, "release")
    nothing_left(one)
    nothing_left(two)
    for name, byte in (("one", b"\x11"), ("two", b"\x22")):
        assert (tmp_path / f"{name}.raw").read_bytes()[:65536] == byte * 65536


@pytest.mark.parametrize("command", [("export",), ("create",), ("delete", "--name", "old")])
def test_two_vircpts_on_one_vm(blank: BlankFactory, command: tuple[str, ...]) -> None:
    """The second is refused soon, and the first goes on."""
    vm = blank()
    must(vm, "create", "--name", "old")
    first = inject.stopped_at("-d", vm.name, "export", step="before:virDomainBackupBegin")
    start = time.monotonic()
    refused = inject.run("-d", vm.name, *command)
    assert time.monotonic() - start < 2
    assert refused.returncode == 11, inject.shown(refused)
    assert "another vircpt is at work" in refused.stderr
    first.send_signal(signal.SIGCONT)
    assert inject.finish(first).returncode == 0
    release(vm)


def test_a_second_export_is_refused(blank: BlankFactory) -> None:
    vm = blank()
    must(vm, "export")
    start = time.monotonic()
    refused = inject.run("-d", vm.name, "export")
    assert time.monotonic() - start < 2
    assert refused.returncode == 11, inject.shown(refused)
    assert "being exported already" in refused.stderr
    release(vm)


def test_a_job_of_somebody_else_is_left_alone(blank: BlankFactory) -> None:
    vm = blank()
    server = "<server transport='unix' socket='/var/lib/libvirt/qemu/foreign.sock'/>"
    vm.domain.backupBegin(f"<domainbackup mode='pull'>{server}</domainbackup>", None)
    try:
        start = time.monotonic()
        assert inject.run("-d", vm.name, "export").returncode == 11
        assert inject.run("-d", vm.name, "release").returncode == 11
        assert time.monotonic() - start < 2
        assert has_job(vm)
    finally:
        vm.domain.abortJob()
        poll(lambda: not has_job(vm), 10, "the foreign job to end")
    assert inject.leftovers() == []


def test_an_interrupted_export_leaves_the_next_ones_alone(blank: BlankFactory) -> None:
    """While one is stuck another VM's exports come and go."""
    stuck, other = blank("stuck"), blank("other")
    process = inject.stopped_at("-d", stuck.name, "export", step="before:virDomainBackupBegin")
    must(other, "export", "--ttl", "1h")
    must(other, "release")
    process.send_signal(signal.SIGCONT)
    assert inject.finish(process).returncode == 0
    release(stuck)
