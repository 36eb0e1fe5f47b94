"""Which files changed: the dirty blocks of an export, held against the file systems in it.

Findings come as they are found, for there may be a million. Whatever was touched is among
them; what could not be looked into is told, with its changed bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain

from vircpt.confined.messages import (
    Answer,
    FindChanges,
    Found,
    Oddity,
    Spent,
    Touched,
    Trouble,
)
from vircpt.errors import InvalidInput, NotFound, quoted
from vircpt.guestfiles.changes import Evidence, How, Window
from vircpt.guestfiles.entries import Kind
from vircpt.hypervisor import agent, checkpoints
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.operations import history
from vircpt.operations.looking import Confinement, Look
from vircpt.operations.reading import ExportedDisk
from vircpt.records.exports import ExportDirectory

GRANULARITY = 65536
"""Bytes for which QEMU's bitmap has one bit, as libvirt makes them."""
_SECOND = 1_000_000_000
_START = 60.0
"""Seconds that the start of an export may take after its record was made."""
_SURE = 2 * _SECOND
_UNSURE = 60 * _SECOND
"""Nanoseconds by which the guest's clock may be off, if its agent told the time, and if not."""


@dataclass(frozen=True)
class FileChange:
    """A file of which blocks were written.

    `path` has no leading slash; `previous` is where it was, if it was renamed. `changed` are
    bytes of its contents in blocks that were written, `changed_metadata` those of what
    describes it: upper bounds, because blocks are noted by the cluster. Times are nanoseconds
    since 1970 by the guest's clock, None where the file system keeps none.
    """

    area: str
    path: bytes
    kind: Kind
    how: How
    certain: bool
    evidence: Evidence
    size: int
    changed: int
    changed_metadata: int
    mode: int
    uid: int
    gid: int
    mtime: int | None
    ctime: int | None
    birth: int | None
    previous: bytes | None = None


@dataclass(frozen=True)
class NotLookedInto:
    """An area, or a file in it, that could not be looked into; `changed` bytes of it, if known."""

    area: str
    path: bytes
    why: str
    changed: int | None


@dataclass(frozen=True)
class DiffOptions:
    """`since` and `until`: when checkpoint and export were made, seconds since 1970.

    `globs`: only these paths; `skew`: how far the guest's clock is ahead of ours, in seconds,
    None if it could not be asked: then it is taken to be off by a minute at most.
    """

    since: float | None
    until: float
    globs: tuple[str, ...] = ()
    skew: float | None = None
    confinement: Confinement = field(default_factory=Confinement)


class Findings:
    """What changed; a context manager, to be iterated once. The rest is known after that,
    `areas` from the start."""

    def __init__(self, disks: Sequence[ExportedDisk], options: DiffOptions) -> None:
        self._options = options
        self._bitmaps = any(disk.bitmap for disk in disks)
        self.areas: list[Found] = []
        self.oddities: list[str] = []
        self.not_looked_into: list[NotLookedInto] = []
        self._look = Look(_request(options), disks, options.confinement, dirty=True)
        try:
            self._answers = self._begin()
        except BaseException:
            self._look.__exit__()
            raise

    def __enter__(self) -> Findings:
        return self

    def __exit__(self, *_: object) -> None:
        self._look.__exit__()

    def __iter__(self) -> Iterator[FileChange]:
        for answer in self._answers:
            if isinstance(answer, Touched):
                change = _change(answer)
                if matches(change.path, self._options.globs):
                    yield change
            elif isinstance(answer, Trouble):
                self._note(answer)

    @property
    def spent(self) -> Spent | None:
        """What it took, once all has been said."""
        return self._look.spent

    @property
    def crash_consistent(self) -> dict[str, str]:
        """File systems whose journal was not replayed, and why that is known."""
        return {
            one.area.name: one.facts.dirty_journal
            for one in self.areas
            if one.facts and one.facts.dirty_journal
        }

    def _begin(self) -> Iterator[Answer | bytes]:
        """Read the layout, which comes first."""
        answers = self._look.answers()
        for answer in answers:
            if isinstance(answer, Found):
                self.areas.append(answer)
                self._note_area(answer)
            elif isinstance(answer, Oddity):
                self.oddities.append(answer.text)
            else:
                return chain((answer,), answers)
        return iter(())

    def _note_area(self, found: Found) -> None:
        """What holds no files that we can read matters if anything in it changed."""
        why = found.problem or found.area.content.reason
        if why and found.changed != 0:
            self.not_looked_into.append(NotLookedInto(found.area.name, b"", why, found.changed))

    def _note(self, trouble: Trouble) -> None:
        changed = next((one.changed for one in self.areas if one.area.name == trouble.area), None)
        whole = changed if not trouble.path else None
        self.not_looked_into.append(NotLookedInto(trouble.area, trouble.path, trouble.why, whole))


def options(
    domain: LibvirtDomain,
    directory: ExportDirectory,
    globs: Sequence[str],
    confinement: Confinement,
) -> DiffOptions:
    """For an export; raises InvalidInput if no checkpoint says what changed."""
    record = directory.record
    if record.base is None:
        raise InvalidInput(
            "nothing says which blocks changed: the export is a full one",
            domain=domain.name,
            hint=f"export from a checkpoint: vircpt -d {quoted(domain.name)} export --name NAME",
        )
    since: float | None = None
    try:
        checkpoint = checkpoints.read(domain, record.base, sizes=True)
        since = checkpoint.created
        history.note(domain, checkpoint)
    except NotFound:
        pass  # deleted meanwhile: there are no times to compare with
    return DiffOptions(
        since=since,
        until=min(time.time(), record.created + _START),
        globs=tuple(globs),
        skew=agent.clock_skew(domain, domain.facts()),
        confinement=confinement,
    )


def matches(path: bytes, globs: Sequence[str]) -> bool:
    """Whether a path is wanted: `*` matches slashes as well, and a directory all below it."""
    if not globs:
        return True
    text = "/" + path.decode("utf-8", "surrogateescape")
    return any(
        fnmatchcase(text, glob) or fnmatchcase(text, glob.rstrip("/") + "/*")
        for glob in (one if one.startswith(("/", "*")) else f"*/{one}" for one in globs)
    )


def _request(options: DiffOptions) -> FindChanges:
    window = None
    if options.since is not None:
        skew = options.skew or 0.0
        window = Window(
            since=int((options.since + skew) * _SECOND),
            until=int((options.until + skew) * _SECOND),
            margin=_SURE if options.skew is not None else _UNSURE,
        )
    return FindChanges(window, GRANULARITY)


def _change(touched: Touched) -> FileChange:
    change, entry = touched.change, touched.change.entry
    return FileChange(
        area=touched.area,
        path=entry.path,
        kind=entry.kind,
        how=change.how,
        certain=change.certain,
        evidence=change.evidence,
        size=entry.size,
        changed=change.data_bytes,
        changed_metadata=change.metadata_bytes,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime,
        ctime=entry.ctime,
        birth=entry.birth,
    )
