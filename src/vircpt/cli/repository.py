"""Which repository is meant: an option, the environment, or a configuration file.

repository = "/srv/backup"          # /etc/vircpt.toml, or ~/.config/vircpt.toml, which wins
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vircpt.cli.session import Session
from vircpt.errors import InvalidInput

T = TypeVar("T")
_KNOWN = {"repository": str}


def repository_of(session: Session, given: str | None) -> Path:
    """The directory; a usage error if none is named anywhere."""
    name = given or os.environ.get("VIRCPT_REPOSITORY")
    for path in () if name else _configurations():
        name = _read(path).get("repository") or name
        if name:
            break
    if not name:
        raise click.UsageError(
            "no repository is named: give its directory, set VIRCPT_REPOSITORY, or write "
            'repository = "DIR" into /etc/vircpt.toml'
        )
    return Path(name).expanduser().absolute()


def _configurations() -> tuple[Path, Path]:
    own = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return own / "vircpt.toml", Path("/etc/vircpt.toml")


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path} can't be read", why=str(error)) from error
    for key, value in content.items():
        if key not in _KNOWN:
            raise InvalidInput(
                f"{path} sets {key!r}, which there isn't", hint="there is repository"
            )
        if not isinstance(value, _KNOWN[key]):
            raise InvalidInput(f"{path}: {key} must be a text in quotes")
    return content


def repository_option(function: Callable[..., T]) -> Callable[..., T]:
    """--from, for commands that read a repository."""
    return click.option(
        "--from",
        "--repository",
        "repository",
        metavar="DIR",
        type=click.Path(file_okay=False),
        help="The repository [default: the one of the configuration].",
    )(function)
