"""Linux md arrays: members by their superblocks, and the arrays that they make."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from vircpt.guestfiles.layout import Content, Holds
from vircpt.guestfiles.source import Damaged
from vircpt.guestfiles.volumes import Joined, Mirror, Slice, Striped, Unreadable, Volume, head

_MAGIC = 0xA92B4EFC
_SPARE = 0xFFF0
_FIRMWARE = (
    (1024, b"Intel Raid ISM Cfg Sig. ", "isw_raid_member"),
    (512, b"\xde\x11\xde\x11", "ddf"),
)


class Member(NamedTuple):
    """One superblock; sizes in bytes."""

    uuid: str
    name: str
    level: int
    layout: int
    chunk: int
    disks: int
    array_size: int
    """Of one member, as the array uses it."""
    start: int
    size: int
    role: int
    events: int
    recovering: bool
    reshaping: bool


class Built(NamedTuple):
    """An array or logical volume: `content` is set where no look inside is possible."""

    name: str
    parents: tuple[str, ...]
    volume: Volume
    content: Content | None
    problems: list[str]


class Members:
    """Gathers members of arrays, by the array's UUID."""

    def __init__(self) -> None:
        self._sets: dict[str, dict[str, Member]] = {}

    def take(self, name: str, volume: Volume) -> Content | None:
        """Note the area if it is a member."""
        firmware = _firmware(volume)
        if firmware is not None:
            return firmware
        member = _version_1(volume) or _version_0(volume)
        if member is None:
            return None
        self._sets.setdefault(member.uuid, {})[name] = member
        return Content(Holds.MEMBER, "linux_raid_member", member.name, member.uuid)

    def build(self, volumes: dict[str, Volume], whole: bool) -> list[Built]:
        """Arrays that were not built yet; with `whole` only those of which no member lacks."""
        built = []
        for uuid, members in list(self._sets.items()):
            if whole and len({one.role for one in members.values()}) < _any(members).disks:
                continue
            del self._sets[uuid]
            built.append(_build(members, volumes))
        return built


def _any(members: dict[str, Member]) -> Member:
    return max(members.values(), key=lambda one: one.events)


def _build(members: dict[str, Member], volumes: dict[str, Volume]) -> Built:
    newest = _any(members)
    name = f"md/{newest.name or newest.uuid}"
    problems: list[str] = []
    legs: dict[int, tuple[Member, Volume]] = {}
    parts: list[Volume] = []
    for area, one in members.items():
        volume = volumes[area]
        part = Slice(volume, one.start, min(one.size, volume.size - one.start))
        parts.append(part)
        if one.role >= one.disks:
            continue
        if one.events + 1 < newest.events and one.level > 0:
            problems.append(f"{area}: a stale member of {name}, it is left out")
        elif one.role in legs:
            problems.append(f"{area}: {name} has another member in this place, it is left out")
        else:
            legs[one.role] = one, part
    volume, reason = _assemble(newest, legs, parts)
    content = Content(Holds.UNSUPPORTED, reason=reason) if reason else None
    return Built(name, tuple(members), volume, content, problems)


def _assemble(
    array: Member, legs: dict[int, tuple[Member, Volume]], parts: list[Volume]
) -> tuple[Volume, str | None]:
    """The array's volume, or one that can't be read, and why."""
    ordered = [legs[role][1] for role in sorted(legs)]
    missing = array.disks - len(legs)
    reason = None
    if array.reshaping:
        reason = "the array is being reshaped"
    elif (missing and array.level != 1) or not legs:
        reason = f"{missing} of {array.disks} members are missing"
    else:
        way = _LEVELS.get(array.level)
        if way is None:
            reason = f"vircpt does not read RAID {array.level}"
        else:
            try:
                return way(array, ordered, legs), None
            except Damaged as error:
                reason = str(error)
    size = max(array.array_size, max((part.size for part in parts), default=0))
    return Unreadable(parts, size * max(1, array.disks), reason), reason


Legs = dict[int, tuple[Member, Volume]]


def _linear(array: Member, ordered: list[Volume], legs: Legs) -> Volume:
    return Joined(ordered)


