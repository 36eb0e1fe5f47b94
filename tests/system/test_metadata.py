"""Checkpoints saved outside of libvirt and brought back; and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.fixtures import BlankFactory, Cli
from lab.state import checkpoints
from lab.vms import Vm


@pytest.fixture
def saved(blank: BlankFactory, cli: Cli, tmp_path: Path) -> tuple[Vm, Path]:
    """A VM with three checkpoints, saved into a directory."""
    vm = blank("vm1")
    for name in ("one", "two", "three"):
        assert cli("-d", "vm1", "create", "--name", name).returncode == 0
    directory = tmp_path / "saved"
    done = cli("-d", "vm1", "save-metadata", directory)
    assert done.returncode == 0, done.stderr
    assert "3 checkpoints" in done.stdout
    return vm, directory


def forget_all(vm: Vm) -> None:
    for name in reversed(checkpoints(vm)):
        vm.domain.checkpointLookupByName(name).delete(2)


def tree(vm: Vm) -> list[tuple[str, str | None]]:
    found = []
    for name in checkpoints(vm):
        xml = vm.domain.checkpointLookupByName(name).getXMLDesc(1)
        parent = (
            xml.split("<parent>")[1].split("<name>")[1].split("<")[0] if "<parent>" in xml else None
        )
        found.append((name, parent))
    return found


def test_after_undefine_and_define(saved: tuple[Vm, Path], conn: Any, cli: Cli) -> None:
    vm, directory = saved
    before = tree(vm)
    vm.write("vda", 0, 65536)
    vm.destroy()
    definition = vm.domain.XMLDesc(0)
    vm.undefine()
    vm.domain = conn.defineXML(definition)
    vm.start()
    done = cli("-d", "vm1", "restore-metadata", directory)
    assert done.returncode == 0, done.stderr
    assert "checkpoint one of domain vm1 restored" in done.stdout
    assert tree(vm) == before == [("one", None), ("two", "one"), ("three", "two")]
    (status,) = [
        one
        for one in json.loads(cli("-d", "vm1", "--json", "list").stdout)["checkpoints"]
        if one["name"] == "one"
    ]
    assert (status["health"], status["changed"], status["made_by_vircpt"]) == ("ok", 65536, True)
    again = cli("-d", "vm1", "restore-metadata", directory)
    assert again.returncode == 0
    assert again.stderr.count("is there already") == 3


def test_some_are_there(saved: tuple[Vm, Path], cli: Cli) -> None:
    vm, directory = saved
    before = tree(vm)
    vm.domain.checkpointLookupByName("three").delete(2)
    assert cli("-d", "vm1", "restore-metadata", directory).returncode == 0
    assert tree(vm) == before


def test_a_bitmap_is_gone(saved: tuple[Vm, Path], cli: Cli) -> None:
    """All or nothing, as libvirt looks for each bitmap."""
    vm, directory = saved
    vm.domain.checkpointLookupByName("two").delete()
    forget_all(vm)
    done = cli("-d", "vm1", "restore-metadata", directory)
    assert done.returncode == 13
    assert "redefine" in done.stderr
    assert checkpoints(vm) == []
    assert cli("-d", "vm1", "restore-metadata", "--no-validate", directory).returncode == 0
    assert checkpoints(vm) == ["one", "two", "three"]


def test_shut_off(saved: tuple[Vm, Path], cli: Cli) -> None:
    vm, directory = saved
    vm.destroy()
    forget_all(vm)
    done = cli("-d", "vm1", "restore-metadata", directory)
    assert done.returncode == 0
    assert "not looked for" in done.stderr
    assert checkpoints(vm) == ["one", "two", "three"]


def test_nothing_is_replaced(saved: tuple[Vm, Path], cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("saved", "empty", "link", "file"):
        done = cli("-d", "vm1", "save-metadata", tmp_path / name)
        assert done.returncode == 2
        assert "exists already" in done.stderr
    assert not (tmp_path / "nowhere").exists()
    assert cli("-d", "vm1", "save-metadata", tmp_path / "no/such").returncode == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "file", "link", "saved"]
    modes = {oct(one.stat().st_mode & 0o777) for one in (tmp_path / "saved").iterdir()}
    assert modes == {"0o600"}


def test_no_checkpoints(blank: BlankFactory, cli: Cli, tmp_path: Path) -> None:
    blank("vm1")
    assert cli("-d", "vm1", "save-metadata", tmp_path / "saved").returncode == 10
    assert list(tmp_path.iterdir()) == []


def test_another_domain(saved: tuple[Vm, Path], blank: BlankFactory, cli: Cli) -> None:
    other = blank("other")
    done = cli("-d", "other", "restore-metadata", saved[1])
    assert done.returncode == 2
    assert "another domain" in done.stderr
    assert checkpoints(other) == []


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def forge(directory: Path, old: str, new: str) -> None:
    """Change a definition, and the hash with it."""
    text = (directory / "0001.xml").read_text().replace(old, new)
    (directory / "0001.xml").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    edit(directory, lambda manifest: manifest["checkpoints"][0].update(sha256=digest))


def replace(path: Path, *, link: bool) -> None:
    """Put a link to the file, or a pipe, in its place."""
    other = path.rename(path.parent.parent / "other")
    if link:
        path.symlink_to(other)
    else:
        os.mkfifo(path)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no definition": lambda path: (path / "0002.xml").unlink(),
    "changed": lambda path: (path / "0002.xml").write_text("<domaincheckpoint/>"),
    "a link": lambda path: replace(path / "0002.xml", link=True),
    "a pipe": lambda path: replace(path / "0002.xml", link=False),
    "a manifest that is a pipe": lambda path: replace(path / "manifest.json", link=False),
    "too long": lambda path: os.truncate(path / "0002.xml", 1 << 40),
    "a path outside": lambda path: edit(
        path, lambda data: data["checkpoints"][0].update(file="../../etc/passwd")
    ),
    "absolute": lambda path: edit(
        path, lambda data: data["checkpoints"][0].update(file="/etc/passwd")
    ),
    "not JSON": lambda path: (path / "manifest.json").write_bytes(b"\xff\x00"),
    "deep": lambda path: (path / "manifest.json").write_text("[" * 100_000),
    "another version": lambda path: edit(path, lambda data: data.update(format=2)),
    "a list": lambda path: (path / "manifest.json").write_text("[]"),
    "twice": lambda path: edit(
        path, lambda data: data["checkpoints"].append(data["checkpoints"][0])
    ),
    "child first": lambda path: edit(path, lambda data: data["checkpoints"].reverse()),
    "another name": lambda path: forge(path, "<name>one<", "<name>evil<"),
    "another UUID": lambda path: forge(path, "<uuid>", "<uuid>0"),
    "entities": lambda path: forge(
        path,
        "<domaincheckpoint>",
        '<!DOCTYPE x [<!ENTITY e SYSTEM "/etc/passwd">]><domaincheckpoint>&e;',
    ),
    "no XML": lambda path: forge(path, "<", "("),
}  # fmt: skip


def test_hostile_directories(saved: tuple[Vm, Path], cli: Cli, tmp_path: Path) -> None:
    vm, directory = saved
    forget_all(vm)
    for what, change in HOSTILE.items():
        (tmp_path / what).mkdir()
        changed = tmp_path / what / "saved"
        shutil.copytree(directory, changed)
        change(changed)
        done = cli("-d", "vm1", "restore-metadata", changed)
        assert done.returncode == 2, f"{what}: {done.stderr}"
        assert done.stderr.startswith("error: "), what
        assert "Traceback" not in done.stderr, what
        assert checkpoints(vm) == [], what


def test_a_full_disk(saved: tuple[Vm, Path], cli: Cli, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small], check=True)
    try:
        done = cli("-d", "vm1", "save-metadata", small / "saved")
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_it_is_not_changed_by_copying(saved: tuple[Vm, Path], cli: Cli, tmp_path: Path) -> None:
    vm, directory = saved
    forget_all(vm)
    shutil.copytree(directory, tmp_path / "elsewhere")
    assert cli("-d", "vm1", "restore-metadata", tmp_path / "elsewhere").returncode == 0
    assert checkpoints(vm) == ["one", "two", "three"]
