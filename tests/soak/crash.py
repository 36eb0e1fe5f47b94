"""vircpt cut off at every point of every scenario (lab/scenarios.py)."""

from __future__ import annotations

import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from lab import inject
from lab.scenarios import SCENARIOS, Scenario, Stage
from lab.survival import Trial
from lab.vms import MIB, Disk, define_blank

SIGNALLED = 3
"""Every how many points it is tried with SIGINT or SIGTERM as well as with SIGKILL."""


def run(connection: Any, names: list[str], say: Any) -> list[tuple[str, int, int, int]]:
    """Per scenario (all without `names`): its points, how often it was cut off, how often
    something did not hold."""
    chosen = [one for one in SCENARIOS if not names or one.name in names]
    return [_scenario(connection, one, say) for one in chosen]


def _scenario(connection: Any, scenario: Scenario, say: Any) -> tuple[str, int, int, int]:
    counts: Counter[str] = Counter()
    start = time.monotonic()
    vm = define_blank(connection, "soak", [Disk("vda", 8 * MIB), Disk("vdb", 8 * MIB)])
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "files"
        directory.mkdir()
        stage = Stage(vm, directory)
        try:
            trial = Trial(scenario, stage, Path(scratch))
            for number, point in enumerate(trial.points):
                _cut(trial, point, signal.SIGKILL, counts, say)
                if number % SIGNALLED == 0:
                    other = signal.SIGINT if number % 2 else signal.SIGTERM
                    _cut(trial, point, other, counts, say)
            stage.clear()
        finally:
            inject.sweep()
            vm.remove()
    took = time.monotonic() - start
    points = len(trial.points)
    say(f"{scenario.name}: {points} points, {counts['cut']} cut, {counts['bad']} bad, {took:.0f} s")
    return scenario.name, points, counts["cut"], counts["bad"]


def _cut(trial: Trial, point: str, number: signal.Signals, counts: Counter[str], say: Any) -> None:
    counts["cut"] += 1
    try:
        trial.cut(point, number)
    except Exception:
        counts["bad"] += 1
        say(traceback.format_exc())
