"""`vircpt list` in its plain form, which scripts run most, without click: in half the time.

Only what stands here letter for letter is taken; everything else, and every mistake, goes to
click, which knows the same options (main.py, base.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from vircpt.cli.session import Session

_VALUES = {
    "-d": "domain_name",
    "--domain": "domain_name",
    "-c": "uri",
    "-U": "uri",
    "--connect": "uri",
    "--uri": "uri",
}


def run(arguments: Sequence[str]) -> int | None:
    """Run the command line if it is a plain list; its exit code, else None."""
    session = recognise(arguments)
    if session is None or "_VIRCPT_COMPLETE" in os.environ:
        return None
    from vircpt.cli import listing, outcome

    def work() -> int:
        listing.show(session)
        return 0

    return outcome.of(session, work)


def recognise(arguments: Sequence[str]) -> Session | None:
    """The session that the arguments describe, if they are those of a plain list."""
    session = Session()
    commands = 0
    words = iter(arguments)
    for word in words:
        if word == "list":
            commands += 1
        elif word == "--json":
            session.json = True
        elif word in _VALUES:
            if word not in ("-d", "--domain") and commands:
                return None  # the URI stands before the command
            value = next(words, "-")
            if not value or value.startswith("-") or getattr(session, _VALUES[word]) is not None:
                return None
            setattr(session, _VALUES[word], value)
        else:
            return None
    return session if commands == 1 else None
