"""LVM2: physical volumes by their labels, and the logical volumes that groups make of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vircpt.guestfiles.layout import Content, Holds
from vircpt.guestfiles.lvm_text import Section, parse
from vircpt.guestfiles.md import Built
from vircpt.guestfiles.source import Damaged, read
from vircpt.guestfiles.volumes import Joined, Mirror, Slice, Striped, Unreadable, Volume, head

_MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_TEXT_LIMIT = 64 << 20
_SECTOR = 512


@dataclass(frozen=True)
class Group:
    """A volume group, as one of its physical volumes tells it."""

    name: str
    id: str
    sequence: int
    extent: int
    """Bytes."""
    physical: dict[str, tuple[str, int]]
    """By name in the text: UUID, and where the first extent begins in bytes."""
    logical: dict[str, Section]


class Physical:
    """Gathers physical volumes, and the newest text of each group."""

    def __init__(self) -> None:
        self._areas: dict[str, str] = {}
        self._groups: dict[str, Group] = {}
        self._built: set[str] = set()
        self._problems: list[str] = []

    def take(self, name: str, volume: Volume) -> Content | None:
        """Note the area if it is a physical volume; raises Damaged."""
        found = _label(volume)
        if found is None:
            return None
        uuid, metadata_areas = found
        if uuid in self._areas:
            self._problems.append(f"{name}: another physical volume has the same UUID")
        self._areas.setdefault(uuid, name)
        for place, size in metadata_areas:
            try:
                group = _group(volume, place, size)
            except Damaged as error:
                self._problems.append(f"{name}: {error}")
                continue
            if group is not None:
                known = self._groups.get(group.id)
                if known is None or known.sequence < group.sequence:
                    self._groups[group.id] = group
        return Content(Holds.MEMBER, "LVM2_member", uuid=uuid)

    def build(self, volumes: dict[str, Volume], whole: bool) -> list[Built]:
        """Logical volumes of groups not built yet; with `whole` only if no disk is missing."""
        built: list[Built] = []
        for group in self._groups.values():
            ids = {uuid for uuid, _ in group.physical.values()}
            if group.id in self._built or (whole and not ids <= set(self._areas)):
                continue
            self._built.add(group.id)
            built += Assembly(group, self._areas, volumes).all()
        return built

    def leftovers(self) -> list[str]:
        """What was damaged, and physical volumes that no group knows."""
        used = {uuid for group in self._groups.values() for uuid, _ in group.physical.values()}
        alone = [
            f"{name}: an LVM2 physical volume of no known group"
            for uuid, name in self._areas.items()
            if uuid not in used
        ]
        return self._problems + alone


def _label(volume: Volume) -> tuple[str, list[tuple[int, int]]] | None:
    """UUID and metadata areas of a physical volume; None if it is none."""
    raw = head(volume, 4 * _SECTOR)
    for sector in range(4):
        label = raw[sector * _SECTOR : (sector + 1) * _SECTOR]
        if label.startswith(b"LABELONE") and label[24:32] == b"LVM2 001":
            start = struct.unpack_from("<I", label, 20)[0]
            if not 32 <= start <= _SECTOR - 40 - 32:
                raise Damaged("an LVM2 label makes no sense")
            uuid = label[start : start + 32].decode("ascii", "replace")
            _, end = _areas(label, start + 40)
            metadata, _ = _areas(label, end)
            return _dashed(uuid), metadata
    return None


def _areas(raw: bytes, at: int) -> tuple[list[tuple[int, int]], int]:
    found = []
    while at + 16 <= len(raw):
        place, size = struct.unpack_from("<QQ", raw, at)
        at += 16
        if not place:
            break
        found.append((place, size))
    return found, at


def _dashed(uuid: str) -> str:
    """As LVM prints it and writes it into its text."""
    ends = (6, 10, 14, 18, 22, 26, 32)
    starts = (0, *ends)
    return "-".join(uuid[start:end] for start, end in zip(starts, ends, strict=False))


def _group(volume: Volume, place: int, size: int) -> Group | None:
    """The text of a metadata area, a ring behind a header of 512 bytes."""
    raw = read(volume, place, _SECTOR)
    if raw[4:20] != _MDA_MAGIC:
        raise Damaged("an LVM2 metadata area has no header")
    size = struct.unpack_from("<Q", raw, 32)[0]
    offset, length, _, flags = struct.unpack_from("<QQII", raw, 40)
    if not offset or flags & 1:
        return None
    if not _SECTOR <= offset < size or length > min(size - _SECTOR, _TEXT_LIMIT):
        raise Damaged("an LVM2 metadata area makes no sense")
    first = min(length, size - offset)
    text = read(volume, place + offset, first)
    text += read(volume, place + _SECTOR, length - first)
    return parse_group(text)


def parse_group(text: bytes) -> Group:
    for name, section in parse(text).sections().items():
        sector = _SECTOR
        physical = {
            key: (one.string("id"), one.number("pe_start") * sector)
            for key, one in section.section("physical_volumes").sections().items()
        }
        return Group(
            name=name,
            id=section.string("id"),
            sequence=section.number("seqno"),
            extent=section.number("extent_size") * sector,
            physical=physical,
            logical=section.section("logical_volumes").sections(),
        )
    raise Damaged("LVM metadata without a group")


class _Unsupported(Exception):
    """A segment of a kind that is not read."""


class Assembly:
    """Makes the logical volumes of one group."""

    def __init__(self, group: Group, areas: dict[str, str], volumes: dict[str, Volume]) -> None:
        self.group = group
        self.volumes = volumes
        self.places = {
            name: (areas.get(uuid), start) for name, (uuid, start) in group.physical.items()
        }
        self.stores = {
            segment.string("cow_store")
            for logical in group.logical.values()
            for segment in _segments(logical)
            if segment.string("type") == "snapshot"
        }

    def all(self) -> list[Built]:
        built = [
            self.one(name, logical)
            for name, logical in self.group.logical.items()
            if "VISIBLE" in logical.array("status") and not _is_snapshot(logical)
        ]
        missing = sorted(uuid for uuid, _ in self.group.physical.values() if not self.has(uuid))
        if missing and built:
            told = f"{self.group.name}: physical volumes are missing: {', '.join(missing)}"
            built[0].problems.append(told)
        return built

    def has(self, uuid: str) -> bool:
        return any(
            self.places[name][0] is not None
            for name, (one, _) in self.group.physical.items()
            if one == uuid
        )

    def one(self, name: str, logical: Section) -> Built:
        full = f"{self.group.name}/{name}"
        parents, parts = self.beneath(name, set())
        content = None
        try:
            volume = self.volume(name, 0)
            if name in self.stores:
                content = _unsupported("it holds the changes of an LVM snapshot")
        except (_Unsupported, Damaged) as error:
            extents = sum(_number(segment, "extent_count") for segment in _segments(logical))
            size = min(extents * self.group.extent, 1 << 62)
            volume = Unreadable(parts, size, str(error))
            content = _unsupported(str(error))
        return Built(full, tuple(parents), volume, content, [])

    def volume(self, name: str, depth: int) -> Volume:
        """Of a logical volume, visible or not; raises _Unsupported, Damaged."""
        if depth > 8:
            raise Damaged("LVM volumes that lie on each other in a circle")
        logical = self.group.logical.get(name)
        if logical is None:
            raise Damaged(f"LVM metadata without the volume {name[:64]}")
        segments = sorted(_segments(logical), key=lambda one: _number(one, "start_extent"))
        parts: list[Volume] = []
        extent = 0
        for segment in segments:
            if _number(segment, "start_extent") != extent:
                raise Damaged("LVM segments that do not follow each other")
            count = segment.number("extent_count")
            parts.append(self.segment(segment, count * self.group.extent, depth))
            extent += count
        if not parts:
            raise Damaged("an LVM volume without segments")
        return parts[0] if len(parts) == 1 else Joined(parts)

    def segment(self, segment: Section, size: int, depth: int) -> Volume:
        type_ = segment.string("type")
        if type_ in ("striped", "linear"):
            return self.striped(segment, size)
        if type_ in ("raid1", "mirror"):
            return Mirror([self.volume(leg, depth + 1) for leg in _legs(segment, type_)], size)
        if type_ == "raid0":
            legs = [self.volume(leg, depth + 1) for leg in _legs(segment, type_)]
            return Striped(legs, segment.number("stripe_size") * _SECTOR)
        raise _Unsupported(f"vircpt does not read LVM volumes of type {type_[:32]}")

    def striped(self, segment: Section, size: int) -> Volume:
        places = segment.array("stripes")
        count = segment.number("stripe_count")
        if count < 1 or len(places) != 2 * count or size % count:
            raise Damaged("LVM stripes that make no sense")
        legs = [
            self.on_physical(name, extent, size // count)
            for name, extent in zip(places[::2], places[1::2], strict=True)
        ]
        if count == 1:
            return legs[0]
        return Striped(legs, segment.number("stripe_size") * _SECTOR)

    def on_physical(self, name: object, extent: object, size: int) -> Volume:
        if not isinstance(name, str) or not isinstance(extent, int) or name not in self.places:
            raise Damaged("LVM stripes that make no sense")
        area, start = self.places[name]
        if area is None:
            raise _Unsupported(f"its physical volume {self.group.physical[name][0]} is missing")
        return Slice(self.volumes[area], start + extent * self.group.extent, size)

    def beneath(self, name: str, seen: set[str]) -> tuple[dict[str, None], list[Volume]]:
        """Areas and volumes that a logical volume lies on, by whatever way: each name in its
        segments that is a physical or logical volume."""
        seen.add(name)
        areas: dict[str, None] = {}
        parts: list[Volume] = []
        for word in _words(self.group.logical.get(name, Section())):
            area = self.places.get(word, (None, 0))[0]
            if area is not None:
                areas[area] = None
                parts.append(self.volumes[area])
            elif word in self.group.logical and word not in seen:
                below, more = self.beneath(word, seen)
                areas.update(below)
                parts += more
        return areas, parts


def _words(logical: Section) -> list[str]:
    found: list[str] = []
    for segment in _segments(logical):
        for value in segment.values():
            many = value if isinstance(value, list) else [value]
            found += [one for one in many if isinstance(one, str)]
    return found


def _segments(logical: Section) -> list[Section]:
    return [one for name, one in logical.sections().items() if name.startswith("segment")]


def _is_snapshot(logical: Section) -> bool:
    return any(one.string("type") == "snapshot" for one in _segments(logical))


def _legs(segment: Section, type_: str) -> list[str]:
    """Names of the volumes that hold data; raid has one for metadata before each."""
    names = segment.array({"mirror": "mirrors", "raid0": "raid0_lvs"}.get(type_, "raids"))
    names = names or segment.array("raids")
    legs = [one for one in names if isinstance(one, str)]
    if type_ in ("raid1", "raid0") and not segment.array("raid0_lvs"):
        legs = legs[1::2]
    if not legs:
        raise Damaged("an LVM mirror without legs")
    return legs


def _number(section: Section, name: str) -> int:
    found = section.get(name)
    return found if isinstance(found, int) else 0


def _unsupported(reason: str) -> Content:
    return Content(Holds.UNSUPPORTED, reason=reason)
