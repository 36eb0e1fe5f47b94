"""Where the program starts: before anything heavy is imported, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import NoReturn


def run() -> NoReturn:
    """The program: run the command line and exit.

    Once all is flushed and closed nothing is left to do for the interpreter, and taking
    itself apart would take longer than many a command.
    """
    _open_what_is_closed()
    gc.set_threshold(50_000)  # importing makes no garbage, and looking for it takes 4 ms
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while modules are imported
    from vircpt.cli import quick

    code = quick.run(sys.argv[1:])
    if code is None:
        from vircpt.cli.main import main

        code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    finally:
        os._exit(code)


def _open_what_is_closed() -> None:
    """As after `>&-`: else the first file that is opened becomes stdout, and is written over."""
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    if closed:
        while os.open(os.devnull, os.O_RDWR) < 2:
            pass
        for name in closed:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115, PTH123
