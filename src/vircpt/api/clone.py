"""A throw-away clone of a domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vircpt.errors import NotSupported, VircptError
from vircpt.hypervisor.connection import Connection
from vircpt.interrupts import uninterrupted

if TYPE_CHECKING:
    from vircpt.hypervisor.clone import Change
    from vircpt.operations.boot import StartedClone
    from vircpt.operations.boot_source import ExportSource
    from vircpt.operations.boot_stop import StoppedClone
    from vircpt.operations.boot_test import BootReport, Progress, Until


class Clone:
    """A clone that was started; as a context manager it is gone at the end."""

    def __init__(
        self, started: StartedClone, connection: Connection, source: ExportSource | None = None
    ) -> None:
        self._started = started
        self._claim = started.claim
        self._connection = connection
        self.source = source
        """What it boots from, if that is an export of its original."""

    def __enter__(self) -> Clone:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            with uninterrupted():
                self.stop()
        except VircptError as second:
            if error is None:
                raise
            error.add_note(f"and the clone could not be ended: {second}")

    @property
    def name(self) -> str:
        return self._started.directory.record.name

    @property
    def uuid(self) -> str:
        return self._started.directory.record.uuid

    @property
    def original(self) -> str:
        return self._started.directory.record.original

    @property
    def export_id(self) -> str | None:
        """The export that it reads from."""
        return self._started.directory.record.export

    @property
    def changes(self) -> tuple[Change, ...]:
        """What it has not, or not as its original has it."""
        return self._started.changes

    def run(
        self,
        until: Until,
        limit: float,
        *,
        picture: bool = False,
        progress: Progress | None = None,
    ) -> BootReport:
        """Let it boot, for `limit` seconds at most, and tell how that went; for tests only.

        With `picture` the report has a screenshot as PNG. See `parse_until` for `until`.
        """
        from vircpt.operations import boot_test

        if self._claim is None:
            raise NotSupported(
                f"clone {self.name} is in no test", why="it was not started for one, or it is over"
            )
        return boot_test.run(self._started.domain, until, limit, picture=picture, progress=progress)

    def screenshot(self) -> bytes:
        """Its screen, as PNG."""
        from vircpt.hypervisor import screenshot

        return screenshot.take(self._started.domain)

    def stop(self) -> StoppedClone:
        """End it, and remove all that it had; over a connection of its own, since that of a
        test may have gone with libvirt's daemon."""
        import os

        from vircpt.operations import boot_stop

        with Connection(self._connection.uri, self._connection.credentials) as connection:
            stopped = boot_stop.stop_one(connection, self._started.directory)
        if self._claim is not None:
            os.close(self._claim)
            self._connection.close()
            self._claim = None
        return stopped
