"""Reading a running export: where each disk is served, what changed, copies and overlays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vircpt.blocks import extents, images, nbd
from vircpt.blocks.extents import Columns, Extent, Totals
from vircpt.errors import InvalidInput, NotFound, NotSupported
from vircpt.hypervisor.backups import bitmap_name
from vircpt.records.exports import ExportDirectory
from vircpt.records.state import DiskRecord


@dataclass(frozen=True)
class ExportedDisk:
    """A disk of a running export.

    `uri` is an NBD URI for any client; `bitmap` the name of its dirty bitmap, None if the
    disk is exported in full; `since` the checkpoint that the bitmap starts at.
    """

    domain: str
    target: str
    uri: str
    since: str | None
    bitmap: str | None
    tls: images.TlsExport | None = None

    def reader(self) -> nbd.Reader:
        """A connection for reading; a context manager. Its bitmap is `bitmap`."""
        return nbd.Reader(self.uri, self.bitmap)

    def columns(self) -> Iterator[Columns]:
        """As `extents`, but by column: for those who look at millions."""
        with self.reader() as reader:
            yield from reader.columns()

    def extents(self) -> Iterator[Extent]:
        """The whole disk in order: offset and length in bytes; dirty, zero, allocated."""
        return extents.extents(self.columns())

    def dirty(self) -> Iterator[Extent]:
        """Only what was written since the checkpoint; everything if there is no bitmap."""
        return extents.extents(one.only_dirty() for one in self.columns())

    def totals(self) -> Totals:
        """Bytes by kind."""
        return extents.total(self.columns())

    def size(self) -> int:
        """Size of the disk in bytes."""
        with self.reader() as reader:
            return reader.size

    def without_bitmap(self) -> ExportedDisk:
        """The same disk, its bitmap not asked for: the allocation alone."""
        return replace(self, bitmap=None)

    def nbdinfo(self, *, as_json: bool = False) -> str:
        """What the tool nbdinfo tells of it."""
        return images.nbdinfo(self.uri, as_json=as_json)

    def copy(self, path: Path, image_format: str, progress: images.Progress | None = None) -> None:
        """Copy the disk into a new image, qcow2 or raw; an existing file is never replaced."""
        images.copy(self.tls or self.uri, path, image_format, progress)

    def overlay(self, path: Path) -> None:
        """Make a qcow2 image at `path` that reads from the export and takes writes itself."""
        if self.tls:
            raise NotSupported(
                "no overlay can be made on an export over TLS",
                why="QEMU would need the certificates anew each time the overlay is opened",
                disk=self.target,
                hint="make a copy instead: vircpt copy",
            )
        images.create_overlay(path, self.uri)


def disks(directory: ExportDirectory) -> tuple[ExportedDisk, ...]:
    """The disks of an export."""
    return tuple(_disk(directory, one) for one in directory.record.disks)


def choose(
    directory: ExportDirectory, wanted: Sequence[str], unwanted: Sequence[str]
) -> tuple[ExportedDisk, ...]:
    """The disks of an export that are asked for, by default all; raises NotFound, InvalidInput."""
    every = disks(directory)
    if wanted:
        every = tuple(disk(directory, target) for target in dict.fromkeys(wanted))
    chosen = tuple(one for one in every if one.target not in unwanted)
    if not chosen:
        raise InvalidInput("no disk is left", domain=directory.record.domain)
    return chosen


def disk(directory: ExportDirectory, target: str | None) -> ExportedDisk:
    """One disk of an export, the only one if `target` is None.

    Raises NotFound if there is none of that name, InvalidInput if it is not clear which.
    """
    every = disks(directory)
    known = ", ".join(one.target for one in every)
    if target is None:
        if len(every) == 1:
            return every[0]
        raise InvalidInput(f"which disk? The export holds {known}", hint="name one with --disk")
    for one in every:
        if one.target == target:
            return one
    raise NotFound(
        f"the export holds no disk {target!r}",
        domain=directory.record.domain,
        disk=target,
        hint=f"it holds {known}",
    )


def _disk(directory: ExportDirectory, one: DiskRecord) -> ExportedDisk:
    record = directory.record
    tls = None
    if record.port is None:
        uri = nbd.unix_uri(one.target, str(directory.socket))
    else:
        assert record.address is not None
        uri = nbd.tcp_uri(one.target, record.address, record.port, record.tls_dir)
        if record.tls_dir:
            tls = images.TlsExport(record.address, record.port, one.target, record.tls_dir)
    return ExportedDisk(
        domain=record.domain,
        target=one.target,
        uri=uri,
        since=one.since,
        bitmap=bitmap_name(one.target) if one.since else None,
        tls=tls,
    )
