"""The child's half: take the request, lock down, do what was asked, answer.

It starts with nothing but open descriptors: the request on stdin, answers on stdout, a
connected socket for each disk.
"""

from __future__ import annotations

import os
import resource
import sys
from array import array
from typing import Any

from vircpt.blocks.nbd import Reader
from vircpt.confined import lockdown, messages, wire
from vircpt.confined.codec import decoder
from vircpt.confined.finding import Disks
from vircpt.confined.verbs import preload, run
from vircpt.errors import VircptError
from vircpt.guestfiles.intervals import Intervals
from vircpt.guestfiles.source import Cached

_FLUSH = 1 << 16


def main() -> None:
    """Do what stdin asks for. Ends the process."""
    try:
        _serve()
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more
    except BaseException as error:
        # no traceback: it would open source files, and says nothing to users
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace")[:2000])
        os._exit(1)
    os._exit(0)


def _serve() -> None:
    request = wire.Frame(*_read_frame()).value()
    disks = {one[0]: _disk(*one[1:]) for one in request["disks"]}
    preload()
    if request["confine"]:
        lockdown.lock_down(request["seconds"])
    else:
        lockdown.limit(request["seconds"])
    answers = _Answers()
    answers.say({"ready": True})
    answers.flush()
    kind = messages.REQUESTS[request["verb"]]
    try:
        wanted = decoder(kind)(request["arguments"])
        sources = {target: source for target, (source, _) in disks.items()}
        known = {target: dirty for target, (_, dirty) in disks.items() if dirty is not None}
        for answer in run(wanted, Disks(sources, known)):
            answers.answer(answer)
    except VircptError as error:
        answers.say({"failed": [type(error).__name__, error.what, error.why, error.hint]})
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        fetched = sum(source.fetched for source, _ in disks.values())
        answers.answer(messages.Spent(fetched, memory))
        answers.say({"done": True})
    answers.flush()


def _disk(fd: int, export: str, dirty: int | None) -> tuple[Cached, Intervals | None]:
    """A disk to read, and what of it is dirty; `dirty` bytes of stdin tell that."""
    source = Cached(Reader.on_socket(fd, export))
    if dirty is None:
        return source, None
    numbers = array("Q")
    numbers.frombytes(_read(dirty))
    return source, Intervals(zip(numbers[::2], numbers[1::2], strict=True))


def _read_frame() -> tuple[bytes, bytes]:
    kind, length = wire.HEAD.unpack(_read(wire.HEAD.size))
    return kind, _read(length)


def _read(length: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < length:
        piece = os.read(0, min(length - len(pieces), 1 << 20))
        if not piece:
            raise EOFError("the request is cut short")
        pieces += piece
    return bytes(pieces)


class _Answers:
    """Writes frames to stdout, many at once."""

    def __init__(self) -> None:
        self._held = bytearray()

    def say(self, value: Any) -> None:
        """A frame about the child itself, or one that is packed already."""
        self._held += wire.record(value)
        if len(self._held) > _FLUSH:
            self.flush()

    def answer(self, answer: messages.Answer | bytes) -> None:
        """An answer, or the bytes that belong to the one before."""
        if isinstance(answer, bytes):
            self._held += wire.frame(wire.BYTES, answer)
            self.flush()
        else:
            self.say(messages.write(answer))

    def flush(self) -> None:
        view = memoryview(bytes(self._held))
        self._held.clear()
        while view:
            view = view[os.write(1, view) :]


if __name__ == "__main__":
    sys.exit("this is started by vircpt.confined.sandbox")
