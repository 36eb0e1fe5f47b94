"""In the child: the layout, what changed, and what is where; answers for each as they come.

Whatever a parser stumbles over is told as Trouble, and the next file or file system is looked
at: damage in one place must not hide what happened in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from vircpt.confined.messages import (
    Answer,
    FindChanges,
    Found,
    Listed,
    ListFiles,
    LookAtLayout,
    Oddity,
    Remembered,
    Touched,
    Trouble,
)
from vircpt.errors import HostUnreachable, InvalidInput, NotFound, VircptError
from vircpt.guestfiles import changes, filesystems, index, layout
from vircpt.guestfiles.entries import Entry, Kind
from vircpt.guestfiles.filesystem import DEPTH_LIMIT, Facts, FileSystem
from vircpt.guestfiles.intervals import Intervals
from vircpt.guestfiles.layout import Area, Layout
from vircpt.guestfiles.source import Source

T = TypeVar("T")


@dataclass(frozen=True)
class Disks:
    """The disks by target, and their dirty bytes; a disk that `dirty` lacks is dirty as a whole."""

    sources: Mapping[str, Source]
    dirty: Mapping[str, Intervals]
    _opened: dict[str, FileSystem] = field(default_factory=dict)

    @cached_property
    def layout(self) -> Layout:
        return guarded(lambda: layout.scan(self.sources))

    def open(self, area: Area) -> FileSystem:
        """The file system in an area; raises VircptError."""
        if area.name not in self._opened:
            volume = self.layout.volume(area.name)
            self._opened[area.name] = guarded(
                lambda: filesystems.open_in(volume, area.content.type)
            )
        return self._opened[area.name]

    def touched(self, area: Area) -> Intervals:
        """The dirty bytes of an area."""
        return guarded(lambda: self.layout.dirty(area.name, self.dirty))

    def named(self, name: str) -> Area:
        """An area with a file system; raises NotFound."""
        for area in self.layout.filesystems():
            if area.name == name:
                return area
        names = ", ".join(one.name for one in self.layout.filesystems())
        raise NotFound(
            f"there is no file system {name!r}",
            hint=f"there are: {names}" if names else "no file system was found; see layout",
        )

    def holding(self, path: bytes) -> Area:
        """The only area with a file system, or the only one in which there is `path`."""
        areas = self.layout.filesystems()
        if len(areas) == 1:
            return areas[0]
        if path:
            areas = tuple(area for area in areas if self._has(area, path))
        if len(areas) == 1:
            return areas[0]
        names = ", ".join(area.name for area in areas)
        if not areas:
            raise NotFound("no file system has that path" if path else "no file system was found")
        raise InvalidInput(
            "in which file system? " + ("Several have that path" if path else "There are several"),
            hint=f"put its name and a colon before the path: {names}",
        )

    def _has(self, area: Area, path: bytes) -> bool:
        try:
            guarded(lambda: self.open(area).entry(path))
        except HostUnreachable:
            raise
        except VircptError:
            return False
        return True


def guarded(work: Callable[[], T]) -> T:
    """The result; raises only VircptError, as parsers of hostile bytes fail in many ways."""
    try:
        return work()
    except VircptError:
        raise
    except Exception as error:
        raise VircptError("a parser failed", why=_words(error)) from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def told(area: Area, path: bytes, error: VircptError) -> Trouble:
    """The error as Trouble; if it is the disk that can't be read it is raised: no file could."""
    if isinstance(error, HostUnreachable):
        raise error
    return Trouble(area.name, path, str(error)[:1000])


def steadily(area: Area, entries: Iterator[Entry]) -> Iterator[Entry | Trouble]:
    """The entries of a walk; what breaks it off is told as Trouble."""
    while True:
        try:
            entry = guarded(lambda: next(entries, None))
        except VircptError as error:
            yield told(area, b"", error)
            return
        if entry is None:
            return
        yield entry


def describe(_request: LookAtLayout, disks: Disks) -> Iterator[Answer]:
    """Every area, and what is damaged or missing."""
    yield from (found for found, _ in _areas(disks))
    yield from map(Oddity, disks.layout.problems)


def _areas(disks: Disks) -> Iterator[tuple[Found, Area]]:
    readable = {area.name for area in disks.layout.filesystems()}
    for area in disks.layout.areas:
        changed: int | None = None
        facts: Facts | None = None
        problem: str | None = None
        try:
            changed = disks.touched(area).total
            if area.name in readable:
                facts = disks.open(area).facts
        except VircptError as error:
            problem = told(area, b"", error).why
        yield Found(area, changed, facts, problem), area


def find(request: FindChanges, disks: Disks) -> Iterator[Answer]:
    """The layout, then for each file system what was touched."""
    opened = []
    for found, area in _areas(disks):
        yield found
        if found.facts is not None:
            opened.append((area, found.facts))
    yield from map(Oddity, disks.layout.problems)
    for area, facts in opened:
        rules = changes.Rules(
            facts, request.window, request.granularity, disks.layout.volume(area.name).linear
        )
        yield from _find_in(area, disks, rules, request.index)


def _find_in(area: Area, disks: Disks, rules: changes.Rules, remember: bool) -> Iterator[Answer]:
    touched = disks.touched(area)
    system = disks.open(area)
    if not touched and not remember:
        return
    for entry in steadily(area, system.walk(None if remember else touched)):
        if isinstance(entry, Trouble):
            yield entry
            continue
        change = changes.classify(entry, touched, rules)
        if change is not None:
            yield Touched(area.name, changes.Change(bare(entry), *_rest(change)))
        if remember:
            yield Remembered(area.name, index.record(entry))
    yield from (Trouble(area.name, path, why) for path, why in system.problems)


def _rest(
    change: changes.Change,
) -> tuple[changes.How, bool, changes.Evidence, int, int]:
    return change.how, change.certain, change.evidence, change.data_bytes, change.metadata_bytes


def bare(entry: Entry) -> Entry:
    """Without its runs, which may be many and tell the parent nothing."""
    return entry._replace(data=(), metadata=())


def list_files(request: ListFiles, disks: Disks) -> Iterator[Answer]:
    """A file, or what is in a directory."""
    area = disks.named(request.area) if request.area else disks.holding(request.path)
    system = disks.open(area)
    first = guarded(lambda: system.entry(request.path))
    if first.kind is not Kind.DIRECTORY or request.itself:
        yield Listed(area.name, bare(first))
        return
    for entry in steadily(area, below(system, first, request.recursive)):
        yield entry if isinstance(entry, Trouble) else Listed(area.name, bare(entry))
    yield from (Trouble(area.name, path, why) for path, why in system.problems)


def below(system: FileSystem, top: Entry, recursive: bool) -> Iterator[Entry]:
    """What is in a directory, parents before children; all below it if `recursive`."""
    waiting = [(top, 0)]
    seen = {(top.inode, top.generation)}
    while waiting:
        home, depth = waiting.pop()
        deeper = []
        for entry in system.listdir(home.path):
            yield entry
            who = (entry.inode, entry.generation)
            if entry.kind is Kind.DIRECTORY and who not in seen:  # as one that holds itself
                seen.add(who)
                deeper.append((entry, depth + 1))
        if recursive and depth < DEPTH_LIMIT:
            waiting += reversed(deeper)
