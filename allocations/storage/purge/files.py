"""Files of a purge in the folder of the process that carries it out: the plan, what is chosen of it, what is left."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from allocations.errors import AllocationsError
from allocations.storage.purge.planfile import UNFINISHED, Count, PlanReader, PlanWriter, Sums, json_path, path_of
from allocations.storage.purge.selecting import to_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allocations.storage.purge.planfile import Planned

_LINES_TOGETHER = 5_000
_CHUNK_BYTES = 1 << 20


class PlanLostError(AllocationsError):
    """The file of a plan is not what was written when its owners were told of it: nothing may be purged by it."""

    code = "purge_plan_lost"
    status = 409
    title = "The plan is lost"


class Left(NamedTuple):
    """An entry that stays: its number among those that were archived (-1: it was not to be), its path, and why."""

    number: int
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class PurgeFiles:
    """Where the files of a purge are. Each is there whole or not at all, but for `left`, which grows."""

    state: str
    purge_id: str

    @property
    def plan(self) -> str:
        """All that is planned."""
        return f"{self.state}/plans/{self.purge_id}.jsonl.zst"

    @property
    def chosen(self) -> str:
        """What is to be archived of it, in its order."""
        return f"{self.state}/plans/{self.purge_id}.chosen.jsonl.zst"

    @property
    def dropped(self) -> str:
        """What is not, and why."""
        return f"{self.state}/plans/{self.purge_id}.dropped.jsonl"

    @property
    def left(self) -> str:
        """What was archived and not deleted, and why."""
        return f"{self.state}/plans/{self.purge_id}.left.jsonl"

    def arrivals(self, area_id: str) -> str:
        """Return the record of an area's arrivals."""
        return f"{self.state}/arrivals/{area_id}"

    def make_folders(self) -> None:
        """Make the folders that all of these are in; raises OSError."""
        for name in ("plans", "arrivals"):
            os.makedirs(f"{self.state}/{name}", mode=0o700, exist_ok=True)

    def check_plan(self, sha256: str | None) -> None:
        """Raise PlanLostError unless the plan is the one that was written."""
        digest = hashlib.sha256()
        try:
            with open(self.plan, "rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except FileNotFoundError as error:
            raise _lost() from error
        if digest.hexdigest() != sha256:
            raise _lost()

    def choose(self, why_left: Callable[[Planned], str | None]) -> None:
        """Write down what of the plan is to be archived, and what is dropped; raises OSError, PlanError."""
        sums = Sums()
        reader = PlanReader(self.plan)
        with (
            open(f"{self.dropped}{UNFINISHED}", "w", encoding="ascii") as dropped,
            PlanWriter(self.chosen, {}) as writer,
        ):
            lines: list[str] = []
            for one in reader:
                why = why_left(one)
                if why is not None:
                    dropped.write(_left_line(Left(-1, one.path, why)))
                    continue
                lines.append(to_line(one))
                (sums.folders if one.type == "folder" else sums.files).add(Count(1, one.bytes))
                if len(lines) == _LINES_TOGETHER:
                    writer.frame(lines)
                    lines.clear()
            if lines:
                writer.frame(lines)
            dropped.flush()
            os.fsync(dropped.fileno())
            os.replace(f"{self.dropped}{UNFINISHED}", self.dropped)
            writer.finish(sums)

    def keep_left(self, first: int) -> None:
        """Forget what was noted of entries from a number on, which are looked at again."""
        with open(f"{self.left}{UNFINISHED}", "w", encoding="ascii") as file:
            for one in read_left(self.left):
                if one.number < first:
                    file.write(_left_line(one))
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{self.left}{UNFINISHED}", self.left)

    def remove(self, *, plan: bool) -> None:
        """Remove all of these, the plan too or not: that stays to be looked at until the area is planned again."""
        for path in (self.chosen, self.dropped, self.left, *([self.plan] if plan else [])):
            # Who was killed may have left it half written.
            for one in (path, f"{path}{UNFINISHED}"):
                with suppress(FileNotFoundError):
                    os.unlink(one)


class LeftWriter:
    """Adds to what is left; a context manager is `file` itself."""

    def __init__(self, path: str) -> None:
        """Open; raises OSError."""
        self.file = open(path, "a", encoding="ascii")  # noqa: SIM115 (closed by who opens it)

    def add(self, one: Left) -> None:
        """Note an entry."""
        self.file.write(_left_line(one))

    def sync(self) -> None:
        """Return when it is on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())


def read_left(path: str) -> Iterator[Left]:
    """Yield what is left, in its order; a last line that was not written to its end is none."""
    if not os.path.exists(path):
        return
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.endswith("\n"):
                told = json.loads(line)
                yield Left(told["number"], path_of(told["path"]), told["why"])


def _left_line(one: Left) -> str:
    return f'{{"number":{one.number},"path":{json_path(one.path)},"why":{json.dumps(one.why)}}}\n'


def _lost() -> PlanLostError:
    return PlanLostError("The plan of this purge is lost or damaged.", "Nothing is purged by it: plan again.")
