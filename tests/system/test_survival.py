"""vircpt cut off half-way, whatever it does: a sample of what `script/soak crash` does in full."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lab import inject
from lab.fixtures import BlankFactory
from lab.inject import Step
from lab.scenarios import ELSEWHERE, NOT_YET, READ_ONLY, SCENARIOS, Scenario, Stage
from lab.survival import Trial
from lab.vms import MIB, Disk
from vircpt.cli.main import cli

SAMPLE = 1
OFFSET = 3
"""Which points the sample has: the same in each run, others for each scenario."""
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def stage(blank: BlankFactory, tmp_path: Path) -> Iterator[Stage]:
    vm = blank(disks=(Disk("vda", 8 * MIB), Disk("vdb", 8 * MIB)), start=False)
    directory = tmp_path / "files"
    directory.mkdir()
    yield Stage(vm, directory)
    inject.sweep()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_a_sample(scenario: Scenario, stage: Stage, tmp_path: Path) -> None:
    trial = Trial(scenario, stage, tmp_path)
    assert len(trial.points) >= 3
    seed = SCENARIOS.index(scenario) + OFFSET
    stride = max(1, len(trial.points) // SAMPLE)
    for number, point in enumerate(trial.points[seed * 7 % stride :: stride]):
        trial.cut(point, SIGNALS[(seed + number) % len(SIGNALS)])


def test_every_command_has_a_scenario_or_changes_nothing() -> None:
    commands = set(cli.list_commands(click.Context(cli)))
    covered = {one.args[0] for one in SCENARIOS}
    known = [covered, set(READ_ONLY), set(ELSEWHERE), NOT_YET]
    assert set().union(*known) == commands
    assert sum(map(len, known)) == len(commands), "each stands in one place"


@pytest.mark.parametrize(("command", "file"), ELSEWHERE.items())
def test_what_is_said_to_be_killed_elsewhere_is(command: str, file: str) -> None:
    text = (Path(__file__).parent / file).read_text()
    assert f'"{command}"' in text
    assert "kill" in text


def changing(steps: list[Step]) -> list[str]:
    """Steps that change something outside; a connection to libvirt or an export is none."""
    return [
        f"{step.name} {step.detail}"
        for step in steps
        if step.changes
        and not step.name.startswith(("virConnect", "socket.", "subprocess."))
        and step.detail not in ("/dev/null", "/dev/tty")
    ]


def test_what_changes_nothing_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.start()
    stage.checkpoint("one")
    stage.must("export", "--name", "one")
    found: dict[str, list[str]] = {}
    for name, args in (READ_ONLY | {"doctor": ("doctor",)}).items():
        _, steps = inject.trace("-d", stage.vm.name, *args, file=tmp_path / "trace")
        found[name] = changing(steps)
    assert found == {name: [] for name in found}
    stage.must("release")
