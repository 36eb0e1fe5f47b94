"""Which disks of a domain take part, and why the others don't."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vircpt.errors import InvalidInput, NotSupported
from vircpt.hypervisor.domain import Disk, DomainFacts


@dataclass(frozen=True)
class Skipped:
    """A disk that is left out, and why; `wished` if it was asked to be."""

    target: str
    why: str
    wished: bool = False


@dataclass(frozen=True)
class Selection:
    """The disks that take part, and those that don't; together all disks of the domain."""

    disks: tuple[Disk, ...]
    skipped: tuple[Skipped, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(disk.target for disk in self.disks)

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(one.target for one in self.skipped)


def select(
    facts: DomainFacts,
    only: Sequence[str],
    exclude: Sequence[str],
    obstacle: Callable[[Disk], str | None],
    purpose: str,
) -> Selection:
    """Choose disks: those named in `only` (all if empty), less `exclude`.

    `obstacle` says why a disk can't take part. Raises NotFound for a target that there
    isn't, NotSupported if a disk that was asked for can't take part or if none is left,
    InvalidInput if a disk is asked for and excluded at once.
    """
    for target in (*only, *exclude):
        facts.disk(target)
    both = sorted(set(only) & set(exclude))
    if both:
        raise InvalidInput(f"disk {both[0]} is asked for and excluded at once", domain=facts.name)
    chosen: list[Disk] = []
    skipped: list[Skipped] = []
    for disk in facts.disks:
        wish = _left_out(disk, only, exclude)
        why = wish or obstacle(disk)
        if why is None:
            chosen.append(disk)
        elif disk.target in only:
            raise NotSupported(
                f"disk {disk.target} can't be in {purpose}", why=why,
                domain=facts.name, disk=disk.target,
            )  # fmt: skip
        else:
            skipped.append(Skipped(disk.target, why, wished=wish is not None))
    if not chosen:
        reasons = "; ".join(f"{one.target} is left out ({one.why})" for one in skipped)
        raise NotSupported(
            f"no disk of domain {facts.name} is left for {purpose}",
            why=reasons or "it has no disks",
            domain=facts.name,
        )
    return Selection(tuple(chosen), tuple(skipped))


def _left_out(disk: Disk, only: Sequence[str], exclude: Sequence[str]) -> str | None:
    if disk.target in exclude:
        return "excluded"
    return "not asked for" if only and disk.target not in only else None
