"""The text in which LVM2 keeps a volume group: sections, numbers, strings, lists. Pure."""

from __future__ import annotations

import re

from vircpt.guestfiles.source import Damaged

Value = "int | float | str | list[Value] | Section"
_TOKEN = re.compile(
    rb"""(?P<skip>\s+|\#[^\n]*)
    |"(?P<string>(?:[^"\\]|\\.)*)"
    |(?P<number>[-+]?\d+(?:\.\d+)?)(?![\w.+-])
    |(?P<name>[\w.+/-]+)
    |(?P<sign>[{}=\[\],])""",
    re.VERBOSE | re.DOTALL,
)
_DEPTH = 16
_UNESCAPE = re.compile(rb"\\(.)", re.DOTALL)


class Section(dict[str, object]):
    """A section, with access that says what was expected."""

    def section(self, name: str) -> Section:
        """A section in it; empty if there is none."""
        found = self.get(name, None)
        return found if isinstance(found, Section) else Section()

    def number(self, name: str) -> int:
        """Raises Damaged if it is missing or no number."""
        found = self.get(name)
        if not isinstance(found, int):
            raise Damaged(f"LVM metadata without {name}")
        return found

    def string(self, name: str) -> str:
        """Empty if it is missing."""
        found = self.get(name)
        return found if isinstance(found, str) else ""

    def array(self, name: str) -> list[object]:
        """Empty if it is missing."""
        found = self.get(name)
        return found if isinstance(found, list) else []

    def sections(self) -> dict[str, Section]:
        """All sections in it."""
        return {name: one for name, one in self.items() if isinstance(one, Section)}


def parse(text: bytes) -> Section:
    """The whole text as one section; raises Damaged."""
    parser = _Parser(text)
    section = parser.section(0)
    if parser.peek() is not None:
        raise Damaged("LVM metadata makes no sense", why="a closing brace too many")
    return section


class _Parser:
    def __init__(self, text: bytes) -> None:
        self.tokens: list[tuple[str, bytes]] = []
        at = 0
        while at < len(text) and text[at]:
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise Damaged("LVM metadata makes no sense", why=f"at byte {at}")
            if match.lastgroup != "skip":
                self.tokens.append((match.lastgroup, match.group(match.lastgroup)))
            at = match.end()
        self.tokens.reverse()

    def peek(self) -> tuple[str, bytes] | None:
        return self.tokens[-1] if self.tokens else None

    def next(self) -> tuple[str, bytes]:
        if not self.tokens:
            raise Damaged("LVM metadata makes no sense", why="it ends too early")
        return self.tokens.pop()

    def section(self, depth: int) -> Section:
        if depth > _DEPTH:
            raise Damaged("LVM metadata makes no sense", why="sections nested too deep")
        found = Section()
        while self.peek() not in (None, ("sign", b"}")):
            name = self.next()[1].decode("utf-8", "replace")
            sign = self.next()
            if sign == ("sign", b"{"):
                found[name] = self.section(depth + 1)
                self.expect(b"}")
            elif sign == ("sign", b"="):
                found[name] = self.value()
            else:
                raise Damaged("LVM metadata makes no sense", why=f"after {name[:64]!r}")
        return found

    def value(self) -> object:
        kind, text = self.next()
        if (kind, text) == ("sign", b"["):
            values: list[object] = []
            while self.peek() != ("sign", b"]"):
                values.append(self.scalar(*self.next()))
                if self.peek() == ("sign", b","):
                    self.next()
            self.next()
            return values
        return self.scalar(kind, text)

    def scalar(self, kind: str, text: bytes) -> object:
        if kind == "number":
            return float(text) if b"." in text else int(text[:40])
        if kind == "sign":
            raise Damaged("LVM metadata makes no sense", why=f"a value is {text!r}")
        return _UNESCAPE.sub(rb"\1", text).decode("utf-8", "replace")

    def expect(self, sign: bytes) -> None:
        if self.next() != ("sign", sign):
            raise Damaged("LVM metadata makes no sense", why=f"{sign!r} is missing")
