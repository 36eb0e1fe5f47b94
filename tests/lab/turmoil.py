"""Random work in a guest's file system, and what it did: for who has to find it again.

A turmoil is a shell script for busybox. It knows which paths it changed, from the mount point
on; `quiet` are files beside those that it leaves alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_DIRECTORIES = 12
_FILES = 25


@dataclass
class Turmoil:
    """`touched`: paths that were changed and are still there; `stirred`: directories whose names
    changed; `gone`: paths that are no more, or have another name."""

    seed: int
    modes: bool = True
    """Whether the file system keeps modes."""
    touched: set[str] = field(default_factory=set)
    stirred: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)
    _alive: list[str] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def prepare(self) -> str:
        """The script that makes what is there before."""
        lines = ["set -e"]
        for number in range(_DIRECTORIES):
            home = f"d{number}"
            lines.append(f"mkdir {home}")
            for index in range(_FILES):
                path = f"{home}/f{index}"
                lines.append(self._fill(path, self._size()))
                if index % 2:
                    self.quiet.add(path)
                else:
                    self._alive.append(path)
        return "\n".join([*lines, "sync"])

    def stir(self, steps: int = 200) -> str:
        """The script that changes things; call it once, after `prepare`."""
        works = [self._create, self._append, self._overwrite, self._rename, self._delete,
                 self._truncate, self._overwrite_in_the_past]  # fmt: skip
        if self.modes:
            works.append(self._chmod)
        lines = ["set -e"]
        for _ in range(steps):
            lines.append(self._random.choice(works)())
        return "\n".join([*lines, "sync"])

    def _size(self) -> int:
        return self._random.choice((0, 10, 60, 500, 3000, 4096, 20_000, 150_000))

    def _fill(self, path: str, size: int) -> str:
        return f"head -c {size} /dev/urandom >{path}"

    def _pick(self) -> str:
        return self._random.choice(self._alive)

    def _new(self) -> str:
        self._count += 1
        return f"d{self._random.randrange(_DIRECTORIES)}/n{self._count}"

    def _home(self, path: str) -> None:
        self.stirred.add(path.rpartition("/")[0])

    def _create(self) -> str:
        path = self._new()
        self._alive.append(path)
        self.touched.add(path)
        self._home(path)
        return self._fill(path, self._size())

    def _append(self) -> str:
        path = self._pick()
        self.touched.add(path)
        return f"head -c {self._random.choice((5, 700, 9000))} /dev/urandom >>{path}"

    def _overwrite(self) -> str:
        path = self._pick()
        self.touched.add(path)
        count = self._random.choice((1, 50, 4096))
        where = self._random.choice((0, 1, 2))
        return (
            f"dd if=/dev/urandom of={path} bs={count} count=1 seek={where} conv=notrunc 2>/dev/null"
        )

    def _overwrite_in_the_past(self) -> str:
        """With a forged time of modification."""
        path = self._pick()
        self.touched.add(path)
        return f"head -c 100 /dev/urandom >>{path}; touch -d '2001-02-03 04:05:06' {path}"

    def _truncate(self) -> str:
        path = self._pick()
        self.touched.add(path)
        size = self._random.choice((0, 7, 5000))
        return f"head -c 6000 /dev/urandom >>{path}; truncate -s {size} {path}"

    def _chmod(self) -> str:
        path = self._pick()
        self.touched.add(path)
        return f"chmod {self._random.choice(('600', '711', '640'))} {path}; chmod 444 {path}"

    def _rename(self) -> str:
        old, new = self._pick(), self._new()
        self._leave(old)
        self._alive.append(new)
        self.touched.add(new)
        self._home(new)
        return f"mv {old} {new}"

    def _delete(self) -> str:
        path = self._pick()
        self._leave(path)
        return f"rm {path}"

    def _leave(self, path: str) -> None:
        self._alive.remove(path)
        self.touched.discard(path)
        self.gone.add(path)
        self._home(path)
