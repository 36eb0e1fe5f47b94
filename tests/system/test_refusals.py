"""What every command refuses: with which exit code and words, how fast, and with nothing left."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from lab.fixtures import BlankFactory, Cli
from lab.state import begin_foreign_job, checkpoints, end_job, has_job, leftovers
from lab.vms import Disk, Vm

# Every command that names a checkpoint, and every one that names a domain.
ON_A_CHECKPOINT = {
    "info": ("info", "{}"),
    "dumpxml": ("dumpxml", "{}"),
    "delete": ("delete", "--name", "{}"),
    "delete --metadata": ("delete", "--metadata", "--name", "{}"),
    "export": ("export", "--name", "{}"),
    "list --descendants-of": ("list", "--descendants-of", "{}"),
}
MAKING_A_CHECKPOINT = {
    "create": ("create", "--name", "{}"),
    "create --dry-run": ("create", "--dry-run", "--name", "{}"),
    "export --create": ("export", "--create", "{}"),
}
ON_A_DOMAIN = {
    "create": ("create",),
    "list": ("list",),
    "info": ("info", "foo"),
    "dumpxml": ("dumpxml", "foo"),
    "redefine": ("redefine", "-"),
    "delete": ("delete", "--name", "foo"),
    "export": ("export",),
    "release": ("release",),
    "nbdinfo": ("nbdinfo",),
    "map": ("map",),
    "copy": ("copy", "/nowhere"),
    "overlay": ("overlay", "/nowhere"),
}
ON_AN_EXPORT = {
    name: ON_A_DOMAIN[name] for name in ("release", "nbdinfo", "map", "copy", "overlay")
}
BAD_NAMES = ("../x", "a/b", ".x", "a b", "", "/etc/passwd", "..")
BAD_NEW_NAMES = (*BAD_NAMES, "-x", "a\nb", "n" * 241, "ü", "a;b")


def filled(command: tuple[str, ...], name: str) -> list[str]:
    return [part.format(name) for part in command]


@pytest.fixture
def vm(blank: BlankFactory) -> Vm:
    return blank("vm1", (Disk("vda"), Disk("vdb", kind="raw"), Disk("hda", kind="cdrom")))


@pytest.fixture(autouse=True)
def nothing_is_left(vm: Vm) -> object:
    yield
    if vm.domain.isActive():
        assert not has_job(vm)
    assert leftovers() == []


def told(done: object, code: int) -> str:
    """Check an error's form; return it."""
    assert done.returncode == code, f"{done.args}\n{done.stdout}\n{done.stderr}"  # type: ignore[attr-defined]
    text = str(done.stderr)  # type: ignore[attr-defined]
    assert "error: " in text
    assert "Traceback" not in text
    assert done.stdout == ""  # type: ignore[attr-defined]
    return text


@pytest.mark.parametrize("command", ON_A_DOMAIN)
def test_an_unknown_domain(vm: Vm, cli: Cli, command: str) -> None:
    text = told(cli("-d", "nosuch", *ON_A_DOMAIN[command], input="<x/>"), 10)
    assert "no domain 'nosuch'" in text
    assert "hint: " in text


@pytest.mark.parametrize("command", [name for name in ON_A_DOMAIN if name != "list"])
def test_no_domain_at_all(vm: Vm, cli: Cli, command: str) -> None:
    assert "-d DOMAIN" in told(cli(*ON_A_DOMAIN[command], input="<x/>"), 2)


@pytest.mark.parametrize("command", ON_A_CHECKPOINT)
def test_an_unknown_checkpoint(vm: Vm, cli: Cli, command: str) -> None:
    assert cli("-d", "vm1", "create", "--name", "there").returncode == 0
    text = told(cli("-d", "vm1", *filled(ON_A_CHECKPOINT[command], "nosuch")), 10)
    assert "no checkpoint 'nosuch' in domain vm1" in text
    assert "hint: its checkpoints are: there" in text


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("command", ON_A_CHECKPOINT)
def test_what_could_be_a_path_is_never_looked_up(vm: Vm, cli: Cli, command: str, name: str) -> None:
    told(cli("-d", "vm1", *filled(ON_A_CHECKPOINT[command], name)), 2)


