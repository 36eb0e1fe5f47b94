"""What changed, as a tree and by directory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vircpt.cli import output
from vircpt.cli.looking import path_text

if TYPE_CHECKING:
    from vircpt.api import FileChange

_MARKS = {"added": "+", "modified": "M", "metadata": "m", "deleted": "-", "renamed": ">"}


def print_by_directory(found: Iterable[FileChange]) -> None:
    """Files and changed bytes of each directory, most changed first."""
    sums: dict[tuple[str, bytes], list[int]] = {}
    for one in found:
        home = one.path.rpartition(b"/")[0]
        numbers = sums.setdefault((one.area, home), [0, 0, 0])
        numbers[0] += 1
        numbers[1] += one.certain
        numbers[2] += one.changed
    ordered = sorted(sums.items(), key=lambda item: (-item[1][2], item[0]))
    rows = [
        [str(count), str(certain), output.size(changed), area, path_text(home)]
        for (area, home), (count, certain, changed) in ordered
    ]
    header = ("FILES", "CERTAIN", "CHANGED", "AREA", "DIRECTORY")
    output.result(output.table(header, rows, right=(0, 1, 2)))


def print_tree(found: Iterable[FileChange]) -> None:
    """Each file below its directories; a mark tells how it changed, ? that it is possible only."""
    labels: dict[str, str] = {}
    children: dict[str | None, list[str]] = {}

    def node(area: str, path: bytes) -> str:
        key = f"{area}:{path.decode('utf-8', 'surrogateescape')}"
        if key not in labels:
            home, _, name = path.rpartition(b"/")
            parent = node(area, home) if path else None
            labels[key] = path_text(name)[1:] if path else output.safe(area)
            children.setdefault(parent, []).append(key)
        return key

    for one in found:
        key = node(one.area, one.path)
        mark = _MARKS[one.how.value] + ("" if one.certain else "?")
        was = f" (was {path_text(one.previous)})" if one.previous is not None else ""
        changed = f", {output.size(one.changed)}" if one.changed else ""
        labels[key] += f"  [{mark}{changed}]{was}"
    for line in output.tree(children, labels):
        output.result(line)
