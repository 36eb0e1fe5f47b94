"""Reading over NBD: what an export holds, and which of its blocks are what.

This module alone imports libnbd's binding, `nbd`, which comes from the distribution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, tee
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlencode

from vircpt import trace
from vircpt.blocks.extents import Extent, Run, combine
from vircpt.errors import Busy, HostUnreachable, NotFound, NotSupported, VircptError
from vircpt.interrupts import deaf

ALLOCATION = "base:allocation"
_DIRTY = "qemu:dirty-bitmap:"
_STEP = (1 << 32) - (1 << 20)
"""Bytes asked for in one block status request; the protocol's lengths have 32 bits."""


def dirty_context(bitmap: str) -> str:
    """The meta context under which QEMU serves a bitmap."""
    return _DIRTY + bitmap


def unix_uri(export: str, socket: str) -> str:
    """nbd+unix:///vda?socket=PATH, as the NBD URI specification writes it."""
    return f"nbd+unix:///{quote(export, safe='')}?{_query(socket=socket)}"


def tcp_uri(export: str, address: str, port: int, tls_dir: str | None = None) -> str:
    """nbd://host:port/vda, or nbds:// with the directory of the certificates (libnbd's way)."""
    host = f"[{address.replace('%', '%25')}]" if ":" in address else address
    name = quote(export, safe="")
    if tls_dir is None:
        return f"nbd://{host}:{port}/{name}"
    return f"nbds://{host}:{port}/{name}?{_query(**{'tls-certificates': tls_dir})}"


def _query(**parameters: str) -> str:
    return urlencode(parameters, safe="/", quote_via=quote)


def binding() -> ModuleType:
    """libnbd's Python binding; raises NotSupported if it is missing or is another program."""
    try:
        import nbd
    except ImportError as error:
        raise NotSupported(
            "libnbd's Python binding is missing",
            why=str(error),
            hint="apt-get install python3-libnbd, and use system site packages in a venv",
        ) from error
    if not hasattr(nbd, "NBD"):
        raise NotSupported(
            "the Python module 'nbd' is not libnbd's",
            why=f"{getattr(nbd, '__file__', None)} is another program, as PyPI has one",
            hint="pip uninstall nbd; apt-get install python3-libnbd",
        )
    module: ModuleType = nbd
    return module


def version() -> str:
    """libnbd's version."""
    return str(binding().NBD().get_version())


class Reader:
    """A connection to one export of an NBD server; a context manager that closes it.

    `bitmap` is the name of the dirty bitmap to ask for, None for none. Raises
    HostUnreachable if nobody listens, NotFound if there is no such export or bitmap,
    VircptError for anything else that NBD reports.
    """

    def __init__(self, uri: str, bitmap: str | None = None) -> None:
        self._module = binding()
        self.uri = uri
        self._contexts = [ALLOCATION] + ([dirty_context(bitmap)] if bitmap else [])
        self._nbd: Any = self._module.NBD()
        self._nbd.set_uri_allow_local_file(True)  # for the TLS certificates' directory
        for context in self._contexts:
            self._nbd.add_meta_context(context)
        trace.tell(f"nbd: connect to {uri}")
        try:
            self._nbd.connect_uri(uri)
            self._check_contexts()
        except self._module.Error as error:
            raise _translate(error, uri) from error

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(self._module.Error):  # the server may have gone: that was told already
            self._nbd.shutdown()

    @property
    def size(self) -> int:
        """Size of the disk in bytes."""
        return int(self._nbd.get_size())

    def pread(self, length: int, offset: int) -> bytearray:
        """Read `length` bytes at `offset`."""
        try:
            return bytearray(self._nbd.pread(length, offset))
        except self._module.Error as error:
            raise _translate(error, self.uri) from error

    def steps(self) -> Iterator[list[list[Run]]]:
        """The block status of the whole disk, piece by piece: per context, its runs.

        Servers may cut an answer short, and each context elsewhere: within one step all
        contexts cover the same bytes, what one of them told beyond is asked for again.
        """
        offset, size = 0, self.size
        while offset < size:
            answers = self._status(offset, min(_STEP, size - offset))
            covered = min(sum(length for length, _ in runs) for runs in answers)
            if covered <= 0:
                raise VircptError("the NBD server answers nothing to block status", why=self.uri)
            covered = min(covered, size - offset)
            yield [_clip(runs, covered) for runs in answers]
            offset += covered

    def extents(self) -> Iterator[Extent]:
        """The whole disk as extents, in order."""
        # combine() takes equal bytes from both, so tee holds one step at the most
        first, second = tee(self.steps())
        allocation = chain.from_iterable(step[0] for step in first)
        if len(self._contexts) == 1:
            return combine(allocation, None)
        return combine(allocation, chain.from_iterable(step[1] for step in second))

    def _status(self, offset: int, count: int) -> list[list[Run]]:
        answers: dict[str, list[Run]] = {}

        @deaf
        def hear(context: str, _offset: int, entries: list[int], _error: Any) -> int:
            pairs = iter(entries)
            answers[context] = list(zip(pairs, pairs, strict=True))
            return 0

        try:
            self._nbd.block_status(count, offset, hear)
        except self._module.Error as error:
            raise _translate(error, self.uri) from error
        missing = [context for context in self._contexts if not answers.get(context)]
        if missing:
            raise VircptError(f"the NBD server tells nothing of {missing[0]}", why=self.uri)
        return [answers[context] for context in self._contexts]

    def _check_contexts(self) -> None:
        for context in self._contexts:
            if not self._nbd.can_meta_context(context):
                raise NotFound(f"the export has no {context!r}", why=self.uri)


def _clip(runs: list[Run], limit: int) -> list[Run]:
    """The first `limit` bytes of `runs`."""
    over = sum(length for length, _ in runs) - limit
    while over > 0:
        length, flags = runs.pop()
        if length > over:
            runs.append((length - over, flags))
        over -= length
    return runs


def _translate(error: Any, uri: str) -> VircptError:
    message = str(error.string or error)
    name = error.errno
    if name in ("ENOENT", "ECONNREFUSED", "ECONNRESET", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH"):
        if "NBD_REP_ERR_UNKNOWN" in message or "no export named" in message:
            return NotFound("the NBD server has no such export", why=f"{uri}: {message}")
        return HostUnreachable("the export does not answer", why=f"{uri}: {message}",
                               hint="see vircpt exports")  # fmt: skip
    if name == "EACCES":
        return HostUnreachable("no access to the export", why=f"{uri}: {message}",
                               hint="run as root")  # fmt: skip
    if name == "EAGAIN":
        return Busy("the export takes no more connections", why=f"{uri}: {message}")
    return VircptError("NBD failed", why=f"{uri}: {message}")
