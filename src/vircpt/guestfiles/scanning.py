"""Looks at disks, and at what is made of them, and names each area once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vircpt.guestfiles import lvm, md, partitions, signatures
from vircpt.guestfiles.layout import Area, Content, Holds, Layout, Role
from vircpt.guestfiles.source import Damaged, Source
from vircpt.guestfiles.volumes import Disk, Slice, Volume

_AREAS_LIMIT = 10_000
_NESTING_LIMIT = 8


class Scanner:
    """One look at the disks. Members are gathered first, put together afterwards."""

    def __init__(self, disks: Mapping[str, Source]) -> None:
        self._areas: dict[str, Area] = {}
        self._volumes: dict[str, Volume] = {}
        self._problems: list[str] = []
        self._members = md.Members()
        self._physical = lvm.Physical()
        for target, source in disks.items():
            self._add(
                Area(target, Role.DISK, (), None, source.size, _NOT_YET), Disk(target, source)
            )

    def layout(self) -> Layout:
        """All that was found, after arrays and volume groups were put together."""
        for _ in range(_NESTING_LIMIT):
            # whole ones first: what they hold may be what another one lacks
            if not (self._build(whole=True) or self._build(whole=False)):
                break
        self._tell_leftovers()
        return Layout(tuple(self._areas.values()), tuple(self._problems), self._volumes)

    def _add(self, area: Area, volume: Volume) -> None:
        """Note an area, and look into it."""
        if len(self._areas) >= _AREAS_LIMIT:
            self._problems.append(f"{area.name}: too many areas, it is left out")
            return
        name = area.name
        while name in self._areas:
            name += "'"
        self._areas[name] = replace(area, name=name)
        self._volumes[name] = volume
        if area.content is _NOT_YET:
            self._areas[name] = replace(self._areas[name], content=self._look(name, volume))

    def _look(self, name: str, volume: Volume) -> Content:
        for way in (self._member, self._table, self._plain):
            try:
                content = way(name, volume)
            except Damaged as error:
                self._problems.append(f"{name}: {error}")
                continue
            if content is not None:
                return content
        if signatures.is_blank(volume):
            return Content(Holds.EMPTY, reason="it has no signature, and its head is zeroes")
        return Content(Holds.UNKNOWN, reason="it has no known signature")

    def _member(self, name: str, volume: Volume) -> Content | None:
        return self._members.take(name, volume) or self._physical.take(name, volume)

    def _plain(self, name: str, volume: Volume) -> Content | None:
        return signatures.detect(volume)

    def _table(self, name: str, volume: Volume) -> Content | None:
        role = self._areas[name].role
        if role in (Role.PARTITION, Role.UNPARTITIONED) or len(self._areas[name].parents) > 64:
            return None
        table = partitions.gpt(volume)
        if table is None:
            if signatures.detect(volume) is not None:
                return None
            table = partitions.dos(volume)
        if table is None:
            return None
        self._problems += [f"{name}: {problem}" for problem in table.problems]
        self._add_partitions(name, volume, table)
        return Content(Holds.PARTITIONS, table.kind, uuid=table.uuid)

    def _add_partitions(self, name: str, volume: Volume, table: partitions.Table) -> None:
        end = 0
        for one in sorted(table.partitions, key=lambda part: (part.start, not part.extended)):
            if one.start > end and not one.extended:
                self._add_gap(name, volume, end, one.start)
            start, size = one.start, one.size
            if start + size > volume.size:
                self._problems.append(f"{name}: partition {one.number} reaches beyond the end")
                start = min(start, volume.size)
                size = volume.size - start
            joint = "p" if name[-1].isdigit() else ""
            area = Area(
                f"{name}{joint}{one.number}",
                Role.EXTENDED if one.extended else Role.PARTITION,
                (name,),
                start,
                size,
                Content(Holds.PARTITIONS, "dos") if one.extended else _NOT_YET,
                one.type,
                one.name,
            )
            self._add(area, Slice(volume, start, size))
            if not one.extended:
                end = max(end, start + size)
        self._add_gap(name, volume, end, volume.size)

    def _add_gap(self, name: str, volume: Volume, start: int, end: int) -> None:
        if end <= start:
            return
        content = Content(Holds.UNKNOWN, reason="it lies in no partition")
        area = Area(
            f"{name}:{start}-{end}", Role.UNPARTITIONED, (name,), start, end - start, content
        )
        self._add(area, Slice(volume, start, end - start))

    def _build(self, whole: bool) -> bool:
        arrays = self._members.build(self._volumes, whole)
        for one in arrays:
            self._add_built(Role.ARRAY, one)
        groups = self._physical.build(self._volumes, whole)
        for one in groups:
            self._add_built(Role.LOGICAL_VOLUME, one)
        return bool(arrays or groups)

    def _add_built(self, role: Role, one: md.Built) -> None:
        self._claim(one.name, one.parents)
        self._problems += one.problems
        content = one.content or _NOT_YET
        self._add(Area(one.name, role, one.parents, None, one.volume.size, content), one.volume)

    def _claim(self, name: str, parents: tuple[str, ...]) -> None:
        for parent in parents:
            area = self._areas[parent]
            self._areas[parent] = replace(area, users=(*area.users, name))

    def _tell_leftovers(self) -> None:
        self._problems += self._physical.leftovers()


_NOT_YET = Content(Holds.UNKNOWN, "?")
