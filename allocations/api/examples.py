"""What the published description shows as answers: one for each shape, and a problem for each status."""

from __future__ import annotations

from datetime import date
from http import HTTPStatus
from typing import TYPE_CHECKING

from allocations.api.identity import HubUnavailableError, MissingScopeError, NotSignedInError
from allocations.api.image_examples import IMAGES
from allocations.api.limits import BodyTooLargeError
from allocations.api.problems import NotUnderstoodError
from allocations.api.storage_examples import STORAGE_ANSWERS
from allocations.api.v1.allocations import AgreementText, AllocationList
from allocations.api.v1.health import Health
from allocations.api.v1.leases import LeaseList, OpenLeaseList
from allocations.api.v1.members import InvitationList, InvitationView
from allocations.api.v1.overrides import OverrideList, OverrideView
from allocations.api.v1.people import EndedView, PeopleList, PersonView
from allocations.api.v1.publications import PublicationList, PublicationView
from allocations.api.v1.requests import RequestList
from allocations.api.v1.runs import RunList
from allocations.api.v1.schedules import ScheduleList
from allocations.api.v1.secrets import SecretList
from allocations.api.v1.sweeps import SweepList, SweepResultList
from allocations.errors import IdempotencyConflictError, InvalidInputError
from allocations.leases.models import LeaseKind, LeaseState
from allocations.leases.quotas import AllocationQuotas, BudgetView, LargestView, LimitView, Quotas, StateView
from allocations.leases.rules import SourceKind
from allocations.leases.views import (
    AgreementView,
    AllocationOffer,
    Choice,
    LeaseView,
    OpenLeaseView,
    OutlookView,
    ResourcesView,
    SizeOffer,
    StartOptions,
    StopReason,
)
from allocations.ledger.models import Unit
from allocations.lifecycle.authority import unknown_allocation
from allocations.lifecycle.models import InvitationState, MemberRole, OverrideLimits, OverrideSubject, RequestState
from allocations.notify.models import NoticeList, NoticeView
from allocations.policy.models import Shape
from allocations.policy.notices import NoticeKind
from allocations.reports.allocations import AllocationDetail, AllocationView, BalanceView, MemberView
from allocations.reports.audit import AuditEntryView, AuditPage
from allocations.reports.burn_down import BurnDown, BurnDownDay
from allocations.reports.charges import JournalEntryView
from allocations.reports.people import SuspensionView
from allocations.reports.platform import PlatformReport, TierReport
from allocations.reports.platform_use import UseBy, UseForecast, UseOfGroup, UseOfStep, UseReport, UseStep, UseView
from allocations.reports.requests import AwardView, RequestView, ReviewView
from allocations.runs.drafts import DraftView
from allocations.runs.ends import EndCode
from allocations.runs.models import ChainedRun, Condition, RunSource, RunSourceKind, RunState, RunView
from allocations.runs.notebook_parameters import NotebookParameters, ParameterKind, ParameterView
from allocations.runs.provenance import FileRecord, Provenance, RunRecord
from allocations.runs.schedule_models import (
    MissedPolicy,
    OverlapPolicy,
    PlannedView,
    PreviewView,
    ScheduleDetail,
    ScheduleState,
    ScheduleView,
    TimeOutcome,
    TimeView,
)
from allocations.runs.secrets import RunEnvironment, SecretView
from allocations.runs.sweep_models import SweepEstimate, SweepResult, SweepState, SweepView

if TYPE_CHECKING:
    from allocations.errors import AllocationsError
    from allocations.leases.views import View

