"""The command line without any libvirt: usage errors, help, shared options, errors as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vircpt.cli.main import _COMMANDS, main
from vircpt.cli.session import Session

pytestmark = pytest.mark.usefixtures("signals_restored")
NOWHERE = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
Captured = pytest.CaptureFixture[str]


def error_document(text: str) -> dict[str, Any]:
    """The one JSON document on stderr."""
    found: dict[str, Any] = json.loads(text)
    assert found["schema"] == "vircpt/error/1"
    return found


USAGE_ERRORS = [
    ["--bogus"],
    ["-d"],
    ["nosuch"],
    ["list", "--bogus"],
    ["list", "surplus"],
    ["list", "--descendants-of", "x"],
    ["-d", "", "list"],
    ["list", "--roots", "--leaves"],
    ["-d", "vm1", "list", "--roots", "--descendants-of", "x"],
    ["create", "--name"],
    ["-d", "vm1", "create", "--keep-last", "0"],
    ["-d", "vm1", "create", "--keep-last", "many"],
    ["-d", "vm1", "create", "--freeze-limit", "0"],
    ["-d", "vm1", "create", "--freeze-limit", "601"],
    ["-d", "vm1", "create", "--no-freeze", "--require-freeze"],
    ["-d", "vm1", "delete"],
    ["-d", "vm1", "delete", "--name", "x", "--children", "--children-only"],
    ["-d", "vm1", "info"],
    ["-d", "vm1", "dumpxml"],
    ["-d", "vm1", "redefine", "/nonexistent/file.xml"],
    ["-d", "vm1", "export", "--tls-dir", "/x"],
    ["-d", "vm1", "export", "--insecure"],
    ["-d", "vm1", "export", "--no-freeze", "--require-freeze"],
    ["-d", "vm1", "export", "--tcp", "192.0.2.1"],
    ["-d", "vm1", "export", "--tcp", "0.0.0.0", "--insecure"],
    ["-d", "vm1", "export", "--tcp", "192.0.2.1:0", "--insecure"],
    ["-d", "vm1", "export", "--ttl", "soon"],
    ["-d", "vm1", "export", "--ttl", "0"],
    ["-d", "vm1", "map", "--base", "--dirty"],
    ["-d", "vm1", "copy"],
    ["-d", "vm1", "copy", "--format", "vmdk", "x"],
    ["-d", "vm1", "overlay"],
    ["-d", "vm1", "overlay", ""],
    ["-d", "vm1", "copy", "-"],
    ["-d", "vm1", "copy", ""],
    ["completion"],
    ["completion", "tcsh"],
]


@pytest.mark.parametrize("arguments", USAGE_ERRORS, ids=" ".join)
def test_wrong_usage_exits_with_2_and_says_why_on_stderr(
    arguments: list[str], capsys: Captured
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "arguments", [one for one in USAGE_ERRORS if one not in (["--bogus"], ["-d"])], ids=" ".join
)
def test_wrong_usage_after_json_is_one_json_document(
    arguments: list[str], capsys: Captured
) -> None:
    assert main(["--json", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    document = error_document(captured.err)
    assert (document["error"], document["exit_code"]) == ("InvalidInput", 2)
    assert document["what"]


def test_without_a_command_help_is_shown_and_nothing_was_done(capsys: Captured) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: vircpt" in captured.err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("lst", "list"), ("exprot", "export"), ("creat", "create"), ("realease", "release")],
)
def test_a_mistyped_command_is_answered_with_a_suggestion(
    typed: str, meant: str, capsys: Captured
) -> None:
    assert main([typed]) == 2
    assert f"No such command '{typed}'. Did you mean {meant}?" in capsys.readouterr().err


def test_a_command_that_resembles_none_is_answered_with_help(capsys: Captured) -> None:
    assert main(["qqqqqq"]) == 2
    assert "No such command 'qqqqqq'. See vircpt --help." in capsys.readouterr().err


def test_a_domain_in_the_place_of_the_command_is_recognised(capsys: Captured) -> None:
    assert main(["vm1", "list", "--tree"]) == 2
    assert "Did you mean vircpt -d vm1 list --tree?" in capsys.readouterr().err


def test_several_disks_in_one_word_are_answered_with_what_to_write(capsys: Captured) -> None:
    assert main(["-d", "vm1", "create", "--exclude", "vda,vdb"]) == 2
    assert "--exclude vda --exclude vdb" in capsys.readouterr().err


def test_the_same_domain_may_be_named_before_the_command_and_after_it(capsys: Captured) -> None:
    assert main(["-c", NOWHERE, "-d", "vm1", "info", "x", "-d", "vm1"]) == 14


def test_printed_commands_act_on_the_same_host() -> None:
    session = Session()
    text = "vircpt -d vm1 release, then: virsh resume vm1, or vircpt exports"
    assert session.aim(text) == text
    session.uri = "qemu+ssh://host2/system"
    assert session.aim(text) == (
        "vircpt -c qemu+ssh://host2/system -d vm1 release, then: "
        "virsh -c qemu+ssh://host2/system resume vm1, or vircpt exports"
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_descriptors_that_are_closed_are_no_files_to_write_to(closed: str) -> None:
    program = f"{sys.executable} -m vircpt -c '{NOWHERE}' -d vm1 list --tree {closed}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 14
    assert "Traceback" not in done.stderr


def test_a_uri_is_completed_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """bash splits words at colons."""
    words = {"COMP_WORDS": "vircpt -c qemu : ///system -d ", "COMP_CWORD": "6"}
    done = subprocess.run(
        [sys.executable, "-m", "vircpt"],
        env={**os.environ, **words, "_VIRCPT_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""


def test_help_is_a_command_as_well(capsys: Captured) -> None:
    assert main(["help"]) == 0
    everything = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == everything
    assert main(["help", "create"]) == 0
    assert "Usage: vircpt create" in capsys.readouterr().out
    assert main(["help", "nosuch"]) == 2


def test_a_usage_error_points_to_the_help_of_its_command(capsys: Captured) -> None:
    assert main(["list", "--bogus"]) == 2
    assert "hint: see vircpt list --help" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(option: str, capsys: Captured) -> None:
    assert main([option]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert all(f"  {name} " in captured.out for name in _COMMANDS)


@pytest.mark.parametrize("name", _COMMANDS)
def test_each_command_has_help_with_the_shared_options(name: str, capsys: Captured) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: vircpt {name} ")
    assert all(option in text for option in ("--domain DOMAIN", "--json", "--verbose", "--quiet"))


@pytest.mark.parametrize("name", _COMMANDS)
def test_no_line_of_help_is_wider_than_100_columns(name: str, capsys: Captured) -> None:
    main([name, "--help"])
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 100


def test_a_domain_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("VIRCPT_DOMAIN", "vm1")
    assert main(["-c", NOWHERE, "info", "x"]) == 14
    capsys.readouterr()


@pytest.mark.parametrize("option", ["-c", "-U", "--connect", "--uri"])
@pytest.mark.parametrize("domain", ["-d", "--domain"])
def test_a_host_that_does_not_answer_exits_with_14(
    option: str, domain: str, capsys: Captured
) -> None:
    assert main([option, NOWHERE, domain, "vm1", "list"]) == 14
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: cannot connect to {NOWHERE}: ")
    assert "\nhint: " in captured.err


def test_the_default_uri_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", NOWHERE)
    assert main(["list"]) == 14
    assert NOWHERE in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "-d", "vm1", "list"],
        ["-d", "vm1", "--json", "list"],
        ["-d", "vm1", "list", "--json"],
        ["list", "-d", "vm1", "--json"],
        ["list", "--json", "--domain", "vm1", "--tree"],
        ["-v", "--json", "list", "-q", "-d", "vm1"],
    ],
    ids=" ".join,
)
def test_an_error_is_one_json_document_wherever_json_was_asked_for(
    arguments: list[str], capsys: Captured
) -> None:
    assert main(["-c", NOWHERE, *arguments]) == 14
    captured = capsys.readouterr()
    assert captured.out == ""
    document = error_document(captured.err)
    assert document["error"] == "HostUnreachable"
    assert document["exit_code"] == 14
    assert NOWHERE in document["what"]
    assert document["why"]
    assert document["hint"]
    assert {"domain", "disk", "checkpoint"} <= document.keys()


@pytest.mark.parametrize(
    "arguments",
    [["-d", "vm1", "info", "x"], ["info", "-d", "vm1", "x"], ["info", "x", "-d", "vm1"]],
    ids=" ".join,
)
def test_the_domain_is_understood_before_and_after_the_command(
    arguments: list[str], capsys: Captured
) -> None:
    assert main(["-c", NOWHERE, *arguments]) == 14
    capsys.readouterr()


def test_an_error_cannot_paint_the_terminal(capsys: Captured) -> None:
    assert main(["-c", "qemu+unix:///system?socket=/\x1b[31m", "list"]) != 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.err
    assert "\\x1b[31m" in captured.err


def test_a_definition_that_is_no_text_is_wrong_usage(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "x.xml"
    path.write_bytes(b"\xff\xfe\0")
    assert main(["-d", "vm1", "redefine", str(path)]) == 2
    assert "is no text" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: Captured) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "_VIRCPT_COMPLETE" in text
    assert main(["completion", shell, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"schema": "vircpt/completion/1", "shell": shell, "script": text[:-1]}


def _vircpt(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from vircpt.cli.entry import run; run()", *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def _completed(line: str) -> list[str]:
    words = line.split(" ")
    done = _vircpt(
        _VIRCPT_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [one.partition(",")[2] for one in done.stdout.split()]


def test_tab_completes_commands_and_options() -> None:
    assert _completed("vircpt exp") == ["export", "exports"]
    assert set(_completed("vircpt list --r")) == {"--roots"}
    assert _completed("vircpt completion ") == ["bash", "zsh", "fish"]


def test_tab_offers_nothing_in_silence_where_libvirt_does_not_answer() -> None:
    assert _completed(f"vircpt -c {NOWHERE} -d ") == []
    assert _completed(f"vircpt -c {NOWHERE} -d vm1 info ") == []


def test_who_stops_reading_ends_us_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", "from vircpt.cli.entry import run; run()", "completion", "bash"],
        stdout=writing, stderr=subprocess.PIPE, timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_us_with_its_exit_code(signum: signal.Signals, tmp_path: Path) -> None:
    fifo = tmp_path / "x.xml"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [sys.executable, "-c", "from vircpt.cli.entry import run; run()",
         "-d", "vm1", "redefine", str(fifo)],
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        with fifo.open("w"):  # it is open there as well: vircpt reads
            process.send_signal(signum)
            assert process.wait(10) == 128 + signum
        assert process.stderr
        assert process.stderr.read() == f"vircpt: ended by {signum.name}\n"


def test_a_signal_that_was_ignored_before_stays_ignored() -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from vircpt.cli.main import main; main(['--help'])\n"
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
