"""Reading over NBD: what an export holds, and which of its blocks are what.

This module alone imports libnbd's binding, `nbd`, which comes from the distribution.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from vircpt import trace
from vircpt.blocks.extents import Columns, Runs, columns
from vircpt.errors import Busy, HostUnreachable, NotFound, NotSupported, VircptError
from vircpt.interrupts import deaf

if TYPE_CHECKING:
    import socket

ALLOCATION = "base:allocation"
_DIRTY = "qemu:dirty-bitmap:"
_SLICE = 200
"""Milliseconds."""
_SILENCE = 60.0
BUFFER = 1 << 20
"""Bytes read at once."""
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


def connected_socket(uri: str) -> tuple[socket.socket, str]:
    """A socket connected to the server of a URI without TLS, and the export's name.

    Raises HostUnreachable if nobody listens.
    """
    import socket

    parts = urlsplit(uri)
    trace.tell(f"connect to {uri}")
    try:
        if parts.scheme == "nbd+unix":
            found = socket.socket(socket.AF_UNIX)
            found.settimeout(_SILENCE)
            try:
                found.connect(parse_qs(parts.query)["socket"][0])
            except BaseException:
                found.close()
                raise
        else:
            host = unquote(parts.hostname or "")
            found = socket.create_connection((host, parts.port or 10809), _SILENCE)
    except OSError as error:
        raise HostUnreachable(
            "the export does not answer", why=f"{uri}: {error}", hint="see vircpt exports"
        ) from error
    found.settimeout(None)
    return found, unquote(parts.path[1:])


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
        self._open(uri, [ALLOCATION] + ([dirty_context(bitmap)] if bitmap else []))
        self._connect(lambda: self._nbd.aio_connect_uri(uri))

    @classmethod
    def on_socket(cls, fd: int, export: str) -> Reader:
        """For reading alone, over a socket that is connected; libnbd takes the descriptor over."""
        reader = cls.__new__(cls)
        reader._open(export, [])
        reader._nbd.set_export_name(export)
        reader._connect(lambda: reader._nbd.aio_connect_socket(fd))
        return reader

    def _open(self, uri: str, contexts: list[str]) -> None:
        self._module = binding()
        self.uri = uri
        self._contexts = contexts
        self._buffers: list[bytearray] = []
        self._nbd: Any = self._module.NBD()
        self._nbd.set_uri_allow_local_file(True)  # for the TLS certificates' directory
        for context in self._contexts:
            self._nbd.add_meta_context(context)

    def _connect(self, start: Callable[[], object]) -> None:
        uri = self.uri
        trace.tell(f"nbd: connect to {uri}")
        try:
            start()
            self._wait(lambda: not self._nbd.aio_is_connecting())
            self._check_contexts()
        except BaseException as error:
            # at once, not when the traceback goes: QEMU ends no export while a client lingers
            self._nbd = None
            if isinstance(error, self._module.Error):
                raise _translate(error, uri) from error
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._nbd is not None:
            with suppress(self._module.Error):  # the server may have gone: that was told already
                self._nbd.aio_disconnect(0)
        self._nbd = None  # closes the socket, without waiting for a server that may be stuck

    def abandon(self) -> None:
        """Give up the connection at once, with all that is under way."""
        self._nbd = None

    @property
    def size(self) -> int:
        """Size of the disk in bytes."""
        return int(self._nbd.get_size())

    def pread(self, length: int, offset: int) -> bytearray:
        """Read `length` bytes at `offset`."""
        (buffer,) = self.buffers(1)
        if length <= len(buffer):
            data = memoryview(buffer)[:length]
            self.finish(self.start(data, offset))
            return bytearray(data)
        read = bytearray()
        while len(read) < length:
            read += self.pread(min(BUFFER, length - len(read)), offset + len(read))
        return read

    def buffers(self, count: int) -> list[bytearray]:
        """Buffers to read into, BUFFER bytes each, always the same ones.

        libnbd 1.14's binding never lets go of a buffer that was read into.
        """
        while len(self._buffers) < count:
            self._buffers.append(bytearray(BUFFER))
        return self._buffers[:count]

    def start(self, buffer: memoryview, offset: int) -> int:
        """Start to read into `buffer`, a part of one of `buffers`, until `finish` has returned."""
        try:
            return int(self._nbd.aio_pread(self._module.Buffer.from_buffer(buffer), offset))
        except self._module.Error as error:
            raise _translate(error, self.uri) from error

    def finish(self, cookie: int) -> None:
        """Wait until what `start` began is done."""
        try:
            self._wait(lambda: bool(self._nbd.aio_command_completed(cookie)))
        except self._module.Error as error:
            raise _translate(error, self.uri) from error

    def start_read(self, buffer: Any, offset: int) -> int:
        """Ask for the bytes at `offset` that fill an nbd.Buffer; a number for `is_read`."""
        try:
            return int(self._nbd.aio_pread(buffer, offset))
        except self._module.Error as error:
            raise _translate(error, self.uri) from error

    def is_read(self, number: int) -> bool:
        """Whether they have come; may be asked once more after a False, not after a True."""
        try:
            return bool(self._nbd.aio_command_completed(number))
        except self._module.Error as error:
            raise _translate(error, self.uri) from error

    def advance(self, direction: int) -> None:
        """Let libnbd go on after its socket was found ready."""
        try:
            if direction & self._module.AIO_DIRECTION_READ:
                self._nbd.aio_notify_read()
            elif direction & self._module.AIO_DIRECTION_WRITE:
                self._nbd.aio_notify_write()
        except self._module.Error as error:
            raise _translate(error, self.uri) from error

    def steps(self) -> Iterator[tuple[Runs, Runs | None]]:
        """The block status of the whole disk, piece by piece: of allocation, and of the bitmap.

        Servers may cut an answer short, and each context elsewhere: within one step both
        cover the same bytes, what one of them told beyond is asked for again.
        """
        offset, size = 0, self.size
        while offset < size:
            answers = self._status(offset, min(_STEP, size - offset))
            covered = min(sum(runs.lengths) for runs in answers)
            if covered <= 0:
                raise VircptError("the NBD server answers nothing to block status", why=self.uri)
            covered = min(covered, size - offset)
            clipped = [_clip(runs, covered) for runs in answers]
            yield clipped[0], clipped[1] if len(clipped) > 1 else None
            offset += covered

    def columns(self) -> Iterator[Columns]:
        """The extents of the whole disk, in order, by column."""
        return columns(self.steps())

    def _status(self, offset: int, count: int) -> list[Runs]:
        answers: dict[str, Runs] = {}

        @deaf
        def hear(context: str, _offset: int, entries: list[int], _error: Any) -> int:
            answers[context] = Runs(entries[::2], entries[1::2])
            return 0

        try:
            cookie = self._nbd.aio_block_status(count, offset, hear)
            self._wait(lambda: bool(self._nbd.aio_command_completed(cookie)))
        except self._module.Error as error:
            raise _translate(error, self.uri) from error
        missing = [context for context in self._contexts if context not in answers]
        if missing:
            raise VircptError(f"the NBD server tells nothing of {missing[0]}", why=self.uri)
        return [answers[context] for context in self._contexts]

    def _wait(self, over: Callable[[], bool]) -> None:
        """Wait in slices, between which Python hears signals: libnbd's own calls never return
        while a server is silent."""
        deadline = time.monotonic() + _SILENCE
        while not over():
            if self._nbd.poll(_SLICE) == 1:
                deadline = time.monotonic() + _SILENCE
            elif time.monotonic() > deadline:
                raise HostUnreachable(
                    "the export does not answer",
                    why=f"{self.uri} has been silent for {_SILENCE:g} s",
                    hint="is the domain's storage stuck? See virsh domstate --reason",
                )

    def _check_contexts(self) -> None:
        for context in self._contexts:
            if not self._nbd.can_meta_context(context):
                raise NotFound(f"the export has no {context!r}", why=self.uri)


def wait(readers: Sequence[Reader], milliseconds: int = _SLICE) -> bool:
    """Let libnbd work on all these connections; False if none had anything for that long."""
    import select

    poll = select.poll()
    by_handle: dict[int, tuple[Reader, int]] = {}
    for one in readers:
        module, connection = one._module, one._nbd
        direction = connection.aio_get_direction()
        events = select.POLLIN if direction & module.AIO_DIRECTION_READ else 0
        events |= select.POLLOUT if direction & module.AIO_DIRECTION_WRITE else 0
        handle = connection.aio_get_fd()
        poll.register(handle, events)
        by_handle[handle] = one, direction
    ready = poll.poll(milliseconds)
    for handle, _ in ready:
        one, direction = by_handle[handle]
        one.advance(direction)
    return bool(ready)


def _clip(runs: Runs, limit: int) -> Runs:
    """The first `limit` bytes of `runs`."""
    lengths, flags = runs
    over = sum(lengths) - limit
    while over > 0:
        over -= lengths.pop()
        last = flags.pop()
        if over < 0:
            lengths.append(-over)
            flags.append(last)
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
