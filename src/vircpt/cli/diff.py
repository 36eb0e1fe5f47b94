"""vircpt diff"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command
from vircpt.cli.layout import as_json as area_json
from vircpt.cli.looking import (
    confinement,
    confinement_options,
    local,
    nanoseconds,
    own_export,
    path_json,
    path_text,
)
from vircpt.cli.session import Session
from vircpt.errors import PartlyDone

if TYPE_CHECKING:
    from vircpt.api import Confinement, Export, FileChange, Findings, NotLookedInto


@click.command("diff", cls=Command)
@click.option("--since", metavar="NAME", help="The checkpoint from which on to look.")
@click.option("--export", "use_running", is_flag=True, help="Look at the running export.")
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="TARGET",
    shell_complete=complete.disks,
    help="Only this disk; may be repeated.",
)
@click.option(
    "--path",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Only paths like this, such as '/etc' or '*.conf'; may be repeated.",
)
@click.option("--tree", is_flag=True, help="Show the files as a tree.")
@click.option("--by-dir", is_flag=True, help="Only sums of each directory, most changed first.")
@confinement_options
@click.pass_obj
def command(
    session: Session,
    since: str | None,
    use_running: bool,
    disks: tuple[str, ...],
    globs: tuple[str, ...],
    tree: bool,
    by_dir: bool,
    no_sandbox: bool,
    time_limit: float,
) -> int:
    """Show which files changed since a checkpoint: those of which blocks were written.

    Nothing that was touched is missing from the list. A change is certain if blocks that hold
    nothing else were written, or if the times of the file say so; else it is possible: blocks are
    noted by 64 KiB, which files share.

    It makes an export of its own for the time, unless --export is given.
    """
    if since is None and not use_running:
        raise click.UsageError("since when? Name a checkpoint with --since, or use --export")
    if since is not None and use_running:
        raise click.UsageError("--since and --export exclude each other: the export has its own")
    if tree and by_dir:
        raise click.UsageError("--tree and --by-dir exclude each other")
    limits = confinement(no_sandbox, time_limit)
    with _findings(session, since, use_running, disks, globs, limits) as (export, found):
        if session.json:
            _print_json(export, found)
        else:
            _printer(tree, by_dir)(found)
        if not session.json:
            _tell(session, found)
        return PartlyDone.exit_code if found.not_looked_into else 0


@contextmanager
def _findings(
    session: Session,
    since: str | None,
    use_running: bool,
    disks: tuple[str, ...],
    globs: tuple[str, ...],
    limits: Confinement,
) -> Iterator[tuple[Export, Findings]]:
    if use_running:
        export = session.domain().running_export()
        with export.changed_files(globs=globs, disks=disks, confinement=limits) as found:
            yield export, found
        return
    with (
        own_export(session, since, disks) as export,
        export.changed_files(globs=globs, confinement=limits) as found,
    ):
        yield export, found


def _printer(tree: bool, by_dir: bool) -> Callable[[Findings], None]:
    from vircpt.cli import diffsums

    if tree:
        return diffsums.print_tree
    return diffsums.print_by_directory if by_dir else _print_lines


def _print_lines(found: Findings) -> None:
    """As they come: the list may be long."""
    several = sum(1 for one in found.areas if one.facts) > 1
    write = sys.stdout.write
    head = f"{'CHANGE':9} {'':8} {'SIZE':>10} {'CHANGED':>10}  {'OWNER':11} {'MODIFIED':19}  PATH\n"
    write(head)
    for one in found:
        area = f"{output.safe(one.area)}:" if several else ""
        sure = "certain" if one.certain else "possible"
        write(
            f"{one.how.value:9} {sure:8} {output.size(one.size):>10} "
            f"{output.size(one.changed):>10}  {f'{one.uid}:{one.gid}':11} "
            f"{local(one.mtime):19}  {area}{path_text(one.path)}{_was(one)}\n"
        )


def _was(one: FileChange) -> str:
    return f" (was {path_text(one.previous)})" if one.previous is not None else ""


def _tell(session: Session, found: Findings) -> None:
    """What could not be seen, and how far what was seen is to be trusted."""
    for name, why in found.crash_consistent.items():
        output.warning(
            session,
            f"{output.safe(name)} is as after a crash ({output.safe(why)}): the last changes may "
            "stand in its journal only, and be missing or attributed wrongly here",
        )
    for oddity in found.oddities:
        output.warning(session, output.safe(oddity))
    for one in found.not_looked_into:
        output.warning(session, f"not looked into: {_not_seen(one)}")


def _not_seen(one: NotLookedInto) -> str:
    where = output.safe(one.area) + (f":{path_text(one.path)}" if one.path else "")
    changed = f", {output.size(one.changed)} changed in it" if one.changed is not None else ""
    return f"{where} ({output.safe(one.why)}){changed}"


def _print_json(export: Export, found: Findings) -> None:
    """Written piece by piece."""
    write = sys.stdout.write
    head = {"schema": "vircpt/diff/1", "domain": export.domain, "since": export.since}
    write(json.dumps(output.plain(head))[:-1])
    write(', "areas": ' + json.dumps(output.plain([area_json(one) for one in found.areas])))
    write(', "changes": [')
    between = "\n"
    for one in found:
        write(between + json.dumps(_change_json(one)))
        between = ",\n"
    rest = {
        "crash_consistent": found.crash_consistent,
        "oddities": found.oddities,
        "not_looked_into": [
            {"area": one.area, **path_json(one.path), "why": one.why, "changed": one.changed}
            for one in found.not_looked_into
        ],
        "spent": found.spent,
    }
    write("\n], " + json.dumps(output.plain(rest))[1:] + "\n")


def _change_json(one: FileChange) -> dict[str, Any]:
    previous = path_json(one.previous) if one.previous is not None else None
    return {
        "area": one.area,
        **path_json(one.path),
        "kind": one.kind.value,
        "change": one.how.value,
        "certain": one.certain,
        "evidence": one.evidence.value,
        "size": one.size,
        "changed": one.changed,
        "changed_metadata": one.changed_metadata,
        "mode": one.mode,
        "uid": one.uid,
        "gid": one.gid,
        "modified": nanoseconds(one.mtime),
        "status_changed": nanoseconds(one.ctime),
        "born": nanoseconds(one.birth),
        "previous": previous,
    }
