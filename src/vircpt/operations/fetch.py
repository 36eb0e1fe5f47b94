"""Single files out of an export: lists of them, their contents, copies of them.

The confined child finds the files. What lies on the disks as it is is read here, straight from
the export; what is packed or inside of inodes comes from the child.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vircpt.blocks import nbd, pieces
from vircpt.confined.messages import (
    Answer,
    Contents,
    Fetched,
    FetchFiles,
    Listed,
    ListFiles,
    Pieces,
    Trouble,
    Whole,
)
from vircpt.errors import InvalidInput, VircptError
from vircpt.guestfiles.entries import Entry, Kind
from vircpt.operations.landing import Landing, is_kept, names_of
from vircpt.operations.looking import Confinement, Look
from vircpt.operations.reading import ExportedDisk

_ZEROES = bytes(1 << 20)


class Unreadable(VircptError):
    """One file that can't be read or kept; others can."""


@dataclass(frozen=True)
class GuestPath:
    """A path in a file system; `area` None: the only one, or the only one that has the path."""

    area: str | None
    path: bytes


@dataclass(frozen=True)
class FileFacts:
    """A file of a guest: the area it is in, and its facts."""

    area: str
    entry: Entry


@dataclass(frozen=True)
class Left:
    """What was not copied or listed, and why."""

    area: str
    path: bytes
    why: str


@dataclass(frozen=True)
class Copied:
    """What was copied: names made, and bytes of contents; `left` is what was not."""

    files: int
    size: int
    left: tuple[Left, ...]


def parse(text: str) -> GuestPath:
    """vm:AREA:/PATH, where `vm:` and AREA may be left out. Raises InvalidInput."""
    text = text.removeprefix("vm:")
    area, colon, path = text.partition(":")
    if not colon or ("/" in area.strip("/") and path[:1] not in ("", "/")) or area.startswith("/"):
        area, path = "", text
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise InvalidInput(f"{text!r} leads upwards", hint="name the path from the root")
    return GuestPath(area or None, b"/".join(names))


def listing(
    disks: Sequence[ExportedDisk],
    where: GuestPath,
    confinement: Confinement,
    *,
    recursive: bool = False,
    itself: bool = False,
) -> Iterator[FileFacts | Left]:
    """A file, or what is in a directory. Raises NotFound, InvalidInput if it is not clear
    which file system is meant."""
    request = ListFiles(where.area, where.path, recursive, itself)
    with Look(request, disks, confinement) as look:
        for answer in look.answers():
            if isinstance(answer, Listed):
                yield FileFacts(answer.area, answer.entry)
            elif isinstance(answer, Trouble):
                yield Left(answer.area, answer.path, answer.why)


def contents(
    disks: Sequence[ExportedDisk],
    where: GuestPath,
    confinement: Confinement,
    write: Callable[[bytes | memoryview], object],
) -> None:
    """Hand the contents of one file to `write`, in order. Raises NotFound, InvalidInput if it
    is no file, VircptError if it can't be read."""
    with ExitStack() as stack:
        look = stack.enter_context(Look(_request([where], False), disks, confinement))
        readers = _Readers(disks, stack)
        first, answers = _first(look.answers())
        if first.entry.kind is not Kind.FILE:
            raise InvalidInput(f"that is no file but a {first.entry.kind.value}")
        stream = _Stream(write)
        _receive(answers, readers, stream.at)
        stream.fill(first.entry.size)


