"""Ends, stops or interrupts vircpt at a chosen step of its work: fault injection from outside.

Python imports a module of this name when it starts. A test puts this directory on PYTHONPATH
of the vircpt that it starts, and an order into VIRCPT_INJECT:

    trace:FILE           append the steps to FILE, a line each: number, name, detail; tabs between
    ACTION:STEP          send itself a signal before that step; ACTION is kill, stop, int or term
    ACTION:before:STEP   the same
    ACTION:after:STEP    directly after a libvirt call has returned, before vircpt hears of it

Several orders stand with a semicolon between them; each is carried out once.

A step is what is seen outside: a call into libvirt, or what Python's audit events tell of
files, sockets and processes (https://docs.python.org/3/library/audit_events.html). STEP is a
number from a trace, or a name, which stands for the first step of that name. Reading files
and asking libvirt's objects for their own names are no steps. Child processes are left alone.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any

_SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "int": signal.SIGINT,
    "term": signal.SIGTERM,
}
_AUDITED = frozenset(
    [
        "fcntl.flock",
        "os.chmod",
        "os.chown",
        "os.kill",
        "os.killpg",
        "os.link",
        "os.mkdir",
        "os.posix_spawn",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.symlink",
        "os.truncate",
        "os.utime",
        "socket.bind",
        "socket.connect",
        "subprocess.Popen",
    ]
)
_LOCAL = re.compile(
    r"virEvent|virGet|virInitialize|virRegister|virReset"
    r"|\w+(Free|GetConnect|GetName|GetUUID|GetUUIDString)$"
)
"""Calls into libvirt's client library that go no further."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class Order:
    """A signal at a step."""

    signal: signal.Signals
    step: str
    after: bool
    done: bool = False

    @classmethod
    def parse(cls, text: str) -> Order:
        action, _, rest = text.partition(":")
        when, _, step = rest.rpartition(":")
        return cls(_SIGNALS[action], step, {"": False, "before": False, "after": True}[when])

    def act(self, number: int, name: str, *, after: bool) -> None:
        if not self.done and after == self.after and self.step in (str(number), name):
            self.done = True
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, self.signal)  # as one from outside, which goes there too


class Injector:
    """Numbers the steps, and carries out the orders at theirs."""

    def __init__(self, text: str) -> None:
        self._count = 0
        self._trace: int | None = None
        self._orders: list[Order] = []
        if text.startswith("trace:"):
            file = text.partition(":")[2]
            self._trace = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        else:
            self._orders = [Order.parse(one) for one in text.split(";")]

    def before(self, name: str, detail: object = "") -> int:
        """Count a step that is about to be done; its number."""
        self._count += 1
        number = self._count
        if self._trace is not None:
            os.write(self._trace, f"{number}\t{name}\t{detail}\n".encode())
        self._act(number, name, after=False)
        return number

    def after(self, number: int, name: str) -> None:
        """Step `number` has been done."""
        self._act(number, name, after=True)

    def _act(self, number: int, name: str, *, after: bool) -> None:
        for order in self._orders:
            order.act(number, name, after=after)

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event in _AUDITED:
            self.before(event, arguments[1] if event == "subprocess.Popen" else arguments[0])
        elif event == "open" and isinstance(arguments[0], str) and arguments[2] & _WRITING:
            self.before(event, arguments[0])

    def wrap(self, module: ModuleType) -> None:
        """Count calls to the functions of libvirt's C module, which libvirt.py looks up anew."""
        for name, function in list(vars(module).items()):
            if name.startswith("vir") and callable(function) and not _LOCAL.match(name):
                setattr(module, name, self._counted(name, function))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            number = self.before(name)
            result = function(*args, **kwargs)
            self.after(number, name)
            return result

        return call


def inject(order: str) -> None:
    import libvirtmod

    sys.dont_write_bytecode = True
    injector = Injector(order)
    injector.wrap(libvirtmod)
    sys.addaudithook(injector.watch)


if given := os.environ.pop("VIRCPT_INJECT", ""):  # so that children are left alone
    inject(given)
