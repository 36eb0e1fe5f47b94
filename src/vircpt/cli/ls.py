"""vircpt ls"""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import output
from vircpt.cli.base import Command
from vircpt.cli.looking import (
    confinement,
    confinement_options,
    local,
    nanoseconds,
    path_json,
    path_text,
    running_or_own,
)
from vircpt.cli.session import Session
from vircpt.errors import PartlyDone

if TYPE_CHECKING:
    from vircpt.api import FileFacts


@click.command("ls", cls=Command)
@click.argument("path", metavar="[PATH]", default="/")
@click.option("-R", "--recursive", is_flag=True, help="All below the directory.")
@click.option("--directory", is_flag=True, help="The directory itself, not what is in it.")
@confinement_options
@click.pass_obj
def command(
    session: Session,
    path: str,
    recursive: bool,
    directory: bool,
    no_sandbox: bool,
    time_limit: float,
) -> int:
    """List files of the guest, from the running export or, if there is none, from one made for the
    time. PATH may start with the name of a file system and a colon, as layout shows it:
    vda1:/etc, vg0/root:/etc.
    """
    from vircpt.api import Left

    left: list[Left] = []
    files: list[Any] = []
    with running_or_own(session) as export:
        for one in export.list_files(
            path,
            recursive=recursive,
            itself=directory,
            confinement=confinement(no_sandbox, time_limit),
        ):
            if isinstance(one, Left):
                left.append(one)
            elif session.json:
                files.append(_json(one))
            else:
                sys.stdout.write(_line(one))
    if session.json:
        missed = [{"area": one.area, **path_json(one.path), "why": one.why} for one in left]
        output.document("ls/1", files=files, not_looked_into=missed)
    else:
        for one in left:
            output.warning(session, f"{path_text(one.path)}: {output.safe(one.why)}")
    return PartlyDone.exit_code if left else 0


def _line(one: FileFacts) -> str:
    entry = one.entry
    arrow = f" -> {path_text(entry.target)[1:]}" if entry.target is not None else ""
    return (
        f"{stat.filemode(entry.mode)} {entry.nlink:4} {entry.uid:6} {entry.gid:6} "
        f"{entry.size:12}  {local(entry.mtime):19}  {path_text(entry.path)}{arrow}\n"
    )


def _json(one: FileFacts) -> dict[str, Any]:
    entry = one.entry
    target = None if entry.target is None else entry.target.decode("utf-8", "surrogateescape")
    return {
        "area": one.area,
        **path_json(entry.path),
        "kind": entry.kind.value,
        "inode": entry.inode,
        "size": entry.size,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "links": entry.nlink,
        "target": target,
        "modified": nanoseconds(entry.mtime),
        "status_changed": nanoseconds(entry.ctime),
        "accessed": nanoseconds(entry.atime),
        "born": nanoseconds(entry.birth),
    }
