"""What vircpt does towards the outside, told to whoever listens (the command line's -v).

Not the logging module: importing it would take longer than many a command runs.
"""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[str], None] | None = None


def listen(listener: Callable[[str], None] | None) -> None:
    """Have every step told to `listener`; None ends that."""
    global _listener
    _listener = listener


def tell(step: str) -> None:
    """Tell a step that is about to be taken."""
    if _listener is not None:
        _listener(step)
