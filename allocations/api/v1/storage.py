"""Storage: one's areas, what is purged of them, exemptions, archives with what is in them, and files asked back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field, model_validator

from allocations.api.v1.common import Body, OptionalIdempotencyHeader, Reader, Requester, Why, Wired, example
from allocations.clock import to_rfc3339
from allocations.leases.views import View
from allocations.reports.purges import PurgeList
from allocations.reports.storage_views import (
    AreaList,
    AreaView,
    PathInJson,
    StorageTrend,
    from_json_path,
    to_json_path,
)
from allocations.storage.archive.format import Line
from allocations.storage.purge.models import (
    ArchiveKind,
    ExemptionState,
    Restore,
    RestoreState,
    RestoreTarget,
    StoredArchive,
    StoredExemption,
)
from allocations.storage.scratch import ScratchLeaseView

router = APIRouter(tags=["storage"])
FILES_PAGE = 100
FILES_MAX = 1_000
TEXT_MAX = 500
PATHS_MAX = 1_000
NUMBER_MAX = 10**12


class ExemptionBody(Body):
    """What is to be left alone: a file, or a folder with all in it, by its path in the area; `""` is all of it."""

    model_config = example(folder="results/night-1", days=90, reason="The paper is not out yet.")

    folder: PathInJson
    days: Annotated[int, Field(ge=1, le=10_000)]
    reason: str


class ExemptionView(View):
    """A request to leave files alone until a time, and what became of it; a granted one ends by itself then."""

    id: str
    area: str
    folder: PathInJson
    reason: str
    state: ExemptionState
    until: str
    asked_by: str
    asked_at: str
    decided_by: str | None
    decided_at: str | None
    answer: str

    @classmethod
    def from_exemption(cls, one: StoredExemption) -> ExemptionView:
        """Show an exemption."""
        return cls(
            id=one.id,
            area=one.area_id,
            folder=to_json_path(one.folder),
            reason=one.reason,
            state=one.state,
            until=to_rfc3339(one.until_ms),
            asked_by=one.asked_by,
            asked_at=to_rfc3339(one.asked_at_ms),
            decided_by=one.decided_by,
            decided_at=None if one.decided_at_ms is None else to_rfc3339(one.decided_at_ms),
            answer=one.answer,
        )


class ExemptionList(View):
    """Exemptions."""

    exemptions: list[ExemptionView]


class ScratchAgeBody(Body):
    """How old, in days without a change, files of an allocation's scratch may become, and for how many days from now
    that holds."""

    model_config = example(age_days=60, lasts_days=30, reason="The survey's last night is late.")

    age_days: Annotated[int, Field(ge=1, le=100_000)]
    lasts_days: Annotated[int, Field(ge=1, le=100_000)]
    reason: str


class ScratchAgeView(View):
    """The age in days without a change at which files of a scratch go: `present_days` now, `usual_days` where a lead
    has not extended it, each None where no rule holds; `longest_days` up to which a lead may, None: not at all.

    `until` is when what is extended ends, None where nothing is; `reason`, `extended_by` and `extended_at` are of that.
    """

    area: str
    allocation: str
    usual_days: int | None
    present_days: int | None
    longest_days: int | None
    until: str | None
    reason: str | None
    extended_by: str | None
    extended_at: str | None

    @classmethod
    def from_lease_view(cls, allocation: str, one: ScratchLeaseView) -> ScratchAgeView:
        """Show what holds for an allocation's scratch."""
        lease = one.lease
        return cls(
            area=one.area.id,
            allocation=allocation,
            usual_days=one.usual_days,
            present_days=one.present_days,
            longest_days=one.longest_days,
            until=to_rfc3339(lease.until_ms) if lease else None,
            reason=lease.reason if lease else None,
            extended_by=lease.made_by if lease else None,
            extended_at=to_rfc3339(lease.made_at_ms) if lease else None,
        )


