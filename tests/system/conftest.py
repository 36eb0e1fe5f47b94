"""Fixtures of the system tests: a real libvirtd, real QEMUs, and the vircpt command as a process.

Run them as `tests/lab/enter .venv/bin/python -m pytest tests/system`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab.daemon import LOG, Libvirtd
from lab.fixtures import MOUNT_POINT, BlankFactory, Cli
from lab.state import end_job, has_job
from lab.vms import MIB, Disk, Vm, define_blank, define_guest

CHECKOUT = Path(__file__).parents[2]
GUEST_DISKS = (Disk("vda", 256 * MIB), Disk("vdb", 256 * MIB))
LOG_START = pytest.StashKey[int]()

# libvirt prints every error on stderr as well as raising it.
libvirt.registerErrorHandler(lambda *_: None, None)


def pytest_sessionstart() -> None:
    """A test that cannot run is a failure: nothing here is ever skipped."""
    if os.environ.get("VIRCPT_LAB") != "1":
        pytest.exit(
            "The system tests need the lab, so that they touch no libvirt but their own:\n"
            "    tests/lab/enter .venv/bin/python -m pytest tests/system",
            returncode=4,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put what libvirtd logged during a test into the report of its failure."""
    report = yield
    if report.failed and (tail := _libvirtd_log(item.stash.get(LOG_START, 0))):
        report.sections.append(("libvirtd.log", tail))
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[LOG_START] = LOG.stat().st_size if LOG.exists() else 0


def _libvirtd_log(start: int, limit: int = 8000) -> str:
    if not LOG.exists():
        return ""
    with LOG.open("rb") as log:
        log.seek(max(start, LOG.stat().st_size - limit))
        return log.read().decode(errors="replace")


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[Libvirtd]:
    """The lab's daemon. A test that stops it has to start it again."""
    with Libvirtd() as daemon:
        yield daemon


@pytest.fixture
def conn(libvirtd: Libvirtd) -> Iterator[Any]:
    """A fresh libvirt connection, so that a test that restarts the daemon spoils no other."""
    connection = libvirt.open("qemu:///system")
    yield connection
    connection.close()


@pytest.fixture
def blank(libvirtd: Libvirtd, conn: Any) -> Iterator[BlankFactory]:
    """Makes VMs without a guest, which are gone after the test, with their images."""
    vms: list[Vm] = []
    numbers = count(1)

    def make(
        name: str | None = None, disks: Sequence[Disk] = (Disk("vda"),), *, start: bool = True
    ) -> Vm:
        vm = define_blank(conn, name or f"blank{next(numbers)}", disks)
        vms.append(vm)
        if start:
            vm.start()
        return vm

    yield make
    for vm in vms:
        _remove(vm)


def _remove(vm: Vm) -> None:
    """Over a connection of its own: the one that vm was made with may have died with the daemon."""
    connection = libvirt.open("qemu:///system")
    try:
        domain = connection.lookupByUUIDString(vm.domain.UUIDString())
    except libvirt.libvirtError:
        domain = vm.domain
    Vm(domain, vm.images, vm.serial_log).remove()
    connection.close()


@pytest.fixture(scope="session")
def session_guest(libvirtd: Libvirtd) -> Iterator[Vm]:
    """The one VM with Linux and an agent, because it takes seconds to boot. Tests use `guest`."""
    connection = libvirt.open("qemu:///system")
    vm = define_guest(connection, "guest", GUEST_DISKS)
    yield vm
    _remove(vm)
    connection.close()


@pytest.fixture
def guest(session_guest: Vm, conn: Any) -> Iterator[Vm]:
    """A running Linux, shared by all tests: on vda an ext4, mounted at MOUNT_POINT; vdb is a spare.

    A test has to leave it without a job and without a freeze; its checkpoints are removed.
    """
    domain = conn.lookupByName(session_guest.name)
    vm = Vm(domain, session_guest.images, session_guest.serial_log)
    if not domain.isActive():  # at first, and after a test that killed it
        _boot(vm)
    yield vm
    if not domain.isActive():
        return
    faults = [*_end_job(vm), *_thaw(vm)]
    _remove_checkpoints(vm)
    assert not faults, f"the test left {' and '.join(faults)}"


def _boot(vm: Vm) -> None:
    vm.start()
    vm.wait_agent()
    mount = f"mount -t ext4 /dev/vda {MOUNT_POINT}"
    vm.guest(f"mkdir -p {MOUNT_POINT}; {mount} || {{ mkfs.ext4 -q -F /dev/vda && {mount}; }}")


def _end_job(vm: Vm) -> list[str]:
    if not has_job(vm):
        return []
    end_job(vm)
    return ["a job running"]


def _thaw(vm: Vm) -> list[str]:
    if vm.agent("guest-fsfreeze-status") == "thawed":
        return []
    vm.agent("guest-fsfreeze-thaw")
    return ["file systems frozen"]


def _remove_checkpoints(vm: Vm) -> None:
    leaves = libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL
    for checkpoint in reversed(vm.domain.listAllCheckpoints(leaves)):
        checkpoint.delete()


@pytest.fixture(scope="session")
def cli(libvirtd: Libvirtd) -> Cli:
    program = CHECKOUT / ".venv/bin/vircpt"

    def run(
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *args],
            env={**os.environ, **(env or {})},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
