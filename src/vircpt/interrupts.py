"""When an interruption may cut in, and when it has to wait.

The command line turns signals into the exception Interrupted, which may come between any
two steps. Clean-up that must be whole stands in a block `with uninterrupted():`; what comes
meanwhile is raised at the block's end. Programs that use the API without `raise_or_wait`
in their signal handlers notice nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

from vircpt.errors import Interrupted

_F = TypeVar("_F", bound=Callable[..., Any])

_depth = 0
_waiting: int | None = None
_telling = False
_held = False
_told = False
_deaf: set[CodeType] = set()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, an interruption waits until the end of the (outermost) block."""
    _enter()
    try:
        yield
    finally:
        _leave()


@contextmanager
def telling() -> Iterator[None]:
    """Inside, what an operation has done can be told: after its `hold` interruptions wait.

    One that still waits at the end of the block is forgotten, and so is any that comes later,
    until the next `begin`: all is done, and told.
    """
    global _telling, _told, _waiting
    before, _telling = _telling, True
    try:
        yield
        _told = _told or _in_main_thread()
    finally:
        _telling = before
        if _held:
            _waiting = None
            resume()


def begin() -> None:
    """A new command begins: it may be interrupted."""
    global _told
    _told = False


def hold() -> None:
    """It is done: from here on interruptions wait, if there is a caller who will tell of it.

    Without `telling`, as in a program that uses the API, this does nothing.
    """
    global _held
    if _telling and not _held and _in_main_thread():
        _enter()  # first: resume, called for a signal in between, undoes both or nothing
        _held = True


def resume() -> None:
    """Undo `hold`; raises Interrupted if there was an interruption meanwhile."""
    global _held
    if _held:
        _held = False
        _leave()


def _enter() -> None:
    global _depth
    if _in_main_thread():
        _depth += 1


def _leave() -> None:
    global _depth, _waiting
    if not _in_main_thread():
        return
    _depth -= 1
    if _depth == 0 and _waiting is not None:
        signum, _waiting = _waiting, None
        raise Interrupted(signum)


def _in_main_thread() -> bool:
    """Signals are handled in the main thread only."""
    import threading  # most commands end without

    return threading.current_thread() is threading.main_thread()


def deaf(function: _F) -> _F:
    """Mark a function that C code calls: an exception raised in it would go nowhere."""
    _deaf.add(function.__code__)
    return function


def raise_or_wait(signum: int, frame: FrameType | None) -> bool:
    """For a signal handler: raise Interrupted, or note it for the end of the block.

    Returns False if neither is possible at this place: try again in a moment.
    """
    global _waiting
    if _told:
        return True
    if _depth:
        _waiting = signum
        return True
    while frame is not None:
        if frame.f_code in _deaf or frame.f_code.co_name == "__del__":
            return False
        frame = frame.f_back
    raise Interrupted(signum)
