"""What is remembered of exports: directories, state files, locks, and processes, in tmp dirs."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vircpt.errors import Busy, InvalidInput, NotFound, NotSupported, VircptError
from vircpt.records import directories, exports
from vircpt.records.exports import Damaged, ExportDirectory
from vircpt.records.state import DiskRecord, ExportRecord

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
RECORD = ExportRecord(
    id="", kind="live", uri="qemu:///system", domain="vm1", uuid=UUID, user="me", created=1000.0
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SHARED_DIRECTORY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

disks = st.builds(
    DiskRecord,
    target=TEXT,
    since=st.none() | TEXT,
)
records = st.builds(
    ExportRecord,
    id=st.just(""),
    kind=st.sampled_from(["live", "offline"]),
    uri=TEXT,
    domain=TEXT,
    uuid=st.uuids().map(str),
    user=TEXT,
    created=st.floats(0, 1e10),
    disks=st.lists(disks, max_size=4).map(tuple),
    base=st.none() | TEXT,
    checkpoint=st.none() | TEXT,
    address=st.none() | TEXT,
    port=st.none() | st.integers(1, 65535),
    tls_dir=st.none() | TEXT,
    expires=st.none() | st.floats(0, 1e10),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names_in(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


def state_of(directory: ExportDirectory) -> dict[str, Any]:
    """What stands in the state file."""
    found: dict[str, Any] = json.loads((directory.path / "state.json").read_text())
    return found


@pytest.fixture
def export(state_dir: Path) -> ExportDirectory:
    return exports.create(RECORD, None)


@SHARED_DIRECTORY
@given(records)
def test_what_is_written_is_read_again(state_dir: Path, record: ExportRecord) -> None:
    made = exports.create(record, None)
    assert exports.read(made.record.id).record == replace(record, id=made.record.id)
    made.remove()


def test_each_export_gets_an_id_of_its_own(state_dir: Path) -> None:
    ids = {exports.create(replace(RECORD, id="mine"), None).record.id for _ in range(20)}
    assert len(ids) == 20
    assert all(len(one) == 8 and int(one, 16) >= 0 for one in ids)


def test_only_the_directory_of_the_socket_is_closed(state_dir: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = os.umask(0)
    try:
        made = exports.create(replace(RECORD, scratch_dir=str(scratch)), None)
        other = exports.create(RECORD, None)
    finally:
        os.umask(before)
    assert other.scratch == other.path / "scratch"
    assert not (made.path / "scratch").exists()
    assert {
        re.sub("[0-9a-f]{8}", "ID", str(path.relative_to(tmp_path))): oct(mode(path))
        for path in (state_dir, state_dir / "exports", state_dir / "locks", made.path,
                     made.path / "state.json", made.path / "io", made.scratch, other.scratch)
    } == {
        "state": "0o711",
        "state/exports": "0o711",
        "state/locks": "0o700",
        "state/exports/ID": "0o711",
        "state/exports/ID/state.json": "0o600",
        "state/exports/ID/io": "0o700",
        "scratch/vircpt-ID": "0o711",
        "state/exports/ID/scratch": "0o711",
    }  # fmt: skip


def test_a_strict_umask_does_not_lock_qemu_out(state_dir: Path) -> None:
    before = os.umask(0o077)
    try:
        made = exports.create(RECORD, None)
    finally:
        os.umask(before)
    assert [mode(path) for path in (state_dir, state_dir / "exports", made.path)] == [0o711] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_qemu_gets_the_directory_of_the_socket_and_no_other(state_dir: Path) -> None:
    made = exports.create(RECORD, (4321, 1234))
    io = (made.path / "io").stat()
    assert (io.st_uid, io.st_gid) == (4321, 1234)
    assert made.path.stat().st_uid == 0
    assert made.scratch.stat().st_uid == 0, "libvirtd would follow a link that is planted there"
    assert (made.path / "state.json").stat().st_uid == 0


def test_an_unknown_export_is_not_found(state_dir: Path) -> None:
    with pytest.raises(NotFound):
        exports.read("01234567")


@given(st.text().filter(lambda text: not exports._ID.match(text)))
def test_what_is_no_id_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        exports.read(text)


def test_without_any_state_there_are_no_exports(state_dir: Path) -> None:
    assert exports.list_all() == []
    assert exports.of_domain(UUID) == []
    assert not state_dir.exists()


def test_exports_are_listed_though_the_locks_are_gone(export: ExportDirectory) -> None:
    shutil.rmtree(directories.base() / "locks")
    assert exports.list_all() == [export]


def test_exports_are_listed_oldest_first(state_dir: Path) -> None:
    made = [exports.create(replace(RECORD, created=when), None) for when in (30.0, 10.0, 20.0)]
    assert exports.list_all() == [made[1], made[2], made[0]]


def test_exports_of_a_domain_are_found_by_its_uuid(state_dir: Path) -> None:
    mine = exports.create(RECORD, None)
    exports.create(replace(RECORD, uuid="another"), None)
    assert exports.of_domain(UUID) == [mine]


def test_files_that_are_no_exports_are_ignored(export: ExportDirectory) -> None:
    siblings = export.path.parent
    (siblings / "README").write_text("x")
    (siblings / "0123456").mkdir()
    (siblings / "deadbeef").write_text("no directory")
    assert exports.list_all() == [export]


# Damage


def damaged(export: ExportDirectory) -> Damaged:
    """The only thing that is listed: it must be the damaged export."""
    (found,) = exports.list_all()
    assert isinstance(found, Damaged)
    assert (found.id, found.directory) == (export.record.id, export.path)
    assert found.why
    assert exports.of_domain(UUID) == []
    with pytest.raises(VircptError, match="is damaged"):
        exports.read(export.record.id)
    return found


@SHARED_DIRECTORY
@given(content=st.binary())
def test_any_bytes_are_damage(export: ExportDirectory, content: bytes) -> None:
    (export.path / "state.json").write_bytes(content)
    damaged(export)


@SHARED_DIRECTORY
@given(content=json_values)
def test_any_json_is_damage(export: ExportDirectory, content: object) -> None:
    (export.path / "state.json").write_text(json.dumps(content))
    damaged(export)


@SHARED_DIRECTORY
@given(data=st.data())
def test_half_a_state_is_damage(export: ExportDirectory, data: st.DataObject) -> None:
    text = json.dumps({"format": 1, **asdict(export.record)})
    (export.path / "state.json").write_text(text[: data.draw(st.integers(0, len(text) - 1))])
    damaged(export)


@SHARED_DIRECTORY
@given(value=json_values)
def test_hostile_disks_are_damage_or_are_understood(state_dir: Path, value: object) -> None:
    made = exports.create(RECORD, None)
    (made.path / "state.json").write_text(json.dumps({**state_of(made), "disks": value}))
    (found,) = exports.list_all()
    if isinstance(found, ExportDirectory):
        assert all(isinstance(one, DiskRecord) for one in found.record.disks)
    shutil.rmtree(made.path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": "1"},
        {"id": "01234567"},
        {"id": None},
        {"kind": "virtual"},
        {"kind": ["live"]},
        {"domain": 5},
        {"uuid": None},
        {"uri": ["x"]},
        {"disks": None},
        {"disks": [5]},
        {"disks": [{"target": "vda", "colour": "red"}]},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_wrong_facts_are_damage(export: ExportDirectory, change: dict[str, object]) -> None:
    (export.path / "state.json").write_text(json.dumps({**state_of(export), **change}))
    damaged(export)


@pytest.mark.parametrize("key", ["format", "id", "kind", "domain", "disks"])
def test_a_missing_fact_is_damage(export: ExportDirectory, key: str) -> None:
    state = state_of(export)
    del state[key]
    (export.path / "state.json").write_text(json.dumps(state))
    damaged(export)


def test_a_missing_state_is_damage(export: ExportDirectory) -> None:
    (export.path / "state.json").unlink()
    assert damaged(export).why == "it has no state.json"


def test_a_directory_in_place_of_the_state_is_damage(export: ExportDirectory) -> None:
    (export.path / "state.json").unlink()
    (export.path / "state.json").mkdir()
    damaged(export)


def test_a_damaged_export_hides_no_other(export: ExportDirectory) -> None:
    other = exports.create(RECORD, None)
    (export.path / "state.json").write_text("{")
    found = exports.list_all()
    assert found[0] == other
    assert isinstance(found[1], Damaged)


# Removal


def test_removing_leaves_nothing(state_dir: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = exports.create(replace(RECORD, scratch_dir=str(scratch)), None)
    (made.path / "io" / "nbd.sock").touch()
    (made.scratch / "vda.scratch").write_bytes(b"x" * 100)
    (made.scratch / "deeper").mkdir()
    made.remove()
    assert names_in(scratch) == []
    assert names_in(state_dir / "exports") == []
    made.remove()  # a second time does no harm


def test_removing_spares_the_scratch_directory_itself(state_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("precious")
    made = exports.create(replace(RECORD, scratch_dir=str(tmp_path)), None)
    made.remove()
    assert (tmp_path / "foreign").read_text() == "precious"


def test_removing_follows_no_links_that_qemu_made(export: ExportDirectory, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold").write_text("precious")
    (export.path / "io" / "nbd.sock").symlink_to(treasure / "gold")
    (export.path / "io" / "deeper").symlink_to(treasure)
    export.remove()
    assert not export.path.exists()
    assert (treasure / "gold").read_text() == "precious"


def test_a_link_in_place_of_qemus_directory_is_not_followed(
    export: ExportDirectory, tmp_path: Path
) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold").write_text("precious")
    (export.path / "io").rmdir()
    (export.path / "io").symlink_to(treasure)
    export.remove()
    assert not export.path.exists()
    assert (treasure / "gold").read_text() == "precious"


def test_a_link_in_place_of_the_scratch_directory_is_not_followed(
    state_dir: Path, tmp_path: Path
) -> None:
    scratch, treasure = tmp_path / "scratch", tmp_path / "treasure"
    scratch.mkdir()
    treasure.mkdir()
    (treasure / "gold").write_text("precious")
    made = exports.create(replace(RECORD, scratch_dir=str(scratch)), None)
    made.scratch.rmdir()
    made.scratch.symlink_to(treasure)
    made.remove()
    assert (treasure / "gold").read_text() == "precious"
    assert not made.scratch.is_symlink()


def test_a_deep_tree_of_a_hostile_owner_is_removed(export: ExportDirectory) -> None:
    here = os.open(export.path / "io", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    export.remove()
    assert not export.path.exists()
    assert exports.list_all() == []


# Making


@pytest.mark.parametrize("scratch", ["relative/dir", "/nonexistent/dir"])
def test_a_scratch_directory_that_cannot_be_leaves_nothing(state_dir: Path, scratch: str) -> None:
    with pytest.raises(InvalidInput, match="scratch directory"):
        exports.create(replace(RECORD, scratch_dir=scratch), None)
    assert names_in(state_dir / "exports") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["dir", "dir/below", "dir/link"])
@pytest.mark.parametrize(
    ("owner", "mode", "trusted"),
    [(0, 0o700, True), (0, 0o755, True), (0, 0o1777, True), (0, 0o1775, True),
     (4321, 0o700, False), (4321, 0o1777, False), (0, 0o777, False), (0, 0o770, False)],
)  # fmt: skip
def test_a_scratch_directory_in_which_others_could_plant_a_link_is_refused(
    state_dir: Path, tmp_path: Path, which: str, owner: int, mode: int, trusted: bool
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "dir" / "below").mkdir(parents=True)
    (tmp_path / "dir" / "link").symlink_to(tmp_path / "target")
    os.chown(tmp_path / "dir", owner, 0)
    (tmp_path / "dir").chmod(mode)
    record = replace(RECORD, scratch_dir=str(tmp_path / which))
    if trusted:
        assert exports.create(record, (4321, 4321)).scratch.stat().st_uid == 0
        return
    with pytest.raises(NotSupported, match="can't be trusted"):
        exports.create(record, (4321, 4321))
    assert names_in(state_dir / "exports") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_in_a_sticky_directory_a_link_of_somebody_else_is_refused(
    state_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.chown(tmp_path / "link", 4321, 0, follow_symlinks=False)
    tmp_path.chmod(0o1777)
    with pytest.raises(NotSupported, match="can't be trusted"):
        exports.create(replace(RECORD, scratch_dir=str(tmp_path / "link")), None)


def _base_of_length(tmp_path: Path, socket_length: int) -> Path:
    ending = len("/exports/01234567/io/nbd.sock")
    missing = socket_length - ending - len(os.fsencode(tmp_path)) - 1
    assert missing > 0, "the place for temporary files has too long a name for this test"
    return tmp_path / ("x" * missing)


def test_the_longest_possible_socket_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRCPT_STATE_DIR", str(_base_of_length(tmp_path, 107)))
    made = exports.create(RECORD, None)
    assert len(os.fsencode(made.socket)) == 107


def test_a_socket_with_one_byte_too_many_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _base_of_length(tmp_path, 108)
    monkeypatch.setenv("VIRCPT_STATE_DIR", str(base))
    with pytest.raises(NotSupported, match="would be too long") as caught:
        exports.create(RECORD, None)
    assert "VIRCPT_STATE_DIR" in str(caught.value.hint)
    assert names_in(base / "exports") == []


def test_bytes_count_not_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _base_of_length(tmp_path, 107)
    monkeypatch.setenv("VIRCPT_STATE_DIR", str(base.with_name("ä" + base.name[1:])))
    with pytest.raises(NotSupported, match="would be too long"):
        exports.create(RECORD, None)


def test_the_domains_name_is_no_part_of_any_path(state_dir: Path) -> None:
    made = exports.create(replace(RECORD, domain="../" * 50 + "x" * 300), None)
    assert made.path.parent == state_dir / "exports"


@pytest.mark.parametrize("bits", [0o777, 0o722, 0o1777])
def test_a_base_that_others_can_write_to_is_not_trusted(state_dir: Path, bits: int) -> None:
    state_dir.mkdir()
    state_dir.chmod(bits)
    with pytest.raises(NotSupported, match="can't be trusted"):
        exports.create(RECORD, None)
    assert not (state_dir / "exports").exists()


def test_a_base_that_leads_into_anothers_directory_is_not_trusted(
    state_dir: Path, tmp_path: Path
) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    state_dir.mkdir()
    (state_dir / "exports").symlink_to(open_to_all)
    with pytest.raises(NotSupported, match="can't be trusted"):
        exports.create(RECORD, None)
    assert names_in(open_to_all) == []


@pytest.mark.parametrize("verb", [lambda: exports.create(RECORD, None), exports.list_all])
def test_a_base_below_anothers_directory_is_not_trusted(
    verb: Callable[[], object], state_dir: Path
) -> None:
    """They could put another one in its place."""
    exports.create(RECORD, None)
    state_dir.parent.chmod(0o777)
    with pytest.raises(NotSupported, match="can't be trusted") as caught:
        verb()
    assert caught.value.why == f"other users may write to {state_dir.parent}, or own it"
    state_dir.parent.chmod(0o1777)  # as /tmp, where nobody can rename what is ours
    verb()


def test_a_link_that_others_could_have_made_is_not_followed(
    state_dir: Path, tmp_path: Path
) -> None:
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    shared.mkdir()
    shared.chmod(0o777)
    mine.mkdir()
    (shared / "link").symlink_to(mine)
    state_dir.symlink_to(shared / "link")
    with pytest.raises(NotSupported, match="can't be trusted"):
        exports.create(RECORD, None)
    shared.chmod(0o755)
    made = exports.create(RECORD, None)
    assert exports.list_all() == [made]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_base_that_belongs_to_another_user_is_not_trusted(state_dir: Path) -> None:
    state_dir.mkdir()
    os.chown(state_dir, 4321, 4321)
    with pytest.raises(NotSupported, match="can't be trusted"):
        exports.create(RECORD, None)


def test_a_base_that_cannot_be_made_is_explained(state_dir: Path) -> None:
    state_dir.write_text("a file")
    with pytest.raises(VircptError, match="cannot use") as caught:
        exports.create(RECORD, None)
    assert "VIRCPT_STATE_DIR" in str(caught.value.hint)


def test_the_base_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    assert directories.base() == Path("/home/me/.local/state/vircpt")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert directories.base() == Path("/x/vircpt")
    monkeypatch.setenv("VIRCPT_STATE_DIR", "/y")
    assert directories.base() == Path("/y")
    monkeypatch.delenv("VIRCPT_STATE_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert directories.base() == Path("/var/lib/vircpt")


# What a vircpt that was killed leaves


def leftover(state_dir: Path, uuid: str) -> Path:
    """A directory that was being made or removed when its vircpt was killed."""
    path = state_dir / "exports" / f".passing-{uuid}-0123abcd"
    (path / "io").mkdir(parents=True)
    (path / "state.json").write_text("{}")
    return path


def test_an_unfinished_directory_is_no_export(export: ExportDirectory, state_dir: Path) -> None:
    leftover(state_dir, UUID)
    assert exports.list_all() == [export]


def test_who_holds_the_lock_sweeps_what_was_left(export: ExportDirectory, state_dir: Path) -> None:
    old = leftover(state_dir, UUID)
    with exports.locked(UUID, "vm1"):
        assert not old.exists()
    assert exports.list_all() == [export]


@pytest.mark.parametrize("uuid", ["another", "*", f"{UUID}0", f"x{UUID}", "[6]*"])
def test_what_others_are_making_is_not_swept(
    uuid: str, export: ExportDirectory, state_dir: Path
) -> None:
    fresh = leftover(state_dir, uuid)
    with exports.locked(UUID, "vm1"):
        assert (fresh / "state.json").exists()


def test_a_uuid_is_no_pattern(export: ExportDirectory, state_dir: Path) -> None:
    fresh = leftover(state_dir, "another")
    with exports.locked("*", "vm1"):
        assert fresh.exists()


def test_a_link_in_place_of_a_leftover_is_not_followed(
    export: ExportDirectory, state_dir: Path, tmp_path: Path
) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold").write_text("precious")
    (state_dir / "exports" / f".passing-{UUID}-0123abcd").symlink_to(treasure)
    with exports.locked(UUID, "vm1"):
        assert names_in(state_dir / "exports") == [export.record.id]
    assert (treasure / "gold").read_text() == "precious"


def test_exports_are_made_while_others_sweep(state_dir: Path) -> None:
    """Each domain has its own lock: vircpts at work on different domains run at once."""
    context = multiprocessing.get_context("fork")
    uuids = [f"{UUID[:-1]}{number}" for number in range(4)]
    workers = [context.Process(target=_make_and_remove, args=(uuid, 15)) for uuid in uuids]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert [one.exitcode for one in workers] == [0] * len(workers)
    assert sorted(names_in(state_dir / "exports")) == sorted(
        one.path.name for uuid in uuids for one in exports.of_domain(uuid)
    )
    assert [len(exports.of_domain(uuid)) for uuid in uuids] == [8] * len(uuids)


def _make_and_remove(uuid: str, count: int) -> None:
    for number in range(count):
        with exports.locked(uuid, uuid):
            made = exports.create(replace(RECORD, uuid=uuid), None)
            if number % 2:
                made.remove()


def test_many_processes_make_exports_at_once(state_dir: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_make_some, args=(5,)) for _ in range(6)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert [one.exitcode for one in workers] == [0] * 6
    assert len(exports.of_domain(UUID)) == 30


def _make_some(count: int) -> None:
    for _ in range(count):
        exports.create(RECORD, None)


# The lock


@pytest.fixture
def holder(state_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin ends."""
    code = (
        "import sys; from vircpt.records import exports\n"
        f"with exports.locked({UUID!r}, 'vm1'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_comes_second_is_told(holder: subprocess.Popen[str]) -> None:
    start = time.monotonic()
    with (
        pytest.raises(Busy, match="another vircpt is at work") as caught,
        exports.locked(UUID, "vm1", patience=0.2),
    ):
        pytest.fail("there must be only one")
    assert 0.2 <= time.monotonic() - start < 1.2
    assert caught.value.domain == "vm1"


def test_other_domains_are_not_locked(holder: subprocess.Popen[str]) -> None:
    with exports.locked("another", "vm2"):
        pass


def test_who_comes_second_waits_for_a_while(holder: subprocess.Popen[str]) -> None:
    timer = threading.Timer(0.2, holder.kill)
    timer.start()
    with exports.locked(UUID, "vm1", patience=20):
        assert holder.wait(5) == -signal.SIGKILL
    timer.join()


def test_the_lock_goes_with_its_process(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with exports.locked(UUID, "vm1"):
        pass


def test_the_lock_is_given_back_after_an_error(state_dir: Path) -> None:
    with pytest.raises(RuntimeError), exports.locked(UUID, "vm1"):
        raise RuntimeError
    with exports.locked(UUID, "vm1"):
        pass


def test_the_lock_is_not_inherited_by_children(state_dir: Path) -> None:
    with exports.locked(UUID, "vm1"):
        child = subprocess.Popen(["sleep", "30"])
    try:
        with exports.locked(UUID, "vm1"):
            pass
    finally:
        child.kill()
        child.wait()


def test_no_link_in_place_of_a_lock_is_followed(state_dir: Path, tmp_path: Path) -> None:
    with exports.locked(UUID, "vm1"):
        pass
    (state_dir / "locks" / UUID).unlink()
    (state_dir / "locks" / UUID).symlink_to(tmp_path / "victim")
    with pytest.raises((OSError, VircptError)), exports.locked(UUID, "vm1"):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("field", ["created", "expires"])
@pytest.mark.parametrize("value", [1e300, float("nan"), float("inf"), -1, 10**400])
def test_a_time_that_can_not_be_is_damage(
    export: ExportDirectory, field: str, value: float
) -> None:
    """json takes such; telling them would fail."""
    state = state_of(export) | {field: value}
    (export.path / "state.json").write_text(json.dumps(state))
    (found,) = exports.list_all()
    assert isinstance(found, Damaged)
    assert field in found.why or "digits" in found.why
