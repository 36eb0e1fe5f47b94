"""What the child can't do once it is locked down, and what its parent makes of its lies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vircpt.confined import sandbox, wire
from vircpt.confined.sandbox import Confined, ConfinedDisk, Limits
from vircpt.errors import NotFound, NotSupported, VircptError

Connect = Callable[[], ConfinedDisk]
CHECKOUT = Path(__file__).parents[3]

# Stands where the parsers would: what is in it does what a parser that was taken over could do.
HOSTILE = """\
import sys; sys.path[:] = sys.argv[1:]
import ctypes, encodings.idna, json, mmap, os, resource, signal, socket, time
from vircpt.confined import child, messages, wire
from vircpt.confined.messages import Oddity
def tried(work):
    try:
        return f"done: {work()!r}"
    except OSError as error:
        return type(error).__name__
def hostile(request, disks):
    source = disks.sources.get("vda")
%s
child.run = hostile
child.main()
"""


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the children that are started from now on run that code behind the lockdown."""

    def take_over(code: str) -> None:
        body = textwrap.indent(textwrap.dedent(code), "    ")
        monkeypatch.setattr(sandbox, "_BOOT", HOSTILE % body)

    return take_over


def heard(
    disks: list[ConfinedDisk], *, sandbox: bool = True, limits: Limits | None = None
) -> list[object]:
    """All that the child answers."""
    with Confined("LookAtLayout", [], disks, sandbox=sandbox, limits=limits) as confined:
        return [confined.value(frame) for frame in confined.frames()]


def oddities(answers: list[object]) -> list[str]:
    return [one[1][0] for one in answers if isinstance(one, list) and one[0] == "Oddity"]


PROBES = {
    "open a file to read": "open('/usr/lib/os-release')",
    "open a file to write": "open('/x', 'w')",
    "open its own memory": "open('/proc/self/mem')",
    "list a directory": "os.listdir('/')",
    "make a directory": "os.mkdir('/tmp')",
    "remove a file": "os.unlink('/usr/lib/os-release')",
    "read a link": "os.readlink('/lib')",
    "make a socket": "socket.socket(socket.AF_UNIX)",
    "make a TCP socket": "socket.socket(socket.AF_INET)",
    "connect": "socket.create_connection(('127.0.0.1', 22))",
    "fork": "os.fork()",
    "execute": "os.execv('/usr/bin/true', ['true'])",
    "signal its parent": "os.kill(os.getppid(), 9)",
    "become root again": "os.setuid(0)",
    "make a pipe": "os.pipe()",
    "make a user namespace": "os.unshare(0x10000000) if hasattr(os, 'unshare') else os.mkdir('/y')",
    "look at limits of others": "resource.prlimit(os.getppid(), 7)",
    "get memory it can execute": "mmap.mmap(-1, 4096, prot=mmap.PROT_EXEC | mmap.PROT_WRITE)",
}


def test_the_child_can_read_its_disk_and_nothing_else(
    disk: Connect, hostile: Callable[[str], None]
) -> None:
    hostile(
        f"""
        yield Oddity(bytes(source.pread(8, 0)).decode())
        for name, probe in {PROBES!r}.items():
            yield Oddity(name + ": " + tried(lambda: eval(probe)))
        """
    )
    answers = oddities(heard([disk()]))
    assert answers[0] == "PRECIOUS"
    assert answers[1:] == [f"{name}: PermissionError" for name in PROBES]


