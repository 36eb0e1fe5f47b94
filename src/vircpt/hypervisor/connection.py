"""The connection to a libvirt: which one, how to be let in, what it is.

The only libvirt object that other rooms hold is a `Connection`, and they treat it as opaque.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import libvirt

from vircpt import errors, trace
from vircpt.hypervisor.translate import translate, translated
from vircpt.interrupts import deaf

Prompt = Callable[[str, bool], str]
"""Asks a person: the question, and whether the answer is shown while it is typed."""

_DAC_LABEL = "dac"


class Credentials(NamedTuple):
    """Who to be, where libvirt asks. What libvirt's auth.conf says goes first."""

    user: str | None = None
    password: str | None = None
    prompt: Prompt | None = None


class Versions(NamedTuple):
    """Versions as x.y.z; `hypervisor` is QEMU's, as libvirt reports it."""

    libvirt: str
    daemon: str
    hypervisor: str


class Owner(NamedTuple):
    """A numeric user and group."""

    uid: int
    gid: int


def default_uri() -> str:
    """LIBVIRT_DEFAULT_URI, else the system's libvirt for root and the session's for others."""
    return os.environ.get("LIBVIRT_DEFAULT_URI") or (
        "qemu:///system" if os.geteuid() == 0 else "qemu:///session"
    )


class Connection:
    """An open connection; a context manager that closes it."""

    def __init__(
        self,
        uri: str | None = None,
        credentials: Credentials | None = None,
        *,
        events: bool = False,
    ) -> None:
        """Connect to `uri` (`default_uri` if None); with `events` libvirt can tell of them.

        Raises HostUnreachable if libvirt does not answer or refuses, InvalidInput if the URI
        is none.
        """
        self.uri = uri or default_uri()
        self.credentials = credentials or Credentials()
        self.was_asked = False
        """True if somebody typed a password or a name, which a later process can't."""
        if not self.uri.isprintable():
            raise errors.InvalidInput(f"{self.uri!r} is no URI")
        host, _, path = self.uri.partition("://")[2].partition("?")[0].partition("/")
        self.is_remote = bool(host)
        self.is_embedded = path == "embed"
        _silence_stderr()
        if self.is_embedded or events:
            _start_event_loop()
        trace.tell(f"libvirt: connect to {self.uri}")
        try:
            self.raw = libvirt.openAuth(self.uri, self._auth(), 0)
        except libvirt.libvirtError as error:
            raise _refused(error, self.uri) from error

    def _auth(self) -> list[Any]:
        @deaf
        def answer(requests: list[list[Any]], _data: object) -> int:
            for request in requests:
                given = self._answer(request[0], str(request[1]))
                if given is None:
                    return -1
                request[4] = given
            return 0

        shown = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_ECHOPROMPT]
        return [[*shown, *_HIDDEN], answer, None]

    def _answer(self, kind: int, question: str) -> str | None:
        """What to say; kept, because the guard may have to log in by itself."""
        hidden = kind in _HIDDEN
        who = self.credentials
        given = who.password if hidden else who.user
        if given is None and who.prompt is not None:
            given = who.prompt(question, not hidden)
            self.was_asked = True
            self.credentials = who._replace(password=given) if hidden else who._replace(user=given)
        return given

    def close(self) -> None:
        try:
            self.raw.close()
        except libvirt.libvirtError:
            return  # the daemon has gone; there is nothing left to close

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def versions(self) -> Versions:
        """The versions of the client library, the daemon and the hypervisor."""
        with translated(f"cannot ask {self.uri} for its versions"):
            return Versions(
                libvirt=library_version(),
                daemon=_dotted(self.raw.getLibVersion()),
                hypervisor=_dotted(self.raw.getVersion()),
            )

    def qemu_owner(self) -> Owner | None:
        """The user that this libvirt runs QEMU as, from the host's capabilities."""
        from vircpt.hypervisor import xml

        with translated(f"cannot ask {self.uri} for its capabilities"):
            root = xml.parse(self.raw.getCapabilities())
        for model in root.findall("host/secmodel"):
            if model.findtext("model") == _DAC_LABEL:
                return parse_owner(model.findtext("baselabel") or "")
        return None


def library_version() -> str:
    """The version of the libvirt library on this host, as x.y.z."""
    return _dotted(libvirt.getVersion())


def parse_owner(label: str) -> Owner | None:
    """`+64055:+107` as libvirt's DAC security labels write it; None if it isn't one."""
    uid, _, gid = label.replace("+", "").partition(":")
    good = uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit()
    return Owner(int(uid), int(gid)) if good else None


def _dotted(version: int) -> str:
    """libvirt's major * 1,000,000 + minor * 1,000 + release."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def _silence_stderr() -> None:
    """Errors come as exceptions; without this libvirt prints each on stderr as well."""
    libvirt.registerErrorHandler(_be_silent, None)


@deaf
def _be_silent(_context: object, _error: object) -> None:
    """libvirt's handler of errors, which it also raises."""


_HIDDEN = (libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT)
_loop_runs = False


def _start_event_loop() -> None:
    """Run libvirt's event loop in a thread: for events, and for the embedded driver to hear QEMU.

    It must be registered before the first connection (virEventRegisterDefaultImpl).
    """
    global _loop_runs
    if _loop_runs:
        return
    import threading

    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()
    _loop_runs = True


def _refused(error: libvirt.libvirtError, uri: str) -> errors.VircptError:
    """A failed connection is 'unreachable' unless the table of texts knows better."""
    told = translate(error, f"cannot connect to {uri}")
    if type(told) in (errors.VircptError, errors.NotSupported):
        return errors.HostUnreachable(told.what, why=told.why, hint=told.hint)
    return told
