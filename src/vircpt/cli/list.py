"""vircpt list"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import complete, output
from vircpt.cli.base import Command
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import CheckpointStatus, Domain


@click.command("list", cls=Command)
@click.option("--tree", is_flag=True, help="Show which checkpoint came after which.")
@click.option("--roots", "choice", flag_value="roots", help="Only those without a parent.")
@click.option("--leaves", "choice", flag_value="leaves", help="Only those without children.")
@click.option(
    "--descendants-of",
    metavar="NAME",
    shell_complete=complete.checkpoints,
    help="Only those made after this one.",
)
@click.pass_obj
def command(session: Session, tree: bool, choice: str | None, descendants_of: str | None) -> None:
    """List checkpoints: when made, on which disks, how much was written since, and health.

    Sizes are cumulative: all that was written from the checkpoint until now. Without -d the
    checkpoints of all domains are listed. Health is ok, or what is wrong with a bitmap:
    inconsistent (QEMU crashed), missing, no-disk, unknown (it can't be looked at from here).
    """
    if choice and descendants_of:
        raise click.UsageError(f"--{choice} and --descendants-of exclude each other")
    if descendants_of and not session.given_domain:
        raise click.UsageError("--descendants-of needs a domain: use -d DOMAIN")
    domains = [session.domain()] if session.given_domain else session.host.domains()
    found: list[tuple[str, list[CheckpointStatus]]] = [
        (domain.name, _chosen(domain, choice, descendants_of)) for domain in domains
    ]
    if session.json:
        output.document(
            "list/1",
            checkpoints=[describe(one) for _, statuses in found for one in statuses],
        )
    elif tree:
        _print_trees(found)
    else:
        _print_table(found, with_domain=not session.given_domain)
    if not any(statuses for _, statuses in found):
        output.message(session, "no checkpoints")


def describe(one: CheckpointStatus) -> dict[str, Any]:
    """A checkpoint for JSON."""
    return {
        "domain": one.domain,
        "name": one.name,
        "description": one.description,
        "parent": one.parent,
        "children": list(one.children),
        "created": output.iso(one.created),
        "made_by_vircpt": one.ours,
        "changed": one.changed,
        "health": one.health.value,
        "disks": output.plain(one.disks),
    }


def _chosen(
    domain: Domain, choice: str | None, descendants_of: str | None
) -> list[CheckpointStatus]:
    from vircpt.api import descendants, leaves, roots

    statuses = domain.checkpoints()
    if choice:
        return (roots if choice == "roots" else leaves)(statuses)
    if descendants_of is not None:
        domain.checkpoint(descendants_of)  # an unknown name is an error, not an empty list
        return descendants(statuses, descendants_of)
    return statuses


def _row(one: CheckpointStatus) -> list[str]:
    return [
        one.name,
        output.moment(one.created),
        one.parent or "-",
        " ".join(disk.target for disk in one.disks) or "-",
        output.size(one.changed),
        health_text(one),
    ]


def health_text(one: CheckpointStatus) -> str:
    """ok, or what is wrong on which disk."""
    if one.health.value == "ok":
        return "ok"
    bad = [disk for disk in one.disks if disk.health.value != "ok"]
    return ", ".join(f"{disk.target}: {disk.health.value}" for disk in bad)


def _print_table(found: list[tuple[str, list[CheckpointStatus]]], *, with_domain: bool) -> None:
    header = ["NAME", "CREATED", "PARENT", "DISKS", "CHANGED", "HEALTH"]
    rows = [[name, *_row(one)] for name, statuses in found for one in statuses]
    if not rows:
        return
    if with_domain:
        output.result(output.table(["DOMAIN", *header], rows, right=[5]))
    else:
        output.result(output.table(header, (row[1:] for row in rows), right=[4]))


def _print_trees(found: list[tuple[str, list[CheckpointStatus]]]) -> None:
    for name, statuses in found:
        if not statuses:
            continue
        shown = {one.name for one in statuses}
        children: dict[str | None, list[str]] = {}
        for one in statuses:
            parent = one.parent if one.parent in shown else None
            children.setdefault(parent, []).append(one.name)
        labels = {
            one.name: f"{output.safe(one.name)}  {output.moment(one.created)}  "
            f"{output.size(one.changed)}  {health_text(one)}"
            for one in statuses
        }
        output.result(output.safe(name))
        for line in output.tree(children, labels):
            output.result(f"  {line}")
