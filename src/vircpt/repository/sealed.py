"""JSON files that prove themselves: the last key is the SHA-256 of the file.

It is counted with 64 zeroes in the place of its digits, so that it can be checked by hand.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vircpt.errors import Mismatch

_NOTHING = "0" * 64
_SEAL = re.compile(rb'\n "sha256": "([0-9a-f]{64})"\n\}\n\Z')
_MOST = 64 << 20


def write(content: Mapping[str, Any]) -> bytes:
    """The file for these keys."""
    text = json.dumps({**content, "sha256": _NOTHING}, indent=1) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (text[: -len(_NOTHING) - 4] + f'{digest}"\n}}\n').encode()


def read(path: Path) -> dict[str, Any]:
    """The keys of a file; raises Mismatch if it is not what was written, and OSError."""
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    found = _SEAL.search(data)
    if found is None:
        raise Mismatch(f"{path} is damaged", why="it does not end with its own checksum")
    start, end = found.span(1)
    if hashlib.sha256(data[:start] + _NOTHING.encode() + data[end:]).digest() != bytes.fromhex(
        found[1].decode()
    ):
        raise Mismatch(f"{path} is damaged", why="its checksum does not fit")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Mismatch(f"{path} can't be read", why=str(error)) from error
    if not isinstance(content, dict):
        raise Mismatch(f"{path} can't be read", why="it holds no object")
    return content
