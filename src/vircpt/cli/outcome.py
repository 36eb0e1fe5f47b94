"""How a command ends: errors, signals and broken pipes become messages and exit codes.

Nothing here imports click: `list` in its plain form does without (quick.py).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from errno import ENOSPC

from vircpt import errors
from vircpt.cli import signals
from vircpt.cli.session import Session


def of(session: Session, work: Callable[[], int]) -> int:
    """Run `work`, which prints its results; return the exit code (see docs/exit-codes.md)."""
    try:
        signals.catch()
        try:
            return _of(session, work)
        finally:
            session.close()
    except errors.Interrupted as interrupted:
        return _tell_interrupted(interrupted, session)
    finally:
        signals.ignore()


def _of(session: Session, work: Callable[[], int]) -> int:
    try:
        code = work()
        sys.stdout.flush()
        return code
    except errors.VircptError as error:
        return tell(error, session)
    except BrokenPipeError:
        # who read our output has gone: what is left in the buffer must not raise again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return tell(
            errors.VircptError(
                "the operating system reports an error",
                why=str(error),
                hint="is there space where the output goes?" if error.errno == ENOSPC else None,
            ),
            session,
        )


def _tell_interrupted(interrupted: errors.Interrupted, session: Session) -> int:
    notes = getattr(interrupted, "__notes__", ())
    if session.json:
        why = "; ".join(notes) or None
        tell(errors.VircptError(f"ended by {interrupted}", why=why), session, interrupted.exit_code)
    else:
        print("\n".join([f"vircpt: ended by {interrupted}", *notes]), file=sys.stderr)
    return interrupted.exit_code


def tell(error: errors.VircptError, session: Session, exit_code: int | None = None) -> int:
    from vircpt.cli import output

    if session.json:
        import json

        content = {
            "schema": "vircpt/error/1",
            "error": type(error).__name__,
            "exit_code": exit_code or error.exit_code,
            "what": error.what,
            "why": error.why,
            "hint": session.aim(error.hint) if error.hint else None,
            "domain": error.domain,
            "disk": error.disk,
            "checkpoint": error.checkpoint,
        }
        print(json.dumps(content), file=sys.stderr)
    else:
        lines = session.aim(error.describe()).splitlines()
        print("\n".join(output.safe(line) for line in [f"error: {lines[0]}", *lines[1:]]),
              file=sys.stderr)  # fmt: skip
    return error.exit_code
