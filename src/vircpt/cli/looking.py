"""What commands share that look into a guest's file systems: options, the export, names."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vircpt.cli import output
from vircpt.cli.session import Session
from vircpt.interrupts import resume, telling

if TYPE_CHECKING:
    from vircpt.api import Confinement, Export

T = TypeVar("T")


def confinement_options(function: Callable[..., T]) -> Callable[..., T]:
    """--no-sandbox and --time-limit."""
    function = click.option(
        "--time-limit",
        type=click.FloatRange(min=1, max=86400),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="Give up after this time: a damaged file system may never end.",
    )(function)
    return click.option(
        "--no-sandbox",
        is_flag=True,
        help="Look at the guest's disks without protection from what is in them.",
    )(function)


def confinement(no_sandbox: bool, time_limit: float) -> Confinement:
    from vircpt.api import Confinement

    return Confinement(sandbox=not no_sandbox, seconds=time_limit)


@contextmanager
def own_export(session: Session, since: str | None, disks: Sequence[str] = ()) -> Iterator[Export]:
    """An export for this command alone, released at its end."""
    domain = session.domain()
    with telling(), domain.export(since, disks=disks) as export:
        resume()  # from here on it is released, whatever comes
        if not session.json:
            _tell(session, export)
        yield export


def _tell(session: Session, export: Export) -> None:
    assert export.start
    output.tell_freeze(session, export.start.freeze)
    for one in export.start.plan.disks:
        if one.why_full:
            output.warning(session, f"disk {one.target} counts as changed: {one.why_full}")


@contextmanager
def running_or_own(session: Session) -> Iterator[Export]:
    """The running export; if there is none, one for this command alone."""
    from vircpt.errors import NotFound

    domain = session.domain()
    try:
        found = domain.running_export()
    except NotFound:
        found = None
    if found is not None:
        yield found
        return
    with own_export(session, None) as export:
        yield export


def path_text(path: bytes) -> str:
    """A guest's path for people: from the root, harmless for terminals."""
    return output.safe("/" + path.decode("utf-8", "surrogateescape"))


def path_json(path: bytes) -> dict[str, Any]:
    """A guest's path for programs: bytes that are no UTF-8 as lone surrogates U+DC80 to U+DCFF,
    and then the exact bytes as well."""
    text = "/" + path.decode("utf-8", "surrogateescape")
    try:
        text.encode()
        exact = None
    except UnicodeEncodeError:
        exact = base64.b64encode(os.fsencode("/") + path).decode()
    return {"path": text, "path_base64": exact}


def nanoseconds(value: int | None) -> str | None:
    """A time of a file for JSON: RFC 3339 with nanoseconds, UTC; None if it is none."""
    import time

    if value is None:
        return None
    seconds, rest = divmod(value, 1_000_000_000)
    try:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return None
    return f"{stamp}.{rest:09d}Z"


def local(value: int | None) -> str:
    """A time of a file for people."""
    try:
        return output.moment(None if value is None else value / 1e9)
    except (OverflowError, ValueError, OSError):
        return "-"
