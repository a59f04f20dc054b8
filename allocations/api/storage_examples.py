"""What the published description shows as answers about storage: one for each shape."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from allocations.api.v1.purges import PurgeRunDetail, PurgeRunInfo, PurgeRunList, StopView
from allocations.api.v1.storage import (
    ArchiveFileList,
    ArchiveFileView,
    ArchiveList,
    ArchiveView,
    ExemptionList,
    ExemptionView,
    RestoreList,
    RestoreView,
    ScratchAgeView,
)
from allocations.reports.purges import AmountView, PlannedPathView, PurgeInfo, PurgeList, RuleAmountView
from allocations.reports.storage_views import (
    AreaList,
    AreaPage,
    AreaView,
    FolderView,
    RawPath,
    StorageDay,
    StorageTrend,
)
from allocations.storage.models import StorageClass, StorageState
from allocations.storage.purge.models import (
    ArchiveKind,
    ExemptionState,
    PurgeState,
    RestoreState,
    RestoreTarget,
    RunState,
)

if TYPE_CHECKING:
    from allocations.leases.views import View

_BEGAN, _LATER = "2027-01-15T08:00:00.000Z", "2027-01-15T08:15:00.000Z"
_AREA = AreaView(
    id="s-12345678",
    storage_class=StorageClass.SCRATCH,
    title="Scratch",
    person=None,
    allocation="a-12345678",
    allocation_name="Deep fields",
    state=StorageState.OK,
    bytes=900_000_000_000,
    files=1_204_000,
    passed_over=0,
    measured_at=_LATER,
    limit_bytes=3_000_000_000_000,
    hard_limit_bytes=3_300_000_000_000,
    over_since=None,
    locks_at=None,
    microcredits_per_month=135_000_000,
    payer="a-12345678",
    largest=[FolderView(path="runs/2026", bytes=600_000_000_000, files=800_000)],
    problem=None,
)
_PURGE = PurgeInfo(
    id="p-12345678",
    run="pr-12345678",
    area=_AREA.id,
    area_title=_AREA.title,
    person=None,
    allocation=_AREA.allocation,
    allocation_name=_AREA.allocation_name,
    dry_run=False,
    state=PurgeState.NOTICED,
    files=1_200,
    bytes=40_000_000_000,
    folders=3,
    window_ends_at="2027-01-22T08:00:00.000Z",
    reminded_at=None,
    changed_at=_LATER,
    archive=None,
    deleted_files=0,
    deleted_bytes=0,
    left_files=0,
    full_list=".meridian/purges/2027-01-15-p-12345678.txt",
    by_rule=[RuleAmountView(name="scratch-consortium", files=1_200, bytes=40_000_000_000, age_days=30)],
    by_owner=[AmountView(name="1000", files=1_200, bytes=40_000_000_000)],
    largest=[AmountView(name="runs", files=1_200, bytes=40_000_000_000)],
    paths=[PlannedPathView(path="runs/2026/a.fits", bytes=33_000_000, rule="scratch-consortium")],
    problem=None,
)
_EXEMPTION = ExemptionView(
    id="x-12345678",
    area=_AREA.id,
    folder="results/night-1",
    reason="The paper is not out yet.",
    state=ExemptionState.GRANTED,
    until="2027-04-15T08:00:00.000Z",
    asked_by="ann",
    asked_at=_BEGAN,
    decided_by="rev",
    decided_at=_LATER,
    answer="Until the paper is out.",
)
_ARCHIVE = ArchiveView(
    id="ar-12345678",
    area=_AREA.id,
    kind=ArchiveKind.PURGE,
    files=1_200,
    bytes=40_000_000_000,
    created_at=_BEGAN,
    keep_until="2027-07-14T08:00:00.000Z",
)
_FILE = ArchiveFileView(
    path=RawPath(b64="Y2Fm6S5maXRz"),
    type="file",
    bytes=33_000_000,
    mode=0o644,
    mtime_ns=1_790_000_000_000_000_000,
    link="",
    left="",
)
_RESTORE = RestoreView(
    id="b-12345678",
    archive=_ARCHIVE.id,
    asked_by="ann",
    asked_at=_BEGAN,
    paths=["results/night-1"],
    target=RestoreTarget.BESIDE,
    state=RestoreState.DONE,
    files=12,
    bytes=400_000_000,
    problem=None,
)
_PURGE_RUN = PurgeRunInfo(
    id=_PURGE.run,
    storage_class=StorageClass.SCRATCH,
    as_of=_BEGAN,
    dry_run=False,
    state=RunState.OPEN,
    made_by="admin",
    created_at=_BEGAN,
    files=1_200,
    bytes=40_000_000_000,
    confirmed_by=None,
    confirmed_at=None,
    stopped_by=None,
    stopped_at=None,
)
STORAGE_ANSWERS: tuple[View, ...] = (
    _AREA,
    AreaList(areas=[_AREA]),
    AreaPage(areas=[_AREA], count=1, next_start=None),
    StorageTrend(
        area=_AREA.id,
        days=[
            StorageDay(
                day=date(2027, 1, 14),
                bytes=900_000_000_000,
                files=1_204_000,
                due_microcredits=4_500_000,
                charged_microcredits=4_500_000,
            )
        ],
    ),
    PurgeList(purges=[_PURGE]),
    ScratchAgeView(
        area=_AREA.id,
        allocation="a-12345678",
        usual_days=30,
        present_days=60,
        longest_days=90,
        until="2027-02-14T08:00:00.000Z",
        reason="The survey's last night is late.",
        extended_by="lead",
        extended_at=_BEGAN,
    ),
    _EXEMPTION,
    ExemptionList(exemptions=[_EXEMPTION]),
    ArchiveList(archives=[_ARCHIVE]),
    ArchiveFileList(files=[_FILE], next_start=None),
    _RESTORE,
    RestoreList(restores=[_RESTORE]),
    _PURGE_RUN,
    PurgeRunList(runs=[_PURGE_RUN]),
    PurgeRunDetail(
        run=_PURGE_RUN, awaits=False, ceiling_files=1_000_000, ceiling_bytes=5_000_000_000_000, purges=[_PURGE]
    ),
    StopView(stopped=True, by="admin", at=_BEGAN, why="The mount is being repaired."),
)
