"""vircpt delete: on real VMs."""

from __future__ import annotations

import json

import pytest

from lab.fixtures import BlankFactory, Cli
from lab.state import begin_foreign_job, checkpoints, end_job
from lab.vms import MIB, Vm


@pytest.fixture
def family(blank: BlankFactory, cli: Cli) -> Vm:
    """A VM with the checkpoints a, b, c in a row, 64 KiB written after each."""
    vm = blank("family")
    for number, name in enumerate(("a", "b", "c")):
        assert cli("-d", "family", "create", "--name", name).returncode == 0
        vm.write("vda", number * MIB, 65536)
    return vm


def sizes(cli: Cli) -> dict[str, int]:
    found = json.loads(cli("-d", "family", "list", "--json").stdout)["checkpoints"]
    return {one["name"]: one["changed"] for one in found}


def test_a_middle_one_goes_and_the_others_keep_what_they_know(family: Vm, cli: Cli) -> None:
    before = sizes(cli)
    done = cli("-d", "family", "delete", "--name", "b")
    assert (done.returncode, done.stdout) == (0, "checkpoint b of domain family deleted\n")
    assert sizes(cli) == {"a": before["a"], "c": before["c"]}
    assert "parent:       a\n" in cli("-d", "family", "info", "c").stdout


def test_with_children(family: Vm, cli: Cli) -> None:
    assert cli("-d", "family", "delete", "--name", "b", "--children").returncode == 0
    assert checkpoints(family) == ["a"]


def test_children_only(family: Vm, cli: Cli) -> None:
    assert cli("-d", "family", "delete", "--name", "a", "--children-only").returncode == 0
    assert checkpoints(family) == ["a"]


def test_children_only_of_a_leaf_is_nothing_to_do(family: Vm, cli: Cli) -> None:
    done = cli("-d", "family", "delete", "--name", "c", "--children-only")
    assert (done.returncode, done.stderr) == (0, "nothing to delete\n")
    assert checkpoints(family) == ["a", "b", "c"]


def test_a_dry_run_names_what_would_go(family: Vm, cli: Cli) -> None:
    done = cli("-d", "family", "delete", "--name", "a", "--children", "--dry-run")
    assert done.stdout.count("would be deleted") == 3
    assert checkpoints(family) == ["a", "b", "c"]


def test_metadata_only_leaves_the_bitmap_and_works_on_a_shut_off_domain(
    family: Vm, cli: Cli
) -> None:
    family.destroy()
    done = cli("-d", "family", "delete", "--name", "c", "--metadata")
    assert "(metadata only)" in done.stdout
    assert checkpoints(family) == ["a", "b"]
    family.start()
    again = cli("-d", "family", "create", "--name", "c")
    assert again.returncode == 13
    assert "holds a bitmap of that name" in again.stderr
    assert "hint: " in again.stderr


def test_a_shut_off_domain_is_refused_with_a_way_out(family: Vm, cli: Cli) -> None:
    family.destroy()
    done = cli("-d", "family", "delete", "--name", "c")
    assert done.returncode == 12
    assert "virsh start family" in done.stderr
    assert checkpoints(family) == ["a", "b", "c"]


@pytest.mark.parametrize("also", [(), ("--children",), ("--metadata",)])
def test_the_base_of_a_running_export_stays(family: Vm, cli: Cli, also: tuple[str, ...]) -> None:
    assert cli("-d", "family", "export", "--name", "b").returncode == 0
    name = "a" if also == ("--children",) else "b"
    done = cli("-d", "family", "delete", "--name", name, *also)
    assert done.returncode == 11
    assert "is the base of a running export" in done.stderr
    assert checkpoints(family) == ["a", "b", "c"]
    assert cli("-d", "family", "delete", "--name", "c").returncode == 0, "another one may go"
    assert cli("-d", "family", "release").returncode == 0


def test_the_base_of_an_export_that_vircpt_did_not_start_stays_too(family: Vm, cli: Cli) -> None:
    begin_foreign_job(family, "b")
    assert cli("-d", "family", "delete", "--name", "b").returncode == 11
    end_job(family)
