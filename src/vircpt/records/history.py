"""How much changed, over time: one line for each look at a checkpoint's changed bytes.

    BASE/history.sqlite    0600  lines of all domains, by UUID

Convenience, not state: nothing depends on it, and a note that can't be made is told by -v only.
SQLite keeps writers apart.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vircpt import trace
from vircpt.errors import VircptError
from vircpt.records.directories import base

KEPT = 1000
"""Lines of each domain; the oldest go first."""
_PATIENCE = 2.0
_TABLE = """
create table if not exists changes (
    uuid text not null, checkpoint text not null, since real not null, until real not null,
    disk text not null, changed integer not null
)
"""


@dataclass(frozen=True)
class Noted:
    """`changed` bytes of a disk were written between two moments, in seconds since 1970."""

    checkpoint: str
    since: float
    until: float
    disk: str
    changed: int


def path() -> Path:
    return base() / "history.sqlite"


def note(
    uuid: str, checkpoint: str, since: float, until: float, changed: Mapping[str, int]
) -> None:
    """Keep how many bytes of each disk changed since a checkpoint; never raises VircptError."""
    try:
        with _open(path()) as database, database:
            # at once: a lock that is taken while reading is not waited for
            database.execute("begin immediate")
            database.execute(_TABLE)
            database.executemany(
                "insert into changes values (?, ?, ?, ?, ?, ?)",
                [(uuid, checkpoint, since, until, disk, size) for disk, size in changed.items()],
            )
            database.execute(
                "delete from changes where uuid = ? and rowid <= (select rowid from changes "
                "where uuid = ? order by rowid desc limit 1 offset ?)",
                (uuid, uuid, KEPT),
            )
    except (sqlite3.Error, OSError) as error:
        trace.tell(f"no note in the history {path()}: {error}")


def read(uuid: str) -> list[Noted]:
    """What was noted of a domain, oldest first. Raises VircptError if the file is damaged."""
    if not path().exists():
        return []
    try:
        with _open(path()) as database:
            rows = database.execute(
                "select checkpoint, since, until, disk, changed from changes "
                "where uuid = ? order by until, rowid",
                (uuid,),
            )
            return [Noted(*_checked(row)) for row in rows]
    except (sqlite3.Error, OSError, TypeError) as error:
        raise VircptError(
            f"the history {path()} can't be read",
            why=str(error),
            hint="remove it: only the history is lost",
        ) from error


def _checked(row: tuple[object, ...]) -> tuple[str, float, float, str, int]:
    match row:
        case (str(name), float(since), float(until), str(disk), int(changed)):
            return name, since, until, disk, changed
    raise TypeError("it holds what vircpt has not written")


@contextmanager
def _open(file: Path) -> Iterator[sqlite3.Connection]:
    """The database, readable for its owner only."""
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(file, timeout=_PATIENCE, isolation_level=None)) as database:
        yield database
