"""vircpt boot"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vircpt.cli import complete, output, progress
from vircpt.cli.base import Command
from vircpt.cli.session import Session
from vircpt.errors import InvalidInput, Mismatch, VircptError
from vircpt.interrupts import resume

if TYPE_CHECKING:
    from vircpt.api import BootReport, Clone, Until


@click.command("boot", cls=Command)
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=complete.checkpoints,
    help="The checkpoint that the export is made from, if none runs.",
)
@click.option("--memory", metavar="SIZE", help="Such as 512M or 2G [default: the original's].")
@click.option(
    "--network",
    type=click.Choice(["none", "isolated"]),
    default="none",
    show_default=True,
    help="Without interfaces, or with interfaces that reach nobody.",
)
@click.option(
    "--until",
    metavar="WHAT",
    help="Test that it boots: until the `agent` answers, `console:TEXT` comes, or "
    "`command:CMD` succeeds in the guest; any other text is one on the console.",
)
@click.option(
    "--for",
    "time",
    metavar="TIME",
    help="For that long, such as 90 or 2m; with --until at most [default: 5m].",
)
@click.option(
    "--screenshot",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Put a PNG of the screen there at the end of a test.",
)
@click.option("--stop", is_flag=True, help="End the clones of the domain.")
@click.pass_obj
def command(
    session: Session,
    name: str | None,
    memory: str | None,
    network: str,
    until: str | None,
    time: str | None,
    screenshot: str | None,
    stop: bool,
) -> int:
    """Boot a throw-away clone of the domain on overlays over its export.

    The export that runs is used, or one is made and goes with the clone. The clone has
    another UUID, name and MAC addresses, no network unless asked for, and no devices or
    directories of the host; the original is not touched. With --until or --for it is a test:
    exit code 0 if it passed, 4 if not, and the clone is gone then. Without, it stays until
    `boot --stop`.
    """
    from vircpt.api import Network, parse_until

    if stop:
        if name or memory or until or time or screenshot:
            raise click.UsageError("--stop goes alone")
        return _stop(session)
    wanted = parse_until(until) if until is not None else None
    limit = _seconds(time) if time is not None else None
    if screenshot and not (wanted or limit):
        raise click.UsageError("--screenshot goes with --until or --for")
    what: dict[str, Any] = {
        "memory": _memory(memory),
        "network": Network(network),
    }
    if wanted is None and limit is None:
        return _start(session, name, what)
    place = _new_file(screenshot) if screenshot else None
    return _test(session, name, what, wanted, limit, place)


def _stop(session: Session) -> int:
    stopped = session.host.stop_clones(session.needed_domain)
    if session.json:
        output.document("boot-stop/1", stopped=stopped)
        return 0
    for one in stopped:
        note = "" if one.was_running else " (it had ended before; what it left is removed)"
        output.done(session, f"clone {output.safe(one.name)} is gone{note}")
        if one.released:
            output.done(session, f"export {one.released}, made for it, is released")
    return 0


def _start(session: Session, name: str | None, what: dict[str, Any]) -> int:
    clone = session.domain().boot(name, **what)
    try:
        resume()
        _show(session, clone)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # who reads has seen what they wanted
    except BaseException as error:
        try:
            clone.stop()
        except VircptError as second:
            error.add_note(f"and the clone could not be ended: {second}")
        raise
    return 0


def _show(session: Session, clone: Clone) -> None:
    from vircpt.errors import quoted

    end = session.aim(f"vircpt -d {quoted(clone.original)} boot --stop")
    if session.json:
        output.document("boot/1", **_facts(clone), stop_command=end)
        return
    _tell_start(session, clone)
    word = quoted(clone.name)
    output.result(f"clone {output.safe(clone.name)} of domain {output.safe(clone.original)} runs")
    output.result(f"  # its console\n  virsh console {word}")
    output.result(f"  # its screen\n  virt-viewer --attach {word}")
    output.result(f"end it with:\n  {end}")


def _test(
    session: Session,
    name: str | None,
    what: dict[str, Any],
    until: Until | None,
    limit: float | None,
    place: Path | None,
) -> int:
    from vircpt.api import BOOT_LIMIT, Until, Wanted
    from vircpt.units import format_duration

    until = until or Until(Wanted.TIME)
    seconds = limit or BOOT_LIMIT
    domain = session.domain()
    with domain.boot(
        name, **what, test=True, agent=until.needs_agent, screen=place is not None
    ) as clone:
        resume()
        if not session.json:
            _tell_start(session, clone)
            most = format_duration(seconds)
            output.message(session, f"until {output.safe(until.describe())}, {most} at most")
        with progress.bar(session, "booting") as advance:
            report = clone.run(
                until,
                seconds,
                picture=place is not None,
                progress=(lambda _, now: advance(now / seconds)) if advance else None,
            )
        if place and report.screenshot:
            _write(place, report.screenshot)
    _tell_report(session, clone, until, report, place)
    return 0 if report.passed else Mismatch.exit_code


def _facts(clone: Clone) -> dict[str, Any]:
    return {
        "clone": clone.name,
        "uuid": clone.uuid,
        "domain": clone.original,
        "export": clone.export_id,
        "skipped": clone.source.skipped if clone.source else (),
        "changes": clone.changes,
    }


def _tell_start(session: Session, clone: Clone) -> None:
    if source := clone.source:
        output.tell_skipped(session, source.skipped)
        if source.freeze is None:
            output.message(session, f"it boots from export {clone.export_id}, which ran already")
        elif not source.offline:
            output.tell_freeze(session, source.freeze)
        if source.offline:
            output.message(session, "the domain is shut off: it can't be started until the clone "
                           "has gone")  # fmt: skip
    for one in clone.changes:
        output.message(session, f"changed: {output.safe(one.what)}: {output.safe(one.why)}")


def _tell_report(
    session: Session, clone: Clone, until: Until, report: BootReport, place: Path | None
) -> None:
    from vircpt.units import format_duration

    taken = place if report.screenshot else None
    if session.json:
        output.document(
            "boot-test/1",
            **_facts(clone),
            passed=report.passed,
            until=until.wanted,
            text=until.text or None,
            reason=report.reason,
            seconds=report.seconds,
            console=report.console,
            screenshot=taken,
            no_screenshot=report.no_screenshot,
        )
        return
    verdict = "boots" if report.passed else "DOES NOT BOOT"
    took = format_duration(report.seconds)
    domain, reason = output.safe(clone.original), output.safe(report.reason)
    output.result(f"{domain} {verdict}: {reason} ({took})")
    if report.console:
        output.result("the console's last lines:")
        for line in report.console:
            output.result(f"  | {output.safe(line)}")
    else:
        output.result("the console said nothing")
    if taken:
        output.result(f"screenshot: {taken}")
    elif place:
        output.warning(session, f"no screenshot: {output.safe(report.no_screenshot)}")


def _memory(text: str | None) -> int | None:
    from vircpt.units import parse_size

    if text is None:
        return None
    size = parse_size(text)
    if size < 2**20:
        raise InvalidInput(f"{text!r} is too little memory", hint="write 512M or 2G")
    return size


def _seconds(text: str) -> float:
    """As all durations, and bare seconds as well."""
    from vircpt.units import parse_duration

    return parse_duration(f"{text}s" if text.isdigit() else text)


def _new_file(name: str) -> Path:
    """Refused before anything is started; an existing file is never replaced."""
    path = Path(name).absolute()
    if os.path.lexists(path):
        raise InvalidInput(f"{path} exists already", hint="choose another name")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path.parent} is no directory", hint="make it first")
    return path


def _write(path: Path, data: bytes) -> None:
    """What comes out of a guest is for nobody else to read."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise VircptError(f"cannot make {path}", why=error.strerror) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
