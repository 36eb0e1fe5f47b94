"""`list` and `create` as whole processes, against virsh; and for how long `create` freezes a guest.

All on one idle Linux guest with an agent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.vms import Vm, define_guest

from .timing import VIRCPT, Row, Sample, in_turn, output_of, run

BY_HAND = str(Path(__file__).parent / "by_hand.py")
NAME = "bench"
FEW, MANY = 3, 30
RUNS = 20


@contextmanager
def idle_guest(connection: Any) -> Iterator[Vm]:
    """A guest with an ext4 that is mounted, and nothing to do."""
    vm = define_guest(connection, NAME)
    try:
        vm.start()
        vm.wait_agent()
        vm.guest("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
        yield vm
    finally:
        vm.remove()


def list_rows(connection: Any) -> Iterator[Row]:
    with idle_guest(connection) as vm:
        for count in (FEW, MANY):
            have_checkpoints(vm, count)
            ours, theirs = in_turn(
                RUNS,
                lambda: run(VIRCPT, "-d", NAME, "list"),
                lambda: run("virsh", "checkpoint-list", NAME),
            )
            met = ours.seconds <= 0.060 or ours.seconds <= 4 * theirs.seconds
            what, against = f"list, {count} checkpoints", "virsh checkpoint-list"
            if count == FEW:
                yield Row(what, ours, against, theirs, "≤ 60 ms or ≤ 4 x", met)
            else:
                yield Row(what, ours, against, theirs)


def create_rows(connection: Any) -> Iterator[Row]:
    """virsh does not freeze, so vircpt is measured both ways."""
    create = (VIRCPT, "-d", NAME, "create", "--name", "new")
    with idle_guest(connection) as vm:
        for count in (FEW, MANY):
            have_checkpoints(vm, count)
            ours, unfrozen, theirs = in_turn(
                RUNS,
                undone(vm, lambda: run(*create, "--require-freeze")),
                undone(vm, lambda: run(*create, "--no-freeze")),
                undone(vm, lambda: run("virsh", "checkpoint-create-as", NAME, "new")),
            )
            against = "virsh checkpoint-create-as"
            yield Row(f"create, beside {count} checkpoints", ours, against, theirs)
            yield Row(f"create --no-freeze, beside {count}", unfrozen, against, theirs)


def freeze_rows(connection: Any) -> Iterator[Row]:
    with idle_guest(connection) as vm:
        have_checkpoints(vm, FEW)
        ours, theirs = in_turn(RUNS, undone(vm, frozen_by_vircpt), undone(vm, frozen_by_hand))
        met = ours.seconds <= 1.2 * theirs.seconds
        yield Row("create: time frozen", ours, "the same calls by hand", theirs, "≤ 1.2 x", met)


def have_checkpoints(vm: Vm, count: int) -> None:
    """Make what is missing: c1, c2, …"""
    for number in range(len(vm.domain.listAllCheckpoints()) + 1, count + 1):
        xml = f"<domaincheckpoint><name>c{number}</name></domaincheckpoint>"
        vm.domain.checkpointCreateXML(xml)


def undone(vm: Vm, act: Callable[[], Sample]) -> Callable[[], Sample]:
    """The act, and then the deletion of the checkpoint `new` that it makes."""

    def both() -> Sample:
        sample = act()
        vm.domain.checkpointLookupByName("new").delete()
        return sample

    return both


def frozen_by_vircpt() -> Sample:
    """As `create` reports it."""
    made = output_of(VIRCPT, "-d", NAME, "--json", "create", "--require-freeze", "--name", "new")
    return Sample(json.loads(made)["checkpoint"]["freeze"]["seconds"])


def frozen_by_hand() -> Sample:
    """With the definition that vircpt would give to libvirt."""
    definition = output_of(VIRCPT, "-d", NAME, "create", "--dry-run", "--name", "new")
    return Sample(float(output_of(sys.executable, BY_HAND, NAME, input=definition)))
