"""Looking into the file systems of an export: the confined child, and what it answers."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from vircpt.blocks import nbd
from vircpt.blocks.extents import KINDS
from vircpt.confined import messages, wire
from vircpt.confined.codec import BadValue, pack
from vircpt.confined.messages import Answer, Contents, Spent
from vircpt.confined.sandbox import Confined, ConfinedDisk, Limits
from vircpt.errors import NotSupported
from vircpt.operations.reading import ExportedDisk

DEFAULT_TIME = 600.0


@dataclass(frozen=True)
class Confinement:
    """How hostile disks are looked at: in a sandbox or not, and for how many seconds at most."""

    sandbox: bool = True
    seconds: float = DEFAULT_TIME


class Look:
    """One request to the child, and its answers; a context manager that ends the child.

    `spent` is known when all answers have come.
    """

    def __init__(
        self,
        request: object,
        disks: Sequence[ExportedDisk],
        confinement: Confinement,
        *,
        dirty: bool = False,
    ) -> None:
        self.spent: Spent | None = None
        with ExitStack() as stack:
            confined = [_connect(one, stack, dirty=dirty) for one in disks]
            self._confined = Confined(
                type(request).__name__,
                pack(request),
                confined,
                sandbox=confinement.sandbox,
                limits=Limits(seconds=confinement.seconds),
            )

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *_: object) -> None:
        self._confined.close()

    def answers(self) -> Iterator[Answer | bytes]:
        """Each answer, checked; bytes follow their Contents. Raises VircptError if the child
        dies, is too slow, or says what makes no sense."""
        expected = 0
        while (frame := self._confined.next_frame()) is not None:
            if expected:
                if frame.kind != wire.BYTES or len(frame.payload) != expected:
                    raise self._confined.nonsense("contents of another length")
                expected = 0
                yield frame.payload
                continue
            answer = self._answer(frame)
            if isinstance(answer, Spent):
                self.spent = answer
            else:
                expected = answer.length if isinstance(answer, Contents) else 0
                yield answer

    def _answer(self, frame: wire.Frame) -> Answer:
        try:
            return messages.read(self._confined.value(frame))
        except BadValue as error:
            raise self._confined.nonsense(str(error)) from error


def _connect(disk: ExportedDisk, stack: ExitStack, *, dirty: bool) -> ConfinedDisk:
    if disk.tls:
        raise NotSupported(
            "the files of an export over TLS can't be looked at",
            why="the confined child has no certificates",
            disk=disk.target,
            hint="export on this host over a Unix socket",
        )
    runs = dirty_runs(disk) if dirty else None
    socket, export = nbd.connected_socket(disk.uri)
    stack.enter_context(socket)  # the child has its own by then
    return ConfinedDisk(disk.target, socket, export, runs)


def dirty_runs(disk: ExportedDisk) -> array[int] | None:
    """What was written: offset, length, offset, length, … in bytes; None if no bitmap tells."""
    if disk.bitmap is None:
        return None
    runs = array("Q")
    for piece in disk.columns():
        for offset, length, kind in zip(*piece, strict=True):
            if KINDS[kind].dirty:
                runs.extend((offset, length))
    return runs
