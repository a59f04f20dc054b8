"""Wires the services: the one place that knows which class is made of which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.duties import Duties
from allocations.ids import random_id
from allocations.leases.accounting import Accounting
from allocations.leases.admission import Admission
from allocations.leases.offers import OfferService
from allocations.leases.queue import LeaseQueue
from allocations.leases.quotas import QuotaService
from allocations.leases.service import LeaseService
from allocations.leases.sessions import SessionService
from allocations.leases.showing import LeaseViews
from allocations.leases.standing import StandingReader
from allocations.leases.store import LeaseStore
from allocations.ledger.service import Ledger
from allocations.lifecycle.agreements import AgreementService
from allocations.lifecycle.allocations import AllocationService
from allocations.lifecycle.authority import Authority
from allocations.lifecycle.deciding import RequestDecider
from allocations.lifecycle.members import MemberService
from allocations.lifecycle.overrides import OverrideService
from allocations.lifecycle.people import PeopleService
from allocations.lifecycle.publications import PublicationService
from allocations.lifecycle.request_records import RequestRecords
from allocations.lifecycle.requests import RequestService
from allocations.lifecycle.reviewers import ReviewerService
from allocations.lifecycle.stores.agreements import AgreementStore
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.lifecycle.stores.audit import AuditStore
from allocations.lifecycle.stores.invitations import InvitationStore
from allocations.lifecycle.stores.overrides import OverrideStore
from allocations.lifecycle.stores.people import PeopleStore
from allocations.lifecycle.stores.publications import PublicationStore
from allocations.lifecycle.stores.requests import RequestStore
from allocations.lifecycle.stores.reviewers import ReviewerStore
from allocations.lifecycle.stores.suspensions import SuspensionStore
from allocations.lifecycle.suspensions import SuspensionService
from allocations.lifecycle.tree import TreeService
from allocations.notify.calendar import CalendarService
from allocations.notify.composer import MailComposer
from allocations.notify.inbox import InboxService
from allocations.notify.links import LinkStore
from allocations.notify.mailer import Mailer
from allocations.notify.preferences import ChoiceStore, PreferenceService
from allocations.notify.reminders import ReminderService
from allocations.notify.stopping import StopWarningService
from allocations.notify.store import NoticeStore
from allocations.notify.texts import TextService
from allocations.notify.transports import FileTransport, SmtpTransport
from allocations.notify.truth import TruthService
from allocations.notify.unsubscribing import UnsubscribeService
from allocations.outbox import Outbox
from allocations.policy.images import with_references
from allocations.policy.loader import load_policy, with_idle_seconds
from allocations.reports.administration import PlatformReportService
from allocations.reports.allocations import AllocationViewBuilder
from allocations.reports.awards import StandingViewBuilder
from allocations.reports.purges import PurgeReportService
from allocations.reports.service import ReportService
from allocations.reports.storage import StorageReportService
from allocations.runs.chains import ChainService, ChainStore
from allocations.runs.drafts import DraftService
from allocations.runs.files import RunFiles
from allocations.runs.queue import RunQueue
from allocations.runs.queue_store import RunQueueStore
from allocations.runs.records import RecordService
from allocations.runs.schedule_duty import ScheduleDuty
from allocations.runs.schedule_store import ScheduleStore
from allocations.runs.schedule_views import ScheduleViewBuilder
from allocations.runs.schedules import ScheduleService
from allocations.runs.secret_store import SecretStore
from allocations.runs.secrets import SecretService, Vault
from allocations.runs.service import RunService
from allocations.runs.store import RunStore
from allocations.runs.sweep_store import SweepStore
from allocations.runs.sweeps import SweepService
from allocations.storage.access import AreaAccess
from allocations.storage.accrual import AccrualService
from allocations.storage.archives import ArchiveService
from allocations.storage.ended import EndService
from allocations.storage.ended_store import EndStore
from allocations.storage.expiry import ArchiveRemover, ExpiryService
from allocations.storage.listing import open_archive
from allocations.storage.measures import MeasureService
from allocations.storage.models import StorageClass
from allocations.storage.owners import OwnerService
from allocations.storage.purge.exemptions import ExemptionService
from allocations.storage.purge.moving import Moves
from allocations.storage.purge.run import PurgeRunner
from allocations.storage.purge.service import PurgeService
from allocations.storage.purge.standing import Standing
from allocations.storage.purge.steps import Steps
from allocations.storage.purge.store import ArchiveStore, ExemptionStore, PurgeStore
from allocations.storage.purge.telling import PurgeNotices
from allocations.storage.restores.run import RestoreRunner
from allocations.storage.restores.service import RestoreService
from allocations.storage.scratch import ScratchLeaseService
from allocations.storage.scratch_store import ScratchLeaseStore
from allocations.storage.states import StateService
from allocations.storage.store import StorageStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from allocations.clock import Clock
    from allocations.ids import IdFactory
    from allocations.notify.transports import Transport
    from allocations.policy.models import Policy
    from allocations.settings import MailSettings, Settings


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that handlers, the worker and the command line call."""

    database: Database
    clock: Clock
    policy: Policy
    runs_containers: bool
    leases: LeaseService
    lease_store: LeaseStore
    sessions: SessionService
    offers: OfferService
    quotas: QuotaService
    lifecycle: AllocationService
    agreements: AgreementService
    members: MemberService
    tree: TreeService
    overrides: OverrideService
    people: PeopleService
    suspensions: SuspensionService
    publications: PublicationService
    requests: RequestService
    reviewers: ReviewerService
    runs: RunService
    chains: ChainService
    records: RecordService
    drafts: DraftService
    sweeps: SweepService
    secrets: SecretService
    schedules: ScheduleService
    schedule_duty: ScheduleDuty
    reports: ReportService
    platform_reports: PlatformReportService
    storage_reports: StorageReportService
    purge_reports: PurgeReportService
    archives: ArchiveService
    storage_states: StateService
    reminders: ReminderService
    stop_warnings: StopWarningService
    inbox: InboxService
    preferences: PreferenceService
    calendar: CalendarService
    unsubscribing: UnsubscribeService
    purges: PurgeService
    purge_runner: PurgeRunner
    exemptions: ExemptionService
    restores: RestoreService
    ends: EndService
    expiry: ExpiryService
    archive_remover: ArchiveRemover
    scratch_leases: ScratchLeaseService


