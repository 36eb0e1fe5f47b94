"""What a QEMU that a hostile image has taken over may answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from vircpt.blocks import monitor
from vircpt.blocks.monitor import Monitor, Refused, Silence


@pytest.fixture
def pair() -> Iterator[tuple[Monitor, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.5)
    with ours, theirs:
        yield Monitor(ours), theirs


@pytest.mark.parametrize("line", [b"{", b"\xff", b"[" * 100_000, b"[]", b"1", b"null", b"NaN"])
def test_nonsense_is_silence(pair: tuple[Monitor, socket.socket], line: bytes) -> None:
    talks, theirs = pair
    theirs.sendall(line + b"\n")
    with pytest.raises(Silence):
        talks.call("look", {})


@pytest.mark.parametrize("error", [b"{}", b'"x"', b"null", b'{"desc": 1}'])
def test_an_odd_error_is_an_error(pair: tuple[Monitor, socket.socket], error: bytes) -> None:
    talks, theirs = pair
    theirs.sendall(b'{"error": ' + error + b"}\n")
    with pytest.raises(Refused):
        talks.call("look", {})


def test_an_answer_without_end(
    pair: tuple[Monitor, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_LONGEST", 1000)
    talks, theirs = pair
    theirs.sendall(b"x" * 2000)
    with pytest.raises(Silence, match="does not end"):
        talks.call("look", {})


def test_chatter_is_no_answer(pair: tuple[Monitor, socket.socket]) -> None:
    talks, theirs = pair
    over = threading.Event()

    def chatter() -> None:
        while not over.wait(0.05):
            theirs.sendall(b'{"event": "x"}\n')

    thread = threading.Thread(target=chatter)
    thread.start()
    start = time.monotonic()
    with pytest.raises(Silence, match="does not come to an answer"):
        talks.call("look", {})
    over.set()
    thread.join()
    assert time.monotonic() - start < 3
