"""Bytes and seconds as people write and read them. Pure: no I/O."""

from __future__ import annotations

import re

from vircpt.errors import InvalidInput

_SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = r"(?:\d+(?:\.\d+)?[smhdw])+\Z"


def format_size(size: int) -> str:
    """Bytes in binary units with three digits: 0 B, 64.0 KiB, 1.25 GiB, 128 MiB."""
    if abs(size) < 1024:
        return f"{size} B"
    value = float(size)
    for unit in _SIZE_UNITS[1:]:
        value /= 1024
        # 999.95 would print as 1000.0: the next unit reads better
        if abs(value) < 999.5 or unit == _SIZE_UNITS[-1]:
            break
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def parse_rate(text: str) -> int:
    """Bytes a second from 200M, 1.5G, 800k or a number of bytes, in binary units."""
    try:
        return parse_size(text.strip().removesuffix("/s"))
    except InvalidInput as error:
        hint = "write 200M for 200 MiB a second"
        raise InvalidInput(f"{text!r} is no rate", why=error.why, hint=hint) from error


def format_duration(seconds: float) -> str:
    """Seconds as people say them: 0.042 s, 12.3 s, 5 min, 2 h 10 min, 3 d 4 h."""
    if seconds < 9.9995:
        return f"{seconds:.3f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def format_age(seconds: float) -> str:
    """How long ago something was, in whole seconds or more: 1 s, 42 s, 5 min."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 60 else format_duration(whole)


def parse_duration(text: str) -> float:
    """Seconds from 90s, 15m, 2h, 1h30m, 7d; raises InvalidInput, also for a bare number."""
    text = text.strip()
    if re.match(_DURATION, text):
        seconds = sum(
            float(number) * _SECONDS[unit]
            for number, unit in re.findall(r"([\d.]+)([smhdw])", text)
        )
    else:
        raise InvalidInput(f"{text!r} is no duration", hint="write 90s, 15m, 2h, 1h30m or 7d")
    if not 0 < seconds <= 366 * 86400:
        raise InvalidInput(f"{text!r} is out of range", why="it must be above 0 and at most a year")
    return seconds


def parse_size(text: str) -> int:
    """Bytes from 512M, 2G, 1.5GiB or 1048576; units are binary. Raises InvalidInput."""
    found = re.match(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(?:i?b)?|b)?\Z", text.strip(), re.I)
    if not found:
        raise InvalidInput(f"{text!r} is no size", hint="write 512M, 2G, 1.5GiB or bytes")
    size = int(float(found[1]) * 1024 ** " kmgt".index((found[2] or " ").lower()))
    if not 0 < size < 1 << 60:
        raise InvalidInput(f"{text!r} is out of range")
    return size
