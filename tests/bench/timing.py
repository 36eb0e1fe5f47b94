"""Measuring commands in turn, and the table of what came out."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.daemon import LabError

MEASURE = Path(__file__).parent / "measure.py"
VIRCPT = str(Path(__file__).parents[2] / ".venv/bin/vircpt")


@dataclass(frozen=True)
class Sample:
    """One run: wall clock and CPU time in seconds, peak memory in bytes."""

    seconds: float
    cpu: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Row:
    """A line of the table: the medians of both sides, and the goal if there is one."""

    what: str
    ours: Sample
    against: str
    theirs: Sample
    goal: str = ""
    met: bool | None = None

    @property
    def ratio(self) -> float:
        return self.ours.seconds / self.theirs.seconds


def run(*command: str) -> Sample:
    """Run one command, its output thrown away.

    :raise LabError: it failed; what it said is on stderr.
    """
    result = subprocess.run(
        [sys.executable, "-I", "-S", MEASURE, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = json.loads(result.stdout) if result.returncode == 0 else {}
    if told.pop("status", 1) != 0:
        raise LabError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return Sample(**told)


def output_of(*command: str, input: str | None = None) -> str:  # noqa: A002
    """What a command that is not measured as a whole wrote.

    :raise LabError: it failed.
    """
    result = subprocess.run(command, input=input, capture_output=True, text=True, timeout=300)
    if result.returncode:
        raise LabError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return result.stdout


def in_turn(runs: int, *sides: Callable[[], Sample]) -> list[Sample]:
    """The median of each side over that many runs, A B A B …, after one that does not count.

    What disturbs the machine for a while disturbs all sides alike.
    """
    rounds = [[side() for side in sides] for _ in range(runs + 1)][1:]
    return [median([one[index] for one in rounds]) for index in range(len(sides))]


def median(samples: Sequence[Sample]) -> Sample:
    """Of each figure by itself; of memory the most."""
    return Sample(
        statistics.median(one.seconds for one in samples),
        statistics.median(one.cpu for one in samples),
        max(one.memory for one in samples),
    )


def table(rows: Sequence[Row]) -> str:
    """As Markdown, so that it can be pasted into docs/performance.md."""
    header = ("What", "vircpt", "Against", "Its time", "Ratio", "Goal", "")
    cells = [header, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = [_line(line, widths) for line in cells]
    lines.insert(1, _line(["-" * width for width in widths], widths))
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    ours, theirs = _figure(row.ours), _figure(row.theirs)
    return (row.what, ours, row.against, theirs, f"{row.ratio:.2f}", row.goal, verdict)


def _figure(sample: Sample) -> str:
    time = f"{sample.seconds * 1000:.0f} ms" if sample.seconds >= 0.1 else _milliseconds(sample)
    return f"{time}, {sample.memory / 2**20:.0f} MiB" if sample.memory else time


def _milliseconds(sample: Sample) -> str:
    return f"{sample.seconds * 1000:.1f} ms"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"