@pytest.mark.parametrize("name", BAD_NEW_NAMES)
@pytest.mark.parametrize("command", MAKING_A_CHECKPOINT)
def test_invalid_names(vm: Vm, cli: Cli, command: str, name: str) -> None:
    told(cli("-d", "vm1", *filled(MAKING_A_CHECKPOINT[command], name)), 2)
    assert checkpoints(vm) == []


@pytest.mark.parametrize("command", ["create", "export"])
@pytest.mark.parametrize("option", ["--disk", "--exclude"])
def test_an_unknown_disk(vm: Vm, cli: Cli, command: str, option: str) -> None:
    text = told(cli("-d", "vm1", command, option, "vdz"), 10)
    assert "no disk 'vdz' in domain vm1" in text
    assert "vda, vdb, hda" in text


def test_a_disk_that_was_asked_for_and_cannot_take_part(vm: Vm, cli: Cli) -> None:
    assert "only qcow2" in told(cli("-d", "vm1", "create", "--disk", "vdb"), 12)
    assert "a cdrom" in told(cli("-d", "vm1", "export", "--disk", "hda"), 12)
    assert checkpoints(vm) == []


def test_all_disks_excluded(vm: Vm, cli: Cli) -> None:
    assert "no disk of domain vm1 is left" in told(
        cli("-d", "vm1", "create", "--exclude", "vda"), 12
    )
    told(cli("-d", "vm1", "export", "--exclude", "vda", "--exclude", "vdb"), 12)
    assert checkpoints(vm) == []


@pytest.mark.parametrize("command", ON_AN_EXPORT)
def test_no_export(vm: Vm, cli: Cli, command: str) -> None:
    text = told(cli("-d", "vm1", *ON_AN_EXPORT[command]), 10)
    assert "export" in text


def test_a_name_that_is_taken(vm: Vm, cli: Cli) -> None:
    assert cli("-d", "vm1", "create", "--name", "foo").returncode == 0
    assert "exists already" in told(cli("-d", "vm1", "create", "--name", "foo"), 1)
    assert "exists already" in told(cli("-d", "vm1", "export", "--create", "foo"), 1)
    assert checkpoints(vm) == ["foo"]


def test_a_job_of_another_program_is_told_at_once(vm: Vm, cli: Cli) -> None:
    begin_foreign_job(vm)
    start = time.monotonic()
    text = told(cli("-d", "vm1", "export"), 11)
    assert time.monotonic() - start < 2
    assert "a backup job that vircpt did not start" in text
    end_job(vm)


def test_an_export_of_ours_is_told_at_once_and_by_whom(vm: Vm, cli: Cli) -> None:
    assert cli("-d", "vm1", "export").returncode == 0
    start = time.monotonic()
    text = told(cli("-d", "vm1", "export", "--create", "new"), 11)
    assert time.monotonic() - start < 2
    assert "started by root" in text
    assert "vircpt -d vm1 release" in text
    assert checkpoints(vm) == []
    assert cli("-d", "vm1", "release").returncode == 0


@pytest.mark.parametrize(
    "command", [("create",), ("create", "--dry-run"), ("export", "--create", "x")]
)
def test_a_domain_that_is_not_running(vm: Vm, cli: Cli, command: tuple[str, ...]) -> None:
    vm.destroy()
    text = told(cli("-d", "vm1", *command), 12)
    assert "not running (shut off)" in text
    assert "virsh start vm1" in text


def test_qcow2_version_2(blank: BlankFactory, cli: Cli) -> None:
    old = blank("old", (Disk("vda", kind="qcow2-v2"),))
    text = told(cli("-d", "old", "create", "--name", "foo"), 12)
    assert "qcow2 version 2" in text
    assert "qemu-img amend -o compat=1.1" in text
    assert checkpoints(old) == []
    told(cli("-d", "old", "export", "--create", "foo"), 12)
    assert checkpoints(old) == []
    assert not has_job(old)