def make_services(
    database: Database,
    policy: Policy,
    run_store: Path,
    clock: Clock | None = None,
    new_id: IdFactory = random_id,
    *,
    runs_containers: bool = False,
    secret_keys: Sequence[str] = (),
) -> Services:
    """Wire the services over a database; tests pass a clock and ids of their own.

    `runs_containers`: whether servers and runs of this installation are containers, of images that can be chosen.
    """
    clock = clock or SystemClock()
    ledger = Ledger()
    allocations, agreements, audit = AllocationStore(), AgreementStore(), AuditStore()
    requests, lease_store, runs, sweeps = RequestStore(), LeaseStore(), RunStore(), SweepStore()
    chains = ChainStore(sweeps)
    invitations, outbox = InvitationStore(), Outbox()
    reviewers = ReviewerStore()
    notices, publications, links = NoticeStore(), PublicationStore(), LinkStore()
    preferences = PreferenceService(database=database, policy=policy, choices=ChoiceStore())
    authority = Authority(
        clock=clock, policy=policy, ledger=ledger, allocations=allocations, audit=audit, outbox=outbox
    )
    lifecycle = AllocationService(
        database=database,
        clock=clock,
        new_id=new_id,
        policy=policy,
        ledger=ledger,
        allocations=allocations,
        authority=authority,
    )
    overrides, suspensions, people = OverrideStore(), SuspensionStore(), PeopleStore()
    owners = OwnerService(database=database, policy=policy, allocations=allocations, store=StorageStore())
    storage_states = StateService(
        database=database,
        clock=clock,
        policy=policy,
        allocations=allocations,
        store=StorageStore(),
        owners=owners,
        notices=notices,
        outbox=outbox,
    )
    admission = Admission(
        clock=clock,
        new_id=new_id,
        policy=policy,
        ledger=ledger,
        leases=lease_store,
        allocations=allocations,
        agreements=agreements,
        overrides=overrides,
        suspensions=suspensions,
        storage=storage_states,
        audit=audit,
        runs_containers=runs_containers,
    )
    accounting = Accounting(
        clock=clock,
        new_id=new_id,
        policy=policy,
        ledger=ledger,
        leases=lease_store,
        allocations=allocations,
        suspensions=suspensions,
    )
    shown = LeaseViews(lease_store, allocations, policy)
    leases = LeaseService(
        database=database,
        clock=clock,
        leases=lease_store,
        shown=shown,
        admission=admission,
        accounting=accounting,
        queue=LeaseQueue(database, admission, accounting, shown),
    )
    access = AreaAccess(areas=StorageStore(), authority=authority)
    leases_of_scratch = ScratchLeaseStore()
    standing = Standing(clock=clock, policy=policy, allocations=allocations, leases=leases_of_scratch)
    purges, exemptions, archives = PurgeStore(), ExemptionStore(), ArchiveStore()
    purge_notices = PurgeNotices(access=access, authority=authority)
    moves = Moves(clock=clock, purges=purges, authority=authority, notices=purge_notices)
    standings = StandingReader(ledger=ledger, leases=lease_store, allocations=allocations, overrides=overrides)
    members = MemberService(
        database=database,
        clock=clock,
        new_id=new_id,
        policy=policy,
        ledger=ledger,
        allocations=allocations,
        invitations=invitations,
        authority=authority,
    )
    run_files, schedule_store = RunFiles(run_store), ScheduleStore()
    secrets = SecretService(database=database, clock=clock, vault=Vault(secret_keys), store=SecretStore(), runs=runs)
    run_service = RunService(
        database=database,
        clock=clock,
        new_id=new_id,
        policy=policy,
        leases=leases,
        lease_store=lease_store,
        allocations=allocations,
        authority=authority,
        runs=runs,
        chains=chains,
        sweeps=sweeps,
        queue=RunQueue(database=database, clock=clock, leases=leases, runs=runs, queue=RunQueueStore(), sweeps=sweeps),
        schedules=schedule_store,
        files=run_files,
        secrets=secrets,
    )
    schedules = ScheduleService(
        database=database,
        clock=clock,
        new_id=new_id,
        policy=policy,
        runs=run_service,
        schedules=schedule_store,
        files=run_files,
        shown=ScheduleViewBuilder(clock=clock, allocations=allocations, schedules=schedule_store),
    )
    return Services(
        database=database,
        clock=clock,
        policy=policy,
        runs_containers=runs_containers,
        leases=leases,
        lease_store=lease_store,
        sessions=SessionService(
            database=database,
            clock=clock,
            policy=policy,
            ledger=ledger,
            leases=leases,
            store=lease_store,
            allocations=allocations,
            overrides=overrides,
        ),
        offers=OfferService(
            database=database,
            clock=clock,
            policy=policy,
            allocations=allocations,
            agreements=agreements,
            suspensions=suspensions,
            storage=storage_states,
            standings=standings,
            runs_containers=runs_containers,
        ),
        quotas=QuotaService(
            database=database, clock=clock, policy=policy, allocations=allocations, standings=standings
        ),
        lifecycle=lifecycle,
        agreements=AgreementService(
            database=database,
            clock=clock,
            policy=policy,
            allocations=allocations,
            agreements=agreements,
            lifecycle=lifecycle,
            authority=authority,
        ),
        members=members,
        tree=TreeService(
            database=database,
            clock=clock,
            new_id=new_id,
            policy=policy,
            ledger=ledger,
            allocations=allocations,
            invitations=invitations,
            members=members,
            authority=authority,
        ),
        overrides=OverrideService(
            database=database,
            clock=clock,
            new_id=new_id,
            allocations=allocations,
            overrides=overrides,
            authority=authority,
        ),
        people=PeopleService(database=database, clock=clock, people=people),
        suspensions=SuspensionService(
            database=database,
            clock=clock,
            new_id=new_id,
            people=people,
            suspensions=suspensions,
            authority=authority,
        ),
        publications=PublicationService(
            database=database,
            clock=clock,
            new_id=new_id,
            publications=publications,
            authority=authority,
        ),
        requests=RequestService(
            database=database,
            clock=clock,
            new_id=new_id,
            policy=policy,
            requests=requests,
            allocations=allocations,
            lifecycle=lifecycle,
            authority=authority,
            records=RequestRecords(
                clock=clock,
                ledger=ledger,
                requests=requests,
                reviewers=reviewers,
                allocations=allocations,
                authority=authority,
            ),
            decider=RequestDecider(
                policy=policy, requests=requests, allocations=allocations, lifecycle=lifecycle, authority=authority
            ),
        ),
        reviewers=ReviewerService(database=database, clock=clock, reviewers=reviewers),
        runs=run_service,
        sweeps=SweepService(
            database=database,
            clock=clock,
            new_id=new_id,
            policy=policy,
            ledger=ledger,
            leases=leases,
            lease_store=lease_store,
            allocations=allocations,
            sweeps=sweeps,
            chains=chains,
            runs=run_service,
            files=run_files,
        ),
        chains=ChainService(database=database, clock=clock, chains=chains),
        schedules=schedules,
        schedule_duty=ScheduleDuty(
            database=database,
            clock=clock,
            policy=policy,
            runs=run_service,
            schedules=schedule_store,
            service=schedules,
            outbox=outbox,
        ),
        drafts=DraftService(database=database, clock=clock, new_id=new_id, policy=policy, files=run_files),
        secrets=secrets,
        records=RecordService(database=database, store=runs, files=run_files, runs=run_service),
        reports=ReportService(
            database=database,
            clock=clock,
            ledger=ledger,
            leases=leases,
            lease_store=lease_store,
            allocations=allocations,
            requests=requests,
            audit=audit,
            published=publications,
            people=people,
            suspensions=suspensions,
            overrides=overrides,
            shown=AllocationViewBuilder(policy=policy, ledger=ledger, allocations=allocations),
            awards=StandingViewBuilder(policy=policy, ledger=ledger, lifecycle=lifecycle, requests=requests),
        ),
        platform_reports=PlatformReportService(database=database, clock=clock, policy=policy, audit=audit),
        storage_reports=StorageReportService(
            database=database,
            clock=clock,
            policy=policy,
            allocations=allocations,
            store=StorageStore(),
            access=access,
            owners=owners,
        ),
        purge_reports=PurgeReportService(
            database=database,
            clock=clock,
            policy=policy,
            allocations=allocations,
            areas=StorageStore(),
            access=access,
            purges=purges,
            leases=leases_of_scratch,
        ),
        archives=ArchiveService(
            database=database,
            clock=clock,
            access=access,
            archives=archives,
            authority=authority,
            open_store=open_archive,
        ),
        storage_states=storage_states,
        reminders=ReminderService(
            database=database, clock=clock, policy=policy, allocations=allocations, notices=notices, outbox=outbox
        ),
        stop_warnings=StopWarningService(
            database=database,
            clock=clock,
            policy=policy,
            leases=lease_store,
            allocations=allocations,
            notices=notices,
            outbox=outbox,
        ),
        inbox=InboxService(
            database=database,
            clock=clock,
            notices=notices,
            texts=TextService(policy=policy, store=notices),
            preferences=preferences,
        ),
        preferences=preferences,
        calendar=CalendarService(
            database=database,
            clock=clock,
            policy=policy,
            allocations=allocations,
            agreements=agreements,
            notices=notices,
            links=links,
        ),
        unsubscribing=UnsubscribeService(database=database, preferences=preferences, links=links),
        purges=PurgeService(
            database=database,
            clock=clock,
            new_id=new_id,
            policy=policy,
            access=access,
            purges=purges,
            archives=archives,
            moves=moves,
            standing=standing,
            notices=purge_notices,
            authority=authority,
        ),
        purge_runner=PurgeRunner(
            database=database,
            clock=clock,
            policy=policy,
            access=access,
            purges=purges,
            moves=moves,
            steps=Steps(
                database=database,
                clock=clock,
                new_id=new_id,
                policy=policy,
                purges=purges,
                archives=archives,
                exemptions=exemptions,
                moves=moves,
                standing=standing,
                notices=purge_notices,
            ),
            duties=Duties(database, clock),
        ),
        exemptions=ExemptionService(
            database=database,
            clock=clock,
            new_id=new_id,
            policy=policy,
            access=access,
            exemptions=exemptions,
            authority=authority,
        ),
        restores=RestoreService(
            database=database,
            clock=clock,
            new_id=new_id,
            access=access,
            archives=archives,
            authority=authority,
        ),
        ends=EndService(
            database=database,
            clock=clock,
            new_id=new_id,
            policy=policy,
            access=access,
            ends=EndStore(),
            purges=purges,
            archives=archives,
            moves=moves,
            standing=standing,
            authority=authority,
        ),
        expiry=ExpiryService(
            database=database, clock=clock, policy=policy, access=access, archives=archives, authority=authority
        ),
        archive_remover=ArchiveRemover(
            database=database, archives=archives, authority=authority, duties=Duties(database, clock)
        ),
        scratch_leases=ScratchLeaseService(
            database=database,
            clock=clock,
            new_id=new_id,
            policy=policy,
            access=access,
            leases=leases_of_scratch,
            authority=authority,
        ),
    )


