"""Changed bytes of a domain's checkpoints over time: noted at each create and diff."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.records.history import Noted

if TYPE_CHECKING:
    from vircpt.hypervisor.checkpoints import Checkpoint


def note(domain: LibvirtDomain, checkpoint: Checkpoint, until: float | None = None) -> None:
    """Note what was written since a checkpoint, whose sizes have been asked for."""
    from vircpt.records import history

    changed = {one.target: one.size for one in checkpoint.disks if one.size is not None}
    if changed:
        now = time.time() if until is None else float(until)
        history.note(domain.uuid, checkpoint.name, float(checkpoint.created), now, changed)


def read(domain: LibvirtDomain) -> list[Noted]:
    """What was noted, oldest first; raises VircptError if the file is damaged."""
    from vircpt.records import history

    return history.read(domain.uuid)
