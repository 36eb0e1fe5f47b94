"""Freezing a real guest through its agent, and the promise that it is thawed again."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab import inject
from lab.daemon import poll
from lab.fixtures import MOUNT_POINT, BlankFactory, Cli
from lab.state import processes
from lab.vms import Vm

BEFORE_FREEZE = "before:virDomainFSFreeze"


@dataclass(frozen=True)
class Operation:
    """A command that freezes: its arguments, and the call that is made meanwhile."""

    args: tuple[str, ...]
    call: str

    def command(self, vm: Vm, *more: str) -> tuple[str, ...]:
        return ("-d", vm.name, *self.args, *more)

    def done(self, vm: Vm) -> bool:
        """Whether it left what it is there for; an export of vm is released."""
        if self is CREATE:
            return "new" in checkpoints(vm)
        return bool(vm.domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)


CREATE = Operation(("create", "--name", "new"), "virDomainCheckpointCreateXML")
EXPORT = Operation(("export",), "virDomainBackupBegin")
BOTH = pytest.mark.parametrize("operation", [CREATE, EXPORT], ids=["create", "export"])


@pytest.fixture
def guest(guest: Vm) -> Iterator[Vm]:
    """The shared guest, whose export is released after the test."""
    yield guest
    release(guest)


def release(vm: Vm) -> None:
    """End its export, if there is one; no process and no file is left of it."""
    assert inject.run("-d", vm.name, "release").returncode in (0, 10)
    inject.wait_alone()
    assert inject.leftovers() == []


def checkpoints(vm: Vm) -> list[str]:
    return [one.getName() for one in vm.domain.listAllCheckpoints()]


def status(vm: Vm) -> str:
    return str(vm.agent("guest-fsfreeze-status"))


def is_thawed(vm: Vm) -> bool:
    return status(vm) == "thawed"


def freeze_report(stdout: str) -> Any:
    document = json.loads(stdout)
    return document.get("checkpoint", document)["freeze"]


# What is normal


@BOTH
def test_the_guest_is_frozen_and_thawed(guest: Vm, cli: Cli, operation: Operation) -> None:
    done = cli(*operation.command(guest))
    assert done.returncode == 0, done.stderr
    assert "1 file system stood frozen for" in done.stderr
    assert "warning" not in done.stderr
    assert status(guest) == "thawed"


@BOTH
def test_the_report_tells_how_long(guest: Vm, cli: Cli, operation: Operation) -> None:
    start = time.monotonic()
    done = cli(*operation.command(guest, "--json"))
    report = freeze_report(done.stdout)
    assert (report["state"], report["filesystems"], report["why"]) == ("frozen", 1, None)
    assert 0 < report["seconds"] < time.monotonic() - start
    assert done.stderr == ""


@BOTH
def test_it_stands_frozen_while_the_work_is_done(guest: Vm, operation: Operation) -> None:
    process = inject.stopped_at(*operation.command(guest), step=f"before:{operation.call}")
    assert status(guest) == "frozen"
    process.send_signal(signal.SIGCONT)
    done = inject.finish(process)
    assert done.returncode == 0, done.stderr
    assert status(guest) == "thawed"


def test_two_file_systems(guest: Vm, cli: Cli) -> None:
    guest.guest("mkdir -p /mnt/two; mkfs.ext4 -q -F /dev/vdb && mount /dev/vdb /mnt/two")
    try:
        done = cli(*CREATE.command(guest))
    finally:
        guest.guest("umount /mnt/two")
    assert "2 file systems stood frozen for" in done.stderr


def test_without_any_file_system(guest: Vm, cli: Cli) -> None:
    guest.guest(f"umount {MOUNT_POINT}")
    try:
        done = cli(*CREATE.command(guest))
    finally:
        guest.guest(f"mount -t ext4 /dev/vda {MOUNT_POINT}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


# Too slow


@BOTH
def test_the_guard_thaws_when_the_limit_passes(guest: Vm, operation: Operation) -> None:
    command = operation.command(guest, "--freeze-limit", "2")
    process = inject.stopped_at(*command, step=f"before:{operation.call}")
    poll(lambda: is_thawed(guest), 4, "the guard to thaw")
    process.send_signal(signal.SIGCONT)
    done = inject.finish(process)
    assert done.returncode == 0, done.stderr
    assert "warning: the guest was thawed before the work was done" in done.stderr
    assert "limit of 2 s" in done.stderr
    assert operation.done(guest)


@BOTH
def test_thawed_too_early_is_a_failure_if_required(guest: Vm, operation: Operation) -> None:
    command = operation.command(guest, "--freeze-limit", "1", "--require-freeze")
    process = inject.stopped_at(*command, step=f"after:{operation.call}")
    poll(lambda: is_thawed(guest), 4, "the guard to thaw")
    process.send_signal(signal.SIGCONT)
    done = inject.finish(process)
    assert done.returncode == 12, inject.shown(done)
    assert "--freeze-limit" in done.stderr
    assert not operation.done(guest)
    assert inject.leftovers() == []


def test_no_checkpoint_of_an_export_that_froze_too_short(guest: Vm) -> None:
    limits = ("--create", "new", "--freeze-limit", "1", "--require-freeze")
    process = inject.stopped_at(*EXPORT.command(guest, *limits), step=f"before:{EXPORT.call}")
    poll(lambda: is_thawed(guest), 4, "the guard to thaw")
    process.send_signal(signal.SIGCONT)
    assert inject.finish(process).returncode == 12
    assert checkpoints(guest) == []


# Killed


@BOTH
@pytest.mark.parametrize("when", ["after:virDomainFSFreeze", "before:{call}", "after:{call}"])
def test_the_guard_thaws_when_vircpt_is_killed(guest: Vm, operation: Operation, when: str) -> None:
    order = f"kill:{when.format(call=operation.call)}"
    killed = inject.run(*operation.command(guest), order=order)
    assert killed.returncode == -signal.SIGKILL
    poll(lambda: is_thawed(guest), 5, "the guard to thaw")
    inject.wait_alone()


@BOTH
def test_killed_before_the_freeze(guest: Vm, operation: Operation) -> None:
    killed = inject.run(*operation.command(guest), order=f"kill:{BEFORE_FREEZE}")
    assert killed.returncode == -signal.SIGKILL
    inject.wait_alone()
    assert status(guest) == "thawed"


@BOTH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_frozen(guest: Vm, operation: Operation, number: signal.Signals) -> None:
    process = inject.stopped_at(*operation.command(guest), step=f"before:{operation.call}")
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    done = inject.finish(process)
    assert done.returncode == 128 + number
    assert status(guest) == "thawed"
    assert not operation.done(guest)
    inject.wait_alone()


# No agent


@BOTH
def test_without_an_agent_channel(blank: BlankFactory, cli: Cli, operation: Operation) -> None:
    vm = blank()
    refused = cli(*operation.command(vm, "--require-freeze"))
    assert refused.returncode == 12
    assert "no channel for the guest agent" in refused.stderr
    assert not operation.done(vm)
    done = cli(*operation.command(vm))
    assert done.returncode == 0
    assert "warning: file systems were not frozen" in done.stderr
    assert "no channel for the guest agent" in done.stderr
    assert operation.done(vm)
    release(vm)


@contextmanager
def agent_stopped(vm: Vm, seconds: int) -> Iterator[None]:
    """The agent hangs, which nobody sees from outside. The block must be over before it wakes."""
    pid = vm.guest("pidof qemu-ga").strip()
    stop = f"sleep 0.1; kill -STOP {pid}; sleep {seconds}; kill -CONT {pid}"
    vm.guest(f"({stop}) >/dev/null 2>&1 </dev/null &")
    poll(lambda: not answers(vm), 5, "the agent to stop")
    start = time.monotonic()
    try:
        yield
        assert time.monotonic() - start < seconds - 0.5, "it took too long, or the lab is too slow"
    finally:
        vm.wait_agent()


def answers(vm: Vm) -> bool:
    try:
        vm.agent("guest-ping", timeout=1)
    except libvirt.libvirtError:
        return False
    return True


@BOTH
def test_an_agent_that_does_not_answer(guest: Vm, cli: Cli, operation: Operation) -> None:
    with agent_stopped(guest, 8):
        required = cli(*operation.command(guest, "--require-freeze", "--freeze-limit", "1"))
        left = operation.done(guest)
        done = cli(*operation.command(guest, "--freeze-limit", "1"))
    assert required.returncode == 12, inject.shown(required)
    assert not left
    assert done.returncode == 0, inject.shown(done)
    assert "warning: file systems were not frozen" in done.stderr
    assert operation.done(guest)
    inject.wait_alone(15)  # what was asked of the agent comes to pass when it wakes
    assert status(guest) == "thawed"


def test_waiting_for_the_agent_can_be_interrupted(guest: Vm) -> None:
    with agent_stopped(guest, 4):
        process = inject.stopped_at(*CREATE.command(guest), step=BEFORE_FREEZE)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        assert inject.finish(process, 2).returncode == 130
    assert checkpoints(guest) == []
    inject.wait_alone(15)
    assert status(guest) == "thawed"


def test_killed_while_the_agent_hangs(guest: Vm) -> None:
    """The freeze comes about when nobody waits for it any more."""
    with agent_stopped(guest, 4):
        process = inject.stopped_at(*CREATE.command(guest), step=BEFORE_FREEZE)
        process.send_signal(signal.SIGCONT)
        time.sleep(1)  # so that the call has reached libvirtd, which nobody can see from outside
        process.kill()
        inject.finish(process)
    inject.wait_alone(15)
    assert status(guest) == "thawed"


def test_an_agent_that_hangs_in_the_freeze(guest: Vm, cli: Cli) -> None:
    """The guest's disk stalls, so that its file system can't be written out."""
    guest.guest(f"dd if=/dev/urandom of={MOUNT_POINT}/noise bs=1M count=2")
    guest.domain.setBlockIoTune("vda", {"total_bytes_sec": 1000})
    try:
        done = cli(*CREATE.command(guest, "--freeze-limit", "1"), timeout=20)
        process = inject.start("-d", guest.name, "create", "--name", "killed")
        poll(lambda: len(processes()) > 2, 5, "the second guard")
        process.kill()
        inject.finish(process)
    finally:
        guest.domain.setBlockIoTune("vda", {"total_bytes_sec": 0})
    assert done.returncode == 0, inject.shown(done)
    assert "warning: file systems were not frozen" in done.stderr
    inject.wait_alone(40)
    assert status(guest) == "thawed"


# Whose freeze it is


@BOTH
def test_a_freeze_of_somebody_else_stays(guest: Vm, cli: Cli, operation: Operation) -> None:
    assert guest.agent("guest-fsfreeze-freeze") == 1
    try:
        done = cli(*operation.command(guest))
        left = status(guest)
    finally:
        guest.agent("guest-fsfreeze-thaw")
    assert done.returncode == 0, done.stderr
    assert "warning: file systems were not frozen" in done.stderr
    assert "frozen already" in done.stderr
    assert operation.done(guest)
    assert left == "frozen"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_freeze_of_somebody_else_outlives_a_crash(guest: Vm, when: str) -> None:
    assert guest.agent("guest-fsfreeze-freeze") == 1
    try:
        order = f"kill:{when}:virDomainCheckpointCreateXML"
        assert inject.run(*CREATE.command(guest), order=order).returncode == -signal.SIGKILL
        inject.wait_alone()
        assert status(guest) == "frozen"
    finally:
        guest.agent("guest-fsfreeze-thaw")


def test_required_but_frozen_by_somebody_else(guest: Vm, cli: Cli) -> None:
    assert guest.agent("guest-fsfreeze-freeze") == 1
    try:
        done = cli(*CREATE.command(guest, "--require-freeze"))
        left = status(guest)
    finally:
        guest.agent("guest-fsfreeze-thaw")
    assert done.returncode in (11, 12), done.stderr
    assert "frozen already" in done.stderr
    assert "install" not in done.stderr
    assert (left, checkpoints(guest)) == ("frozen", [])


@BOTH
def test_not_asked_to_freeze_it_does_not_touch_the_agent(
    guest: Vm, operation: Operation, tmp_path: Path
) -> None:
    _, steps = inject.trace(*operation.command(guest, "--no-freeze"), file=tmp_path / "trace")
    names = {step.name for step in steps}
    assert operation.call in names
    assert not any("FSFreeze" in name or "FSThaw" in name or "Agent" in name for name in names)
    assert not any("thawguard" in step.detail for step in steps)


@BOTH
def test_not_asked_to_freeze_a_hanging_agent_costs_no_time(
    guest: Vm, cli: Cli, operation: Operation
) -> None:
    with agent_stopped(guest, 4):
        done = cli(*operation.command(guest, "--no-freeze"), timeout=3)
    assert done.returncode == 0
    assert done.stderr.count("warning") == 0
    assert operation.done(guest)


def test_a_paused_guest_is_not_asked(guest: Vm, cli: Cli) -> None:
    guest.domain.suspend()
    try:
        done = cli("-d", "guest", "create", "--name", "new")
        assert done.returncode == 0
        assert done.stderr.count("the guest is paused") == 1
        assert "virsh start" not in done.stderr
        refused = cli("-d", "guest", "create", "--require-freeze")
        assert refused.returncode == 12
        assert "the guest is paused\nhint: virsh resume guest\n" in refused.stderr
    finally:
        guest.domain.resume()
