"""Names that a file system holds but no path may: made harmless, never dropped. Pure."""

from __future__ import annotations


def safe_name(name: bytes) -> bytes:
    """The name, with slash and NUL, and names of dots alone, written as %XX."""
    if b"/" in name or b"\0" in name:
        name = name.replace(b"%", b"%25").replace(b"/", b"%2F").replace(b"\0", b"%00")
    if name in (b".", b"..", b""):
        name = b"%2E" * len(name) or b"%"
    return name


def below(home: bytes, name: bytes) -> bytes:
    """The path of a name in a directory."""
    return home + b"/" + name if home else name


def split(path: bytes) -> list[bytes]:
    """The names in a path; empty ones and '.' are dropped."""
    return [name for name in path.split(b"/") if name not in (b"", b".")]
