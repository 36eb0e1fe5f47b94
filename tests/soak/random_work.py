"""Random work on three VMs at once, for as long as one likes; what was written must be found.

Each VM has a worker that draws operations from one seed: vircpt's commands, writes, and the
misfortunes of a VM's life (killed, paused, shut off, saved). After each step what must hold is
looked at from outside; in between libvirtd is killed and started again.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

from lab import inject
from lab.daemon import Libvirtd, poll
from lab.state import processes
from lab.vms import KIB, MIB, Disk, Vm, define_blank

SIZE = 16 * MIB
BLOCK = 64 * KIB
MOST = 8
FINE = {0, 1, 2, 3, 10, 11, 12, 13, 14}
"""Exit codes that stand in docs/exit-codes.md, and that a command may have here."""


@dataclass
class Report:
    """What was done how often, with which exit codes, and what did not hold."""

    seed: int
    seconds: float = 0
    done: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def table(self) -> str:
        rows = [f"| {name} | {count} |" for name, count in sorted(self.done.items())]
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(self.codes.items()))
        return "\n".join(
            [
                f"{self.seconds / 60:.0f} minutes, seed {self.seed}, three VMs, "
                f"{sum(self.done.values())} operations, {len(self.faults)} faults.\n"
                f"Exit codes of vircpt: {codes}.",
                "",
                "| Operation | Times |",
                "|---|---|",
                *rows,
            ]
        )


class Gate:
    """Workers pass together; libvirtd is killed while none of them is at work."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._change:
                self._inside -= 1
                self._change.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody comes in any more, and who is inside finishes."""
        with self._change:
            self._closed = True
            self._change.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._change:
                self._closed = False
                self._change.notify_all()


class Worker:
    """Works on one VM. `written` are the blocks that were written since each checkpoint."""

    def __init__(self, name: str, seed: int, report: Report, gate: Gate, directory: Path) -> None:
        self.random = random.Random(f"{seed} {name}")
        self.report = report
        self.gate = gate
        self.directory = directory
        self.name = name
        connection = libvirt.open("qemu:///system")
        self.vm = define_blank(connection, name, [Disk("vda", SIZE), Disk("vdb", SIZE)])
        self.vm.start()
        self.written: dict[str, set[int]] = {}
        self.number = 0

    def connect(self) -> None:
        connection = libvirt.open("qemu:///system")
        self.vm = Vm(connection.lookupByName(self.name), self.vm.images, None)

    def work(self, end: float) -> None:
        while time.monotonic() < end:
            act = self.random.choice(ACTIONS)
            with self.gate.inside():
                try:
                    self.connect()
                    act(self)
                    self.check()
                except Exception:
                    self.report.faults.append(f"{self.name}: {traceback.format_exc()}")
                    self.begin_anew()
            self.report.done[act.__name__.replace("_", " ")] += 1

    def vircpt(self, *args: str) -> tuple[int, str]:
        done = inject.run("-d", self.name, *args, timeout=120)
        self.report.codes[done.returncode] += 1
        assert "Traceback" not in done.stderr, inject.shown(done)
        assert done.returncode in FINE, inject.shown(done)
        assert done.returncode == 0 or "error: " in done.stderr or args[0] == "doctor", (
            inject.shown(done)
        )
        return done.returncode, done.stdout

    def check(self) -> None:
        """What the doctor calls healthy is what was written: each block is in each bitmap."""
        if not self.vm.domain.isActive():
            return
        _, text = self.vircpt("--json", "list")
        known = {one["name"]: one for one in json.loads(text)["checkpoints"]} if text else {}
        for name, blocks in self.written.items():
            assert name in known, f"checkpoint {name} has gone"
            if known[name]["health"] == "ok":
                assert known[name]["changed"] >= len(blocks) * BLOCK, f"{name} has lost writes"

    def begin_anew(self) -> None:
        """After a fault: as at the start, so that one fault is not told a hundred times."""
        self.vm.remove()
        inject.run("-d", self.name, "release")
        connection = libvirt.open("qemu:///system")
        self.vm = define_blank(connection, self.name, [Disk("vda", SIZE), Disk("vdb", SIZE)])
        self.vm.start()
        self.written = {}

    def lost(self) -> None:
        """The bitmaps are no good any more: no promise about them is left."""
        self.written = {}


Action = Callable[[Worker], None]


def create(worker: Worker) -> None:
    worker.number += 1
    name = f"c{worker.number}"
    code, _ = worker.vircpt("create", "--name", name)
    if code == 0:
        worker.written[name] = set()


def delete(worker: Worker) -> None:
    if not worker.written:
        return
    name = worker.random.choice(sorted(worker.written))
    code, _ = worker.vircpt("delete", "--name", name)
    if code in (0, 10):
        del worker.written[name]


def thin_out(worker: Worker) -> None:
    while len(worker.written) > MOST:
        delete(worker)


def write(worker: Worker) -> None:
    if worker.vm.domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
        return
    block = worker.random.randrange(SIZE // BLOCK)
    worker.vm.qemu_io("vda", f"write -P {worker.random.randrange(1, 256)} {block * BLOCK} {BLOCK}")
    for blocks in worker.written.values():
        blocks.add(block)


def export_and_compare(worker: Worker) -> None:
    """The export has marked every block that was written since the checkpoint."""
    if not worker.written or not worker.vm.domain.isActive():
        return
    name = worker.random.choice(sorted(worker.written))
    code, _ = worker.vircpt("export", "--name", name, "--ttl", "1h")
    if code:
        return
    code, text = worker.vircpt("--json", "map", "--disk", "vda")
    assert code == 0
    extents = json.loads(text)["extents"]
    dirty = [(one["offset"], one["length"]) for one in extents if one["dirty"]]
    full = not any(one["dirty"] is False for one in extents)
    for block in worker.written[name]:
        start = block * BLOCK
        held = any(at <= start and start + BLOCK <= at + length for at, length in dirty)
        assert full or held, f"block {block} is missing in the export since {name}"
    assert worker.vircpt("release")[0] == 0


def export_and_leave(worker: Worker) -> None:
    worker.vircpt("export", "--ttl", "1h")


def copy(worker: Worker) -> None:
    target = worker.directory / f"{worker.name}.qcow2"
    target.unlink(missing_ok=True)
    code, _ = worker.vircpt("copy", "--disk", "vda", str(target))
    if code == 0:
        subprocess.run(["qemu-img", "check", "-q", target], check=True)


def release(worker: Worker) -> None:
    worker.vircpt("release")


def killed_export(worker: Worker) -> None:
    step = worker.random.randrange(1, 40)
    inject.run("-d", worker.name, "export", "--ttl", "1h", order=f"kill:{step}", timeout=120)


def killed_create(worker: Worker) -> None:
    worker.number += 1
    step = worker.random.randrange(1, 30)
    inject.run("-d", worker.name, "create", "--name", f"c{worker.number}", order=f"kill:{step}")


def power_cycle(worker: Worker) -> None:
    worker.vm.destroy()
    worker.vm.start()


def kill_qemu(worker: Worker) -> None:
    if worker.vm.domain.isActive():
        worker.vm.kill()
        worker.lost()
        worker.vm.start()


def pause(worker: Worker) -> None:
    domain = worker.vm.domain
    if domain.isActive() and domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
        domain.suspend()
        worker.vircpt("create", "--dry-run")
        domain.resume()


def reset(worker: Worker) -> None:
    if worker.vm.domain.isActive():
        worker.vm.domain.reset()


def save_and_restore(worker: Worker) -> None:
    """libvirt refuses it while an export runs, after 30 s: released before."""
    if not worker.vm.domain.isActive():
        return
    worker.vircpt("release")
    path = f"/var/lib/libvirt/images/{worker.name}.save"
    worker.vm.domain.save(path)
    worker.vircpt("doctor")
    worker.vm.domain.connect().restore(path)
    Path(path).unlink()


def doctor(worker: Worker) -> None:
    """It repairs what it finds, and finds nothing then."""
    code, _ = worker.vircpt("doctor", "--fix", "--yes", "--foreign")
    assert code in (0, 11), f"the doctor ended with {code}"
    left = {one.getName() for one in worker.vm.domain.listAllCheckpoints()}
    worker.written = {name: one for name, one in worker.written.items() if name in left}


def save_metadata(worker: Worker) -> None:
    with tempfile.TemporaryDirectory(dir=worker.directory) as top:
        if worker.vircpt("save-metadata", f"{top}/saved")[0] == 0:
            assert worker.vircpt("restore-metadata", f"{top}/saved")[0] in (0, 11, 13)


ACTIONS: tuple[Action, ...] = (
    create, create, delete, thin_out, write, write, write, write, export_and_compare,
    export_and_compare, export_and_leave, copy, release, killed_export, killed_create, power_cycle,
    kill_qemu, pause, reset, save_and_restore, doctor, save_metadata,
)  # fmt: skip
DAEMON_DIES = 60.0
"""Seconds between two deaths of libvirtd."""


def run(daemon: Libvirtd, seconds: float, seed: int, say: Callable[[str], None]) -> Report:
    """Work for that long; what was done and what did not hold."""
    report = Report(seed)
    gate = Gate()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        workers = [
            Worker(f"soak{number}", seed, report, gate, Path(scratch)) for number in range(3)
        ]
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=one.work, args=(end,)) for one in workers]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            time.sleep(min(DAEMON_DIES, max(0.1, end - time.monotonic())))
            _kill_daemon(daemon, gate, report)
            say(f"{sum(report.done.values())} operations, {len(report.faults)} faults")
        for thread in threads:
            thread.join()
        for one in workers:
            _finish(one, report)
    report.seconds = time.monotonic() - start
    for fault in report.faults:
        say(fault)
    return report


def _kill_daemon(daemon: Libvirtd, gate: Gate, report: Report) -> None:
    with gate.alone():
        daemon.kill()
        daemon.start()
        report.done["libvirtd killed"] += 1


def _finish(worker: Worker, report: Report) -> None:
    """At the end: released and repaired, nothing is left."""
    worker.connect()
    try:
        worker.vircpt("release")
        worker.vircpt("doctor", "--fix", "--yes", "--foreign", "--deep")
        _, text = worker.vircpt("--json", "doctor", "--deep")
        left = [one["id"] for one in json.loads(text)["findings"] if one["severity"] != "note"]
        assert left == [], left
        poll(lambda: not any(worker.name in line for line in processes().values()), 10, "the end")
    except Exception:
        report.faults.append(f"{worker.name} at the end: {traceback.format_exc()}")
    finally:
        worker.vm.remove()
