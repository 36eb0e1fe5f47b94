"""SIGINT and SIGTERM at every step: whatever vircpt was doing, it leaves nothing half done.

A dry run tells which steps an operation has (tests/lab/inject); then it is run again and again,
with a signal at another step each time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import inject
from lab.daemon import poll
from lab.fixtures import BlankFactory
from lab.inject import Step
from lab.state import checkpoints, has_job, processes
from lab.vms import Vm

BOTH = (signal.SIGINT, signal.SIGTERM)
MOMENTS = 16
ORDER = {signal.SIGINT: "int", signal.SIGTERM: "term"}


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    yield
    inject.sweep()


class Operation:
    """A command on a VM: how it is set up, and what must hold when it was interrupted."""

    def __init__(self, vm: Vm, directory: Path) -> None:
        self.vm = vm
        self.directory = directory

    def run(self, *args: str | Path, order: str = "") -> subprocess.CompletedProcess[str]:
        return inject.run("-d", self.vm.name, *args, order=order)

    def must(self, *args: str | Path) -> str:
        """What undisturbed must succeed."""
        done = self.run(*args)
        assert done.returncode == 0, inject.shown(done)
        return done.stdout

    def steps(self, file: Path) -> list[Step]:
        """What it goes through undisturbed, which is done here once."""
        self.prepare()
        done, steps = inject.trace("-d", self.vm.name, *self.args, file=file)
        self.check(done.stdout)
        return steps

    @property
    def args(self) -> tuple[str | Path, ...]:
        raise NotImplementedError

    def prepare(self) -> None:
        """Set the stage, the same each time."""

    def check(self, stdout: str) -> None:
        """See that all is done or nothing, as stdout says, and clear the stage."""

    def finish(self) -> None:
        """Clear the stage for good."""


class Create(Operation):
    args = ("create", "--name", "new")

    def check(self, stdout: str) -> None:
        made = checkpoints(self.vm)
        assert ("created" in stdout) == (made == ["new"])
        nothing_runs(self.vm)
        if made:
            self.must("delete", "--name", "new")


class Export(Operation):
    args = ("export", "--name", "old", "--create", "new", "--ttl", "1h")

    def prepare(self) -> None:
        if "old" not in checkpoints(self.vm):
            self.must("create", "--name", "old")

    def check(self, stdout: str) -> None:
        if "is running" in stdout:
            self.must("release")
            self.must("delete", "--name", "new")
        assert checkpoints(self.vm) == ["old"]
        nothing_runs(self.vm)


class Run(Operation):
    args = ("export", "--ttl", "1h", "--run", "true")

    def check(self, stdout: str) -> None:
        nothing_runs(self.vm)


class Delete(Operation):
    args = ("delete", "--name", "middle")

    def prepare(self) -> None:
        for name in ("first", "middle", "last"):
            if name not in checkpoints(self.vm):
                self.must("create", "--name", name)

    def check(self, stdout: str) -> None:
        gone = "middle" not in checkpoints(self.vm)
        assert ("deleted" in stdout) <= gone
        for name in checkpoints(self.vm) if gone else ():
            self.must("delete", "--name", name)
        nothing_runs(self.vm)


class Release(Operation):
    args = ("release",)

    def prepare(self) -> None:
        if not inject.leftovers():
            self.must("export", "--ttl", "1h")

    def check(self, stdout: str) -> None:
        """What it has left undone the next release does; it may have been only the tidying up."""
        if "released" not in stdout:
            assert self.run("release").returncode in (0, 10)
        nothing_runs(self.vm)


class Copy(Operation):
    @property
    def args(self) -> tuple[str | Path, ...]:
        return ("copy", self.directory / "copy.qcow2")

    def prepare(self) -> None:
        if not has_job(self.vm):
            self.must("export")

    def check(self, stdout: str) -> None:
        made = sorted(path.name for path in self.directory.iterdir())
        assert made in ([], ["copy.qcow2"])
        assert ("copied" in stdout) <= (made != [])
        for name in made:
            subprocess.run(["qemu-img", "check", "-q", self.directory / name], check=True)
            (self.directory / name).unlink()
        assert has_job(self.vm)
        poll(lambda: not processes(), 5, "vircpt's processes to end")

    def finish(self) -> None:
        self.must("release")


class Offline(Operation):
    """The export of a domain that is shut off."""

    args = ("export", "--name", "old", "--ttl", "1h")

    def prepare(self) -> None:
        if self.vm.domain.isActive():
            self.must("create", "--name", "old")
            self.vm.destroy()

    def check(self, stdout: str) -> None:
        if "is running" in stdout:
            self.must("release")
        inject.wait_alone()
        assert inject.leftovers() == []


OPERATIONS = [Create, Export, Run, Delete, Release, Copy, Offline]


def nothing_runs(vm: Vm) -> None:
    """No export, and nothing left of one."""
    inject.wait_alone()
    assert not has_job(vm)
    assert inject.leftovers() == []


def orders(steps: list[Step]) -> Iterator[tuple[signal.Signals, str]]:
    """A signal before each step, and after each call that has libvirt do something; in turn."""
    for step in steps:
        number, other = BOTH if step.number % 2 else reversed(BOTH)
        yield number, f"{ORDER[number]}:{step.number}"
        if step.name.startswith("vir") and step.changes:
            yield other, f"{ORDER[other]}:after:{step.number}"


def interrupt(operation: Operation, number: signal.Signals, order: str) -> int:
    """The status it ended with."""
    operation.prepare()
    done = operation.run(*operation.args, order=order)
    judge(operation, number, done, order)
    return done.returncode


def judge(
    operation: Operation,
    number: signal.Signals,
    done: subprocess.CompletedProcess[str],
    order: str,
) -> None:
    """See that an operation that got a signal is done or undone, and that it says so."""
    try:
        assert done.returncode in (0, 128 + number)
        if done.returncode:
            assert done.stderr.endswith(f"vircpt: ended by {number.name}\n")
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        operation.check(done.stdout)
    except Exception as error:
        error.add_note(f"{order}: {inject.shown(done)}")
        raise


@pytest.mark.parametrize("kind", OPERATIONS)
def test_at_every_step(kind: type[Operation], blank: BlankFactory, tmp_path: Path) -> None:
    directory = tmp_path / "copies"
    directory.mkdir()
    operation = kind(blank(), directory)
    ended = [
        interrupt(operation, number, order)
        for number, order in orders(operation.steps(tmp_path / "trace"))
    ]
    assert 128 + signal.SIGINT in ended
    assert 128 + signal.SIGTERM in ended
    operation.prepare()
    operation.check(operation.must(*operation.args))
    operation.finish()


def test_a_frozen_guest_at_every_step(guest: Vm, tmp_path: Path) -> None:
    """Only the steps from the guard's start to its end; the others are those without a guest."""
    for operation in (Create(guest, tmp_path), Run(guest, tmp_path)):
        steps = operation.steps(tmp_path / "trace")
        names = [step.name for step in steps]
        start = next(step.number for step in steps if "thawguard" in step.detail)
        end = names.index("virDomainFSThaw") + 2
        ended = set()
        for number, order in orders(steps[start - 1 : end]):
            ended.add(interrupt(operation, number, order))
            assert guest.agent("guest-fsfreeze-status") == "thawed"
        assert ended >= {128 + number for number in BOTH}


