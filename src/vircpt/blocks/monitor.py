"""The few lines of QMP that are needed to have a QEMU of ours serve images.

QEMU's own qemu.qmp would do, but parts of it are GPL-2.0-only.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any


class Refused(Exception):
    """QEMU answered a command with an error: its own words."""


class Silence(Exception):
    """QEMU ended or hangs; what it has to say stands in its log."""


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
        while True:
            answer = self._read()
            if "error" in answer:
                raise Refused(answer["error"]["desc"])
            if "return" in answer:  # and not the greeting, or an event
                return answer["return"]

    def _read(self) -> Any:
        """The next line."""
        while b"\n" not in self._rest:
            try:
                piece = self._socket.recv(1 << 16)
            except OSError as error:
                raise Silence(str(error)) from error
            if not piece:
                raise Silence("it has ended")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)