class ArchiveView(View):
    """An archive that is kept: what was purged, or all of an area whose allocation has ended."""

    id: str
    area: str
    kind: ArchiveKind
    files: int
    bytes: int
    created_at: str
    keep_until: str | None

    @classmethod
    def from_archive(cls, one: StoredArchive) -> ArchiveView:
        """Show an archive; where it is stays ours."""
        return cls(
            id=one.id,
            area=one.area_id,
            kind=one.kind,
            files=one.files,
            bytes=one.bytes,
            created_at=to_rfc3339(one.created_at_ms),
            keep_until=None if one.keep_until_ms is None else to_rfc3339(one.keep_until_ms),
        )


class ArchiveList(View):
    """Archives, the newest first."""

    archives: list[ArchiveView]


class ArchiveFileView(View):
    """An entry of an archive: file, folder, symlink, link (another name of a file) or fifo. `left` says why it was not
    archived, empty when it was. `link` is what a symbolic link says, or the path of the other name."""

    path: PathInJson
    type: str
    bytes: int
    mode: int
    mtime_ns: int
    link: PathInJson
    left: str

    @classmethod
    def from_line(cls, line: Line) -> ArchiveFileView:
        """Show a line of a manifest."""
        return cls(
            path=to_json_path(line.path),
            type=line.type,
            bytes=line.size,
            mode=line.mode,
            mtime_ns=line.mtime_ns,
            link=to_json_path(line.link),
            left=line.left,
        )


class ArchiveFileList(View):
    """Some entries of an archive, fewer where a large one was looked through for long; `next_start` continues, None at
    the end."""

    files: list[ArchiveFileView]
    next_start: int | None


class RestoreBody(Body):
    """What is to be brought back: files and folders (with all that the archive has of them), or everything.

    `beside` is a folder of its own in `restored/`; `in place` overwrites nothing that is there.
    """

    model_config = example(paths=["results/night-1"], target="beside")

    paths: Annotated[tuple[PathInJson, ...], Field(max_length=PATHS_MAX)] = ()
    everything: bool = False
    target: RestoreTarget = RestoreTarget.BESIDE

    @model_validator(mode="after")
    def _says_what(self) -> RestoreBody:
        if bool(self.paths) == self.everything:
            raise ValueError("give paths, or everything")
        return self


class RestoreView(View):
    """Something asked back: `paths` of the archive, none for everything; `files` and `bytes` are what came back."""

    id: str
    archive: str
    asked_by: str
    asked_at: str
    paths: list[PathInJson]
    target: RestoreTarget
    state: RestoreState
    files: int
    bytes: int
    problem: str | None

    @classmethod
    def from_restore(cls, one: Restore) -> RestoreView:
        """Show a restore."""
        return cls(
            id=one.id,
            archive=one.archive_id,
            asked_by=one.asked_by,
            asked_at=to_rfc3339(one.asked_at_ms),
            paths=[to_json_path(path) for path in one.paths],
            target=one.target,
            state=one.state,
            files=one.files,
            bytes=one.bytes,
            problem=one.problem,
        )


class RestoreList(View):
    """What was asked back, asked last first."""

    restores: list[RestoreView]


@router.get("/storage")
def own_storage(services: Wired, caller: Reader) -> AreaList:
    """The caller's areas: their home, and those of the allocations that they are a member of."""
    return AreaList(areas=services.storage_reports.areas_of(caller.name))


@router.get("/storage/{area_id}")
def area(area_id: str, services: Wired, caller: Reader) -> AreaView:
    """An area: its use, limits, state, cost and largest folders."""
    return services.storage_reports.area(caller.actor, area_id)


@router.get("/storage/{area_id}/days")
def days(area_id: str, services: Wired, caller: Reader) -> StorageTrend:
    """What an area took on each of the last 90 days."""
    return services.storage_reports.trend(caller.actor, area_id)


@router.get("/storage/{area_id}/purges")
def purges(area_id: str, services: Wired, caller: Reader) -> PurgeList:
    """The latest purges of an area: what goes when, and what became of it."""
    return PurgeList(purges=services.purge_reports.of_area(caller.actor, area_id))


@router.get("/storage/{area_id}/exemptions")
def exemptions(area_id: str, services: Wired, caller: Reader) -> ExemptionList:
    """What was asked to be left alone in an area, asked last first."""
    found = services.exemptions.of_area(caller.actor, area_id)
    return ExemptionList(exemptions=[ExemptionView.from_exemption(one) for one in found])


