"""Facts survive the way through the pipe; anything else is refused, never believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.confined import messages
from vircpt.confined.codec import BadValue, pack, unpack
from vircpt.guestfiles.changes import Change, Evidence, How, Window
from vircpt.guestfiles.entries import Entry, Kind, Trait
from vircpt.guestfiles.intervals import Run

TIMES = st.none() | st.integers(-(1 << 70), 1 << 70)
RUNS = st.lists(st.builds(Run, st.integers(0, 1 << 60), st.integers(0, 1 << 60))).map(tuple)
NAMES = st.binary(min_size=1).filter(
    lambda name: not {0, 0x2F} & set(name) and name not in (b".", b"..")
)
PATHS = st.lists(NAMES, max_size=4).map(b"/".join)
ENTRIES = st.builds(
    Entry,
    path=PATHS,
    kind=st.sampled_from(Kind),
    inode=st.integers(0, (1 << 64) - 1),
    generation=st.integers(0, (1 << 64) - 1),
    size=st.integers(0, (1 << 63) - 1),
    mode=st.integers(0, 0xFFFF),
    uid=st.integers(0, (1 << 32) - 1),
    gid=st.integers(0, (1 << 32) - 1),
    nlink=st.integers(0, 1 << 32),
    mtime=TIMES,
    ctime=TIMES,
    atime=TIMES,
    birth=TIMES,
    data=RUNS,
    metadata=RUNS,
    target=st.none() | st.binary().filter(lambda target: b"\0" not in target),
    device=st.none() | st.tuples(st.integers(0, 1 << 32), st.integers(0, 1 << 32)),
    traits=st.sampled_from([Trait.NONE, Trait.INLINE | Trait.DAMAGED, Trait.COMPRESSED]),
)
CHANGES = st.builds(
    Change,
    entry=ENTRIES,
    how=st.sampled_from(How),
    certain=st.booleans(),
    evidence=st.sampled_from(Evidence),
    data_bytes=st.integers(0, 1 << 60),
    metadata_bytes=st.integers(0, 1 << 60),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text(), CHANGES)
def test_answers_survive_the_pipe(area: str, change: Change) -> None:
    sent = messages.Touched(area.encode(errors="replace").decode(), change)
    assert messages.read(json.loads(json.dumps(messages.write(sent)))) == sent


@given(JSON)
def test_what_is_no_answer_is_refused(value: Any) -> None:
    for name in ("Touched", "Found", "Listed", "Pieces", "Contents", "Fetched", "nothing"):
        if (name, value) in (("Pieces", [[]]), ("Whole", [])):
            continue
        with pytest.raises(BadValue):
            messages.read([name, value])
    with pytest.raises(BadValue):
        messages.read(value)


def entry(**facts: Any) -> Entry:
    return Entry(
        b"x", Kind.FILE, 1, 0, 5, 0o100644, 0, 0, 1, None, None, None, None, (), ()
    )._replace(**facts)  # fmt: skip


@pytest.mark.parametrize(
    "lie",
    [
        messages.Listed("vda", entry(path=b"../etc/passwd")),
        messages.Listed("vda", entry(path=b"/etc/passwd")),
        messages.Listed("vda", entry(path=b"a//b")),
        messages.Listed("vda", entry(path=b"a/./b")),
        messages.Listed("vda", entry(path=b"a\0b")),
        messages.Listed("vda", entry(size=-1)),
        messages.Listed("vda", entry(size=1 << 63)),
        messages.Listed("vda", entry(uid=1 << 32)),
        messages.Listed("vda", entry(mode=1 << 16)),
        messages.Listed("vda", entry(target=b"a\0b")),
        messages.Fetched("vda", 0, b"../x", entry(), ()),
        messages.Trouble("vda", b"..", "so"),
        messages.Contents(-1, 5),
        messages.Contents(0, 0),
        messages.Pieces(((0, 10, "vda", 0), (5, 10, "vda", 0))),
        messages.Pieces(((0, 10, "vda", -1),)),
        messages.Pieces(((0, -10, "vda", 0),)),
    ],
)
def test_lies_are_refused(lie: messages.Answer) -> None:
    with pytest.raises(BadValue):
        messages.read(json.loads(json.dumps(messages.write(lie))))


def test_requests_survive_too() -> None:
    request = messages.FindChanges(Window(5, 7, 2), 65536, index=True)
    assert unpack(messages.FindChanges, json.loads(json.dumps(pack(request)))) == request
    fetch = messages.FetchFiles((("vda", b"\xff"), (None, b"")), recursive=True)
    assert unpack(messages.FetchFiles, json.loads(json.dumps(pack(fetch)))) == fetch
