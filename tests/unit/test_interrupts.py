"""When a signal may cut in: with real signals, sent to this very process."""
# ruff: noqa: PT012

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from types import FrameType
from typing import Any

import pytest

from vircpt import interrupts
from vircpt.errors import Interrupted
from vircpt.interrupts import hold, resume, telling, uninterrupted


@pytest.fixture(autouse=True)
def _caught() -> Iterator[None]:
    interrupts.begin()
    before = signal.signal(signal.SIGUSR1, interrupts.raise_or_wait)
    yield
    signal.signal(signal.SIGUSR1, before)
    assert interrupts._depth == 0
    assert interrupts._waiting is None


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_it_cuts_in_where_nothing_is_said() -> None:
    with pytest.raises(Interrupted) as caught:
        interrupt()
    assert caught.value.signum == signal.SIGUSR1


def test_it_waits_for_the_end_of_the_outermost_block() -> None:
    done = []
    with pytest.raises(Interrupted), uninterrupted():
        with uninterrupted():
            interrupt()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_a_program_that_uses_the_api_is_interrupted_again_after_an_operation() -> None:
    hold()  # as create and export.start do at their end
    with pytest.raises(Interrupted):
        interrupt()


def test_who_tells_is_not_interrupted_from_the_operations_end_on() -> None:
    told = []
    with telling():
        hold()
        interrupt()
        told.append("all")
    assert told == ["all"]
    interrupt()  # nothing is left that could be interrupted
    interrupts.begin()
    with pytest.raises(Interrupted):
        interrupt()


def test_before_the_operations_end_they_are() -> None:
    with pytest.raises(Interrupted), telling():
        interrupt()


def test_between_resume_and_hold_they_are() -> None:
    with pytest.raises(Interrupted), telling():
        hold()
        interrupt()
        resume()


def test_two_holds_are_one() -> None:
    with pytest.raises(Interrupted), telling():
        hold()
        hold()
        resume()
        interrupt()


@pytest.mark.parametrize("block", [telling, nullcontext])
def test_resume_alone_does_nothing(block: type[nullcontext[None]]) -> None:
    with block():
        resume()


def test_an_error_while_it_is_told_is_the_one_that_is_raised() -> None:
    with pytest.raises(OSError, match="broken"), telling():
        hold()
        interrupt()
        raise OSError("broken")


def test_other_threads_hold_nothing() -> None:
    """Signals are handled in the main thread."""

    def work() -> None:
        with telling():
            hold()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with pytest.raises(Interrupted):
        interrupt()


@pytest.mark.parametrize("line", range(1, 5))
def test_a_signal_between_any_two_lines_of_hold(line: int) -> None:
    """What is held is let go again, and not what is not."""
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal seen
        if frame.f_code is not hold.__code__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                interrupt()
        return trace

    with suppress(Interrupted), telling():
        sys.settrace(trace)
        try:
            hold()
        finally:
            sys.settrace(None)
    assert seen
    assert interrupts._depth == 0
