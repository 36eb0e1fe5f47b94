"""Typed facts as JSON values and back; the way back believes nothing.

Named tuples and dataclasses travel as lists of their fields, bytes as text in which bytes that
are no UTF-8 are lone surrogates (Python's surrogateescape), enums as their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Decoder = Callable[[Any], Any]

_LEAST, _MOST = -(1 << 72), 1 << 72  # Windows counts nanoseconds from 1601: more than 64 bits
TEXT_LIMIT = 1 << 20
"""Characters of a text or path."""


class BadValue(Exception):
    """A value is not of the type that was expected."""


def pack(value: Any) -> Any:
    """The value as JSON knows it."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (tuple, list)):
        return [pack(one) for one in value]
    if is_dataclass(value):
        return [pack(getattr(value, one.name)) for one in fields(value)]
    raise TypeError(f"{type(value).__name__} does not travel")


def unpack(kind: type[T], value: Any) -> T:
    """The value as `kind`, each part of it checked; raises BadValue."""
    found: T = decoder(kind)(value)  # type: ignore[arg-type]
    return found


@cache
def decoder(kind: Any) -> Decoder:
    """A function that checks and converts a value to `kind`."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _optional(kind)
    if origin is tuple:
        return _tuple(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    if isinstance(kind, type) and (is_dataclass(kind) or hasattr(kind, "_fields")):
        return _fields(kind)
    raise TypeError(f"{kind} does not travel")


def _int(value: Any) -> int:
    if type(value) is not int or not _LEAST <= value <= _MOST:
        raise BadValue("no number, or too large")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise BadValue("neither true nor false")
    return value


def _str(value: Any) -> str:
    if type(value) is not str or len(value) > TEXT_LIMIT:
        raise BadValue("no text, or too long")
    return value


def _bytes(value: Any) -> bytes:
    try:
        return _str(value).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadValue("no bytes") from error


_PLAIN: dict[Any, Decoder] = {int: _int, bool: _bool, str: _str, bytes: _bytes}


def _optional(kind: Any) -> Decoder:
    inner = [one for one in get_args(kind) if one is not NoneType]
    if len(inner) != 1:
        raise TypeError(f"{kind} does not travel")
    decode = decoder(inner[0])
    return lambda value: None if value is None else decode(value)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise BadValue("no list")
    return value


def _tuple(kind: Any) -> Decoder:
    inner = get_args(kind)
    if len(inner) == 2 and inner[1] is Ellipsis:
        decode = decoder(inner[0])
        return lambda value: tuple([decode(one) for one in _list(value)])
    decoders = [decoder(one) for one in inner]
    return lambda value: tuple(_each(decoders, value))


def _each(decoders: list[Decoder], value: Any) -> list[Any]:
    if len(_list(value)) != len(decoders):
        raise BadValue("too few or too many parts")
    return [decode(one) for decode, one in zip(decoders, value, strict=True)]


def _enum(kind: type[Enum]) -> Decoder:
    def decode(value: Any) -> Any:
        try:
            return kind(_str(value) if issubclass(kind, str) else _int(value))
        except ValueError as error:
            raise BadValue(f"no {kind.__name__}") from error

    return decode


def _fields(kind: Any) -> Decoder:
    hints = get_type_hints(kind)
    names = [one.name for one in fields(kind)] if is_dataclass(kind) else list(kind._fields)
    decoders = [decoder(hints[name]) for name in names]

    def decode(value: Any) -> Any:
        try:
            return kind(*_each(decoders, value))
        except BadValue as error:
            raise BadValue(f"{kind.__name__}{_which(decoders, names, value)}: {error}") from error

    return decode


def _which(decoders: list[Decoder], names: list[str], value: Any) -> str:
    """The field that is wrong, for who has to find out why."""
    for decode, name, one in zip(
        decoders, names, value if type(value) is list else (), strict=False
    ):
        try:
            decode(one)
        except BadValue:
            return f".{name}"
    return ""
