"""Plans a purge of one area: which entries the policy's rules would remove at a moment, and why each.

A plan removes nothing. Whoever carries it out looks at each entry again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.storage.purge.arrivals import Arrivals, record
from allocations.storage.purge.emptied import emptied
from allocations.storage.purge.planfile import PlanError, PlanWriter, Sums, json_path
from allocations.storage.purge.planning import Evaluator, Part, freed_by_links
from allocations.storage.purge.spool import spool
from allocations.storage.tree.scan import CORES, scan

if TYPE_CHECKING:
    from typing import Any

    from allocations.storage.purge.rules import AreaRules

PROBLEMS_TOLD = 100
_LINES_TOGETHER = 5_000


def plan(
    area: str,
    rules: AreaRules,
    output: str,
    *,
    arrivals: str,
    now_ms: int,
    dry_run: bool = False,
    processes: int = CORES,
    entries_per_second: float | None = None,
    about: dict[str, Any] | None = None,
) -> tuple[Sums, str]:
    """Write the plan for the tree at `area` to `output`; returns its sums and the SHA-256 of the file.

    `arrivals` is the area's record, which is brought up to date; what is not in it arrived today. A dry run leaves it
    as it is, marks the plan, and may look at a moment to come. Neither file may be where the area's owner can write.
    `about` goes into the first line. Raises PlanError for a moment to come, ScanError, ArrivalsError, and OSError where
    the root cannot be opened or the disk is full.
    """
    if rules.as_of_ms > now_ms and not dry_run:
        raise PlanError("A plan for a moment to come cannot be carried out.", "Ask for a dry run.")
    today = now_ms // MS_PER_DAY
    header = {**(about or {}), "as_of_ms": rules.as_of_ms, "made_ms": now_ms, "dry_run": dry_run}
    with (
        spool(os.path.dirname(output) or ".") as spooled,
        PlanWriter(output, header, unfinished=f"{spooled}/plan") as writer,
    ):
        make = _Evaluators(rules, spooled, Arrivals(arrivals), today)
        parts = scan(area, make, processes=processes, entries_per_second=entries_per_second)
        sums = Sums()
        for part in parts:
            _add(sums, part.sums)
            writer.append(part.lines)
        _put_links(parts, writer, sums)
        _put_folders(parts, writer, sums)
        digest = writer.finish(sums)
        if not dry_run:
            record(arrivals, [part.keys for part in parts], today)
    return sums, digest


class _Evaluators:
    """Makes evaluators in the processes of a scan, which share the memory of what is passed here."""

    def __init__(self, rules: AreaRules, spool: str, arrivals: Arrivals, today: int) -> None:
        self._rules, self._spool, self._arrivals, self._today = rules, spool, arrivals, today

    def __call__(self, number: int) -> Evaluator:
        return Evaluator(self._rules, f"{self._spool}/{number}", self._arrivals, self._today)


def _put_links(parts: list[Part], writer: PlanWriter, sums: Sums) -> None:
    """Write the files with several names, now that it is known whether all of a file's names go."""
    for lines, by_uid, by_rule in freed_by_links([part.links for part in parts]):
        writer.frame(lines)
        sums.files.bytes += sum(by_uid.values())
        for uid, freed_bytes in by_uid.items():
            sums.by_uid[uid].bytes += freed_bytes
        for rule, freed_bytes in by_rule.items():
            sums.by_rule[rule].bytes += freed_bytes


def _put_folders(parts: list[Part], writer: PlanWriter, sums: Sums) -> None:
    lines: list[str] = []
    for path, rest in emptied([run for part in parts for run in part.folder_runs]):
        lines.append(f'{{"path":{json_path(path)},{rest}')
        sums.folders.entries += 1
        if len(lines) == _LINES_TOGETHER:
            writer.frame(lines)
            lines.clear()
    if lines:
        writer.frame(lines)


def _add(sums: Sums, part: Sums) -> None:
    sums.files.add(part.files)
    for rule, count in part.by_rule.items():
        sums.by_rule.setdefault(rule, type(count)()).add(count)
    for uid, count in part.by_uid.items():
        sums.by_uid.setdefault(uid, type(count)()).add(count)
    for name in ("seen_files", "seen_folders", "old_kept", "old_exempt", "future", "unarchivable", "problem_count"):
        setattr(sums, name, getattr(sums, name) + getattr(part, name))
    sums.problems = [*sums.problems, *part.problems][:PROBLEMS_TOLD]
