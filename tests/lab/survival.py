"""What must hold of a VM after vircpt was cut off, whatever it was doing (DESIGN section 6)."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt_qemu

from lab import inject
from lab.inject import Step
from lab.scenarios import Scenario, Stage
from lab.state import checkpoints, has_job
from lab.vms import Vm

BUSY = 11
"""The export that was cut off runs, and waits to be released."""


@dataclass(frozen=True)
class Picture:
    """A VM seen from outside; `files` are those that are no temporary ones."""

    runs: bool
    checkpoints: tuple[tuple[str, str], ...]
    bitmaps: tuple[tuple[str, ...], ...]
    exported: bool
    files: tuple[str, ...]
    temporary: tuple[str, ...]


def look(stage: Stage) -> Picture:
    vm = stage.vm
    runs = bool(vm.domain.isActive())
    names = sorted(path.name for path in stage.directory.iterdir())
    return Picture(
        runs=runs,
        checkpoints=tuple(sorted((name, _parent(vm, name)) for name in checkpoints(vm))),
        bitmaps=_live(vm) if runs else _stored(vm),
        exported=(has_job(vm) if runs else False) or bool(inject.leftovers()),
        files=tuple(name for name in names if not name.startswith(".")),
        temporary=tuple(name for name in names if name.startswith(".")),
    )


def _parent(vm: Vm, name: str) -> str:
    xml = str(vm.domain.checkpointLookupByName(name).getXMLDesc(1))
    return xml.partition("<parent>")[2].partition("<name>")[2].partition("<")[0]


def _live(vm: Vm) -> tuple[tuple[str, ...], ...]:
    answer = libvirt_qemu.qemuMonitorCommand(vm.domain, '{"execute":"query-block"}', 0)
    disks = (one["inserted"] for one in json.loads(answer)["return"] if "inserted" in one)
    return tuple(
        tuple(sorted(one["name"] for one in disk.get("dirty-bitmaps", ()) if one["persistent"]))
        for disk in disks
    )


def _stored(vm: Vm) -> tuple[tuple[str, ...], ...]:
    found = []
    for image in vm.images.values():
        command = ["qemu-img", "info", "-U", "--output=json", str(image)]
        told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        bitmaps = told["format-specific"]["data"].get("bitmaps", ())
        found.append(tuple(sorted(one["name"] for one in bitmaps)))
    return tuple(found)


def points(steps: Sequence[Step]) -> Iterator[str]:
    """Where to cut: before each step that follows a change, and after each call that has libvirt
    change something; as STEP of the injector."""
    before: Step | None = None
    for step in steps:
        if before is None or before.changes:
            yield f"before:{step.number}"
        if step.name.startswith("vir") and step.changes:
            yield f"after:{step.number}"
        before = step


class Trial:
    """A scenario on a stage, whose course and ends are known from undisturbed runs."""

    def __init__(self, scenario: Scenario, stage: Stage, scratch: Path) -> None:
        self.scenario = scenario
        self.stage = stage
        scenario.set(stage)
        self.before = look(stage)
        done, self.steps = inject.trace(*scenario.line(stage), file=scratch / "trace")
        assert "Traceback" not in done.stderr
        self.after = look(stage)
        self.points = list(points(self.steps))

    def cut(self, point: str, number: signal.Signals) -> None:
        """Run it, cut it off at that point, and see what is left.

        With SIGKILL the next commands have to restore order; after another signal it is there.
        """
        word = {signal.SIGKILL: "kill", signal.SIGINT: "int", signal.SIGTERM: "term"}[number]
        self.scenario.set(self.stage)
        qemu = self.stage.vm.pid() if self.before.runs else None
        done = inject.run(*self.scenario.line(self.stage), order=f"{word}:{point}")
        try:
            assert "Traceback" not in done.stderr
            if number is signal.SIGKILL:
                assert done.returncode in (0, -signal.SIGKILL)
                self._recover()
            else:
                assert done.returncode in (0, 128 + number)
                self._judge(done.returncode == 0)
            self._in_order()
            assert qemu is None or self.stage.vm.pid() == qemu, "another QEMU"
        except Exception as error:
            error.add_note(f"{self.scenario.name}: {word}:{point}: {inject.shown(done)}")
            raise

    def _judge(self, done: bool) -> None:
        """After a signal it is done or not done, and vircpt knows which; nothing is half-made."""
        now = look(self.stage)
        assert now.temporary == ()
        if done:
            assert now == self.after
        elif self.scenario.whole:
            assert now in (self.before, self.after)

    def _recover(self) -> None:
        """The command once more, then the ways out that a user has."""
        again = inject.run(*self.scenario.line(self.stage))
        assert again.returncode in self.scenario.again, inject.shown(again)
        assert "Traceback" not in again.stderr
        if self.scenario.whole and again.returncode != BUSY:
            now = look(self.stage)
            assert replace(now, temporary=()) == replace(self.after, temporary=())

    def _in_order(self) -> None:
        """After release and `doctor --fix` nothing is left, and the doctor finds nothing more."""
        released = self.stage.vircpt("release")
        assert released.returncode in (0, 10), inject.shown(released)
        fixed = self.stage.vircpt("doctor", "--fix", "--yes", "--foreign", "--deep")
        assert fixed.returncode == 0, inject.shown(fixed)
        told = json.loads(self.stage.must("--json", "doctor", "--deep"))
        left = [one["id"] for one in told["findings"] if one["severity"] != "note"]
        assert left == []
        inject.wait_alone()
        assert inject.leftovers() == []
        now = look(self.stage)
        assert not now.exported
        names = [name for name, _ in now.checkpoints]
        assert all(set(disk) == set(names) for disk in now.bitmaps), (
            "bitmaps and checkpoints differ"
        )
        assert now.runs == self.before.runs
