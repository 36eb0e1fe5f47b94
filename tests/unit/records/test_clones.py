"""What is remembered of clones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vircpt.records import clones
from vircpt.records.clones import CloneRecord
from vircpt.records.directories import base
from vircpt.records.exports import Damaged, locked

UUID = "5a6d1f1e-8c9e-4d0e-9d52-0a8f5e1c7b11"
ORIGINAL = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
RECORD = CloneRecord(
    id="0123abcd",
    uri="qemu:///system",
    name="vm1-boot",
    uuid=UUID,
    original="vm1",
    original_uuid=ORIGINAL,
    user="root",
    created=1.0,
    export="89abcdef",
)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRCPT_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _locked(_state: None) -> Iterator[None]:
    with locked(ORIGINAL, "vm1"):
        yield


def test_it_is_found_again() -> None:
    made = clones.create(RECORD)
    assert [one.record for one in clones.of_original(ORIGINAL)] == [RECORD]
    assert clones.of_original(UUID) == []
    assert clones.on_export("89abcdef") == [made]
    for name in ("vm1", "vm1-boot", UUID, ORIGINAL):
        assert clones.find(name) == [made]
    assert clones.find("other") == []
    made.remove()
    made.remove()
    assert clones.list_all() == []
    assert list((base() / "clones").iterdir()) == []


def test_who_passes_through_can_read_nothing() -> None:
    made = clones.create(RECORD)
    os.close(made.make_file(made.overlay("vda"), None))
    assert made.path.stat().st_mode & 0o777 == 0o711
    for path in made.path.iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_a_file_is_never_replaced() -> None:
    made = clones.create(RECORD)
    os.close(made.make_file(made.nvram, None))
    with pytest.raises(FileExistsError):
        made.make_file(made.nvram, None)


def test_it_is_owned_for_as_long_as_the_handle_is_open() -> None:
    made = clones.create(RECORD)
    assert not made.is_owned()
    handle = made.claim()
    assert made.is_owned()
    os.close(handle)
    assert not made.is_owned()


def test_what_a_kill_left_half_way_is_swept() -> None:
    clones.create(RECORD).remove()
    left = base() / "clones" / f".passing-{ORIGINAL}-ffffffff"
    other = base() / "clones" / f".passing-{UUID}-ffffffff"
    for path in (left, other):
        path.mkdir()
    clones.create(RECORD)
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"id": "fedcba98"},
        {"uuid": "../../etc"},
        {"original_uuid": 7},
        {"test": "yes"},
        {"tpm": "/etc"},
        {"unknown": 1},
    ],
)
def test_what_is_damaged_is_named_and_left_alone(change: dict[str, object]) -> None:
    made = clones.create(RECORD)
    state = made.path / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    found = clones.list_all()
    assert [type(one) for one in found] == [Damaged]
    assert clones.find("vm1") == []


def test_the_tpms_directory_goes_too(tmp_path: Path) -> None:
    tpm = tmp_path / UUID
    (tpm / "tpm2").mkdir(parents=True)
    clones.create(replace(RECORD, tpm=str(tpm))).remove()
    assert not tpm.exists()
