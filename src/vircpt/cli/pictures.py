"""Pictures of disks: which parts were written, hold data, are empty; file systems to scale.

A disk becomes a grid of cells, each of the same number of bytes, with the kind that most
needs to be seen. Colours are those of Okabe and Ito, which the colour-blind can tell apart.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from vircpt.cli import output

if TYPE_CHECKING:
    from vircpt.api import Columns

COLUMNS = 96
ROWS = 24
_CELL = 10
_GAP = 22
EMPTY, DATA, CLEARED, DIRTY = range(4)
NAMES = ("empty", "data, not written", "cleared or discarded since", "written since")
_COLOURS = ("#eeeeee", "#56b4e9", "#f0e442", "#d55e00")
_BAR = "#009e73"


@dataclass(frozen=True)
class Part:
    """A partition or file system of a disk: offset and length in bytes."""

    offset: int
    length: int
    label: str


@dataclass(frozen=True)
class DiskPicture:
    """A disk to be drawn: kinds of its cells, and its parts."""

    target: str
    size: int
    cells: Sequence[int]
    parts: Sequence[Part] = ()


def cells(size: int, found: Iterable[Columns], count: int) -> list[int]:
    """The kind of each of `count` equal parts of a disk: the greatest that is in it."""
    from vircpt.api import KINDS

    made = [EMPTY] * count
    for piece in found:
        for offset, length, number in zip(*piece, strict=True):
            kind = KINDS[number]
            what = (CLEARED if kind.zero else DIRTY) if kind.dirty else EMPTY if kind.zero else DATA
            if what:
                last = (offset + length - 1) * count // size
                for cell in range(offset * count // size, last + 1):
                    if made[cell] < what:
                        made[cell] = what
    return made


def svg(disks: Sequence[DiskPicture]) -> str:
    """One drawing of all disks."""
    width = COLUMNS * _CELL
    height = ROWS * _CELL + 3 * _GAP
    body = []
    for number, disk in enumerate(disks):
        body.append(f'<g transform="translate(10,{10 + number * (height + 10)})">')
        body += _disk(disk, width)
        body.append("</g>")
    top = len(disks) * (height + 10) + 10
    for kind, name in enumerate(NAMES):
        body.append(
            f'<rect x="{10 + kind * 220}" y="{top}" width="12" height="12" '
            f'fill="{_COLOURS[kind]}" stroke="#999"/>'
            f'<text x="{28 + kind * 220}" y="{top + 11}">{name}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 20}" height="{top + 30}" '
        'font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _disk(disk: DiskPicture, width: int) -> Iterable[str]:
    title = f"{disk.target}, {output.size(disk.size)}"
    yield f'<text x="0" y="12" font-weight="bold">{_words(title)}</text>'
    for part in disk.parts:
        x, wide = (value * width / disk.size for value in (part.offset, part.length))
        words = _words(f"{part.label}, {output.size(part.length)}")
        yield (
            f'<g><title>{words}</title><rect x="{x:.1f}" y="{_GAP}" width="{max(wide, 1):.1f}" '
            f'height="16" fill="{_BAR}" stroke="#ffffff"/>'
        )
        if wide > 8 * len(part.label):
            label = _words(part.label)
            yield f'<text x="{x + 4:.1f}" y="{_GAP + 12}" fill="#ffffff">{label}</text>'
        yield "</g>"
    for row in range(ROWS):
        x = 0
        for kind, alike in groupby(disk.cells[row * COLUMNS : (row + 1) * COLUMNS]):
            count = len(list(alike))
            yield (
                f'<rect x="{x * _CELL}" y="{2 * _GAP + row * _CELL}" width="{count * _CELL}" '
                f'height="{_CELL - 1}" fill="{_COLOURS[kind]}"/>'
            )
            x += count


def _words(text: str) -> str:
    return escape(output.safe(text))


def html(title: str, disks: Sequence[DiskPicture]) -> str:
    """A page that needs nothing else."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_words(title)}</title></head>\n<body><h1>{_words(title)}</h1>\n"
        f"{svg(disks)}</body></html>\n"
    )


def png(disks: Sequence[DiskPicture]) -> bytes:
    """The cells and the bars of the parts, without words."""
    lines: list[bytes] = []
    blank = _pixels([_rgb("#ffffff")] * COLUMNS)
    for disk in disks:
        bar = [_rgb("#ffffff")] * COLUMNS
        for number, part in enumerate(disk.parts):
            first = part.offset * COLUMNS // disk.size
            last = (part.offset + part.length - 1) * COLUMNS // disk.size
            shade = _rgb(_BAR if number % 2 == 0 else "#0072b2")
            bar[first : last + 1] = [shade] * (last + 1 - first)
        lines += [blank] * 4 + [_pixels(bar)] * _CELL + [blank] * 4
        for row in range(ROWS):
            kinds = disk.cells[row * COLUMNS : (row + 1) * COLUMNS]
            lines += [_pixels([_rgb(_COLOURS[kind]) for kind in kinds])] * (_CELL - 1) + [blank]
    data = zlib.compress(b"".join(b"\0" + line for line in lines), 9)
    head = struct.pack(">IIBBBBB", COLUMNS * _CELL, len(lines), 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, content)
        for name, content in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    """https://www.w3.org/TR/png/#5Chunk-layout"""
    sum_ = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", sum_)


def _pixels(colours: Sequence[bytes]) -> bytes:
    return b"".join(colour * _CELL for colour in colours)


def _rgb(colour: str) -> bytes:
    return bytes.fromhex(colour[1:])


def heat(disk: DiskPicture, width: int, *, colour: bool) -> list[str]:
    """Lines for a terminal: a bar of the parts, and the cells, in rows of `width`."""
    signs = " ·░█"
    codes = ("", "\x1b[38;5;74m", "\x1b[38;5;227m", "\x1b[38;5;166m")
    lines = [f"{output.safe(disk.target)}, {output.size(disk.size)}"]
    for part in disk.parts:
        first = part.offset * width // disk.size
        last = (part.offset + part.length - 1) * width // disk.size
        bar = "└" + "─" * (last - first - 1) + "┘" if last > first else "│"
        lines.append(" " * first + bar + " " + output.safe(part.label))
    for start in range(0, len(disk.cells), width):
        line = ""
        for kind, alike in groupby(disk.cells[start : start + width]):
            text = signs[kind] * len(list(alike))
            line += f"{codes[kind]}{text}\x1b[0m" if colour and kind else text
        lines.append(line)
    return lines