def test_without_system_calls_to_forbid_the_sandbox_still_holds(
    disk: Connect, hostile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walls behind the wall: bubblewrap's, were the filter of system calls not there."""
    hostile(
        """
        yield Oddity(repr({*os.getresuid(), *os.getresgid(), *os.getgroups()}))
        for path in ("/etc", "/var", "/home", "/root", "/tmp", "/proc/1", "/dev", "/sys"):
            yield Oddity(path + " " + repr(os.path.exists(path)))
        yield Oddity("write " + tried(lambda: open("/x", "w")))
        yield Oddity("write there " + tried(lambda: open("/usr/lib/x", "w")))
        yield Oddity("root " + tried(lambda: os.setuid(0)))
        net = socket.socket(socket.AF_INET)
        yield Oddity("connect " + tried(lambda: net.connect(("127.0.0.1", 22))))
        """
    )
    monkeypatch.setattr(
        sandbox,
        "_BOOT",
        sandbox._BOOT.replace("child.run =", "child.lockdown._filter = lambda: 0\nchild.run ="),
    )
    answers = oddities(heard([disk()]))
    assert answers[0] == "{65534}"
    assert [one for one in answers if one.endswith("True")] == []
    assert len(answers) == 13
    assert [one for one in answers if "done" in one] == []


def test_an_ordinary_user_is_confined_as_well(disk: Connect, tmp_path: Path) -> None:
    """Root's children are made in another way: see sandbox._bubblewrap."""
    probe = "    yield Oddity(tried(lambda: open('/usr/lib/os-release')))"
    script = tmp_path / "user.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys
            sys.path[0] = {str(CHECKOUT / "src")!r}
            os.setgroups([]); os.setgid(1000); os.setuid(1000)
            from vircpt.confined import sandbox
            sandbox._BOOT = {HOSTILE % probe!r}
            with sandbox.Confined("LookAtLayout", [], []) as confined:
                print([confined.value(frame) for frame in confined.frames()][:1])
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[['Oddity', ['PermissionError']]]", done.stderr


def test_no_bubblewrap_is_an_error_that_names_the_way_out(
    disk: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotSupported, match="bwrap") as caught:
        heard([disk()])
    assert "--no-sandbox" in str(caught.value.hint)


def test_a_sandbox_that_cannot_be_made_is_an_error(
    disk: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(NotSupported, match="No permissions to create") as caught:
        heard([disk()])
    assert "--no-sandbox" in str(caught.value.hint)


def test_without_sandbox_it_works_when_that_is_asked_for(
    disk: Connect, hostile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile("yield Oddity(bytes(source.pread(8, 0)).decode())")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert oddities(heard([disk()], sandbox=False)) == ["PRECIOUS"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("os._exit(3); yield", "ended with 3"),
        ("ctypes.string_at(0); yield", "SIGSEGV"),
        ("held = [bytes(1 << 24) for _ in range(1000)]; yield", "MemoryError"),
        ("raise ValueError('odd \\x1b[31m'); yield", r"ValueError: odd \?\[31m"),
        ("os.write(1, b'J\\xff\\xff\\xff\\xff'); yield", "4294967295 bytes"),
        ("os.write(1, wire.frame(b'J', b'{\"done\"')); time.sleep(9); yield", "no JSON"),
        ("os.write(1, wire.frame(b'J', b'[' * 100000)); time.sleep(9); yield", "no JSON"),
        ("os.write(1, wire.record({'ready': True})); time.sleep(9); yield", "makes no sense"),
        ("os.write(1, wire.record({'done': 1})); time.sleep(9); yield", "makes no sense"),
        ("os.write(1, b'J\\0\\0\\0\\x09halves'); os._exit(0); yield", "before all was said"),
    ],
)  # fmt: skip
def test_a_child_that_dies_or_lies_is_told(
    disk: Connect, hostile: Callable[[str], None], code: str, why: str
) -> None:
    hostile(code)
    start = time.monotonic()
    with pytest.raises(VircptError, match=why):
        heard([disk()])
    assert time.monotonic() - start < 20


def test_a_child_that_hangs_up_is_ended(disk: Connect, hostile: Callable[[str], None]) -> None:
    hostile("os.close(1); os.close(2); time.sleep(100); yield")
    with pytest.raises(VircptError, match="fell silent"):
        heard([disk()], sandbox=False)


@pytest.mark.parametrize("code", ["time.sleep(100); yield", "while True: 1\nyield"])
def test_time_is_limited(disk: Connect, hostile: Callable[[str], None], code: str) -> None:
    hostile(code)
    start = time.monotonic()
    with pytest.raises(VircptError, match="took too long"):
        heard([disk()], limits=Limits(seconds=1.5))
    assert time.monotonic() - start < 10


def test_answers_are_counted(disk: Connect, hostile: Callable[[str], None]) -> None:
    hostile("while True: yield Oddity('more')")
    with pytest.raises(VircptError, match="without end"):
        heard([disk()], limits=Limits(frames=1000))


def test_errors_of_the_child_arrive_as_what_they_are(
    disk: Connect, hostile: Callable[[str], None]
) -> None:
    hostile(
        """
        from vircpt.errors import NotFound
        raise NotFound("no such file", hint="look elsewhere")
        yield
        """
    )
    with pytest.raises(NotFound) as caught:
        heard([disk()])
    assert (caught.value.what, caught.value.hint) == ("no such file", "look elsewhere")


def test_the_child_is_gone_with_its_parent(disk: Connect, tmp_path: Path) -> None:
    """Even if the parent has no time to say good-bye."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            sys.path[:0] = [{str(CHECKOUT / "src")!r}]
            from vircpt.confined import sandbox
            sandbox._BOOT = {(HOSTILE % "    time.sleep(1000); yield")!r}
            confined = sandbox.Confined("LookAtLayout", [], [])
            print(confined._process.pid, flush=True)
            time.sleep(1000)
            """
        )
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    with parent.stdout:
        child = int(parent.stdout.readline())
    assert _group(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    limit = time.monotonic() + 10
    while _group(child):
        assert time.monotonic() < limit, "the child outlives its parent"
        time.sleep(0.05)


def _group(session: int) -> list[str]:
    """The processes, zombies aside, that came of a process and stand in its cgroup of sessions."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if words[0] != "Z" and str(session) in (stat.parent.name, words[1], words[3]):
            found.append(stat.parent.name)
    return found


def test_frames_are_split_wherever_the_pipe_cuts_them() -> None:
    stream = wire.record({"a": 1}) + wire.frame(wire.BYTES, b"xyz") + wire.record([])
    for cut in range(len(stream)):
        splitter = wire.Splitter()
        found = [*splitter.feed(stream[:cut]), *splitter.feed(stream[cut:])]
        assert [one.payload for one in found] == [b'{"a":1}', b"xyz", b"[]"]
        assert json.loads(found[0].payload) == {"a": 1}
