"""Sums a plan up for people: what is taken by which rule, whose it is, and where most of it lies."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from allocations.storage.purge.listing import shown
from allocations.storage.purge.models import FOLDERS_SHOWN, PATHS_SHOWN, Amount, PlannedPath, Summary
from allocations.storage.purge.planfile import PlanReader

if TYPE_CHECKING:
    from collections.abc import Mapping

# Folders right beneath an area that are counted at once; beyond it the smallest are let go.
FOLDERS_HELD = 20_000
_OWNERS_SHOWN = 100


def summarize(path: str) -> Summary:
    """Read a plan through, in bounded memory; raises PlanError where it is not whole."""
    reader = PlanReader(path)
    paths: list[PlannedPath] = []
    files, taken = Counter[str](), Counter[str]()
    for one in reader:
        if len(paths) < PATHS_SHOWN:
            paths.append(PlannedPath(shown(one.path), one.bytes, one.rule))
        if one.type != "folder":
            folder = one.path.partition("/")[0] if "/" in one.path else ""
            files[folder] += 1
            taken[folder] += one.bytes
            if len(files) > FOLDERS_HELD:
                for small in sorted(files, key=lambda name: (taken[name], files[name]))[: FOLDERS_HELD // 2]:
                    del files[small], taken[small]
    assert reader.sums is not None, "it was read to its end"
    largest = sorted(files, key=lambda name: (-taken[name], -files[name], name))[:FOLDERS_SHOWN]
    return Summary(
        by_rule=_amounts(reader.sums["by_rule"]),
        by_owner=_amounts(reader.sums["by_uid"])[:_OWNERS_SHOWN],
        folders=tuple(Amount(shown(name), files[name], taken[name]) for name in largest),
        paths=tuple(paths),
    )


def _amounts(counts: Mapping[str, Mapping[str, Any]]) -> tuple[Amount, ...]:
    amounts = [Amount(name, count["entries"], count["bytes"]) for name, count in counts.items()]
    return tuple(sorted(amounts, key=lambda one: (-one.bytes, -one.files, one.name)))
