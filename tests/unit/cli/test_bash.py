"""Completion as bash wants it."""

from __future__ import annotations

import pytest
from click.shell_completion import CompletionItem

from vircpt.cli.bash import Bash, joined
from vircpt.cli.main import cli


@pytest.mark.parametrize(
    ("split", "at", "whole", "place"),
    [
        (["vircpt", "-d", "vm"], 2, ["vircpt", "-d", "vm"], 2),
        (["vircpt", "-c", "qemu", ":", "///system", "-d"], 5,
         ["vircpt", "-c", "qemu:///system", "-d"], 3),
        (["vircpt", "-c", "qemu", ":", "///system", "-d"], 6,
         ["vircpt", "-c", "qemu:///system", "-d"], 4),
        (["vircpt", "-c", "qemu", ":", "///sys"], 4, ["vircpt", "-c", "qemu:///sys"], 2),
        (["vircpt", "-c", "qemu", ":"], 3, ["vircpt", "-c", "qemu:"], 2),
        (["vircpt"], 1, ["vircpt"], 1),
    ],
)  # fmt: skip
def test_words_are_put_together(split: list[str], at: int, whole: list[str], place: int) -> None:
    assert joined(split, at) == (whole, place)


@pytest.mark.parametrize(
    ("name", "inserted"),
    [("vm1", "vm1"), ("my vm", r"my\ vm"), ("ü$(id)", r"ü\$\(id\)"), ("a.b-c_d", "a.b-c_d")],
)
def test_names_are_inserted_quoted(name: str, inserted: str) -> None:
    shell = Bash(cli, {}, "vircpt", "_VIRCPT_COMPLETE")
    assert shell.format_completion(CompletionItem(name)) == f"plain,{inserted}"
