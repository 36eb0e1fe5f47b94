"""What logs tell: QEMU stopped by AppArmor or SELinux, and messages that mean no harm.

The formats are documented: AppArmor's messages come through the kernel's audit, as
`apparmor="DENIED" operation="open" profile="libvirt-UUID" name="PATH" …`, SELinux's as
`type=AVC … avc:  denied  { read } for … path="PATH" scontext=…:svirt_t:…`. Both put a name
that holds unusual characters in hexadecimal, without quotes.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vircpt import knowledge
from vircpt.errors import InvalidInput
from vircpt.operations.doctor.findings import Finding

_TAIL = 1 << 20
"""Bytes of each log that are looked at, from its end."""
_KERNEL = (Path("/var/log/audit/audit.log"), Path("/var/log/kern.log"))
_DAEMON = (Path("/var/log/libvirt/libvirtd.log"),)
_PATIENCE = 10.0
_APPARMOR = re.compile(r'apparmor="?DENIED"?')
_SELINUX = re.compile(r"avc: +denied +\{ (?P<what>[^}]*) \}")
_CONFINED = re.compile(r"libvirt-[0-9a-f-]{36}|libvirtd|virt-aa-helper|svirt|qemu|virtqemud")
_FIELD = re.compile(r'\b(name|path|operation|denied_mask|profile)=("([^"]*)"|\S+)')


@dataclass(frozen=True)
class Denial:
    """A file that a security module kept from QEMU or libvirt."""

    module: str
    what: str
    path: str
    uuid: str | None = None


def parse_denial(line: str) -> Denial | None:
    """The denial in a line of the audit or kernel log, if it is one of QEMU's or libvirt's."""
    apparmor = _APPARMOR.search(line)
    selinux = _SELINUX.search(line)
    confined = _CONFINED.search(line)
    if not confined or not (apparmor or selinux):
        return None
    fields = {key: _plain(quoted, raw) for key, raw, quoted in _FIELD.findall(line)}
    path = fields.get("name") or fields.get("path") or "?"
    if selinux:
        return Denial("SELinux", selinux["what"].strip(), fields.get("path") or path)
    uuid = fields.get("profile", "").removeprefix("libvirt-")
    what = fields.get("operation", "?")
    return Denial("AppArmor", what, path, uuid if len(uuid) == 36 else None)


def _plain(quoted: str, raw: str) -> str:
    if raw.startswith('"'):
        return quoted
    if len(raw) % 2 == 0 and re.fullmatch(r"(?:[0-9A-F]{2})+", raw):
        return bytes.fromhex(raw).decode(errors="replace")
    return raw


def find(files: Sequence[Path]) -> Iterator[Finding]:
    """In the logs `files`; without any, in those of this host that can be read, and denials
    only: harmless messages stand in every log, and interest who reads one."""
    for one in judge(_lines(files)):
        if files or one.id != "harmless-message":
            yield one


def judge(lines: Iterable[str]) -> Iterator[Finding]:
    """What the lines tell, each thing once. Pure."""
    denials: Counter[Denial] = Counter()
    harmless: Counter[knowledge.Riddle] = Counter()
    for line in lines:
        denial = parse_denial(line)
        if denial:
            denials[denial] += 1
        else:
            harmless.update(one for one in knowledge.explain(line) if one.harmless)
    for denial, count in denials.items():
        yield _denied(denial, count)
    for riddle, count in harmless.items():
        yield Finding(
            "harmless-message",
            f"{count} times in the log: {riddle.id}. It means: {riddle.meaning}.",
            "None.",
            riddle.hint or "nothing",
        )


def _denied(denial: Denial, count: int) -> Finding:
    key = "apparmor-denied" if denial.module == "AppArmor" else "selinux-denied"
    hint = next(one.hint for one in knowledge.RIDDLES if one.id == key)
    who = f" (domain {denial.uuid})" if denial.uuid else ""
    return Finding(
        "access-denied-by-policy",
        f"{denial.module} denied QEMU or libvirt {denial.what} of {denial.path}{who}, {count} "
        "times.",
        'Exports or the start of the domain fail with "Permission denied", whatever the file\'s '
        "mode.",
        hint or "",
    )


def _lines(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        try:
            yield from _tail(path)
        except OSError as error:
            raise InvalidInput(f"cannot read the log {path}", why=error.strerror) from error
    if files:
        return
    for path in (*_KERNEL, *_DAEMON):
        try:
            yield from _tail(path)
        except OSError:
            continue  # not there, or not for us
    yield from _journal()


def _tail(path: Path) -> list[str]:
    """The last lines; only of a regular file, as a pipe could keep us waiting."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        size = os.fstat(handle).st_size
        file.seek(max(0, size - _TAIL))
        return file.read(_TAIL).decode(errors="replace").splitlines()


def _journal() -> list[str]:
    """The kernel's messages of this boot, from the journal."""
    command = ["journalctl", "--dmesg", "--boot", "--no-pager", "--quiet", "--lines=5000"]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode(errors="replace").splitlines()
