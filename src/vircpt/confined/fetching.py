"""In the child: files with their contents, as pieces of disks or as bytes.

What lies on the disks as it is the child only tells the places of: the parent reads there
itself, faster. Bytes go through the pipe where they have to be put together or unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator

from vircpt.confined.finding import Disks, bare, below, guarded, steadily, told
from vircpt.confined.messages import Answer, Contents, Fetched, FetchFiles, Pieces, Trouble, Whole
from vircpt.errors import VircptError
from vircpt.guestfiles.entries import Entry, Extent, Kind, Trait
from vircpt.guestfiles.filesystem import FileSystem
from vircpt.guestfiles.layout import Area
from vircpt.guestfiles.volumes import Volume

_STEP = 1 << 20
_PIECES = 4096
"""Pieces told at once."""


def fetch(request: FetchFiles, disks: Disks) -> Iterator[Answer | bytes]:
    """Each source in turn, with all below it if `recursive`."""
    for number, (name, path) in enumerate(request.sources):
        area = disks.named(name) if name else disks.holding(path)
        system = disks.open(area)
        top = guarded(lambda system=system, path=path: system.entry(path))  # type: ignore[misc]
        sender = _Sender(area, system, disks.layout.volume(area.name), number, request.by_pipe)
        yield from sender.send(top, top)
        if request.recursive and top.kind is Kind.DIRECTORY:
            for entry in steadily(area, below(system, top, recursive=True)):
                if isinstance(entry, Trouble):
                    yield entry
                else:
                    yield from sender.send(top, entry)
            yield from (Trouble(area.name, where, why) for where, why in system.problems)


class _Sender:
    """Sends the files of one source."""

    def __init__(
        self, area: Area, system: FileSystem, volume: Volume, number: int, by_pipe: bool
    ) -> None:
        self._area = area
        self._system = system
        self._volume = volume
        self._number = number
        self._direct = volume.linear and not by_pipe

    def send(self, top: Entry, entry: Entry) -> Iterator[Answer | bytes]:
        path = entry.path[len(top.path) :].lstrip(b"/")
        try:
            xattrs = tuple(guarded(lambda: self._system.xattrs(entry)).items())
        except VircptError as error:
            yield told(self._area, entry.path, error)
            xattrs = ()
        yield Fetched(self._area.name, self._number, path, bare(entry), xattrs)
        if entry.kind is Kind.FILE:
            try:
                if entry.traits & (Trait.DAMAGED | Trait.UNSUPPORTED | Trait.ENCRYPTED):
                    why = _UNREADABLE[entry.traits & (Trait.UNSUPPORTED | Trait.ENCRYPTED)]
                    yield Trouble(self._area.name, entry.path, why)
                else:
                    yield from self._contents(entry)
            except VircptError as error:
                yield told(self._area, entry.path, error)
        yield Whole()

    def _contents(self, entry: Entry) -> Iterator[Answer | bytes]:
        held: list[tuple[int, int, str, int]] = []
        for extent in self._extents(entry):
            if self._direct and extent.place is not None:
                held += self._places(extent, extent.place)
                if len(held) >= _PIECES:
                    yield Pieces(tuple(held))
                    held = []
            else:
                yield from self._bytes(entry, extent)
        if held:
            yield Pieces(tuple(held))

    def _extents(self, entry: Entry) -> Iterator[Extent]:
        """Those with contents, cut at the end of the file."""
        found = self._system.extents(entry)
        end = 0
        while (extent := guarded(lambda: next(found, None))) is not None:
            length = min(extent.length, entry.size - extent.offset)
            if extent.offset < end:
                raise VircptError("contents that overlap", why="the file system is damaged")
            if length > 0 and not extent.zero:
                end = extent.offset + length
                yield extent._replace(length=length)

    def _places(self, extent: Extent, place: int) -> list[tuple[int, int, str, int]]:
        offset, parts = extent.offset, []
        for disk, start, count in guarded(lambda: list(self._volume.places(place, extent.length))):
            parts.append((offset, count, disk, start))
            offset += count
        return parts

    def _bytes(self, entry: Entry, extent: Extent) -> Iterator[Answer | bytes]:
        end = extent.offset + extent.length
        for offset in range(extent.offset, end, _STEP):
            length = min(_STEP, end - offset)
            data = guarded(
                lambda offset=offset, length=length: self._system.read(entry, offset, length)  # type: ignore[misc]
            )
            if len(data) != length:
                raise VircptError("contents end early", why=f"{len(data)} of {length} bytes")
            if data.strip(b"\0"):
                yield Contents(offset, length)
                yield bytes(data)


_UNREADABLE = {
    Trait.NONE: "the file is damaged",
    Trait.UNSUPPORTED: "its contents are stored in a way that is not read",
    Trait.ENCRYPTED: "its contents are encrypted",
    Trait.UNSUPPORTED | Trait.ENCRYPTED: "its contents are encrypted",
}
