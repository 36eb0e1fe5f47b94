"""What parent and child say to each other, as types. Sizes and offsets are bytes.

The parent's requests are to be believed, the child's answers are not: `read` checks types and
what can be checked without looking at anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vircpt.confined.codec import BadValue, decoder, pack
from vircpt.guestfiles.changes import Change, Window
from vircpt.guestfiles.entries import Entry
from vircpt.guestfiles.filesystem import Facts
from vircpt.guestfiles.index import Record
from vircpt.guestfiles.layout import Area

PATH_LIMIT = 1 << 16


# Requests


@dataclass(frozen=True)
class LookAtLayout:
    """What lies on the disks. Answers: Found."""


@dataclass(frozen=True)
class FindChanges:
    """What was touched. Answers: Found, Opened, Touched, Trouble; Remembered if `index`.

    `granularity` is that of the dirty bitmaps; `window` None if no time is known.
    """

    window: Window | None
    granularity: int
    index: bool = False


@dataclass(frozen=True)
class ListFiles:
    """A file, or what is in a directory; all below it with `recursive`. Answers: Listed, Trouble.

    `area` None: the only file system, or the only one that has that path.
    """

    area: str | None
    path: bytes
    recursive: bool = False
    itself: bool = False
    """The directory itself instead of what is in it."""


@dataclass(frozen=True)
class FetchFiles:
    """Files, and with `recursive` all below directories, with their contents.

    Answers, for each file in turn: Fetched, Pieces and Contents, Whole; Trouble where it failed.
    """

    sources: tuple[tuple[str | None, bytes], ...]
    recursive: bool = False
    by_pipe: bool = False
    """Send contents even where the parent could read them itself."""


# Answers


@dataclass(frozen=True)
class Found:
    """An area; `changed` bytes of it are dirty, None if not known; `facts` if it can be read."""

    area: Area
    changed: int | None
    facts: Facts | None
    problem: str | None = None


@dataclass(frozen=True)
class Oddity:
    """Something damaged or missing in the layout."""

    text: str


@dataclass(frozen=True)
class Touched:
    """A file of which blocks were written; its runs are left out."""

    area: str
    change: Change


@dataclass(frozen=True)
class Remembered:
    """A line of the file index."""

    area: str
    record: Record


@dataclass(frozen=True)
class Listed:
    area: str
    entry: Entry


@dataclass(frozen=True)
class Trouble:
    """What could not be looked into; `path` b"" if it is the whole area."""

    area: str
    path: bytes
    why: str


@dataclass(frozen=True)
class Fetched:
    """A file whose contents follow. `source` is the index of the request's source it belongs to,
    `below` its path from there, b"" if it is the source itself."""

    area: str
    source: int
    below: bytes
    entry: Entry
    xattrs: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Pieces:
    """Parts of contents that lie on disks as they are: (offset in the file, length, disk, offset
    on the disk), in order of the first."""

    parts: tuple[tuple[int, int, str, int], ...]


@dataclass(frozen=True)
class Contents:
    """Contents from `offset` on; the next frame holds them."""

    offset: int
    length: int


@dataclass(frozen=True)
class Whole:
    """The end of a file: all that no Pieces and Contents covered reads as zeroes."""


@dataclass(frozen=True)
class Spent:
    """What it took: bytes read over NBD, bytes of memory at most."""

    fetched: int
    memory: int


Answer = (
    Found | Oddity | Touched | Remembered | Listed | Trouble | Fetched | Pieces | Contents
    | Whole | Spent
)  # fmt: skip
_ANSWERS: dict[str, type[Answer]] = {
    one.__name__: one
    for one in (
        Found, Oddity, Touched, Remembered, Listed, Trouble, Fetched, Pieces, Contents, Whole, Spent
    )
}  # fmt: skip
REQUESTS: dict[str, type] = {
    one.__name__: one for one in (LookAtLayout, FindChanges, ListFiles, FetchFiles)
}


def write(answer: Answer) -> Any:
    """The answer as a JSON value."""
    return [type(answer).__name__, pack(answer)]


def read(value: Any) -> Answer:
    """An answer of the child; raises BadValue."""
    match value:
        case [str(name), content] if name in _ANSWERS:
            answer: Answer = decoder(_ANSWERS[name])(content)  # type: ignore[arg-type]
            _check(answer)
            return answer
    raise BadValue("no answer that is known")


def _check(answer: Answer) -> None:
    match answer:
        case Touched(change=change):
            _check_entry(change.entry)
        case Listed(entry=entry):
            _check_entry(entry)
        case Remembered(record=record):
            check_path(record.path)
        case Fetched(entry=entry, below=below):
            _check_entry(entry)
            check_path(below)
        case Trouble(path=path):
            check_path(path)
        case Pieces(parts=parts):
            _check_parts(parts)
        case Contents(offset=offset, length=length):
            if offset < 0 or length <= 0:
                raise BadValue("contents at no place")


def check_path(path: bytes) -> None:
    """Below the root, and nowhere else; raises BadValue."""
    if len(path) > PATH_LIMIT or b"\0" in path:
        raise BadValue("no path")
    if path and any(name in (b"", b".", b"..") for name in path.split(b"/")):
        raise BadValue("a path that leads elsewhere")


def _check_entry(entry: Entry) -> None:
    check_path(entry.path)
    fits = 0 <= entry.size < 1 << 63 and 0 <= entry.mode < 1 << 16
    if not fits or not 0 <= entry.uid < 1 << 32 or not 0 <= entry.gid < 1 << 32:
        raise BadValue("a file that can't be")
    if b"\0" in (entry.target or b""):
        raise BadValue("a link that leads nowhere")


def _check_parts(parts: tuple[tuple[int, int, str, int], ...]) -> None:
    end = 0
    for offset, length, _, place in parts:
        if offset < end or length <= 0 or place < 0:
            raise BadValue("pieces that overlap or lie nowhere")
        end = offset + length
