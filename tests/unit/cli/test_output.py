"""How results look: tables, trees, JSON, and text that can do no harm to a terminal."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.cli import output
from vircpt.cli.session import Session

CELL = st.text(max_size=8)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("vm1", "vm1"),
        ("my vm", "my vm"),
        ("ärger 漢字 🙂", "ärger 漢字 🙂"),
        ("", ""),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\0", "\\x00"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("\udcff", "\\udcff"),
        ("a\u202eb", "a\\u202eb"),
        ("\u2028", "\\u2028"),
        ("\u200b", "\\u200b"),
    ],
)
def test_text_made_harmless(text: str, shown: str) -> None:
    assert output.safe(text) == shown


@given(st.text())
def test_what_is_safe_is_printable_and_can_be_encoded(text: str) -> None:
    shown = output.safe(text)
    assert shown.isprintable()
    shown.encode()


@given(st.text())
def test_what_is_safe_stays_as_it_is(text: str) -> None:
    shown = output.safe(text)
    assert output.safe(shown) == shown


def test_anything_can_be_made_safe() -> None:
    assert output.safe(Path("/x/a\nb")) == "/x/a\\nb"
    assert output.safe(5) == "5"
    assert output.safe(None) == "None"


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    path: Path
    colour: Colour


@dataclass(frozen=True)
class Outer:
    inner: tuple[Inner, ...]
    names: frozenset[str]
    size: int | None


def test_facts_become_what_json_knows() -> None:
    value = Outer((Inner(Path("/x"), Colour.RED),), frozenset({"a"}), None)
    assert output.plain(value) == {
        "inner": [{"path": "/x", "colour": "red"}],
        "names": ["a"],
        "size": None,
    }
    assert output.plain({"a": Path("/x"), "b": (Colour.RED, 1, "s", True)}) == {
        "a": "/x",
        "b": ["red", 1, "s", True],
    }


def test_a_document_is_one_json_document_that_names_its_schema(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.document("thing/1", name="a\x1b\udcff", where=Path("/x"), colours=[Colour.RED])
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "schema": "vircpt/thing/1",
        "name": "a\x1b\udcff",
        "where": "/x",
        "colours": ["red"],
    }
    assert captured.out.isascii()
    assert "\x1b" not in captured.out
    assert captured.err == ""


def test_a_table_is_aligned() -> None:
    table = output.table(
        ["NAME", "SIZE", "NOTE"], [["a", "5 B", "x"], ["longer", "64.0 KiB", ""]], right=[1]
    )
    assert table.splitlines() == [
        "NAME        SIZE  NOTE",
        "a            5 B  x",
        "longer  64.0 KiB",
    ]


def test_a_table_of_nothing_is_its_header() -> None:
    assert output.table(["A", "B"], []) == "A  B"


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=6))
def test_each_row_of_a_table_is_one_line(rows: list[tuple[str, str, str]]) -> None:
    lines = output.table(["ONE", "TWO", "THREE"], rows, right=[1]).split("\n")
    assert len(lines) == len(rows) + 1
    assert all(line == line.rstrip() for line in lines)
    assert all(line.isprintable() for line in lines)


@given(st.lists(st.tuples(CELL, CELL), max_size=6))
def test_columns_start_and_end_at_the_same_place(rows: list[tuple[str, str]]) -> None:
    shown = [(output.safe(one), output.safe(other)) for one, other in [("ONE", "TWO"), *rows]]
    first = max(len(one) for one, _ in shown)
    second = max(len(other) for _, other in shown)
    lines = output.table(["ONE", "TWO"], rows, right=[1]).split("\n")
    assert lines == [f"{one:<{first}}  {other:>{second}}".rstrip() for one, other in shown]


def test_a_tree() -> None:
    children: Mapping[str | None, Sequence[str]] = {
        None: ["a", "z"],
        "a": ["b", "e"],
        "b": ["c", "d"],
        "e": ["f"],
    }
    assert output.tree(children, {name: name.upper() for name in "abcdefz"}) == [
        "A",
        "├─ B",
        "│  ├─ C",
        "│  └─ D",
        "└─ E",
        "   └─ F",
        "Z",
    ]


def test_a_tree_of_nothing_has_no_lines() -> None:
    assert output.tree({}, {}) == []


@given(st.lists(st.integers(0, 100), max_size=60))
def test_each_node_of_a_tree_is_drawn_once_below_its_parent(choices: list[int]) -> None:
    parents = [None if choice == 0 else index - choice % (index + 1) - 1
               for index, choice in enumerate(choices)]  # fmt: skip
    above = [None if parent is None or parent < 0 else parent for parent in parents]
    children: dict[str | None, list[str]] = {}
    for index, parent in enumerate(above):
        children.setdefault(None if parent is None else str(parent), []).append(str(index))
    lines = output.tree(children, {str(index): f"n{index}" for index in range(len(above))})
    labels = [line[line.index("n") :] for line in lines]
    assert sorted(labels) == sorted(f"n{index}" for index in range(len(above)))
    depth = {label: line.index("n") // 3 for label, line in zip(labels, lines, strict=True)}
    for index, parent in enumerate(above):
        assert depth[f"n{index}"] == (0 if parent is None else depth[f"n{parent}"] + 1)
        if parent is not None:
            assert labels.index(f"n{parent}") < labels.index(f"n{index}")


def test_a_long_chain_is_drawn_without_recursion() -> None:
    chain: dict[str | None, list[str]] = {str(n): [str(n + 1)] for n in range(3000)}
    lines = output.tree({None: ["0"], **chain}, {str(n): str(n) for n in range(3001)})
    assert len(lines) == 3001


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.moment(None) == "-"
    assert len(output.moment(1e9)) == len("2001-09-09 01:46:40")
    assert output.iso(None) is None
    assert output.iso(1e9) == "2001-09-09T01:46:40Z"
    assert output.iso(0) == "1970-01-01T00:00:00Z"


def test_sizes() -> None:
    assert output.size(None) == "-"
    assert output.size(0) == "0 B"
    assert output.size(65536) == "64.0 KiB"


@pytest.mark.parametrize(("verbosity", "told"), [(0, True), (1, True), (-1, False)])
def test_messages_go_to_stderr_unless_quiet(
    verbosity: int, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Session()
    session.verbosity = verbosity
    output.message(session, "note")
    output.warning(session, "careful")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ("note\nwarning: careful\n" if told else "")
