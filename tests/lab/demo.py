"""The story that script/demo tells, with the real command line on a real guest.

    tests/lab/enter .venv/bin/python tests/lab/demo.py

It runs in the lab, whose end is the end of all that it starts; each step that fails ends it.
What the story does to its VM it does as `demo.py ACT …`, in processes of their own: the embedded
driver serves one process at a time, from the first connection until that process ends.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import libvirt

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from lab.daemon import LabError
from lab.embed import embedded, uri
from lab.vms import IMAGES, MIB, Disk, Vm, define_guest

VIRCPT = Path(__file__).parents[2] / ".venv/bin/vircpt"
STATE = Path("/var/lib/vircpt/exports")
NAME = "demo"


class StepFailed(Exception):
    """A step of the story ended otherwise than it should."""


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, terminated)
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors come as exceptions as well
    try:
        if arguments:
            act, directory, *rest = arguments
            ACTS[act](Path(directory), *rest)
        else:
            tell()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # who read the story has gone; say no more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (StepFailed, LabError, libvirt.libvirtError) as error:
        sys.stderr.write(f"demo: error: {error}\n")
        return 1
    return 0


def terminated(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)


def tell() -> None:
    if os.environ.get("VIRCPT_LAB") != "1":
        raise StepFailed("this is not the lab: run script/demo")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="demo-", dir=IMAGES) as directory:
        Path(directory).chmod(0o711)  # QEMU is another user
        story(Stage(Path(directory)))
    say(f"That was all, in {time.monotonic() - begun:.0f} s. QEMU has gone, and so have its files.")


def story(stage: Stage) -> None:
    say("A small Linux boots, with a guest agent and an ext4 on its disk vda.")
    stage.act("boot")
    say(
        "A checkpoint. The guest's file systems stand frozen while it is made, and from then on",
        "QEMU notes which blocks are written.",
    )
    stage.vircpt("create --name friday")
    say("The guest writes a file of 3 MiB.")
    stage.guest("dd if=/dev/urandom of=/mnt/report bs=1M count=3 conv=fsync")
    stage.vircpt("list")
    say(
        "Export the disks over NBD: as they are at this moment, with those blocks marked that",
        "were written since friday.",
    )
    stage.vircpt("export --name friday")
    say("The guest goes on writing, and the list goes on counting …")
    stage.guest("dd if=/dev/urandom of=/mnt/later bs=1M count=5 conv=fsync")
    stage.vircpt("list")
    say("… but the export stands still. This is what changed from friday to its start:")
    stage.vircpt("map --totals")
    stage.vircpt("map --dirty")
    say("Any NBD client can read it; nbdinfo is libnbd's.")
    stage.shell(f"nbdinfo {stage.export_uri()}")
    say("A copy of the disk, as it was when the export began:")
    stage.vircpt("copy demo.qcow2")
    stage.shell(f"qemu-img compare -F raw demo.qcow2 {stage.export_uri()}")
    say("All that is exported on this host, and the end of it.")
    stage.vircpt("exports")
    stage.vircpt("release")
    stage.vircpt("delete --name friday")
    stage.vircpt("list")
    stage.act("clear")


class Stage:
    """Where the story plays: shows commands and runs them, in the VM's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def vircpt(self, arguments: str) -> None:
        """Show and run vircpt on the VM."""
        command = f"vircpt -d {NAME} {arguments}"
        show(f"$ {command}")
        self._run(command, [str(VIRCPT), *command.split()[1:]])

    def shell(self, command: str) -> None:
        """Show and run a command line."""
        show(f"$ {command}")
        self._run(command, ["sh", "-c", command])

    def guest(self, command: str) -> None:
        """Show a command line and run it in the guest."""
        show(f"{NAME}# {command}")
        self.act("guest", command)

    def act(self, act: str, *arguments: str) -> None:
        """Run one of ACTS."""
        command = [sys.executable, __file__, act, str(self._directory), *arguments]
        # The embedded driver logs like a daemon; vircpt silences it by itself.
        self._run(act, command, LIBVIRT_LOG_OUTPUTS="1:file:/dev/null")

    def export_uri(self) -> str:
        """Of vda, quoted as `vircpt export` prints it."""
        sockets = list(STATE.glob("*/io/nbd.sock"))
        if len(sockets) != 1:
            raise StepFailed(f"one socket should be in {STATE}, and there are {len(sockets)}")
        return shlex.quote(f"nbd+unix:///vda?socket={sockets[0]}")

    def _run(self, name: str, command: list[str], **environment: str) -> None:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env={**os.environ, "LIBVIRT_DEFAULT_URI": uri(self._directory), **environment},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        if done.returncode:
            raise StepFailed(f"{name!r} ended with exit code {done.returncode}")


def boot(directory: Path) -> None:
    with embedded(directory) as connection:
        vm = define_guest(connection, NAME, [Disk("vda", 256 * MIB)], directory=directory)
        vm.start()
        vm.wait_agent()
        vm.guest("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")


def guest(directory: Path, command: str) -> None:
    with embedded(directory) as connection:
        vm = Vm(connection.lookupByName(NAME), {}, None)
        vm.wait_agent()  # a driver just started is not connected to it yet
        sys.stdout.write(vm.guest(f"{{ {command}; }} 2>&1"))


def clear(directory: Path) -> None:
    """End the VM and see that nothing is left of it, and of what vircpt had."""
    with embedded(directory) as connection:
        vm = Vm(connection.lookupByName(NAME), {}, None)
        qemu = Path(f"/proc/{vm.pid()}")
        vm.remove()
    if qemu.exists():
        raise StepFailed(f"QEMU still runs, as process {qemu.name}")
    if left := [path.name for path in STATE.iterdir()]:
        raise StepFailed(f"vircpt left something in {STATE}: {', '.join(left)}")


ACTS: dict[str, Callable[..., None]] = {"boot": boot, "guest": guest, "clear": clear}


def say(*lines: str) -> None:
    write("\n" + "".join(f"# {line}\n" for line in lines))


def show(command: str) -> None:
    write(f"\n{command}\n")


def write(text: str) -> None:
    """At once: what the next command writes comes after it, also in a pipe."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
