"""SIGINT, SIGTERM and SIGHUP become the exception Interrupted, once; then they are ignored.

Clean-up runs while the exception travels up, and must not be interrupted itself.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from vircpt.interrupts import begin, raise_or_wait

_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN = 0.005

_pending: int | None = None


def catch() -> None:
    """From here on the signals raise Interrupted."""
    begin()
    for one in _CAUGHT:
        if signal.getsignal(one) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(one, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)


def ignore() -> None:
    """From here on they do nothing."""
    for one in (*_CAUGHT, signal.SIGALRM):
        signal.signal(one, signal.SIG_IGN)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _pending
    if signum != signal.SIGALRM:
        _pending = signum
    if _pending is None:
        return
    for one in _CAUGHT:
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, _nothing)
            signal.siginterrupt(one, False)
    # objects whose making was interrupted complain when they are taken apart
    sys.unraisablehook = lambda _: None
    if not raise_or_wait(_pending, frame):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _nothing(signum: int, frame: FrameType | None) -> None:
    """Not SIG_IGN: a command that is started now would inherit that, and be deaf."""
