"""Fixtures of the unit tests: a place of one's own for state, and nothing from the environment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# how long a file system or a busy machine takes says nothing about the code
settings.register_profile("vircpt", deadline=None)
settings.load_profile("vircpt")

# as on a terminal: nohup and a shell's & leave them ignored, for all that is started here
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIRCPT_DOMAIN", "VIRCPT_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    # whatever goes wrong, no test here may reach a real libvirt
    monkeypatch.setenv(
        "LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
    )


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VIRCPT_STATE_DIR that does not exist yet."""
    path = tmp_path / "state"
    monkeypatch.setenv("VIRCPT_STATE_DIR", str(path))
    return path


@pytest.fixture
def signals_restored() -> Iterator[None]:
    """The command line's entry point catches signals; afterwards pytest has them back."""
    before = {one: signal.getsignal(one) for one in _SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)