def test_a_broken_bitmap(vm: Vm, cli: Cli) -> None:
    assert cli("-d", "vm1", "create", "--name", "foo").returncode == 0
    vm.destroy()
    vm.start()
    vm.kill()
    text = told(cli("-d", "vm1", "export", "--name", "foo"), 13)
    assert "missing or broken" in text
    vm.start()
    text = told(cli("-d", "vm1", "export", "--name", "foo"), 13)
    assert "bitmap of checkpoint foo on disk vda is missing or broken" in text
    told(cli("-d", "vm1", "export", "--name", "foo", "--create", "bar"), 13)
    assert checkpoints(vm) == ["foo"]
    assert cli("-d", "vm1", "export").returncode == 0, "in full it works"
    assert cli("-d", "vm1", "release").returncode == 0


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+unix:///system?socket=/nowhere/libvirt-sock",
        "qemu+tcp://127.0.0.1:1/system",
        "qemu+tcp://no-such-host.invalid/system",
    ],
)
def test_a_host_that_is_down(vm: Vm, cli: Cli, uri: str) -> None:
    text = told(cli("-c", uri, "list"), 14)
    assert f"cannot connect to {uri}" in text
    assert "hint: " in text


@pytest.mark.parametrize("uri", ["nonsense", "http://x/", "qemu:///nowhere"])
def test_a_uri_that_is_none(vm: Vm, cli: Cli, uri: str) -> None:
    assert cli("-c", uri, "list").returncode in (2, 14)


def test_errors_are_json_where_asked_for(vm: Vm, cli: Cli) -> None:
    done = cli("--json", "-d", "vm1", "info", "nosuch")
    error = json.loads(done.stderr)
    assert error["schema"] == "vircpt/error/1"
    assert (error["error"], error["exit_code"]) == ("NotFound", 10)
    assert (error["domain"], error["checkpoint"]) == ("vm1", "nosuch")
    assert done.stdout == ""


def test_a_copy_never_replaces_a_file(vm: Vm, cli: Cli, tmp_path: Path) -> None:
    assert cli("-d", "vm1", "export").returncode == 0
    there = tmp_path / "there.qcow2"
    there.write_text("precious")
    told(cli("-d", "vm1", "copy", "--disk", "vda", str(there)), 2)
    told(cli("-d", "vm1", "overlay", "--disk", "vda", str(there)), 2)
    assert there.read_text() == "precious"
    assert [one.name for one in tmp_path.iterdir()] == ["there.qcow2"]
    assert cli("-d", "vm1", "release").returncode == 0


def test_which_disk(vm: Vm, cli: Cli) -> None:
    assert cli("-d", "vm1", "export").returncode == 0
    assert "which disk?" in told(cli("-d", "vm1", "map"), 2)
    told(cli("-d", "vm1", "map", "--disk", "vdz"), 10)
    told(cli("-d", "vm1", "map", "--disk", "vda", "--dirty"), 2)
    assert cli("-d", "vm1", "release").returncode == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--tcp", "127.0.0.1"),
        ("--tcp", "0.0.0.0", "--insecure"),
        ("--tcp", "[::]", "--insecure"),
        ("--tcp", "127.0.0.1:99999", "--insecure"),
        ("--tcp", "127.0.0.1", "--insecure", "--tls-dir", "/tmp"),
        ("--tcp", "127.0.0.1", "--tls-dir", "/nowhere"),
        ("--insecure",),
        ("--ttl", "soon"),
        ("--ttl", "0"),
        ("--no-freeze", "--require-freeze"),
        ("--disk", "vda", "--exclude", "vda"),
    ],
)
def test_options_that_make_no_sense(vm: Vm, cli: Cli, options: tuple[str, ...]) -> None:
    told(cli("-d", "vm1", "export", *options), 2)
