"""vircpt backup"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import output
from vircpt.cli.base import Command, disk_options, freeze_options, freeze_policy
from vircpt.cli.progress import bars
from vircpt.cli.repository import repository_of
from vircpt.cli.session import Session
from vircpt.errors import PartlyDone, VircptError

if TYPE_CHECKING:
    from vircpt.api import Backup, Domain, Level


@click.command("backup", cls=Command)
@click.option(
    "--to",
    "--repository",
    "repository",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="The repository [default: the one of the configuration].",
)
@click.option(
    "--level",
    type=click.Choice(["auto", "full", "incremental", "differential", "copy"]),
    default="auto",
    show_default=True,
    help="auto: incremental if that is possible, else full. copy: full, and no checkpoint.",
)
@disk_options("backing up")
@click.option(
    "--compress",
    type=click.Choice(["none", "zstd"]),
    default="none",
    show_default=True,
    help="Compress the data.",
)
@click.option("--rate", metavar="RATE", help="Read at most that much a second: 200M.")
@click.option("--all", "every", is_flag=True, help="All domains of the host, one after the other.")
@freeze_options
@click.option(
    "--scratch-dir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Where blocks go that the guest overwrites meanwhile [default: /var/lib/vircpt].",
)
@click.pass_obj
def command(
    session: Session,
    repository: str | None,
    level: str,
    disks: tuple[str, ...],
    exclude: tuple[str, ...],
    compress: str,
    rate: str | None,
    every: bool,
    no_freeze: bool,
    require_freeze: bool,
    freeze_limit: float,
    scratch_dir: str | None,
) -> int:
    """Back a domain up into a repository: plain qcow2 files that rest on each other.

    The data and a new checkpoint are of one instant; the next backup reads only what was
    written since. A domain that is shut off is backed up from its images.
    """
    from pathlib import Path

    from vircpt.api import Level
    from vircpt.units import parse_rate

    what: dict[str, Any] = {
        "repository": repository_of(session, repository),
        "level": None if level == "auto" else Level(level),
        "disks": disks,
        "exclude": exclude,
        "zstd": compress == "zstd",
        "rate": parse_rate(rate) if rate else None,
        "freeze": freeze_policy(no_freeze, require_freeze),
        "freeze_limit": freeze_limit,
        "scratch_dir": str(Path(scratch_dir).absolute()) if scratch_dir else None,
    }
    if every and session.given_domain:
        raise click.UsageError("--all and -d exclude each other")
    if not every:
        return _one(session, session.domain(), what)
    return _all(session, session.host.domains(), what)


def _all(session: Session, domains: list[Domain], what: dict[str, Any]) -> int:
    """One that fails is no reason to leave the others without a backup."""
    failed = []
    for domain in domains:
        try:
            _one(session, domain, what)
        except VircptError as error:
            failed.append(domain.name)
            lines = error.describe().splitlines()
            text = "\n".join(output.safe(line) for line in lines)
            output.warning(session, f"domain {output.safe(domain.name)} has no backup: {text}")
    if failed:
        raise PartlyDone(
            f"{len(failed)} of {len(domains)} domains could not be backed up",
            why=", ".join(failed),
        )
    return 0


def _one(session: Session, domain: Domain, what: dict[str, Any]) -> int:
    level: Level | None = what["level"]
    title = f"backing up {domain.name}" + (f" ({level.value})" if level else "")
    with bars(session, title, {"domain": domain.name}) as watch:
        made = domain.backup(**what, watch=watch)
    if session.json:
        output.line("backup/1", **_describe(made))
    else:
        _tell(session, made)
    return PartlyDone.exit_code if made.kept or made.left_out else 0


def _describe(made: Backup) -> dict[str, Any]:
    content: dict[str, Any] = output.plain(made)
    found = content.pop("manifest")
    found["created"] = output.iso(made.manifest.created)
    return {**found, **content, "freeze": made.freeze, "rate": _rate(made)}


def _rate(made: Backup) -> int:
    return round(made.read / made.seconds) if made.seconds else 0


def _tell(session: Session, made: Backup) -> None:
    from vircpt.units import format_duration, format_size

    found = made.manifest
    output.tell_skipped(session, made.skipped)
    if found.freeze is None:
        output.message(session, "the domain is shut off: its images were read, and no checkpoint "
                       "was made")  # fmt: skip
    else:
        output.tell_freeze(session, made.freeze)
    if made.why_full:
        output.message(session, f"full: {output.safe(made.why_full)}")
    for disk in found.disks:
        if disk.why_full:
            output.message(session, f"disk {disk.target} in full: {output.safe(disk.why_full)}")
    for one in made.left_out:
        output.warning(session, f"{one.target} is not in the backup: {output.safe(one.why)}")
    for one in made.kept:
        output.warning(session, f"checkpoint {one.target} kept: {output.safe(one.why)}")
    rows = [
        [one.target, output.size(one.size), output.size(one.data), output.size(one.zero),
         output.size(one.stored), one.parent or "-"]
        for one in found.disks
    ]  # fmt: skip
    header = ["DISK", "SIZE", "DATA", "ZEROED", "STORED", "RESTS ON"]
    output.result(output.table(header, rows, [1, 2, 3, 4]))
    saved = sum(one.size for one in found.disks) - found.stored
    output.result(
        f"read {format_size(made.read)}, written {format_size(found.stored)}, "
        f"saved {format_size(max(0, saved))}; {format_duration(made.seconds)}, "
        f"{format_size(_rate(made))}/s"
    )
    name = output.safe(found.domain)
    output.done(session, f"backup {found.id} of domain {name} made: {found.level.value}")