def copy(
    disks: Sequence[ExportedDisk],
    sources: Sequence[GuestPath],
    destination: str,
    confinement: Confinement,
    *,
    recursive: bool = False,
    force: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Copied:
    """Copy files to `destination`: into it if it is a directory, else to that new name.

    With `recursive` directories with all below them. `progress` is told the bytes so far.
    Raises NotFound, InvalidInput if a name is taken, VircptError.
    """
    home, renamed = _where(destination, sources)
    with ExitStack() as stack:
        landing = stack.enter_context(Landing(home, force=force))
        look = stack.enter_context(Look(_request(sources, recursive), disks, confinement))
        tops = [renamed or one.path.rpartition(b"/")[2] for one in sources]
        copier = _Copier(landing, _Readers(disks, stack), tops, recursive, progress)
        return copier.run(look.answers())


def _request(sources: Sequence[GuestPath], recursive: bool) -> FetchFiles:
    return FetchFiles(tuple((one.area, one.path) for one in sources), recursive)


def _where(destination: str, sources: Sequence[GuestPath]) -> tuple[str, bytes | None]:
    """The directory to put files into, and the name that the only one gets there, if given."""
    if Path(destination).is_dir():
        return destination, None
    if len(sources) != 1 or destination.endswith("/"):
        raise InvalidInput(f"{destination} is no directory", hint="make it first")
    home, name = os.path.split(destination)
    return home or ".", os.fsencode(name)


class _Readers:
    """Connections to the disks, made when they are needed."""

    def __init__(self, disks: Sequence[ExportedDisk], stack: ExitStack) -> None:
        self._disks = {one.target: one for one in disks}
        self._stack = stack
        self._open: dict[str, nbd.Reader] = {}

    def read(self, parts: Pieces, write: pieces.Write) -> None:
        """Read the pieces and hand on what was read. Raises VircptError if they lie nowhere."""
        run: list[pieces.Piece] = []
        disk: str | None = None
        for offset, length, target, place in parts.parts:
            if target != disk and disk is not None:
                pieces.read(self._reader(disk), run, write)
                run = []
            disk = target
            if place + length > self._reader(target).size:
                raise VircptError("a file's contents lie beyond the end of its disk")
            run.append(pieces.Piece(offset, length, place))
        if disk is not None:
            pieces.read(self._reader(disk), run, write)

    def _reader(self, target: str) -> nbd.Reader:
        if target not in self._open:
            if target not in self._disks:
                raise VircptError("a file's contents lie on a disk that is not there")
            reader = nbd.Reader(self._disks[target].uri)
            self._open[target] = self._stack.enter_context(reader)
        return self._open[target]


class _Stream:
    """Puts contents in order: zeroes where nothing was told."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write
        self._end = 0

    def at(self, data: memoryview, offset: int) -> None:
        if offset < self._end:
            raise VircptError("a file's contents came in no order")
        self.fill(offset)
        self._write(data)
        self._end = offset + len(data)

    def fill(self, end: int) -> None:
        while self._end < end:
            count = min(end - self._end, len(_ZEROES))
            self._write(_ZEROES[:count])
            self._end += count


def _first(answers: Iterator[Answer | bytes]) -> tuple[Fetched, Iterator[Answer | bytes]]:
    for answer in answers:
        if isinstance(answer, Fetched):
            return answer, answers
    raise VircptError("the child told of no file")


def _receive(answers: Iterator[Answer | bytes], readers: _Readers, write: pieces.Write) -> None:
    """The contents of one file, to its end; raises Unreadable then if there was Trouble."""
    offset = 0
    failed: str | None = None
    for answer in answers:
        match answer:
            case Pieces():
                readers.read(answer, write)
            case Contents(offset=offset):
                pass
            case bytes():
                write(memoryview(answer), offset)
            case Trouble(why=why):
                failed = why
            case Whole():
                if failed:
                    raise Unreadable("a file can't be read in full", why=failed)
                return
    raise VircptError("the child fell silent in the middle of a file")


class _Copier:
    """Puts what the child tells of into the landing."""

    def __init__(
        self,
        landing: Landing,
        readers: _Readers,
        tops: Sequence[bytes],
        recursive: bool,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._landing = landing
        self._readers = readers
        self._tops = tops
        self._recursive = recursive
        self._progress = progress
        self._links: dict[tuple[str, int, int], tuple[bytes, ...]] = {}
        self._left: list[Left] = []
        self._files = self._size = 0

    def run(self, answers: Iterator[Answer | bytes]) -> Copied:
        for answer in answers:
            if isinstance(answer, Fetched):
                self._one(answer, answers)
            elif isinstance(answer, Trouble):
                self._left.append(Left(answer.area, answer.path, answer.why))
        return Copied(self._files, self._size, tuple(self._left))

    def _one(self, told: Fetched, answers: Iterator[Answer | bytes]) -> None:
        path = self._place(told)
        entry = told.entry
        if entry.kind is Kind.FILE:
            self._file(path, told, answers)
            return
        if entry.kind is Kind.DIRECTORY and not self._recursive:
            raise InvalidInput(f"{os.fsdecode(entry.path) or '/'} is a directory", hint="use -r")
        _receive(answers, self._readers, _nothing)
        if not is_kept(entry.kind):
            self._left.append(Left(told.area, entry.path, f"a {entry.kind.value} is not copied"))
            return
        if entry.kind is Kind.SYMLINK:
            self._landing.symlink(path, entry)
        elif path:
            self._landing.directory(path, entry, told.xattrs)
        self._files += 1

    def _place(self, told: Fetched) -> tuple[bytes, ...]:
        """Where it goes. The root of a file system has no name: what is in it goes to DEST."""
        if told.source >= len(self._tops) or told.source < 0:
            raise VircptError("the child told of a file that was not asked for")
        top = self._tops[told.source]
        return (*((top,) if top else ()), *names_of(told.below))

    def _file(
        self, path: tuple[bytes, ...], told: Fetched, answers: Iterator[Answer | bytes]
    ) -> None:
        entry = told.entry
        identity = (told.area, entry.inode, entry.generation)
        if entry.nlink > 1 and identity in self._links:
            _receive(answers, self._readers, _nothing)
            self._landing.link(path, self._links[identity])
        else:
            try:
                self._contents(path, told, answers)
            except Unreadable as error:
                self._left.append(Left(told.area, entry.path, error.why or error.what))
                return
            if entry.nlink > 1:
                self._links[identity] = path
        self._files += 1

    def _contents(
        self, path: tuple[bytes, ...], told: Fetched, answers: Iterator[Answer | bytes]
    ) -> None:
        with self._landing.file(path, told.entry, told.xattrs) as fd:
            put = pieces.to_file(fd)

            def write(data: memoryview, offset: int) -> None:
                if offset + len(data) > told.entry.size:
                    raise VircptError("a file's contents reach beyond its size")
                put(data, offset)
                self._size += len(data)
                if self._progress:
                    self._progress(self._size)

            _receive(answers, self._readers, write)


def _nothing(_data: memoryview, _offset: int) -> None:
    """Contents that nobody asked for."""
