"""Which volume a group lies on and which worker owns a volume. Pure.

The group table is data of the cluster (docs/formats/data-folder.md); the owner table is recomputed at each start and is in no format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from titans3.limits import SYSTEM_GROUP

SYSTEM_VOLUME = 0


class Ownership:
    """Group → volume → worker. ``epoch`` rises with every new owner table."""

    __slots__ = ("_group_volume", "epoch", "owners")

    def __init__(self, group_volume: Sequence[int], owners: Sequence[int], epoch: int = 0) -> None:
        self._group_volume = tuple(group_volume)
        self.owners = list(owners)
        self.epoch = epoch

    def volume_of(self, gid: int) -> int:
        """Volume index of a group; the system group lies on volume 0."""
        return SYSTEM_VOLUME if gid == SYSTEM_GROUP else self._group_volume[gid]

    def owner_of(self, gid: int) -> int:
        """Worker that owns a group's volume."""
        return self.owners[SYSTEM_VOLUME if gid == SYSTEM_GROUP else self._group_volume[gid]]

    def by_owner(self, gids: Iterable[int]) -> dict[int, list[int]]:
        """Groups by the worker that owns them."""
        found: dict[int, list[int]] = {}
        for gid in gids:
            found.setdefault(self.owner_of(gid), []).append(gid)
        return found


def gathered(owners: Sequence[int], active: int) -> list[int]:
    """An owner table for when only the first ``active`` workers own volumes: what theirs is stays, the rest is shared among them."""
    return [owner if owner < active else owner % active for owner in owners]


def assign(volumes: int, workers: int) -> list[int]:
    """Owner table: volume index → worker, spread evenly; workers beyond the volumes own none."""
    return [volume % min(workers, volumes) if workers else 0 for volume in range(volumes)]
