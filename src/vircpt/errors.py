"""Every way in which vircpt can fail, with the exit code that each one owns.

    VircptError                 1   a failure that is none of the following
    ├── InvalidInput            2   a name, option or file that can't be accepted
    ├── PartlyDone              3   done, with parts left out that were asked for
    ├── Mismatch                4   a verification found a difference
    ├── MalwareFound            5
    ├── NotFound               10   domain, checkpoint, disk, export or backup
    ├── Busy                   11   another job, another export, another vircpt
    ├── NotSupported           12   not with these versions, this disk, this state
    ├── BrokenChain            13   a bitmap or a chain of checkpoints is damaged
    └── HostUnreachable        14   libvirt does not answer, or does not let us in

    Interrupted           128 + n   ended by signal n (a BaseException, like KeyboardInterrupt)

An error keeps its facts as attributes and is put into words late, by `describe`.
This module imports nothing of vircpt; every room may raise what stands here.
"""

from __future__ import annotations

import signal


class VircptError(Exception):
    """Something failed: `what` says what, `why` the reason, `hint` what to do next.

    `domain`, `disk` and `checkpoint` name what it failed on, where there is such a thing.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        why: str | None = None,
        hint: str | None = None,
        domain: str | None = None,
        disk: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.domain = domain
        self.disk = disk
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def describe(self) -> str:
        """The error for people: one line that says what and where, one with a hint."""
        where = [
            f"{word} {value}"
            for word, value in (
                ("domain", self.domain),
                ("disk", self.disk),
                ("checkpoint", self.checkpoint),
            )
            if value and f"{word} {value}" not in self.what and f"{word} {value!r}" not in self.what
        ]
        place = f" ({', '.join(where)})" if where else ""
        text = f"{self.what}{place}"
        if self.why:
            text += f": {self.why}"
        for note in getattr(self, "__notes__", ()):
            text += f"\n{note}"
        if self.hint:
            text += f"\nhint: {self.hint}"
        return text


class InvalidInput(VircptError):
    exit_code = 2


class PartlyDone(VircptError):
    exit_code = 3


class Mismatch(VircptError):
    exit_code = 4


class MalwareFound(VircptError):
    exit_code = 5


class NotFound(VircptError):
    exit_code = 10


class Busy(VircptError):
    exit_code = 11


class NotSupported(VircptError):
    exit_code = 12


class BrokenChain(VircptError):
    exit_code = 13


class HostUnreachable(VircptError):
    exit_code = 14


class Interrupted(BaseException):
    """A signal asked vircpt to end; clean-up runs while this travels up."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        return 128 + self.signum


def quoted(text: str) -> str:
    """The text as one word of a shell command, for hints that are pasted."""
    import shlex

    return shlex.quote(text)
