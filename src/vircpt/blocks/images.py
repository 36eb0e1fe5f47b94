"""Disk images at rest, through qemu-img: overlays on them, copies into them, checks of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from vircpt import trace
from vircpt.blocks import headers
from vircpt.blocks.placing import placed
from vircpt.errors import InvalidInput, NotSupported, VircptError

Progress = Callable[[float], None]
"""Told the part that is done, from 0 to 1."""

_UMASK = 0o077
"""What comes out of a VM's disk is for nobody else to read."""
_PACKAGES = {
    "qemu-img": "qemu-utils",
    "nbdinfo": "libnbd-bin",
}
FORMATS = ("qcow2", "raw")
_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")
_PERCENT_LINE = re.compile(rb"\s*\([\d.]+/100%\)\s*")
_PATIENCE = 5.0


def remove_bitmap(path: str, name: str) -> None:
    """Remove a bitmap from a qcow2 image that nobody has open; qemu-img's lock sees to that.

    It opens that file and no other. Raises NotSupported if the data is in another one.
    """
    if headers.read(path, "qcow2").has_data_file:
        raise NotSupported(
            f"bitmap {name} can't be removed from {path}",
            why="its header names another file, which holds the data",
        )
    driver = "host_device" if Path(path).is_block_device() else "file"
    node = {"driver": "qcow2", "file": {"driver": driver, "filename": path}, "backing": None}
    _run(
        ["qemu-img", "bitmap", "--remove", "--", f"json:{json.dumps(node)}", name],
        f"cannot remove bitmap {name} from {path}",
    )


@dataclass(frozen=True)
class TlsExport:
    """An NBD export behind TLS: QEMU's tools have no URI for that."""

    address: str
    port: int
    export: str
    tls_dir: str

    def options(self) -> list[str]:
        """What qemu-img is told instead of a URI."""
        directory, export = (one.replace(",", ",,") for one in (self.tls_dir, self.export))
        return [
            "--object",
            f"tls-creds-x509,id=tls,dir={directory},endpoint=client",
            "--image-opts",
            f"driver=nbd,server.type=inet,server.host={self.address},server.port={self.port},"
            f"export={export},tls-creds=tls",
        ]


def create_overlay(path: Path, backing_uri: str) -> None:
    """Make a new qcow2 at `path` on top of an NBD export; an existing file is never replaced."""
    with placed(path) as (part, handle), _named(path, part):
        _run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", backing_uri,
             "--", str(part)],
            f"cannot make the overlay {path}",
            handle,
        )  # fmt: skip


def format_overlay(handle: int, backing: str, size: int, backing_format: str = "raw") -> None:
    """Make the empty file behind `handle` a qcow2 image of `size` bytes.

    It is on top of `backing`: the URI of an NBD export, or the absolute path of an image.
    """
    _run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", backing_format, "-b", backing,
         f"/proc/self/fd/{handle}", str(size)],
        "cannot make an overlay",
        handle,
    )  # fmt: skip


def copy(
    source: str | TlsExport, path: Path, image_format: str, progress: Progress | None = None
) -> None:
    """Copy an NBD export into a new image, sparse; an existing file is never replaced.

    Until the copy is whole it stands beside the destination, in a hidden directory; there it
    stays if it can't be put in place.
    """
    if image_format not in FORMATS:
        raise InvalidInput(f"no format {image_format!r}", hint=f"use {' or '.join(FORMATS)}")
    origin = ["-f", "raw", source] if isinstance(source, str) else source.options()
    with placed(path) as (part, handle), _named(path, part):
        command = ["qemu-img", "convert", "-p", "-O", image_format, *origin, str(part)]
        _run_with_progress(command, f"cannot copy to {path}", progress, handle)


@contextmanager
def _named(path: Path, part: Path) -> Iterator[None]:
    """Errors name the file by the name that it is to get."""
    try:
        yield
    except VircptError as error:
        why = error.why and error.why.replace(str(part), str(path))
        raise type(error)(error.what, why=why, hint=error.hint) from error


