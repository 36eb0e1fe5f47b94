"""Progress bars on stderr for what takes longer than a second, if it is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import DiskProgress

_PATIENCE = 1.0


@contextmanager
def bar(session: Session, title: str) -> Iterator[Callable[[float], None] | None]:
    """A function to be told the part that is done, from 0 to 1; None if nothing is shown."""
    if not sys.stderr.isatty() or session.verbosity < 0:
        yield None
        return
    start = time.monotonic()
    shown: Any = None
    task: Any = None

    def advance(part: float) -> None:
        nonlocal shown, task
        if shown is None:
            if time.monotonic() - start < _PATIENCE:
                return
            from rich.console import Console
            from rich.progress import Progress

            shown = Progress(console=Console(stderr=True), transient=True)
            shown.start()
            task = shown.add_task(title, total=1.0)
        shown.update(task, completed=part)

    try:
        yield advance
    finally:
        if shown is not None:
            shown.stop()


@contextmanager
def parts(session: Session, title: str) -> Iterator[Callable[[str, float], None] | None]:
    """As `bar`, for several disks one after the other."""
    with bar(session, title) as advance:
        yield (lambda _target, part: advance(part)) if advance else None


@contextmanager
def bars(
    session: Session, title: str, facts: Mapping[str, Any]
) -> Iterator[Callable[[Sequence[DiskProgress]], None] | None]:
    """A function to be told how far each disk is; with --json a line of JSON once a second."""
    if session.json:
        yield _lines(facts)
        return
    if not sys.stderr.isatty() or session.verbosity < 0:
        yield None
        return
    shown = _Bars(title)
    try:
        yield shown.advance
    finally:
        shown.stop()


def _lines(facts: Mapping[str, Any]) -> Callable[[Sequence[DiskProgress]], None]:
    from vircpt.cli import output

    last = time.monotonic()

    def advance(disks: Sequence[DiskProgress]) -> None:
        nonlocal last
        if time.monotonic() - last >= _PATIENCE:
            last = time.monotonic()
            output.line("backup-progress/1", **facts, disks=disks)

    return advance


class _Bars:
    """A bar for each disk: bytes, rate, time left."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._start = time.monotonic()
        self._shown: Any = None
        self._tasks: dict[str, Any] = {}

    def advance(self, disks: Sequence[DiskProgress]) -> None:
        if self._shown is None:
            if time.monotonic() - self._start < _PATIENCE:
                return
            self._shown = _rich_bars()
            self._shown.start()
        for one in disks:
            if one.target not in self._tasks:
                self._tasks[one.target] = self._shown.add_task(
                    f"{self._title} {one.target}", total=one.total
                )
            self._shown.update(self._tasks[one.target], completed=one.done, total=one.total)

    def stop(self) -> None:
        if self._shown is not None:
            self._shown.stop()


def _rich_bars() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
