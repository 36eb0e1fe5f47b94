"""Showing checkpoints: the table, the trees, the JSON of `vircpt list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vircpt.cli import output
from vircpt.cli.session import Session

if TYPE_CHECKING:
    from vircpt.api import CheckpointStatus, Domain


def show(
    session: Session,
    *,
    tree: bool = False,
    choice: str | None = None,
    descendants_of: str | None = None,
) -> None:
    """List the checkpoints of the named domain, or of all."""
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
