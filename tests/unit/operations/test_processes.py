"""Processes are found and ended by the words of their command line, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vircpt.operations import processes

Start = Callable[..., subprocess.Popen[bytes]]
READY = "print('ready', flush=True)"
SLEEP = f"import time; {READY}; time.sleep(60)"
DEAF = f"import signal, time; signal.signal(15, signal.SIG_IGN); {READY}; time.sleep(60)"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python process with words of one's own behind its command line."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*words: str | bytes, code: str = SLEEP) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """A word that no other process has in its command line."""
    return f"mark-{tmp_path}"


def test_a_process_is_found_by_its_words(start: Start, mark: str) -> None:
    one = start(mark, "one")
    start(mark, "other")
    assert processes.find(mark, "one") == [one.pid]


def test_words_must_stand_in_a_row(start: Start, mark: str) -> None:
    start(mark, "between", "one")
    assert processes.find(mark, "one") == []
    assert processes.find("one", mark) == []


def test_nothing_is_found_where_nothing_is(mark: str) -> None:
    assert processes.find(mark) == []
    processes.end(mark)


def test_a_process_that_nobody_waited_for_is_not_found(start: Start, mark: str) -> None:
    process = start(mark)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.find(mark) == []


def test_a_stopped_process_is_found(start: Start, mark: str) -> None:
    process = start(mark)
    process.send_signal(signal.SIGSTOP)
    assert processes.find(mark) == [process.pid]


def test_bytes_that_are_no_text_do_no_harm(start: Start, mark: str) -> None:
    process = start(mark, b"\xff\xfe")
    assert processes.find(mark) == [process.pid]


def test_ending_waits_until_they_have_gone(start: Start, mark: str) -> None:
    doomed = [start(mark, "doomed") for _ in range(3)]
    spared = start(mark, "spared")
    processes.end(mark, "doomed")
    assert [one.poll() for one in doomed] == [-signal.SIGTERM] * 3
    assert spared.poll() is None


def test_who_does_not_listen_is_killed(
    start: Start, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_PATIENCE", 0.3)
    process = start(mark, code=DEAF)
    begin = time.monotonic()
    processes.end(mark)
    assert process.wait(1) == -signal.SIGKILL
    assert time.monotonic() - begin < 5


def test_we_never_end_ourselves(mark: str) -> None:
    code = (
        "import sys; from vircpt.operations import processes\n"
        "processes.end(sys.argv[1]); print('alive')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, mark], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_processes_are_not_ours(mark: str) -> None:
    with subprocess.Popen(
        ["sh", "-c", "echo ready; read -r line", mark],
        user=4321,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        assert mark.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert processes.find(mark) == []
        processes.end(mark)
        assert process.poll() is None


def test_only_descendants_are_told(start: Start, mark: str) -> None:
    """A pid may belong to somebody else by the time that it is told."""
    child = start(mark)
    with subprocess.Popen(
        ["sh", "-c", "setsid sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout
        stranger = int(shell.stdout.readline())
    try:
        processes.tell([child.pid, stranger, 2**22 - 1], signal.SIGTERM)
        assert child.wait(5) == -signal.SIGTERM
        state = Path(f"/proc/{stranger}/stat").read_text().rpartition(")")[2].split()[0]
        assert state not in ("Z", "X")
    finally:
        os.kill(stranger, signal.SIGKILL)
