"""The way to a file, step by step as the kernel goes it: who could turn it aside?"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

_MAX_LINKS = 40


class Step(NamedTuple):
    """An entry that is met on the way, and the directory that it stands in."""

    directory: str
    directory_status: os.stat_result
    entry: str
    status: os.stat_result


def walk(path: str) -> Iterator[Step]:
    """The entries on the way to an absolute path, those on the way of its links as well.

    Raises OSError where the way ends before the path does.
    """
    current = "/"
    todo = _parts(path)
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            current = os.path.dirname(current)  # noqa: PTH120
            continue
        entry = os.path.join(current, part)  # noqa: PTH118
        status = os.lstat(entry)
        yield Step(current, os.stat(current), entry, status)  # noqa: PTH116
        if not stat.S_ISLNK(status.st_mode):
            current = entry
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(40, "too many links", path)
        target = os.readlink(entry)  # noqa: PTH115
        if target.startswith("/"):
            current = "/"
        todo += _parts(target)


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
