"""The entry point: the group of commands, signals, and errors put into words."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from vircpt import __version__, errors
from vircpt.cli import outcome
from vircpt.cli.base import LazyGroup, shared_options
from vircpt.cli.session import Session

_COMMANDS = {
    "create": ("create", "Make a checkpoint."),
    "list": ("list", "Checkpoints, how much changed since, and their health."),
    "info": ("info", "One checkpoint in full."),
    "dumpxml": ("dumpxml", "A checkpoint's definition."),
    "redefine": ("redefine", "Bring a checkpoint's metadata back from its definition."),
    "history": ("history", "How much changed between checkpoints, over time."),
    "delete": ("delete", "Delete checkpoints."),
    "export": ("export", "Serve the disks as they are now over NBD, changed blocks marked."),
    "exports": ("exports", "All running exports on this host."),
    "release": ("release", "End an export."),
    "hotadd": ("hotadd", "Attach the disks of a domain to another running domain."),
    "hotremove": ("hotremove", "Detach them again."),
    "mount": ("mount", "Mount the guest's file systems on this host, read-only."),
    "umount": ("umount", "Unmount them again."),
    "nbdinfo": ("nbdinfo", "What the running export offers, as nbdinfo tells it."),
    "map": ("map", "Which blocks of a disk are dirty, zero, allocated."),
    "layout": ("layout", "Partitions, volumes, file systems, and changed bytes of each."),
    "diff": ("diff", "Which files changed since a checkpoint."),
    "ls": ("ls", "List files of the guest."),
    "cat": ("cat", "Print a file of the guest."),
    "cp": ("cp", "Copy files of the guest to this host."),
    "copy": ("copy", "Copy a disk of the running export into an image."),
    "overlay": ("overlay", "A writable image on top of a disk of the running export."),
    "backup": ("backup", "Back a domain up into a repository of plain qcow2 files."),
    "backups": ("backups", "The backups of a repository, and when they were verified."),
    "verify": ("verify", "Check every byte of backups."),
    "restore": ("restore", "Bring disks, or a domain, back from a backup."),
    "help": ("help", "What a command does and takes."),
    "boot": ("boot", "Boot a throw-away clone on the disks as they are now."),
    "doctor": ("doctor", "What is wrong with checkpoints, exports and the host; and the repair."),
    "save-metadata": ("save_metadata", "Keep the definitions of checkpoints outside of libvirt."),
    "restore-metadata": ("restore_metadata", "Bring checkpoints back that libvirt lost."),
    "completion": ("completion", "Completion for bash, zsh or fish."),
}


def _store(attribute: str) -> Any:
    def callback(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            setattr(context.ensure_object(Session), attribute, value)

    return callback


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from vircpt.cli.version import show

        show(context.ensure_object(Session), __version__)
        context.exit()


@click.group(
    cls=LazyGroup,
    homes=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failure, 2 usage, 3 partly done, 4 verification failed, "
    "10 not found, 11 busy, "
    "12 not supported here, 13 broken bitmap, 14 host unreachable, 128+n signal n. "
    "An export shows the disks as they are when it starts, not as they were when the "
    "checkpoint was made.",
)
@click.option(
    "-c",
    "-U",
    "--connect",
    "--uri",
    "uri",
    metavar="URI",
    is_eager=True,
    callback=_store("uri"),
    help="libvirt's URI [default: LIBVIRT_DEFAULT_URI, else qemu:///system for root, "
    "qemu:///session for others].",
)
@click.option(
    "--user",
    metavar="NAME",
    is_eager=True,
    callback=_store("user"),
    help="Who to be where libvirt asks; the password is asked for, or stands in auth.conf.",
)
@click.option(
    "--version",
    is_flag=True,
    callback=_version,
    expose_value=False,
    help="Versions of vircpt, libvirt, QEMU and libnbd.",
)
@click.pass_context
def cli(context: click.Context, uri: str | None, user: str | None) -> None:
    """Checkpoints of running VMs: make them, see what changed, export the disks over NBD."""
    context.call_on_close(context.ensure_object(Session).close)


def _tell_steps() -> None:
    """For -v: each step on stderr, with the seconds since the start; not beside JSON."""
    import time

    from vircpt import trace
    from vircpt.cli import output

    start = time.monotonic()
    trace.listen(
        lambda step: print(
            f"{time.monotonic() - start:7.3f} {output.safe(step)}", file=sys.stderr, flush=True
        )
    )


cli.params.extend(shared_options())


def main(arguments: Sequence[str]) -> int:
    """Run a command line; return the exit code (see docs/exit-codes.md)."""
    session = Session()
    session.json = "--json" in arguments  # errors of usage come before options are read
    if not session.json and {"-v", "--verbose", "-vv"} & set(arguments):
        _tell_steps()
    return outcome.of(session, lambda: _run(arguments, session))


def _run(arguments: Sequence[str], session: Session) -> int:
    try:
        if "_VIRCPT_COMPLETE" in os.environ:
            from click.shell_completion import add_completion_class

            from vircpt.cli.bash import Bash

            add_completion_class(Bash)
            cli.main(list(arguments), "vircpt", obj=session)
        # not click's main(): that ends the process at a broken pipe, without our exit code
        with cli.make_context("vircpt", list(arguments), obj=session) as context:
            code = cli.invoke(context)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.Abort:
        return 128 + signal.SIGINT
    except click.ClickException as error:
        return _tell_usage(error, session)


def _tell_usage(error: click.ClickException, session: Session) -> int:
    text = error.format_message()
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        print(text, file=sys.stderr)
        return error.exit_code
    if session.json:
        told = errors.InvalidInput(text)
        return outcome.tell(told, session)
    print(f"error: {text}", file=sys.stderr)
    context = getattr(error, "ctx", None)
    if context is not None:
        print(f"hint: see {context.command_path} --help", file=sys.stderr)
    return errors.InvalidInput.exit_code