@pytest.mark.parametrize("kind", [Create, Export, Run])
def test_at_any_moment(kind: type[Operation], blank: BlankFactory, tmp_path: Path) -> None:
    """Between the steps too: the time that the operation takes is cut into pieces."""
    operation = kind(blank(), tmp_path)
    operation.prepare()
    process = started(operation)
    start = time.monotonic()
    done = inject.finish(process)
    seconds = time.monotonic() - start
    operation.check(done.stdout)
    for piece in range(MOMENTS):
        operation.prepare()
        process = started(operation)
        time.sleep(seconds * piece / MOMENTS)
        number = BOTH[piece % 2]
        process.send_signal(number)
        judge(operation, number, inject.finish(process), f"after {piece}/{MOMENTS} of the time")


def started(operation: Operation) -> subprocess.Popen[str]:
    """The operation, from when it has caught signals on; before they are Python's business."""
    process = inject.start("-d", operation.vm.name, *operation.args)
    poll(lambda: inject.catches(process.pid, signal.SIGTERM), 10, "vircpt to start")
    return process


@pytest.mark.parametrize("number", [*BOTH, signal.SIGHUP])
def test_the_command_of_run_gets_it_too(
    number: signal.Signals, blank: BlankFactory, tmp_path: Path
) -> None:
    vm = blank()
    mark = tmp_path / "mark"
    name = number.name.removeprefix("SIG")
    told = f"trap 'echo {name}; exit 3' {name}; touch {mark}; while :; do sleep 0.05; done"
    process = inject.start("-d", vm.name, "export", "--run", told)
    poll(mark.exists, 10, "the command")
    process.send_signal(number)
    done = inject.finish(process, 10)
    assert (done.returncode, done.stdout) == (128 + number, f"{name}\n")
    nothing_runs(vm)