def _raid0(array: Member, ordered: list[Volume], legs: Legs) -> Volume:
    """Zones, where members differ in size: in each the members that reach so far take turns."""
    if not array.chunk:
        raise Damaged("a RAID 0 without a chunk size")
    sizes = [leg.size // array.chunk * array.chunk for leg in ordered]
    ends = sorted(set(sizes))
    if len(ends) > 1 and array.layout not in (0, 2):
        raise Damaged("RAID 0 with members of different sizes in the old layout is not read")
    zones: list[Volume] = []
    start = 0
    for end in ends:
        zone = [
            Slice(leg, start, end - start)
            for leg, size in zip(ordered, sizes, strict=True)
            if size >= end
        ]
        zones.append(Striped(zone, array.chunk))
        start = end
    return zones[0] if len(zones) == 1 else Joined(zones)


def _raid1(array: Member, ordered: list[Volume], legs: Legs) -> Volume:
    # one that is still being filled is read last, but its blocks count: it has the newest
    ready = [leg for one, leg in legs.values() if not one.recovering]
    filling = [leg for one, leg in legs.values() if one.recovering]
    if not ready:
        raise Damaged("no member of the mirror is in sync")
    return Mirror([*ready, *filling], array.array_size or None)


def _raid10(array: Member, ordered: list[Volume], legs: Legs) -> Volume:
    """The usual layout, two copies next to each other: stripes over mirrors."""
    if array.layout != 0x102 or array.disks % 2 or not array.chunk:
        raise Damaged(f"RAID 10 with layout {array.layout:#x} is not read")
    size = array.array_size or None
    mirrors = [Mirror(ordered[number : number + 2], size) for number in range(0, len(ordered), 2)]
    return Striped(mirrors, array.chunk)


_LEVELS: dict[int, Callable[[Member, list[Volume], Legs], Volume]] = {
    -1: _linear,
    0: _raid0,
    1: _raid1,
    10: _raid10,
}


def _version_1(volume: Volume) -> Member | None:
    """1.1 at the head, 1.2 at 4 KiB, 1.0 near the end; each says where it stands."""
    near_end = (volume.size // 512 - 16) & ~7
    for sector in (0, 8, near_end):
        if sector < 0:
            continue
        raw = head(volume, 1024, sector * 512)
        magic, major, features = struct.unpack_from("<III", raw)
        if (magic, major) != (_MAGIC, 1):
            continue
        if struct.unpack_from("<Q", raw, 144)[0] == sector:
            return _parse_1(volume, raw, features)
    return None


def _parse_1(volume: Volume, raw: bytes, features: int) -> Member:
    level, layout, size, chunk, disks = struct.unpack_from("<iIQII", raw, 72)
    start, data_size = struct.unpack_from("<QQ", raw, 128)
    number = struct.unpack_from("<I", raw, 160)[0]
    events = struct.unpack_from("<Q", raw, 200)[0]
    most = min(struct.unpack_from("<I", raw, 220)[0], (1024 - 256) // 2)
    role = struct.unpack_from("<H", raw, 256 + 2 * number)[0] if number < most else _SPARE
    name = raw[32:64].split(b"\0")[0].decode("utf-8", "replace")
    if start * 512 >= volume.size or not 0 < disks <= 4096:
        raise Damaged("an md superblock makes no sense")
    return Member(
        uuid=str(UUID(bytes=raw[16:32])),
        name=name.rpartition(":")[2],
        level=level,
        layout=layout,
        chunk=chunk * 512,
        disks=disks,
        array_size=size * 512,
        start=start * 512,
        size=min(data_size * 512, volume.size - start * 512),
        role=role,
        events=events,
        recovering=bool(features & 2),
        reshaping=bool(features & 4),
    )


def _version_0(volume: Volume) -> Member | None:
    place = (volume.size & ~0xFFFF) - 0x10000
    if place <= 0:
        return None
    words = struct.unpack("<1024I", head(volume, 4096, place))
    if words[0] != _MAGIC or words[1] != 0:
        return None
    if words[8] * 1024 > place or not 0 < words[10] <= 27:
        raise Damaged("an md superblock makes no sense")
    level = words[7] - (1 << 32) if words[7] >> 31 else words[7]
    uuid = struct.pack(">4I", words[5], words[13], words[14], words[15])
    return Member(
        uuid=str(UUID(bytes=uuid)),
        name=str(words[11]),
        level=level,
        layout=words[64],
        chunk=words[65],
        disks=words[10],
        array_size=words[8] * 1024,
        start=0,
        size=place,
        role=words[995],
        events=words[39] | words[40] << 32,
        recovering=False,
        reshaping=words[2] > 90,
    )


def _firmware(volume: Volume) -> Content | None:
    """RAID of the mainboard."""
    for back, magic, type_ in _FIRMWARE:
        if head(volume, 512, max(0, volume.size - back)).startswith(magic):
            return Content(Holds.UNSUPPORTED, type_, reason="vircpt does not read firmware RAID")
    return None
