"""Two walks compared: deleted, renamed, added."""

from __future__ import annotations

from vircpt.guestfiles.changes import How
from vircpt.guestfiles.entries import Kind
from vircpt.guestfiles.index import Record, compare


def one(path: str, inode: int, kind: Kind = Kind.FILE, digest: bytes = b"") -> Record:
    return Record(path.encode(), kind, inode, 1, 0, None, digest)


def told(before: list[Record], after: list[Record]) -> set[tuple[How, bytes, bytes]]:
    return {
        (each.how, each.before.path if each.before else b"", each.after.path if each.after else b"")
        for each in compare(before, after)
    }


def test_nothing_changed() -> None:
    assert told([one("a", 1), one("b", 2)], [one("b", 2), one("a", 1)]) == set()


def test_added_deleted_renamed_modified() -> None:
    before = [one("stays", 1), one("goes", 2), one("old", 3), one("other", 4)]
    after = [one("stays", 1), one("new", 3), one("fresh", 5), one("other", 4, digest=b"x")]
    assert told(before, after) == {
        (How.DELETED, b"goes", b""),
        (How.RENAMED, b"old", b"new"),
        (How.ADDED, b"", b"fresh"),
        (How.MODIFIED, b"other", b"other"),
    }


def test_replaced_by_another_file() -> None:
    """As editors save: written beside it, then renamed over it."""
    assert told([one("a", 1)], [one("a", 2)]) == {(How.MODIFIED, b"a", b"a")}


def test_what_moves_with_its_directory_is_not_told_again() -> None:
    directory = Kind.DIRECTORY
    before = [one("d", 1, directory), one("d/e", 2, directory), one("d/e/f", 3), one("d/g", 4)]
    after = [one("n", 1, directory), one("n/e", 2, directory), one("n/e/f", 3), one("n/h", 4)]
    assert told(before, after) == {
        (How.RENAMED, b"d", b"n"),
        (How.RENAMED, b"d/g", b"n/h"),
    }


def test_hard_links() -> None:
    before = [one("a", 1), one("b", 1)]
    assert told(before, [one("a", 1)]) == {(How.DELETED, b"b", b"")}
    assert told([one("a", 1)], before) == {(How.ADDED, b"", b"b")}
    moved = told(before, [one("c", 1), one("d", 1)])
    assert {how for how, _, _ in moved} == {How.RENAMED}
    assert {new for _, _, new in moved} == {b"c", b"d"}