def sleepers(seconds: str) -> list[int]:
    """Pids of the `sleep` that a test started, known by its odd time."""
    wanted = f"sleep\0{seconds}\0".encode()
    return [
        int(one.name) for one in Path("/proc").glob("[0-9]*") if (one / "cmdline").exists()
        and (one / "cmdline").read_bytes() == wanted
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command",
    ["sleep 7171; true", "sleep 7171 | cat", "(sleep 7171 &); sleep 7171", "nohup sleep 7171; :"],
)
def test_the_commands_children_end_too(command: str, blank: BlankFactory, tmp_path: Path) -> None:
    vm = blank()
    process = inject.start("-d", vm.name, "export", "--run", f"{command}")
    poll(lambda: len(sleepers("7171")) == command.count("7171"), 10, "the command")
    process.terminate()
    assert inject.finish(process, 10).returncode == 143
    assert sleepers("7171") == []
    nothing_runs(vm)


def test_a_daemon_that_the_command_started_is_left_alone(blank: BlankFactory) -> None:
    vm = blank()
    command = "setsid --fork sleep 7272 >/dev/null 2>&1; sleep 7171"
    process = inject.start("-d", vm.name, "export", "--run", command)
    poll(lambda: bool(sleepers("7171") and sleepers("7272")), 10, "the command")
    process.terminate()
    assert inject.finish(process, 10).returncode == 143
    (daemon,) = sleepers("7272")
    os.kill(daemon, signal.SIGKILL)
    assert sleepers("7171") == []
    nothing_runs(vm)


def test_ctrl_c_in_a_terminal(blank: BlankFactory, tmp_path: Path) -> None:
    """It goes to vircpt and to its command at once."""
    vm = blank()
    process = inject.running(vm.name, "sleep 60", tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert inject.finish(process, 10).returncode == 130
    nothing_runs(vm)


@pytest.mark.parametrize("form", [(), ("--json",), ("--run", "echo ran")])
def test_nobody_reads_what_it_tells(form: tuple[str, ...], blank: BlankFactory) -> None:
    vm = blank()
    reading, writing = os.pipe()
    os.close(reading)
    args = ["-d", vm.name, "export", "--create", "new", *form]
    done = subprocess.run([inject.PROGRAM, *args], stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 141
    assert checkpoints(vm) == []
    nothing_runs(vm)


def test_a_second_signal_does_not_disturb_the_clean_up(blank: BlankFactory) -> None:
    vm = blank()
    orders = "int:after:virDomainBackupBegin;int:virDomainAbortJob;term:os.rmdir"
    done = inject.run("-d", vm.name, "export", "--create", "new", "--ttl", "1h", order=orders)
    assert done.returncode == 130, inject.shown(done)
    assert checkpoints(vm) == []
    nothing_runs(vm)


def test_nohup_is_respected(blank: BlankFactory, tmp_path: Path) -> None:
    vm = blank()
    mark, go = tmp_path / "mark", tmp_path / "go"
    wait = f"touch {mark}; until [ -e {go} ]; do sleep 0.05; done"
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does for its command
    try:
        process = inject.start("-d", vm.name, "export", "--run", wait)
    finally:
        signal.signal(signal.SIGHUP, previous)
    poll(mark.exists, 10, "the command")
    process.send_signal(signal.SIGHUP)
    go.touch()
    assert inject.finish(process, 10).returncode == 0
    nothing_runs(vm)