_BEGAN, _LATER, _ENDS = "2027-01-15T08:00:00.000Z", "2027-01-15T08:15:00.000Z", "2028-01-15T08:00:00.000Z"
_VERSION = "4f1d2c3b5a69"
_ALLOCATION = AllocationView(
    id="a-12345678",
    parent=None,
    depth=0,
    name="Deep fields",
    tier="consortium",
    tier_title="Consortium",
    state="active",
    guaranteed=True,
    role="lead",
    starts_at=_BEGAN,
    ends_at=_ENDS,
    limit_microcredits=4_000_000_000,
    held_microcredits=11_700,
    posted_microcredits=1_300_000,
    available_microcredits=3_998_688_300,
    instalments_released=1,
    instalments=1,
)
_LEASE = LeaseView(
    id="l-12345678",
    allocation="a-12345678",
    allocation_name="Deep fields",
    person="ann",
    kind=LeaseKind.INTERACTIVE,
    size="small",
    image="base",
    server_name="",
    resources=ResourcesView(cores=1, memory_gib=4, gpus=0, gpu_type=None),
    state=LeaseState.OPEN,
    final=False,
    microcredits_per_second=13,
    microcredits_per_hour=46_800,
    acquired_at=_BEGAN,
    started_at=_BEGAN,
    ends_at=_LATER,
    latest_end_at="2027-01-20T08:00:00.000Z",
    ended_at=None,
    end_reason=None,
    held_microcredits=11_700,
    charged_microcredits=0,
)
_OPEN_LEASE = OpenLeaseView(
    id=_LEASE.id,
    allocation=_LEASE.allocation,
    person=_LEASE.person,
    kind=_LEASE.kind,
    server_name=_LEASE.server_name,
    acquired_at=_BEGAN,
    started_at=_BEGAN,
    seen_at=_LATER,
    replaced_at=None,
)
_OUTLOOK = OutlookView(
    lease=_LEASE.id,
    allocation=_LEASE.allocation,
    allocation_name=_LEASE.allocation_name,
    server_name=_LEASE.server_name,
    microcredits_per_hour=_LEASE.microcredits_per_hour,
    held_until=_LATER,
    renews_at=_LATER,
    stops_at=_LEASE.latest_end_at,
    reason=StopReason.SESSION,
    detail="No session of the Consortium tier lasts longer.",
    remedy="Start the server again then: files stay, what is in memory does not.",
    remedy_url="/hub/home",
    idle_seconds=10_800,
    used_at=_BEGAN,
    longest_session_seconds=432_000,
    may_last_longer=False,
    warn_before_stop_seconds=[900, 300, 60],
)
_MEMBER = MemberView(
    person="ann",
    role="member",
    joined_at=_BEGAN,
    servers_max=None,
    cores_max=64,
    gpus_max=0,
    microcredits_max=250_000_000,
)
_DETAIL = AllocationDetail(
    allocation=_ALLOCATION,
    tree=[_ALLOCATION],
    members=[_MEMBER],
    leases=[_LEASE],
    charges=[
        JournalEntryView(
            id=42,
            at=_LATER,
            kind="settle",
            allocation="a-12345678",
            allocation_name="Deep fields",
            lease="l-01234567",
            person="ann",
            lease_kind="interactive",
            size="small",
            unit="credits",
            amount=1_300_000,
            quantities={"core_seconds": 100_000, "gib_seconds": 400_000},
        )
    ],
    may_manage=True,
    balances=[
        BalanceView(unit=Unit.CREDITS, limit=4_000_000_000, held=11_700, posted=1_300_000, available=3_998_688_300),
        BalanceView(unit=Unit.GPU_SECONDS, limit=180_000, held=0, posted=0, available=180_000),
    ],
    burn_down=BurnDown(
        days=[BurnDownDay(day=date(2027, 1, 15), charged_microcredits=1_300_000, left_microcredits=3_998_700_000)],
        projected_end=date(2027, 12, 1),
    ),
)
_INVITATION = InvitationView(
    id="i-12345678",
    allocation="a-12345678",
    allocation_name="Deep fields",
    person="bob",
    role=MemberRole.MANAGER,
    invited_by="ann",
    state=InvitationState.PENDING,
    created_at=_BEGAN,
    ends_at="2027-02-14T08:00:00.000Z",
    answered_at=None,
)
_OVERRIDE = OverrideView(
    id="o-12345678",
    subject_kind=OverrideSubject.PERSON,
    subject="ann",
    limits=OverrideLimits(cores=8, longest_session_seconds=172_800),
    reason="The workshop of 15 January needs larger servers.",
    author="admin",
    created_at=_BEGAN,
    ends_at="2027-01-22T08:00:00.000Z",
    revoked_at=None,
    revoked_by=None,
)
_PUBLICATION = PublicationView(
    id="p-12345678", doi="10.3847/1538-4357/abcdef", bibcode=None, title="Dark stars in the first images"
)
_ASKED = AwardView(
    credits=200, gpu_hours=50, core_hours=None, largest=None, at_once=None, term_days=None, renewable=True
)
_REQUEST = RequestView(
    id="q-12345678",
    kind="supplement",
    applicant="ann",
    tier="research",
    title="Supplement of Dark stars",
    justification="A second field was observed.",
    credits=200,
    state=RequestState.APPROVED,
    allocation="a-12345678",
    created_at=_BEGAN,
    updated_at=_LATER,
    asked=_ASKED,
    awarded=_ASKED.model_copy(update={"credits": 100, "gpu_hours": 20}),
    reviews=[ReviewView(reviewer="rev", score=4, conflict=False, comment="Convincing.", at=_LATER)],
)
_RUN = RunView(
    id="r-0123456789abcdef0123",
    person="ann",
    allocation="a-12345678",
    allocation_name="Deep fields",
    name="stack.ipynb",
    size="small",
    image="base",
    resources=_LEASE.resources,
    parameters={"field": "m31"},
    max_seconds=3600,
    state=RunState.RUNNING,
    waiting_reason=None,
    cancel_requested=False,
    attempt=1,
    lease="l-12345678",
    cells_done=3,
    cells_total=12,
    current_cell=4,
    error=None,
    submitted_at=_BEGAN,
    started_at=_BEGAN,
    ended_at=None,
    held_microcredits=46_800,
    charged_microcredits=0,
    end_code=None,
    remedy=None,
    environment=["SURVEY_TOKEN"],
    output="home:results",
    replay_of=None,
    waits_for=Condition.SUCCEEDED,
    after=[
        ChainedRun(run="r-1123456789abcdef0123", name="calibrate.ipynb", state=RunState.SUCCEEDED),
        ChainedRun(sweep="s-1123456789abcdef0123", name="detector.ipynb", state=RunState.SUCCEEDED),
    ],
    retries=1,
    retried=0,
    source=RunSource(kind=RunSourceKind.HOME, path="stacks/stack.ipynb"),
)
_SECRET = SecretView(name="SURVEY_TOKEN", created_at=_BEGAN, changed_at=_BEGAN, used_at=None)
_RECORD = RunRecord(
    run=_RUN.model_copy(
        update={"state": RunState.SUCCEEDED, "ended_at": _BEGAN, "end_code": EndCode.SUCCEEDED, "current_cell": None}
    ),
    provenance=Provenance(
        notebook_sha256="5e" * 32,
        image_id="registry.example.org/base@sha256:" + "7f" * 32,
        node="node-7",
        interpreter="3.12.3",
        platform="Linux-6.8.0-x86_64-with-glibc2.39",
        environment_sha256="a0" * 32,
        packages_count=2,
        git_revision="9c" * 20,
        inputs=[FileRecord(path="m31.parquet", bytes=1_048_576, sha256="b1" * 32)],
        outputs=[FileRecord(path="stars.parquet", bytes=2_048, sha256="c2" * 32)],
        output_sha256="d3" * 32,
        cells=["e4" * 8],
    ),
    packages=["astropy==7.1.0", "numpy==2.3.1"],
    comparison=None,
)
_PARAMETERS = NotebookParameters(
    language="python",
    known=True,
    has_cell=True,
    parameters=[
        ParameterView(
            name="field",
            kind=ParameterKind.TEXT,
            nullable=False,
            has_default=True,
            default="m31",
            source="'m31'",
            help="which field",
        )
    ],
)
_DRAFT = DraftView(
    id="n-0123456789abcdef0123",
    name="stack.ipynb",
    source=RunSource(kind=RunSourceKind.HOME, path="stacks/stack.ipynb"),
    parameters=_PARAMETERS,
    kept_until="2027-01-16T08:00:00.000Z",
    page="/services/allocations/runs/new?draft=n-0123456789abcdef0123",
)
_SWEEP = SweepView(
    id="s-0123456789abcdef0123",
    person="ann",
    allocation="a-12345678",
    allocation_name="Deep fields",
    name="detector.ipynb",
    size="small",
    image="base",
    parameters={"field": "m31"},
    varied=["detector", "filter"],
    rows=6,
    at_once=2,
    max_seconds=900,
    state=SweepState.RUNNING,
    counts={
        state: {RunState.SUCCEEDED: 3, RunState.RUNNING: 2, RunState.QUEUED: 1}.get(state, 0) for state in RunState
    },
    ended=3,
    failed=0,
    waiting_reason="The sweep runs 2 at once, as it was submitted.",
    submitted_at=_BEGAN,
    started_at=_BEGAN,
    ended_at=None,
    cancelled_at=None,
    seconds_left=120,
    held_microcredits=23_400,
    charged_microcredits=4_680,
    retries=1,
    source=RunSource(kind=RunSourceKind.UPLOAD, path="detector.ipynb"),
    environment=["SURVEY_TOKEN"],
    output="home:detectors",
    waits_for=Condition.SUCCEEDED,
    after=[ChainedRun(run="r-1123456789abcdef0123", name="calibrate.ipynb", state=RunState.SUCCEEDED)],
    followed_by=[ChainedRun(run="r-2123456789abcdef0123", name="gather.ipynb", state=RunState.QUEUED)],
)
_SWEEP_RESULT = SweepResult(
    row=0,
    run="r-0123456789abcdef0123",
    state=RunState.SUCCEEDED,
    attempt=1,
    parameters={"field": "m31", "detector": 1, "filter": "F158"},
    recorded={"completeness": 0.93},
    error=None,
    seconds=120.0,
    started_at=_BEGAN,
    ended_at=_LATER,
    charged_microcredits=1_560,
    charged_microcredits_before=0,
)
_ESTIMATE = SweepEstimate(
    runs=180,
    max_seconds=900,
    held_microcredits_each=11_700,
    held_microcredits=2_106_000,
    most_microcredits=4_212_000,
    likely_from_runs=12,
    likely_seconds_each=120,
    likely_microcredits=280_800,
    free_microcredits=29_000_000,
    suffices=True,
    at_once_max=180,
    advice="It suffices: together the runs cost at most 4.21 credits, and 29.00 are free.",
)
_PLANNED = PlannedView(at=_LATER, shown="Friday 15 January 2027, 09:15 (CET, UTC+01:00)", note="")
_PAST = TimeView(
    planned_at=_BEGAN,
    shown="Friday 15 January 2027, 09:00 (CET, UTC+01:00)",
    outcome=TimeOutcome.SUBMITTED,
    run="r-0123456789abcdef0123",
    run_state=RunState.RUNNING,
    detail=None,
)
_SCHEDULE = ScheduleDetail(
    id="sc-0123456789abcdef0123",
    title="Stack of the night",
    allocation="a-12345678",
    allocation_name="Deep fields",
    name="stack.ipynb",
    size="small",
    image=None,
    parameters={"field": "m31"},
    max_seconds=3600,
    cron="*/15 * * * *",
    zone="Europe/Berlin",
    words="Every 15th minute of every hour (Europe/Berlin)",
    missed=MissedPolicy.ONCE,
    overlap=OverlapPolicy.SKIP,
    state=ScheduleState.ACTIVE,
    pause_reason=None,
    refusals=0,
    next=_PLANNED,
    last=_PAST,
    created_at=_BEGAN,
    retries=1,
    source=RunSource(kind=RunSourceKind.HOME, path="stacks/stack.ipynb"),
    environment=["SURVEY_TOKEN"],
    output="home:nights",
    coming=[_PLANNED],
    times=[_PAST],
)
_AGREEMENT = AgreementView(version="2026-07-01", title="User agreement", accepted=True, url="/agreement")
_OPTIONS = StartOptions(
    person="ann",
    agreement=_AGREEMENT,
    allocations=[
        AllocationOffer(
            id="a-12345678",
            name="Deep fields",
            tier="consortium",
            tier_title="Consortium",
            state="active",
            limit_microcredits=4_000_000_000,
            held_microcredits=11_700,
            posted_microcredits=1_300_000,
            available_microcredits=3_998_688_300,
            ends_at=_ENDS,
            usable=True,
            reason=None,
            sizes=[
                SizeOffer(
                    name="small",
                    title="Small",
                    cores=1,
                    memory_gib=4,
                    gpus=0,
                    gpu_type=None,
                    microcredits_per_hour=46_800,
                    hours_available=85_442.1,
                    usable=True,
                    reason=None,
                )
            ],
        )
    ],
    images=IMAGES.images,
    default=Choice(allocation="a-12345678", size="small", image="base"),
)
_QUOTAS = Quotas(
    person="ann",
    allocations=[
        AllocationQuotas(
            allocation="a-12345678",
            name="Deep fields",
            state=StateView(state="active", usable=True, source=SourceKind.POLICY, why="It may be spent."),
            limits=[
                LimitView(
                    name="member_cores", value=64, used=1, source=SourceKind.MEMBER, why="A lead's cap for you: 64."
                )
            ],
            largest=LargestView(
                shapes=[Shape(cores=32, memory_gib=64)], source=SourceKind.POLICY, why="The Consortium tier."
            ),
            budgets=[
                BudgetView(
                    unit=Unit.CREDITS,
                    available=3_998_688_300,
                    limit=4_000_000_000,
                    held=11_700,
                    posted=1_300_000,
                    binds="a-12345678",
                    source=SourceKind.AWARD,
                    why="What “Deep fields” was awarded.",
                )
            ],
        )
    ],
)
_ENTRY = AuditEntryView(
    id=7,
    at=_LATER,
    actor="rev",
    action="request.approve",
    subject="q-12345678",
    why="A sound plan for a modest budget.",
    details={"before": "in review", "after": "approved"},
    policy_version=_VERSION,
)
_SUMS = {
    "microcredits": 1_300_000,
    "storage_microcredits": 200_000,
    "core_seconds": 100_000,
    "gib_seconds": 400_000,
    "gpu_seconds": 0,
    "byte_days": 20_000_000_000,
}
_USE = UseReport(
    first_day=date(2027, 1, 1),
    last_day=date(2027, 1, 31),
    by=UseBy.TIER,
    step=UseStep.MONTH,
    total=UseView(**_SUMS),
    steps=[UseOfStep(first_day=date(2027, 1, 1), last_day=date(2027, 1, 31), forecast_microcredits=1_600_000, **_SUMS)],
    groups=[UseOfGroup(key="consortium", title="Consortium", **_SUMS)],
    groups_left_out=0,
    forecast=UseForecast(measured_days=13, microcredits_per_day=100_000, days_left=16, microcredits=2_900_000),
)
_TIERS = PlatformReport(
    tiers=[
        TierReport(
            tier="consortium",
            title="Consortium",
            allocations=1,
            usable=1,
            granted_microcredits=4_000_000_000,
            spent_microcredits=1_300_000,
            held_microcredits=11_700,
            forecast_microcredits=37_800_000,
            running_out=0,
            publications=1,
        )
    ],
    publications=1,
    measured_days=13,
)
_NOTICE = NoticeView(
    id=11,
    kind=NoticeKind.ENDS_SOON,
    subject="a-12345678",
    title="“Deep fields” ends in 30 days",
    text="It can be renewed until then.",
    created_at=_BEGAN,
    read_at=None,
)
_HEALTH = Health(
    status="ok",
    version="0.1.0",
    policy_version=_VERSION,
    database="ok",
    database_revision="0002",
    worker_lag_seconds=1.5,
)
_ANSWERS: tuple[View, ...] = (
    _HEALTH,
    _OPTIONS,
    IMAGES,
    _LEASE,
    LeaseList(leases=[_LEASE], next_before=None),
    OpenLeaseList(leases=[_OPEN_LEASE], next_after=None),
    _OUTLOOK,
    AgreementText(**_AGREEMENT.model_dump(), text="# User agreement\n\n…"),
    AllocationList(allocations=[_ALLOCATION]),
    _DETAIL,
    AuditPage(entries=[_ENTRY], next_before=_ENTRY.id),
    _USE,
    _TIERS,
    _MEMBER,
    _INVITATION,
    InvitationList(invitations=[_INVITATION]),
    _PUBLICATION,
    PublicationList(publications=[_PUBLICATION]),
    _QUOTAS,
    PersonView(name="ann"),
    PeopleList(people=["ann"], next_after=None),
    EndedView(runs=2),
    SuspensionView(reason="Your token is in a public repository.", author="admin", created_at=_BEGAN, stops_at=_BEGAN),
    _OVERRIDE,
    OverrideList(overrides=[_OVERRIDE]),
    _REQUEST,
    RequestList(requests=[_REQUEST]),
    _RUN,
    RunList(runs=[_RUN]),
    _RECORD,
    _PARAMETERS,
    _DRAFT,
    _SWEEP,
    SweepList(sweeps=[_SWEEP], next_before=None),
    SweepResultList(results=[_SWEEP_RESULT], next_after=None),
    _ESTIMATE,
    _SECRET,
    SecretList(secrets=[_SECRET]),
    RunEnvironment(values={"SURVEY_TOKEN": "the value"}, output={}),
    _SCHEDULE,
    ScheduleList(schedules=[ScheduleView(**_SCHEDULE.model_dump(exclude={"coming", "times"}))]),
    PreviewView(cron=_SCHEDULE.cron, zone=_SCHEDULE.zone, words=_SCHEDULE.words, coming=[_PLANNED]),
    _NOTICE,
    NoticeList(notices=[_NOTICE], unread=1, next_before=None),
    *STORAGE_ANSWERS,
)
ANSWERS: dict[type[View], View] = {type(answer): answer for answer in _ANSWERS}
"""An answer of each shape that a route has."""

PROBLEMS: dict[HTTPStatus, AllocationsError] = {
    HTTPStatus.BAD_REQUEST: NotUnderstoodError(HTTPStatus.BAD_REQUEST, "There was an error parsing the body."),
    HTTPStatus.UNAUTHORIZED: NotSignedInError("The request carries no valid token.", "Make a token and send it."),
    HTTPStatus.FORBIDDEN: MissingScopeError(
        "The token of ann does not carry the scope custom:allocations:admin.", "Use a token with that scope."
    ),
    HTTPStatus.NOT_FOUND: unknown_allocation("a-12345678"),
    HTTPStatus.CONFLICT: IdempotencyConflictError(
        "This Idempotency-Key was used before, for a different request.", "Use a new key for a new request."
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: BodyTooLargeError(
        "The request is larger than 20 MB.", "Clear the notebook's outputs, save it and send it again."
    ),
    HTTPStatus.UNPROCESSABLE_ENTITY: InvalidInputError(
        "name: Field required.", "Mend the fields and send the request again."
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: HubUnavailableError("The hub does not answer.", "Try again in a moment."),
}
"""A problem of each status that any route with a scope may answer, beside its success."""
