"""How results look: tables and trees for people, JSON for programs, messages on stderr.

Results go to stdout; everything else to stderr. Whatever comes from a guest, from libvirt or
from a user is made harmless for terminals first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vircpt.api import FreezeReport, Skipped
    from vircpt.cli.session import Session


def safe(text: object) -> str:
    """The text without control characters: they show as \\x1b, and lone surrogates as \\udcff."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def plain(value: Any) -> Any:
    """Dataclasses, named tuples, enums and paths as what JSON knows."""
    from dataclasses import fields, is_dataclass

    if hasattr(value, "_asdict"):
        return {key: plain(one) for key, one in value._asdict().items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    return value


def document(schema: str, **content: Any) -> None:
    """Print one JSON document; `schema` names docs/schemas/SCHEMA.json."""
    import json

    print(json.dumps({"schema": f"vircpt/{schema}", **plain(content)}, indent=2))


def line(schema: str, **content: Any) -> None:
    """Print one JSON document as a line, for commands that tell several."""
    import json

    print(json.dumps({"schema": f"vircpt/{schema}", **plain(content)}), flush=True)


def without_nonce(plan: Any) -> dict[str, Any]:
    """A plan for JSON, less what tells only us anything."""
    return {key: value for key, value in plain(plan).items() if key != "nonce"}


def result(text: str) -> None:
    """A line of the result."""
    print(text)


def done(session: Session, text: str) -> None:
    """Confirm that something was done, unless -q: the exit code says it too."""
    if session.verbosity >= 0:
        print(text)


def message(session: Session, text: str) -> None:
    """Tell something that is no result, unless -q."""
    if session.verbosity >= 0:
        print(session.aim(text), file=sys.stderr)


def warning(session: Session, text: str) -> None:
    """Tell something that should not be missed."""
    if session.verbosity >= 0:
        print(f"warning: {session.aim(text)}", file=sys.stderr)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Columns as wide as their widest cell; those in `right` are aligned to the right."""
    every = [list(header), *[[safe(cell) for cell in row] for row in rows]]
    widths = [max(len(row[index]) for row in every) for index in range(len(header))]
    aligned = set(right)
    lines = [
        "  ".join(
            cell.rjust(width) if index in aligned else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    ]
    return "\n".join(lines)


def tree(children: Mapping[str | None, Sequence[str]], labels: Mapping[str, str]) -> list[str]:
    """Lines of a tree; `children` maps a name (None: the top) to the names below it."""
    lines: list[str] = []
    stack = [(name, "", "") for name in reversed(children.get(None, ()))]
    while stack:
        name, lead, indent = stack.pop()
        lines.append(lead + labels[name])
        below = list(children.get(name, ()))
        for index, child in reversed(list(enumerate(below))):
            last = index == len(below) - 1
            branch, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
            stack.append((child, indent + branch, indent + deeper))
    return lines


def moment(seconds: float | None) -> str:
    """A point in time, local: 2026-11-23 17:04:05."""
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def iso(seconds: float | None) -> str | None:
    """A point in time for JSON: RFC 3339, UTC."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def size(value: int | None) -> str:
    """Bytes for a table; a dash if not known."""
    from vircpt.units import format_size

    return "-" if value is None else format_size(value)


def tell_skipped(session: Session, skipped: Iterable[Skipped]) -> None:
    """Say which disks are left out though nobody asked for that, and why."""
    for one in skipped:
        if not one.wished:
            message(session, f"skipped {safe(one.target)}: {safe(one.why)}")


def tell_freeze(session: Session, report: FreezeReport) -> None:
    """Say what became of the guest's file systems."""
    from vircpt.units import format_duration

    state = report.state.value
    if state == "frozen":
        count = report.filesystems
        noun = "file system" if count == 1 else "file systems"
        message(session, f"{count} {noun} stood frozen for {format_duration(report.seconds)}")
    elif state == "late":
        warning(
            session,
            f"the guest was thawed before the work was done: {report.why}; "
            "its file systems are as after a crash",
        )
    elif state != "skipped":
        warning(
            session,
            f"file systems were not frozen ({safe(report.why)}); they are as after a crash, "
            "journals will be replayed",
        )
