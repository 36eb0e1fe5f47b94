"""Everything that vircpt does to a VM, one scenario each, for the tests that cut it off half-way.

A scenario says which command line, and how the stage is set. What must hold afterwards is the same
for all (survival.py): it is done or not done, nothing is left, the VM runs. A new command gets an
entry here; tests/system/test_survival.py notices if there is none. The points at which it is cut
off come from a trace of what it really does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import libvirt

from lab import inject
from lab.daemon import poll
from lab.state import checkpoints, has_job
from lab.vms import MIB, Vm

METADATA_ONLY = libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY


class Stage:
    """A VM with two disks, and a directory for files."""

    def __init__(self, vm: Vm, directory: Path) -> None:
        self.vm = vm
        self.directory = directory

    def vircpt(self, *args: str) -> subprocess.CompletedProcess[str]:
        return inject.run("-d", self.vm.name, *args)

    def must(self, *args: str) -> str:
        """What undisturbed must succeed."""
        done = self.vircpt(*args)
        assert done.returncode == 0, inject.shown(done)
        return done.stdout

    def clear(self) -> None:
        """No export, no checkpoint, no bitmap, no file; with libvirt's and QEMU's own means."""
        inject.sweep()
        inject.wait_alone()  # a server that is killed holds its lock a moment longer
        if self.vm.domain.isActive() and has_job(self.vm):
            self.vm.domain.abortJob()
            poll(lambda: not has_job(self.vm), 20, "the job to end")
        for path in self.directory.iterdir():
            subprocess.run(["rm", "-rf", path], check=True)
        for name in reversed(checkpoints(self.vm)):
            self.vm.domain.checkpointLookupByName(name).delete(METADATA_ONLY)
        self.vm.destroy()
        for image in self.vm.images.values():
            make = ["qemu-img", "create", "-q", "-f", "qcow2", str(image), str(8 * MIB)]
            subprocess.run(make, check=True)

    def start(self) -> None:
        if not self.vm.domain.isActive():
            self.vm.start()

    def checkpoint(self, *names: str) -> None:
        """As vircpt makes them."""
        for name in names:
            self.must("create", "--name", name)

    def forget(self, name: str) -> None:
        self.vm.domain.checkpointLookupByName(name).delete(METADATA_ONLY)


Prepare = Callable[[Stage], None]


@dataclass(frozen=True)
class Scenario:
    """A command line on a stage. `{}` in it stands for the stage's directory.

    `prepare` sets the stage from nothing; `again` are the exit codes that the same command may
    have after it was cut off; `whole` unless it has good states between start and end.
    """

    name: str
    args: tuple[str, ...]
    prepare: Prepare = Stage.start
    again: tuple[int, ...] = (0,)
    whole: bool = True

    def line(self, stage: Stage) -> list[str]:
        return ["-d", stage.vm.name, *(one.format(stage.directory) for one in self.args)]

    def set(self, stage: Stage) -> None:
        stage.clear()
        self.prepare(stage)


def _running(*names: str) -> Prepare:
    def prepare(stage: Stage) -> None:
        stage.start()
        stage.checkpoint(*names)

    return prepare


def _off(stage: Stage) -> None:
    pass  # as it is when all is cleared


def _off_after(prepare: Prepare) -> Prepare:
    def then(stage: Stage) -> None:
        prepare(stage)
        stage.vm.destroy()

    return then


def _exported(*args: str) -> Prepare:
    def prepare(stage: Stage) -> None:
        if "--offline" not in args:
            stage.start()
        stage.must("export", *(one for one in args if one != "--offline"))

    return prepare


def _saved(stage: Stage) -> None:
    _running("one", "two", "three")(stage)
    stage.must("save-metadata", str(stage.directory / "saved"))
    for name in ("three", "two", "one"):
        stage.forget(name)


def _orphaned(stage: Stage) -> None:
    _running("kept", "left")(stage)
    stage.forget("left")


def _half_missing(stage: Stage) -> None:
    _running("one", "two")(stage)
    stage.vm.destroy()
    subprocess.run(["qemu-img", "bitmap", "--remove", stage.vm.images["vda"], "one"], check=True)
    stage.start()


def _crashed(stage: Stage) -> None:
    _running("one")(stage)
    stage.vm.destroy()
    stage.vm.start()
    stage.vm.kill()


def _dead(stage: Stage) -> None:
    _exported("--ttl", "1h")(stage)
    stage.vm.kill()
    stage.vm.start()


def _definition(stage: Stage) -> None:
    _running("one")(stage)
    (stage.directory / "one.xml").write_text(stage.must("dumpxml", "one"))
    stage.forget("one")


_FIX = ("doctor", "--fix", "--yes", "--foreign", "--deep")

SCENARIOS: Sequence[Scenario] = (
    Scenario("create", ("create", "--name", "new"), again=(0, 1)),
    Scenario(
        "create keeping two", ("create", "--name", "new", "--keep-last", "2"),
        _running("one", "two"), again=(0, 1), whole=False,
    ),
    Scenario(
        "export", ("export", "--name", "old", "--create", "new", "--ttl", "1h"),
        _running("old"), again=(0, 1, 11), whole=False,
    ),
    Scenario("export of a shut-off VM", ("export", "--ttl", "1h"), _off, again=(0, 11)),
    Scenario("export for a command", ("export", "--ttl", "1h", "--run", "true"), again=(0, 11)),
    Scenario("release", ("release",), _exported("--ttl", "1h"), again=(0, 10)),
    Scenario(
        "release of a shut-off VM", ("release",), _exported("--offline", "--ttl", "1h"),
        again=(0, 10),
    ),
    Scenario(
        "delete", ("delete", "--name", "two"), _running("one", "two", "three"), again=(0, 10)
    ),
    Scenario(
        "delete with children", ("delete", "--name", "one", "--children"),
        _running("one", "two", "three"), again=(0, 10), whole=False,
    ),
    Scenario("redefine", ("redefine", "{}/one.xml"), _definition),
    Scenario(
        "copy", ("copy", "--disk", "vda", "{}/copy.qcow2"), _exported(), again=(0, 2),
    ),
    Scenario(
        "overlay", ("overlay", "--disk", "vda", "{}/overlay.qcow2"), _exported(), again=(0, 2)
    ),
    Scenario("save-metadata", ("save-metadata", "{}/saved"), _running("one", "two"), again=(0, 2)),
    Scenario("restore-metadata", ("restore-metadata", "{}/saved"), _saved, whole=False),
    Scenario("doctor on an orphan", _FIX, _orphaned, whole=False),
    Scenario("doctor on an orphan in a shut-off VM", _FIX, _off_after(_orphaned), whole=False),
    Scenario("doctor on a missing bitmap", _FIX, _half_missing, whole=False),
    Scenario("doctor after a crash", _FIX, _crashed, whole=False),
    Scenario("doctor on a dead export", _FIX, _dead),
)  # fmt: skip

READ_ONLY = {
    "list": ("list",),
    "info": ("info", "one"),
    "dumpxml": ("dumpxml", "one"),
    "exports": ("exports",),
    "nbdinfo": ("nbdinfo",),
    "map": ("map", "--disk", "vda"),
    "completion": ("completion", "bash"),
    "help": ("help", "list"),
}
"""Commands that change nothing: shown by their traces."""

ELSEWHERE = {
    "backup": "test_backup.py",
    "boot": "test_boot.py",
    "hotadd": "test_crash.py",
    "hotremove": "test_crash.py",
    "mount": "test_mount.py",
    "umount": "test_mount.py",
}
"""Commands that a test file of their own kills at their steps."""

NOT_YET = {"backups", "cat", "cp", "diff", "history", "layout", "ls", "restore", "verify"}
"""Commands that are interrupted by their own tests at most: what is left to do. None may join."""
