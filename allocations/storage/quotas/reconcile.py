"""Brings the limits in force to those that are intended: what differs is applied, and nothing else is touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allocations.storage.quotas.backends import BackendError, in_grains, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from allocations.storage.quotas.backends import Area, Backend


@dataclass(slots=True)
class Reconciled:
    """What came of it, by the areas' ids: the limits now `in_force` as far as they are known, which areas were `made`,
    which limits `applied`, and sentences of the `problems`."""

    in_force: dict[str, int | None] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def reconcile(backend: Backend, areas: Sequence[Area], intended: Mapping[str, int | None]) -> Reconciled:
    """Make areas that are missing, and put the intended limit of each in force.

    What fails for one area is a problem of that one, tried again the next time. Raises BackendError or OSError where
    the backend cannot even be asked.
    """
    wanted = {area.id: in_grains(intended[area.id], backend.grain_bytes) for area in areas}
    done = Reconciled()
    found = backend.limits(areas)
    done.problems |= found.problems
    for area in areas:
        try:
            if area.id in found.missing:
                backend.make(area)
                done.made.append(area.id)
            elif area.id not in found.of:
                continue
            if backend.enforces and found.of.get(area.id) != wanted[area.id]:
                backend.apply(area, wanted[area.id])
                done.applied.append(area.id)
        except (BackendError, OSError) as error:
            done.problems[area.id] = sentence(error)
    changed = {*done.made, *done.applied}
    # What was applied is believed when the backend itself says so.
    after = backend.limits([area for area in areas if area.id in changed]) if changed else found
    done.problems |= after.problems
    done.in_force = {id_: limit for id_, limit in found.of.items() if id_ not in changed} | after.of
    for area_id in changed & after.of.keys():
        if backend.enforces and after.of[area_id] != wanted[area_id] and area_id not in done.problems:
            done.problems[area_id] = f"the limit in force is {after.of[area_id]} bytes, not what was set"
    return done
