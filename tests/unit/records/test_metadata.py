"""Saved definitions: what is written is read again; what anybody changed is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vircpt.errors import InvalidInput
from vircpt.records import metadata
from vircpt.records.metadata import SavedDefinition, SavedSet

UUID = "3f8a2f3e-1d4b-4c8e-9a6b-0a1b2c3d4e5f"
NAMES = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=5, unique=True
)
FUZZ = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def saved(names: list[str]) -> SavedSet:
    parents = [None, *names]
    pairs = zip(names, parents, strict=False)
    return SavedSet(
        "vm1", UUID, 1.5, tuple(SavedDefinition(one, up, f"<x>{one}</x>") for one, up in pairs)
    )


def fresh(top: Path) -> Path:
    return top / f"saved{len(list(top.iterdir()))}"


@FUZZ
@given(NAMES)
def test_it_comes_back_as_it_was(tmp_path: Path, names: list[str]) -> None:
    path = fresh(tmp_path)
    metadata.write(path, saved(names))
    assert metadata.read(path) == saved(names)


@FUZZ
@given(st.data())
def test_any_change_is_noticed_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """A byte changed anywhere: refused, or read as some other well-formed manifest of the same
    definitions."""
    path = fresh(tmp_path)
    metadata.write(path, saved(["one", "two"]))
    file = data.draw(st.sampled_from(sorted(path.iterdir())))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    with suppress(InvalidInput):
        found = metadata.read(path)
        assert [one.xml for one in found.definitions] == ["<x>one</x>", "<x>two</x>"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@FUZZ
@given(st.sampled_from(["format", "domain", "uuid", "created", "checkpoints", ""]), JSON)
def test_any_json(tmp_path: Path, key: str, value: object) -> None:
    path = fresh(tmp_path)
    metadata.write(path, saved(["one"]))
    manifest = json.loads((path / "manifest.json").read_text())
    changed = {**manifest, key: value} if key else value
    (path / "manifest.json").write_text(json.dumps(changed))
    with suppress(InvalidInput):
        assert isinstance(metadata.read(path), SavedSet)


def test_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InvalidInput):
        metadata.write(tmp_path / "there", saved(["one"]))
    assert [one.name for one in tmp_path.iterdir()] == ["there"]
