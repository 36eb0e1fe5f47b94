"""The useful commands: pasted into a shell, each word arrives as it was meant."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vircpt.blocks import nbd
from vircpt.operations.commands import useful_commands
from vircpt.operations.reading import ExportedDisk

NAMES = [
    "vm1",
    "my vm",
    "it's",
    'say "hi"',
    "a;rm -rf b",
    "$(touch owned)",
    "`touch owned`",
    "a|b&c>d<e",
    "back\\slash",
    "star*?[x]",
    "ünï",
    "#1",
    "~",
    "!!",
    "new\nline",
]


def disk(name: str, *, bitmap: bool = True) -> ExportedDisk:
    return ExportedDisk(
        domain=name,
        target="vda",
        uri=nbd.unix_uri("vda", f"/run/{name}/nbd.sock"),
        since="friday" if bitmap else None,
        bitmap=f"backup-{name}" if bitmap else None,
    )


def words_in_sh(command: str) -> list[str]:
    """What /bin/sh makes of a command line: its words, the operator && among them."""
    quoted = command.replace(" && ", " '&&' ")
    done = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\0' {quoted}"], capture_output=True, check=True, timeout=30
    )
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_reads_the_words_that_were_meant(name: str) -> None:
    one = disk(name)
    commands = useful_commands(one, 4096)
    every = [words_in_sh(useful.command) for useful in commands]
    assert every == [shlex.split(useful.command) for useful in commands]
    words = {word for words in every for word in words}
    assert {one.uri, f"{name}-vda.raw", f"{name}-vda.qcow2", f"{name}-vda-overlay.qcow2"} <= words
    assert f"--map=qemu:dirty-bitmap:backup-{name}" in words


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_name_is_one_word(name: str) -> None:
    one = disk(name)
    # else a protocol to qemu-img, or an option
    file = f"./{name}" if ":" in name or name.startswith("-") else name
    by_purpose = {useful.purpose: useful.command for useful in useful_commands(one, 4096)}
    assert shlex.split(by_purpose["a raw copy"]) == ["nbdcopy", one.uri, f"{file}-vda.raw"]
    assert shlex.split(by_purpose["what it offers"]) == ["nbdinfo", one.uri]
    assert shlex.split(by_purpose["a writable overlay on it"])[-1] == f"{file}-vda-overlay.qcow2"


def test_without_a_bitmap_no_map_is_offered() -> None:
    purposes = [useful.purpose for useful in useful_commands(disk("vm1", bitmap=False), 4096)]
    assert "which blocks changed" not in purposes
    assert "a raw copy" in purposes


def test_without_a_size_no_qcow2_copy_is_offered() -> None:
    purposes = [useful.purpose for useful in useful_commands(disk("vm1"), None)]
    assert "a qcow2 copy" not in purposes


def test_each_command_says_which_disk_it_is_about() -> None:
    assert {useful.disk for useful in useful_commands(disk("vm1"), 4096)} == {"vda"}
