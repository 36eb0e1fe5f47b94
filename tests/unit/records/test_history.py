"""The history: kept small, shared by writers, never in the way."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vircpt.errors import VircptError
from vircpt.records import history

UUID = "00000000-0000-0000-0000-000000000001"
OTHER = "00000000-0000-0000-0000-000000000002"


@pytest.fixture(autouse=True)
def _place(state_dir: Path) -> None:
    state_dir.mkdir()


def test_notes_are_read_back_by_domain() -> None:
    history.note(UUID, "one", 10.0, 20.5, {"vda": 5, "vdb": 0})
    history.note(OTHER, "two", 1.0, 2.0, {"vda": 7})
    assert history.read(UUID) == [
        history.Noted("one", 10.0, 20.5, "vda", 5),
        history.Noted("one", 10.0, 20.5, "vdb", 0),
    ]
    assert stat.S_IMODE(history.path().stat().st_mode) == 0o600


def test_there_may_be_none() -> None:
    assert history.read(UUID) == []


def test_it_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 5)
    history.note(OTHER, "two", 1.0, 2.0, {"vda": 7})
    for number in range(20):
        history.note(UUID, str(number), 0.0, float(number), {"vda": number})
    assert [one.checkpoint for one in history.read(UUID)] == ["15", "16", "17", "18", "19"]
    assert len(history.read(OTHER)) == 1


def test_writers_do_not_lose_each_others_notes() -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            pool.submit(history.note, UUID, str(number), 0.0, float(number), {"vda": number})
    assert len(history.read(UUID)) == 40


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 500]
)
def test_a_damaged_file_is_told_and_blocks_nothing(content: bytes) -> None:
    history.path().write_bytes(content)
    history.note(UUID, "one", 10.0, 20.0, {"vda": 5})
    with pytest.raises(VircptError, match="can't be read") as caught:
        history.read(UUID)
    assert "remove it" in str(caught.value.hint)


def test_a_foreign_table_is_told() -> None:
    history.note(UUID, "one", 10.0, 20.0, {"vda": 5})
    import sqlite3

    with sqlite3.connect(history.path()) as database:
        database.execute("update changes set changed = 'many'")
    database.close()
    with pytest.raises(VircptError, match="has not written"):
        history.read(UUID)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    history.path().symlink_to(victim)
    history.note(UUID, "one", 10.0, 20.0, {"vda": 5})
    assert victim.read_text() == "precious"
