"""The record that remembers an entry, and what two walks' records tell: deleted, renamed, added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vircpt.guestfiles.changes import How
from vircpt.guestfiles.entries import Entry, Kind


class Record(NamedTuple):
    """What is kept of an entry. `digest` (8 bytes) changes when the inode's facts or the place
    of its contents do, access time left aside."""

    path: bytes
    kind: Kind
    inode: int
    generation: int
    size: int
    mtime: int | None
    digest: bytes


class Difference(NamedTuple):
    """`before` is None for what was added, `after` for what was deleted."""

    how: How
    before: Record | None
    after: Record | None


def record(entry: Entry) -> Record:
    """What to keep of an entry."""
    facts = (
        entry.kind,
        entry.size,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.nlink,
        entry.mtime,
        entry.ctime,
        entry.birth,
        entry.target,
        entry.device,
        tuple(map(tuple, entry.data)),
    )
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8).digest()
    return Record(
        entry.path, entry.kind, entry.inode, entry.generation, entry.size, entry.mtime, digest
    )


def compare(before: Iterable[Record], after: Iterable[Record]) -> Iterator[Difference]:
    """Added, deleted and renamed entries, and MODIFIED where the same path is not as it was.

    Both are whole walks of the same file system, in any order. What only moved along with a
    renamed directory is not told again. Memory: all of `before`, and what is new in `after`.
    """
    gone = {one.path: one for one in before}
    fresh: list[Record] = []
    for one in after:
        old = gone.pop(one.path, None)
        if old is None:
            fresh.append(one)
        elif old.digest != one.digest or _identity(old) != _identity(one):
            yield Difference(How.MODIFIED, old, one)
    yield from _moves(gone, fresh)
    for old in gone.values():
        yield Difference(How.DELETED, old, None)


def _moves(gone: dict[bytes, Record], fresh: list[Record]) -> Iterator[Difference]:
    """Renamed and added ones; takes what was renamed out of `gone`."""
    by_identity: dict[tuple[Kind, int, int], list[Record]] = {}
    for one in gone.values():
        by_identity.setdefault(_identity(one), []).append(one)
    moved: dict[bytes, bytes] = {}
    for new in sorted(fresh, key=lambda one: one.path.count(b"/")):
        olds = by_identity.get(_identity(new))
        if not olds:
            yield Difference(How.ADDED, None, new)
            continue
        old = olds.pop()
        del gone[old.path]
        if new.kind is Kind.DIRECTORY:
            moved[old.path] = new.path
        old_home, _, old_name = old.path.rpartition(b"/")
        home, _, name = new.path.rpartition(b"/")
        if moved.get(old_home) != home or old_name != name:
            yield Difference(How.RENAMED, old, new)
        elif old.digest != new.digest:
            yield Difference(How.MODIFIED, old, new)


def _identity(one: Record) -> tuple[Kind, int, int]:
    return one.kind, one.inode, one.generation