@router.post("/storage/{area_id}/exemptions", status_code=201)
def ask_exemption(
    area_id: str,
    body: ExemptionBody,
    services: Wired,
    caller: Requester,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> ExemptionView:
    """Ask that something is not purged for some days: one's own, or what one leads or manages."""
    folder = from_json_path(body.folder)
    asked = services.exemptions.ask(caller.actor, area_id, folder, body.days, body.reason, idempotency_key)
    return ExemptionView.from_exemption(asked)


@router.delete("/exemptions/{exemption_id}")
def end_exemption(exemption_id: str, why: Why, services: Wired, caller: Requester) -> ExemptionView:
    """Take back what was asked for, or end what was granted."""
    return ExemptionView.from_exemption(services.exemptions.end(caller.actor, exemption_id, why))


@router.get("/storage/{area_id}/age")
def age(area_id: str, services: Wired, caller: Reader) -> ScratchAgeView:
    """The age at which files of an allocation's scratch go, and up to which a lead may extend it."""
    allocation = services.scratch_leases.allocation_of(caller.actor, area_id)
    return ScratchAgeView.from_lease_view(allocation, services.scratch_leases.of_allocation(caller.actor, allocation))


@router.post("/storage/{area_id}/age", status_code=201)
def extend_age(
    area_id: str,
    body: ScratchAgeBody,
    services: Wired,
    caller: Requester,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> ScratchAgeView:
    """Let files of an allocation's scratch become older for some days, within the policy; leads and managers only."""
    leases = services.scratch_leases
    allocation = leases.allocation_of(caller.actor, area_id)
    extended = leases.extend(caller.actor, allocation, body.age_days, body.lasts_days, body.reason, idempotency_key)
    return ScratchAgeView.from_lease_view(allocation, extended)


@router.delete("/storage/{area_id}/age")
def end_extended_age(area_id: str, why: Why, services: Wired, caller: Requester) -> ScratchAgeView:
    """Let files go at their usual age again; leads and managers only."""
    allocation = services.scratch_leases.allocation_of(caller.actor, area_id)
    return ScratchAgeView.from_lease_view(allocation, services.scratch_leases.end(caller.actor, allocation, why))


@router.get("/storage/{area_id}/archives")
def archives(area_id: str, services: Wired, caller: Reader) -> ArchiveList:
    """The archives of an area, the newest first."""
    found = services.restores.archives_of(caller.actor, area_id)
    return ArchiveList(archives=[ArchiveView.from_archive(one) for one in found])


@router.get("/archives/{archive_id}/files")
def archive_files(
    archive_id: str,
    services: Wired,
    caller: Reader,
    find: Annotated[str, Query(max_length=TEXT_MAX, description="In the path; case does not count")] = "",
    start: Annotated[int, Query(ge=0, le=NUMBER_MAX, description="Continue a list: its `next_start`")] = 0,
    limit: Annotated[int, Query(ge=1, le=FILES_MAX)] = FILES_PAGE,
) -> ArchiveFileList:
    """What is in an archive, in the order of archiving."""
    found = services.archives.listing(caller.actor, archive_id, find, start, limit)
    return ArchiveFileList(files=[ArchiveFileView.from_line(one) for one in found.lines], next_start=found.following)


@router.post("/archives/{archive_id}/restores", status_code=201)
def ask_restore(archive_id: str, body: RestoreBody, services: Wired, caller: Requester) -> RestoreView:
    """Ask for files of an archive; what is asked for already, and not back yet, is answered as it is."""
    paths = [from_json_path(path) for path in body.paths]
    return RestoreView.from_restore(services.restores.ask(caller.actor, archive_id, paths, body.target))


@router.get("/storage/{area_id}/restores")
def restores(area_id: str, services: Wired, caller: Reader) -> RestoreList:
    """What was asked back of an area's archives, asked last first."""
    found = services.restores.asked_of(caller.actor, area_id)
    return RestoreList(restores=[RestoreView.from_restore(one) for one in found])


@router.get("/restores/{restore_id}")
def restore(restore_id: str, services: Wired, caller: Reader) -> RestoreView:
    """How far a restore is."""
    return RestoreView.from_restore(services.archives.restore(caller.actor, restore_id))
