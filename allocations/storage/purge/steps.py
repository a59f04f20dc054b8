"""The steps of a purge: plan, notify, begin, archive and verify, delete, report."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, MS_PER_SECOND, to_rfc3339
from allocations.errors import AllocationsError
from allocations.storage.archive.format import COMMIT, Hashed, read_commit
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import write
from allocations.storage.purge.archived import to_wanted
from allocations.storage.purge.deleting import Deletion
from allocations.storage.purge.files import PlanLostError, PurgeFiles
from allocations.storage.purge.guarding import HaltError
from allocations.storage.purge.listing import NO_PLACE, list_name, list_place, write_list
from allocations.storage.purge.models import ArchiveKind, ArchiveState, PurgeState, RunKind, StoredArchive, Summary
from allocations.storage.purge.moving import MovedError
from allocations.storage.purge.plan import plan
from allocations.storage.purge.planfile import PlanReader
from allocations.storage.purge.reporting import list_lines, report_lines
from allocations.storage.purge.selecting import Decided, LastReads
from allocations.storage.purge.service import awaits_confirmation
from allocations.storage.purge.summing import summarize
from allocations.storage.tree.beneath import Root
from allocations.storage.tree.walk import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.policy.models import Policy
    from allocations.storage.archive.format import Archive
    from allocations.storage.archive.stores import Store
    from allocations.storage.purge.guarding import Held
    from allocations.storage.purge.models import Mount, Purge, PurgeView
    from allocations.storage.purge.moving import Moves
    from allocations.storage.purge.planfile import Planned
    from allocations.storage.purge.rules import AreaRules
    from allocations.storage.purge.standing import Standing
    from allocations.storage.purge.store import ArchiveStore, ExemptionStore, PurgeStore
    from allocations.storage.purge.telling import PurgeNotices

    Reached = Callable[[str], None]

# Entries between two questions whether to go on.
ENTRIES_BETWEEN = 1_000
# After a problem.
AGAIN_SECONDS = 300
ABSENT = "Its folder is not there."


class AbsentAreaError(AllocationsError):
    """There is no folder to be planned."""

    code = "purge_no_area"
    status = 409
    title = "There is no such area"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is done in each state; each method raises where it is to be done again, and HaltError, MovedError."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    purges: PurgeStore
    archives: ArchiveStore
    exemptions: ExemptionStore
    moves: Moves
    standing: Standing
    notices: PurgeNotices

    def take(self, view: PurgeView, mount: Mount, held: Held, reached: Reached) -> None:
        """Take the step that a purge's state asks for."""
        files = PurgeFiles(mount.state, view.purge.id)
        files.make_folders()
        work = _Work(view, mount, files, held, reached)
        steps = {
            PurgeState.PLANNING: self._plan,
            PurgeState.PLANNED: self._notify,
            PurgeState.DUE: self._begin,
            PurgeState.ARCHIVING: self._archive,
            PurgeState.VERIFIED: self._begin_deletion,
            PurgeState.DELETING: self._delete,
        }
        steps[view.purge.state](work)

    def give_archive_up(self, purge: Purge, problem: str) -> None:
        """Begin another archive where one is damaged or of another plan; what it is to be deleted by has to be whole.

        Raises nothing where somebody else has gone on.
        """
        with self.database.write() as connection:
            current = self.purges.get(connection, purge.id)
            if current is None or current.state is not purge.state:
                return
            if purge.state is PurgeState.ARCHIVING and current.archive_id is not None:
                self.archives.give_up(connection, current.archive_id)
                again_at_ms = self.clock.now_ms() + AGAIN_SECONDS * MS_PER_SECOND
                self.purges.change(
                    connection, purge.id, purge.state, archive_id=None, problem=problem, again_at_ms=again_at_ms
                )
            else:
                self.moves.move(connection, current, PurgeState.FAILED, why=problem, sets={"problem": problem})

    # ------------------------------------------------------------------ before anything is touched

    def _plan(self, work: _Work) -> None:
        view, purge = work.view, work.view.purge
        try:
            with Root(work.mount.area):
                pass
        except OSError as error:
            raise AbsentAreaError(ABSENT, f"Mount it, then plan again ({error.strerror}).") from error
        with self.database.read() as connection:
            earlier = self.purges.over(connection, view.area.id)
        for purge_id in earlier:
            PurgeFiles(work.mount.state, purge_id).remove(plan=True)
        rules = self._rules(view)
        values: dict[str, object] = {}
        if rules is not None:
            sums, sha256 = plan(
                work.mount.area,
                rules,
                work.files.plan,
                arrivals=work.files.arrivals(view.area.id),
                now_ms=self.clock.now_ms(),
                dry_run=purge.dry_run,
                processes=work.mount.processes,
                entries_per_second=self.policy.storage.purge.entries_per_second,
                about={
                    "purge": purge.id,
                    "run": view.run.id,
                    "area": view.area.id,
                    "ages_days": dict(zip(rules.names, rules.ages_days, strict=True)),
                },
            )
            values = {
                "files": sums.files.entries,
                "bytes": sums.files.bytes,
                "folders": sums.folders.entries,
                "plan_sha256": sha256,
                "summary": summarize(work.files.plan),
            }
        work.reached("plan written")
        work.held.check()
        with self.database.write() as connection:
            told = {name: value for name, value in values.items() if not isinstance(value, Summary)}
            self.moves.move(connection, purge, PurgeState.PLANNED, told=told, sets=values)
            if not purge.dry_run and not values.get("files") and not values.get("folders"):
                self.moves.move(connection, replace(purge, state=PurgeState.PLANNED), PurgeState.DONE)
        work.reached("planned")

    def _notify(self, work: _Work) -> None:
        view, purge = work.view, work.view.purge
        ends_at_ms = self.clock.now_ms() + self.policy.storage.purge.window_days * MS_PER_DAY
        problem = None
        try:
            with Root(work.mount.area) as root:
                write_list(root, list_name(view.run, purge), list_lines(purge, work.files, ends_at_ms))
        except OSError as error:
            # Nobody keeps a purge off by a folder of ours that cannot be written: they are told, and see the page.
            problem = f"The list could not be written into the area: {error.strerror}."
        work.reached("list written")
        work.held.check()
        with self.database.write() as connection:
            self.moves.move(
                connection, purge, PurgeState.NOTICED, sets={"window_ends_at_ms": ends_at_ms, "problem": problem}
            )
            place = list_place(view.run, purge) if problem is None else NO_PLACE
            self.notices.planned(connection, purge, view.area, ends_at_ms, place)
        work.reached("noticed")

    def _begin(self, work: _Work) -> None:
        purge = work.view.purge
        with self.database.write() as connection:
            run = self.purges.lock_run(connection, purge.run_id)
            assert run is not None, "a purge is of a run"
            if self.purges.count(connection, run.id, [PurgeState.PLANNING]) or awaits_confirmation(
                run, self.policy.storage.purge
            ):
                raise MovedError("The run waits.", "Look at it again.")
            archive_id = self._new_archive(connection, work)
            self.moves.move(
                connection, purge, PurgeState.ARCHIVING, told={"archive": archive_id}, sets={"archive_id": archive_id}
            )
        work.reached("begun")

    # ------------------------------------------------------------------ archive

    def _archive(self, work: _Work) -> None:
        view, files = work.view, work.files
        purge = self._with_archive(work)
        files.check_plan(purge.plan_sha256)
        with Root(work.mount.area) as root:
            if not os.path.exists(files.chosen):
                self._choose(work, root)
            work.reached("chosen")
            row = self._archive_of(purge)
            store = work.mount.places.open(row.place)
            write(
                store,
                root,
                to_wanted(root, self._going_on(work, PlanReader(files.chosen))),
                name=row.id,
                made_at=to_rfc3339(row.created_at_ms),
                about={"purge": purge.id, "run": view.run.id, "area": view.area.id},
            )
        work.reached("archive written")
        work.held.check()
        archive = verify(store)
        work.reached("archive verified")
        work.held.check()
        times = self.policy.storage.archives
        keep_days = times.ended_days if view.run.kind is RunKind.ENDED else times.purged_days
        keep_until_ms = self.clock.now_ms() + keep_days * MS_PER_DAY
        kept = {
            "state": ArchiveState.KEPT,
            "files": archive.members,
            "bytes": archive.total_bytes,
            "sha256": _sha256_of(store),
            "keep_until_ms": keep_until_ms,
        }
        with self.database.write() as connection:
            if not self.archives.change(connection, row.id, ArchiveState.WRITING, **kept):
                raise MovedError("The archive was given up.", "Look at it again.")
            self.moves.move(connection, purge, PurgeState.VERIFIED, told={"archive": row.id})
        work.reached("verified")

    def _choose(self, work: _Work, root: Root) -> None:
        reader = PlanReader(work.files.plan)
        decided = Decided(self._rules(work.view), reader.header["ages_days"])
        of_class = self.policy.storage.storage_class(work.view.area.storage_class)
        with LastReads(root, reader.header["made_ms"]) as reads:

            def why_left(one: Planned) -> str | None:
                return decided.why_left(one) or (reads.why_left(one) if of_class.keeps_atime else None)

            work.files.choose(why_left)

    # ------------------------------------------------------------------ delete

    def _begin_deletion(self, work: _Work) -> None:
        self._check_kept(work)
        work.held.check()
        with self.database.write() as connection:
            self.moves.move(connection, work.view.purge, PurgeState.DELETING)
        work.reached("deleting")

    def _delete(self, work: _Work) -> None:
        view, purge = work.view, work.view.purge
        row, store, archive = self._check_kept(work)
        if not os.path.exists(work.files.chosen):
            raise PlanLostError("What was to be deleted is not known any more.", "The archive has all of it.")
        ages = PlanReader(work.files.plan).header["ages_days"]

        def before_batch() -> Callable[[Planned], str | None]:
            work.held.check()
            if purge.is_within_window(self.clock.now_ms()):
                raise HaltError("the clock went back to before the end that people were told")
            return Decided(self._rules(view), ages).why_left

        deletion = Deletion(
            database=self.database,
            purges=self.purges,
            files=work.files,
            purge=purge,
            before_batch=before_batch,
            reached=work.reached,
        )
        with Root(work.mount.area) as root:
            pace = Pace(self.policy.storage.purge.files_deleted_per_second)
            done = deletion.run(root, store, archive, pace)
            done = replace(done, left_files=purge.files - done.deleted_files)
            work.reached("deleted")
            work.held.check()
            problem = None
            try:
                write_list(root, list_name(view.run, purge, is_report=True), report_lines(done, work.files, row))
            except OSError as error:
                problem = f"The report could not be written into the area: {error.strerror}."
        work.reached("report written")
        told: dict[str, object] = {
            "archive": row.id,
            "deleted_files": done.deleted_files,
            "deleted_bytes": done.deleted_bytes,
            "left_files": done.left_files,
        }
        values = {name: value for name, value in told.items() if name != "archive"}
        with self.database.write() as connection:
            self.moves.move(connection, purge, PurgeState.DONE, told=told, sets={**values, "problem": problem})
            place = list_place(view.run, replace(purge, problem=problem), is_report=True)
            assert row.keep_until_ms is not None, "it is kept"
            self.notices.done(connection, done, view.area, row.keep_until_ms, place)
        work.reached("done")
        work.files.remove(plan=False)

    def _check_kept(self, work: _Work) -> tuple[StoredArchive, Store, Archive]:
        """Return the archive, which is where it was when it was verified: anything may have happened to it since."""
        row = self._archive_of(work.view.purge)
        if row.state is not ArchiveState.KEPT:
            raise DamagedError(f"the archive {row.id} is {row.state}")
        store = work.mount.places.open(row.place)
        if _sha256_of(store) != row.sha256:
            raise DamagedError(f"{COMMIT} is not what was verified")
        archive = read_commit(store)
        for name, stored in archive.objects.items():
            if store.size(name) != stored.bytes:
                raise DamagedError(f"{name} is not what was verified")
        return row, store, archive

    # ------------------------------------------------------------------ inside

    def _rules(self, view: PurgeView) -> AreaRules | None:
        with self.database.read() as connection:
            exempt = self.exemptions.in_force(connection, view.area.id, self.clock.now_ms())
            return self.standing.rules(connection, view.area, view.run, exempt)

    def _going_on(self, work: _Work, planned: Iterable[Planned]) -> Iterator[Planned]:
        for number, one in enumerate(planned):
            if number % ENTRIES_BETWEEN == 0:
                work.held.check()
            yield one

    def _new_archive(self, connection: Connection, work: _Work) -> str:
        archive_id = self.new_id("ar")
        row = StoredArchive(
            id=archive_id,
            area_id=work.view.area.id,
            kind=ArchiveKind.ENDED if work.view.run.kind is RunKind.ENDED else ArchiveKind.PURGE,
            place=work.mount.places.place_of(archive_id),
            state=ArchiveState.WRITING,
            files=0,
            bytes=0,
            sha256=None,
            created_at_ms=self.clock.now_ms(),
            keep_until_ms=None,
        )
        self.archives.add(connection, row)
        return archive_id

    def _with_archive(self, work: _Work) -> Purge:
        """Return the purge with an archive: a new one where that before was given up."""
        purge = work.view.purge
        if purge.archive_id is not None:
            return purge
        with self.database.write() as connection:
            archive_id = self._new_archive(connection, work)
            if not self.purges.change(connection, purge.id, purge.state, archive_id=archive_id):
                raise MovedError("The purge has gone on meanwhile.", "Look at it again.")
        return replace(purge, archive_id=archive_id)

    def _archive_of(self, purge: Purge) -> StoredArchive:
        assert purge.archive_id is not None, "it is archived"
        with self.database.read() as connection:
            row = self.archives.get(connection, purge.archive_id)
        assert row is not None, "rows of archives stay"
        return row


@dataclass(frozen=True, slots=True)
class _Work:
    """A step at hand."""

    view: PurgeView
    mount: Mount
    files: PurgeFiles
    held: Held
    reached: Reached


def _sha256_of(store: Store) -> str:
    with store.read(COMMIT) as stream:
        return Hashed(stream).finish().sha256
