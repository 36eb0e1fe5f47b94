"""Names of checkpoints: what is accepted, and the name by date when none is given."""

from __future__ import annotations

import re
import time

from vircpt.errors import InvalidInput

# libvirt keeps a checkpoint as NAME.xml: 255 bytes less the ending, and some to spare.
MAX_LENGTH = 240
# libvirt's schema (domaincheckpoint.rng), but for a leading dash, which looks like an option
_GOOD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z"


def is_good(name: str) -> bool:
    """True if a checkpoint may be given this name."""
    return len(name) <= MAX_LENGTH and re.match(_GOOD, name) is not None


def is_of_backup(name: str) -> bool:
    """Whether a backup made the checkpoint of that name: it goes when no backup needs it."""
    return re.match(r"vircpt-[0-9a-f]{8}-[0-9a-f]{8}\Z", name) is not None


def check(name: str) -> str:
    """Return `name`; raise InvalidInput if no checkpoint may be called so."""
    if is_good(name):
        return name
    if len(name) > MAX_LENGTH:
        why = f"it has {len(name)} characters, and {MAX_LENGTH} is the most"
    elif not name:
        why = "it is empty"
    else:
        why = "a name starts with a letter, digit or '_', followed by those, '.' and '-'"
    raise InvalidInput(
        f"invalid checkpoint name {name[:60]!r}", why=why, hint="choose a name like before-upgrade"
    )


def check_lookup(name: str) -> str:
    """Return `name` if a checkpoint may be called so, also by other tools; else InvalidInput."""
    return name if name.startswith("-") and is_good(f"_{name}") else check(name)


def by_date(taken: frozenset[str], now: float | None = None) -> str:
    """A name from the local date and time, such as 2026-11-23T17.04.05, that is not in `taken`."""
    base = time.strftime("%Y-%m-%dT%H.%M.%S", time.localtime(now))
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}-{count}"
    return name
