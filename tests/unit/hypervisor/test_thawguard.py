"""The guard as a process: it says when it is ready, ends when told, and no signal stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from vircpt.hypervisor import thawguard

ORDERS = {
    "uri": "qemu:///nonexistent", "uuid": "0", "limit": 600, "path": [], "user": None,
    "password": None, "parent": os.getpid(),
}  # fmt: skip


@pytest.fixture
def guard() -> Iterator[subprocess.Popen[str]]:
    """The guard, started as agent.py does, without orders yet."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", thawguard.__file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        yield process
        process.kill()


def tell(guard: subprocess.Popen[str], line: str) -> None:
    assert guard.stdin
    guard.stdin.write(line + "\n")
    guard.stdin.flush()


def hear(guard: subprocess.Popen[str]) -> str:
    assert guard.stdout
    return guard.stdout.readline().strip()


def test_it_is_ready_once_it_has_its_orders(guard: subprocess.Popen[str]) -> None:
    tell(guard, json.dumps(ORDERS))
    assert hear(guard) == thawguard.READY
    assert guard.poll() is None


def test_it_is_ready_soon(guard: subprocess.Popen[str]) -> None:
    start = time.monotonic()
    tell(guard, json.dumps(ORDERS))
    hear(guard)
    assert time.monotonic() - start < 5


def test_it_ends_when_all_is_done(guard: subprocess.Popen[str]) -> None:
    tell(guard, json.dumps(ORDERS))
    hear(guard)
    tell(guard, thawguard.FREEZING)
    time.sleep(0.1)
    tell(guard, thawguard.DONE)
    assert hear(guard) == thawguard.DONE
    assert guard.wait(5) == 0
    assert guard.stderr
    assert guard.stderr.read() == ""


@pytest.mark.parametrize("word", [thawguard.DONE, thawguard.THAW, ""])
def test_before_the_freeze_there_is_nothing_to_thaw(
    word: str, guard: subprocess.Popen[str]
) -> None:
    tell(guard, json.dumps(ORDERS))
    hear(guard)
    tell(guard, word)
    assert guard.wait(5) == 0


def test_before_the_freeze_a_parent_that_dies_ends_it(guard: subprocess.Popen[str]) -> None:
    tell(guard, json.dumps(ORDERS))
    hear(guard)
    assert guard.stdin
    guard.stdin.close()
    assert guard.wait(5) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_signal_that_ends_us_ends_it(
    signum: signal.Signals, guard: subprocess.Popen[str]
) -> None:
    tell(guard, json.dumps(ORDERS))
    hear(guard)
    for _ in range(3):
        guard.send_signal(signum)
        time.sleep(0.02)
    assert guard.poll() is None
    tell(guard, thawguard.FREEZING)
    time.sleep(0.1)
    guard.send_signal(signum)
    time.sleep(0.1)
    assert guard.poll() is None
    tell(guard, thawguard.DONE)
    assert hear(guard) == thawguard.DONE
    assert guard.wait(5) == 0


def test_nobody_listening_does_not_stop_it(guard: subprocess.Popen[str]) -> None:
    tell(guard, json.dumps(ORDERS))
    hear(guard)
    assert guard.stdout
    guard.stdout.close()
    tell(guard, thawguard.FREEZING)
    time.sleep(0.1)
    tell(guard, thawguard.DONE)
    guard.wait(5)
    assert guard.stderr
    assert "Traceback" not in guard.stderr.read()


def test_it_imports_nothing_of_vircpt(guard: subprocess.Popen[str]) -> None:
    """Isolated and without site packages it could not: that it starts is the proof."""
    tell(guard, json.dumps(ORDERS))
    assert hear(guard) == thawguard.READY
