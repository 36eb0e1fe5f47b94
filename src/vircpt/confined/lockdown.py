"""What the child gives up before it looks at the first byte of a disk.

Limits on memory, time and files; root's rights; and all system calls but those that reading
open sockets and pipes, and memory, take. bubblewrap has taken the rest already: namespaces,
capabilities, the file system. libseccomp's binding comes from the distribution; it knows the
numbers of system calls of each architecture, and their other ABIs, which we would get wrong.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
from typing import Any

import seccomp

NOBODY = 65534
MEMORY = 768 << 20
"""Bytes of address space. What is resident stays far below."""

_ALLOWED = (
    *("read", "write", "readv", "writev", "close", "lseek", "fstat", "shutdown"),
    *("recvfrom", "recvmsg", "sendto", "sendmsg"),  # libnbd, on sockets that are connected
    *("poll", "ppoll"),
    *("munmap", "mremap", "brk", "madvise"),
    *("futex", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
    *("getpid", "gettid", "getrandom", "getrusage", "sched_yield"),
    *("clock_gettime", "clock_nanosleep", "gettimeofday", "time"),
    *("exit", "exit_group"),
)
_NO_CODE = ("mmap", "mprotect")
"""Allowed as long as the memory does not become executable."""


def lock_down(seconds: int) -> None:
    """Give up all that reading and answering does not need, for good; `seconds` of CPU stay."""
    _limit(seconds)
    _drop_root()
    _filter()


def limit(seconds: int) -> None:
    """The limits alone, for who runs without a sandbox."""
    _limit(seconds)


def _limit(seconds: int) -> None:
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, seconds),
    ):
        resource.setrlimit(what, (value, value))


def _drop_root() -> None:
    """Become nobody; bubblewrap left root's child only the capabilities that this takes.

    In a user namespace we are nobody already, and nobody else can be.
    """
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _filter() -> None:
    """From here on any other system call fails with EPERM."""
    rules: Any = seccomp.SyscallFilter(defaction=seccomp.ERRNO(errno.EPERM))
    for name in _ALLOWED:
        rules.add_rule(seccomp.ALLOW, name)
    for name in _NO_CODE:
        no_code = seccomp.Arg(2, seccomp.MASKED_EQ, mmap.PROT_EXEC, 0)
        rules.add_rule(seccomp.ALLOW, name, no_code)
    rules.load()
