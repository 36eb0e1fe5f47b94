"""Running a command on an export, with a real shell: its status, its environment, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vircpt.operations.reading import ExportedDisk
from vircpt.operations.run import environment, run

VDA = ExportedDisk("vm1", "vda", "nbd+unix:///vda?socket=/x", "friday", "backup-vda")
SDB = ExportedDisk("vm1", "sdb", "nbd+unix:///sdb?socket=/x", None, None)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", 0),
        ("false", 1),
        ("exit 42", 42),
        ("exit 255", 255),
        ("no-such-command-at-all 2>/dev/null", 127),
        ("/dev/null 2>/dev/null", 126),
        ("if 2>/dev/null", 2),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ("kill -KILL $$", 128 + signal.SIGKILL),
        ("sh -c 'kill -TERM $$'; exit $?", 128 + signal.SIGTERM),
        ("false | true", 0),
    ],
)
def test_the_status_is_the_commands(command: str, status: int) -> None:
    # a shell that can't parse -c "if" tells so on its own stderr
    assert (
        run(f"exec 2>/dev/null; {command}" if command.startswith("if") else command, {}) == status
    )


def test_the_command_finds_the_export_in_its_environment(
    capfd: pytest.CaptureFixture[str],
) -> None:
    variables = environment("0123abcd", "/x/nbd.sock", [VDA, SDB])
    status = run(
        'echo "$VIRCPT_EXPORT $VIRCPT_DISKS $VIRCPT_SOCKET $VIRCPT_URI_VDA $VIRCPT_BITMAP_VDA '
        '$VIRCPT_URI_SDB ${VIRCPT_BITMAP_SDB-none} $VIRCPT_URI"',
        variables,
    )
    assert status == 0
    assert capfd.readouterr().out.split() == [
        "0123abcd", "vda", "sdb", "/x/nbd.sock", VDA.uri, "backup-vda", SDB.uri, "none", VDA.uri
    ]  # fmt: skip


def test_over_tcp_there_is_no_socket() -> None:
    assert "VIRCPT_SOCKET" not in environment("0123abcd", None, [VDA])


def test_an_export_of_nothing_has_no_uri() -> None:
    assert environment("0123abcd", None, [])["VIRCPT_URI"] == ""


def test_our_own_environment_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIRCPT_TEST_VALUE", "mine")
    assert run('echo "$VIRCPT_TEST_VALUE $NEW"', {"NEW": "new"}) == 0
    assert capfd.readouterr().out == "mine new\n"
    assert "NEW" not in os.environ


def test_a_value_is_not_read_by_the_shell(capfd: pytest.CaptureFixture[str]) -> None:
    assert run('printf %s "$X"', {"X": "$(echo no) `echo no` ' \""}) == 0
    assert capfd.readouterr().out == "$(echo no) `echo no` ' \""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_is_passed_on_to_the_command(
    signum: signal.Signals, tmp_path: Path
) -> None:
    """Only the process of vircpt gets the signal, as `kill PID` does it."""
    told = tmp_path / "told"
    command = (
        f"trap 'echo told >{told}; exit 7' TERM INT; echo ready; "
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 1; done"
    )
    code = (
        "import sys; from vircpt.cli import signals\n"
        "from vircpt.errors import Interrupted; from vircpt.operations.run import run\n"
        "signals.catch()\n"
        f"try: run({command!r}, {{}})\n"
        "except Interrupted as error: sys.exit(error.exit_code)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.5)  # the shell may be ready before it is waited for
        start = time.monotonic()
        process.send_signal(signum)
        assert process.wait(10) == 128 + signum
        assert time.monotonic() - start < 5
    assert told.read_text() == "told\n"


def test_a_command_that_left_our_session_is_ended_too() -> None:
    code = (
        "import sys; from vircpt.cli import signals\n"
        "from vircpt.errors import Interrupted; from vircpt.operations import run\n"
        "signals.catch(); run._PATIENCE = 1\n"
        "try: run.run(sys.argv[1], {})\n"
        "except Interrupted as error: sys.exit(error.exit_code)\n"
    )
    deaf = "trap : TERM; echo ready; while :; do sleep 60; done"
    for script in ("echo ready; exec sleep 60", deaf):
        command = f"exec setsid sh -c '{script}'"
        with subprocess.Popen(
            [sys.executable, "-c", code, command], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.2)
            process.terminate()
            try:
                assert process.wait(10) == 128 + signal.SIGTERM
            finally:
                process.kill()


def test_a_command_that_is_just_started_hears_the_signal(tmp_path: Path) -> None:
    """What comes between our knowing of it and its start is not lost, nor makes it deaf."""
    told = tmp_path / "told"
    code = (
        "import os, signal, subprocess, sys; from vircpt.cli import signals\n"
        "from vircpt.errors import Interrupted; from vircpt.operations import run\n"
        "class Late(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        super().__init__(*args, **kwargs)\n"
        "        assert sys.stdin.readline() == 'ready\\n'\n"
        "signals.catch(); subprocess.Popen = Late\n"
        "try: run.run(sys.argv[1], {})\n"
        "except Interrupted as error: sys.exit(error.exit_code)\n"
    )
    command = f"trap 'echo told >{told}; exit 7' TERM; echo ready; sleep 3 & wait"
    ready, out = os.pipe()
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code, command], stdin=ready, stdout=out) as one:
        assert one.wait(20) == 128 + signal.SIGTERM
    os.close(ready)
    os.close(out)
    assert told.read_text() == "told\n"
    assert time.monotonic() - start < 3, "it was told at once"


def test_children_that_were_there_before_are_left_alone(tmp_path: Path) -> None:
    """As the ssh over which libvirt is reached: without it the export could not be released."""
    code = (
        "import subprocess, sys; from vircpt.cli import signals\n"
        "from vircpt.errors import Interrupted; from vircpt.operations.run import run\n"
        "signals.catch()\n"
        "ssh = subprocess.Popen(['sleep', '60'])\n"
        "try: run('echo ready; sleep 60 | cat', {})\n"
        "except Interrupted as error: print('lives' if ssh.poll() is None else 'dead')\n"
        "ssh.kill(); ssh.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.stdout.read() == b"lives\n"