@dataclass(frozen=True, slots=True)
class StorageServices:
    """What the process calls that has the mounts of people's files."""

    owners: OwnerService
    states: StateService
    measures: MeasureService
    accrual: AccrualService
    restores: RestoreRunner


def make_storage_services(services: Services, new_id: IdFactory = random_id) -> StorageServices:
    """Wire storage over the same database and policy."""
    policy, allocations, store = services.policy, AllocationStore(), StorageStore()
    owners = services.storage_states.owners
    return StorageServices(
        owners=owners,
        states=services.storage_states,
        measures=MeasureService(database=services.database, clock=services.clock, new_id=new_id, store=store),
        accrual=AccrualService(
            database=services.database,
            clock=services.clock,
            new_id=new_id,
            policy=policy,
            ledger=Ledger(),
            allocations=allocations,
            store=store,
            home_bytes=owners.tier_bytes(StorageClass.HOME),
        ),
        restores=RestoreRunner(
            database=services.database,
            clock=services.clock,
            areas=store,
            archives=ArchiveStore(),
            authority=services.restores.authority,
            duties=Duties(services.database, services.clock),
        ),
    )


def make_mailer(services: Services, transport: Transport, sender: str, domain: str, pages_url: str = "") -> Mailer:
    """Wire the delivery of mail; only the worker has it."""
    composer = MailComposer(
        policy=services.policy,
        texts=services.inbox.texts,
        preferences=services.preferences,
        calendar=services.calendar,
        links=services.calendar.links,
        sender=sender,
        domain=domain,
        pages_url=pages_url,
    )
    return Mailer(
        database=services.database,
        clock=services.clock,
        new_id=random_id,
        notices=services.inbox.notices,
        preferences=services.preferences,
        truth=TruthService(notices=services.inbox.notices),
        composer=composer,
        transport=transport,
    )


def mailer_from(services: Services, settings: MailSettings) -> Mailer:
    """Wire the delivery of mail as the environment says."""
    transport: Transport
    if settings.folder is not None:
        transport = FileTransport(settings.folder)
    else:
        transport = SmtpTransport(
            host=settings.host or "",
            port=settings.port,
            user=settings.user,
            password=settings.password,
            starttls=settings.starttls,
        )
    return make_mailer(services, transport, settings.sender, settings.domain, settings.pages_url)


def services_from(settings: Settings) -> Services:
    """Wire the services as the environment says."""
    policy = with_idle_seconds(load_policy(settings.policies), settings.idle_seconds)
    if settings.runs_containers:
        policy = with_references(policy, settings.images, is_shipped=settings.has_shipped_policies)
    return make_services(
        Database(settings.database_url),
        policy,
        settings.run_store,
        runs_containers=settings.runs_containers,
        secret_keys=settings.secret_keys,
    )
