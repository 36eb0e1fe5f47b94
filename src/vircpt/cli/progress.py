"""Progress bars on stderr for what takes longer than a second, if it is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vircpt.cli.session import Session

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
