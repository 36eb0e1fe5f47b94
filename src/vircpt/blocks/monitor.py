"""The few lines of QMP that are needed to have a QEMU of ours serve images.

QEMU's own qemu.qmp would do, but parts of it are GPL-2.0-only.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

_LONGEST = 1 << 26
"""Bytes of an answer: an image may have 65535 bitmaps."""


class Refused(Exception):
    """QEMU answered a command with an error: its own words."""


class Silence(Exception):
    """QEMU ended or hangs, or talks nonsense; what it has to say stands in its log."""


class Monitor:
    """One command, one answer, over a connected socket that has a time limit set."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""

    def call(self, command: str, arguments: Mapping[str, Any], handle: int | None = None) -> Any:
        """Run one command, with a descriptor for it; what it returned."""
        text = json.dumps({"execute": command, "arguments": dict(arguments)}) + "\n"
        try:
            if handle is None:
                self._socket.sendall(text.encode())
            else:
                socket.send_fds(self._socket, [text.encode()], [handle])
        except OSError as error:
            raise Silence(str(error)) from error
        limit = self._socket.gettimeout()
        deadline = None if limit is None else time.monotonic() + limit
        while True:
            answer = self._read(deadline)
            if "error" in answer:
                raise Refused(_words(answer["error"]))
            if "return" in answer:  # and not the greeting, or an event
                return answer["return"]

    def _read(self, deadline: float | None) -> dict[str, Any]:
        """The next line."""
        while b"\n" not in self._rest:
            if deadline is not None and time.monotonic() > deadline:
                raise Silence("it does not come to an answer")
            if len(self._rest) > _LONGEST:
                raise Silence("its answer does not end")
            try:
                piece = self._socket.recv(1 << 16)
            except OSError as error:
                raise Silence(str(error)) from error
            if not piece:
                raise Silence("it has ended")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Silence("its answer is no JSON") from error
        if not isinstance(answer, dict):
            raise Silence("its answer is no object")
        return answer


def _words(error: object) -> str:
    """What QEMU calls an error."""
    return str(error.get("desc", error)) if isinstance(error, dict) else str(error)