@dataclass(frozen=True)
class OpenChain:
    """An image and those below it, given to QEMU as files that are open already.

    `node` describes it in QEMU's words; `handles` are the files that it names as /dev/fd/N.
    """

    node: Mapping[str, object]
    handles: tuple[int, ...]

    def file_name(self) -> str:
        """What stands for it on QEMU's command lines."""
        return f"json:{json.dumps(self.node)}"


def convert(
    chain: OpenChain,
    path: Path,
    image_format: str,
    progress: Progress | None,
    agree: Callable[[], None],
) -> None:
    """Copy a chain into one new image, sparse and synced; an existing file is never replaced.

    `agree` is called before it is put in its place, and may raise.
    """
    with placed(path) as (part, handle), _named(path, part):
        command = ["qemu-img", "convert", "-p", "-O", image_format, chain.file_name(), str(part)]
        what = f"cannot restore to {path}"
        _run_with_progress(command, what, progress, handle, *chain.handles)
        agree()


def convert_to_device(chain: OpenChain, path: Path, progress: Progress | None = None) -> None:
    """Copy a chain onto a block device, zeroes too."""
    command = ["qemu-img", "convert", "-p", "-n", "-O", "raw", chain.file_name(), str(path)]
    _run_with_progress(command, f"cannot restore to {path}", progress, *chain.handles)
    with path.open("rb") as device:
        os.fsync(device.fileno())


def read_all(chain: OpenChain, size: int, progress: Progress | None = None) -> None:
    """Have QEMU read all of it."""
    command = ["qemu-img", "convert", "-p", "-n", "--target-image-opts", chain.file_name(),
               f"driver=null-co,size={size}"]  # fmt: skip
    _run_with_progress(command, "QEMU can't read it", progress, *chain.handles)


def check(chain: OpenChain) -> None:
    """Have QEMU look for faults in the tables of the topmost image; raises VircptError."""
    node = {**chain.node, "backing": None}
    _run(["qemu-img", "check", "-q", f"json:{json.dumps(node)}"], "qemu-img check found faults",
         *chain.handles)  # fmt: skip


def nbdinfo(uri: str, *, as_json: bool = False) -> str:
    """What the tool nbdinfo tells of an NBD export.

    It guesses the content by `file`; where that is missing nbdinfo 1.14 prints stray bytes.
    """
    options = ["--json"] if as_json else []
    if which("file") is None:
        options.append("--no-content")
    return _run(["nbdinfo", *options, "--", uri], "nbdinfo failed")


def _run(command: Sequence[str], what: str, *handles: int) -> str:
    trace.tell(f"run: {' '.join(command)}")
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            stdin=subprocess.DEVNULL,
            check=False,
            umask=_UMASK,
            pass_fds=handles,
        )
    except FileNotFoundError as error:
        raise missing_tool(command[0]) from error
    if done.returncode:
        raise VircptError(what, why=_reason(done.stderr) or f"status {done.returncode}")
    return done.stdout


def _run_with_progress(
    command: Sequence[str], what: str, progress: Progress | None, *handles: int
) -> None:
    """Run a tool that prints (12.34/100%); it ends when we are interrupted."""
    trace.tell(f"run: {' '.join(command)}")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours to handle
            umask=_UMASK,
            pass_fds=handles,
        )
    except FileNotFoundError as error:
        raise missing_tool(command[0]) from error
    said = b""
    try:
        assert process.stdout
        while piece := os.read(process.stdout.fileno(), 4096):
            said = (said + piece)[-4096:]
            found = _PERCENT.findall(piece)
            if found and progress:
                progress(float(found[-1]) / 100)
        process.wait()
    except BaseException:
        _end(process)
        raise
    finally:
        if process.stdout:
            process.stdout.close()
    if process.returncode:
        text = _PERCENT_LINE.sub(b"", said).decode(errors="replace")
        raise VircptError(what, why=_reason(text) or f"status {process.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """A tool that waits for a silent server hears no SIGTERM."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def missing_tool(name: str) -> NotSupported:
    """The error for a tool that isn't installed."""
    package = _PACKAGES.get(name, name)
    return NotSupported(f"the program {name} is missing", hint=f"apt-get install {package}")


def _reason(text: str) -> str:
    """What a tool said: its last lines, which tell the cause and the consequence."""
    return " ".join(line.strip() for line in text.strip().splitlines()[-3:])
