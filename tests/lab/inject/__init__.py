"""Running vircpt under fault injection (sitecustomize.py), and seeing what it left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.daemon import poll

CHECKOUT = Path(__file__).parents[3]
PROGRAM = CHECKOUT / ".venv/bin/vircpt"
EXPORTS = Path("/var/lib/vircpt/exports")
OURS = (
    b"thawguard.py",
    b"vircpt.operations.expire",
    b"vircpt.blocks.appliance",
    b"guest=/var/lib/vircpt/",
    b"bin/vircpt\0",
)
"""Marks of vircpt's own processes, and of those that it starts and that outlive it."""

_ASKING = re.compile(r"vir\w*(Get|IsActive|ListAll|Lookup)")


@dataclass(frozen=True)
class Step:
    """A step of vircpt that is seen outside, such as a call into libvirt."""

    number: int
    name: str
    detail: str

    @property
    def changes(self) -> bool:
        """Whether something outside may be different after it."""
        return not _ASKING.search(self.name)


def start(*args: str | Path, order: str = "") -> subprocess.Popen[str]:
    """Start vircpt under an order of sitecustomize.py, or undisturbed."""
    environment = dict(os.environ)
    if order:
        environment |= {"PYTHONPATH": str(Path(__file__).parent), "VIRCPT_INJECT": order}
    return subprocess.Popen(
        [PROGRAM, *args],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,  # so that a test can do to it what Ctrl-C in a terminal does
    )


def finish(process: subprocess.Popen[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Wait for what `start` started; it is killed if it takes longer, which is an error."""
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(
    *args: str | Path, order: str = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    return finish(start(*args, order=order), timeout)


def trace(*args: str | Path, file: Path) -> tuple[subprocess.CompletedProcess[str], list[Step]]:
    """Run vircpt undisturbed; how it ended, and the steps that it went through."""
    done = run(*args, order=f"trace:{file}")
    assert done.returncode == 0, shown(done)
    lines = (line.split("\t", 2) for line in file.read_text().splitlines())
    steps = [Step(int(number), name, detail) for number, name, detail in lines]
    file.unlink()
    return done, steps


def stopped_at(*args: str | Path, step: str, timeout: float = 30) -> subprocess.Popen[str]:
    """Start vircpt, and wait until it has stopped itself at a step; it goes on with SIGCONT."""
    process = start(*args, order=f"stop:{step}")

    def is_stopped() -> bool:
        assert process.poll() is None, finish(process)
        return _state(process.pid) == "T"

    poll(is_stopped, timeout, f"vircpt to stop at {step}")
    return process


def processes() -> list[str]:
    """Command lines of all that runs of vircpt's now, in this namespace."""
    return [line.replace(b"\0", b" ").decode(errors="replace") for _, line in _ours()]


def leftovers() -> list[str]:
    """What stands in the directory of exports."""
    return sorted(path.name for path in EXPORTS.iterdir()) if EXPORTS.exists() else []


def wait_alone(timeout: float = 5) -> None:
    """Wait until no process of vircpt's is left."""
    try:
        poll(lambda: not processes(), timeout, "vircpt's processes to end")
    except Exception as error:
        error.add_note("\n".join(processes()))
        raise


def sweep() -> None:
    """Remove what is left of a failed test's exports, so that the next test starts clean."""
    for pid, _ in _ours():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in leftovers():
        shutil.rmtree(EXPORTS / name)


def _ours() -> Iterator[tuple[int, bytes]]:
    """Pids and command lines."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(mark in line for mark in OURS):
            yield int(directory.name), line


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def _state(pid: int) -> str:
    """One letter, as proc(5) has it: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def shown(result: subprocess.CompletedProcess[str]) -> str:
    """For the message of an assertion."""
    args: Sequence[str] = result.args if isinstance(result.args, list) else [str(result.args)]
    command = " ".join(map(str, args[1:]))
    return f"vircpt {command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
