"""Wires the services: the one place that knows which class is made of which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.ids import random_id
from allocations.leases.accounting import Accounting
from allocations.leases.admission import Admission
from allocations.leases.offers import OfferService
from allocations.leases.queue import LeaseQueue
from allocations.leases.quotas import QuotaService
from allocations.leases.service import LeaseService
from allocations.leases.showing import LeaseViews
from allocations.leases.store import LeaseStore
from allocations.ledger.service import Ledger
from allocations.lifecycle.agreements import AgreementService
from allocations.lifecycle.allocations import AllocationService
from allocations.lifecycle.authority import Authority
from allocations.lifecycle.members import MemberService
from allocations.lifecycle.overrides import OverrideService
from allocations.lifecycle.people import PeopleService
from allocations.lifecycle.publications import PublicationService
from allocations.lifecycle.requests import RequestService
from allocations.lifecycle.stores.agreements import AgreementStore
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.lifecycle.stores.audit import AuditStore
from allocations.lifecycle.stores.invitations import InvitationStore
from allocations.lifecycle.stores.overrides import OverrideStore
from allocations.lifecycle.stores.people import PeopleStore
from allocations.lifecycle.stores.publications import PublicationStore
from allocations.lifecycle.stores.requests import RequestStore
from allocations.lifecycle.tree import TreeService
from allocations.notify.inbox import InboxService
from allocations.notify.mailer import Mailer
from allocations.notify.reminders import ReminderService
from allocations.notify.store import NoticeStore
from allocations.notify.texts import TextService
from allocations.notify.transports import FileTransport, SmtpTransport
from allocations.notify.truth import TruthService
from allocations.outbox import Outbox
from allocations.policy.loader import load_policy, with_idle_seconds
from allocations.reports.allocations import AllocationViewBuilder
from allocations.reports.awards import StandingViewBuilder
from allocations.reports.service import ReportService
from allocations.runs.files import RunFiles
from allocations.runs.service import RunService
from allocations.runs.store import RunStore

if TYPE_CHECKING:
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
    leases: LeaseService
    lease_store: LeaseStore
    offers: OfferService
    quotas: QuotaService
    lifecycle: AllocationService
    agreements: AgreementService
    members: MemberService
    tree: TreeService
    overrides: OverrideService
    people: PeopleService
    publications: PublicationService
    requests: RequestService
    runs: RunService
    reports: ReportService
    reminders: ReminderService
    inbox: InboxService


def make_services(
    database: Database,
    policy: Policy,
    run_store: Path,
    clock: Clock | None = None,
    new_id: IdFactory = random_id,
) -> Services:
    """Wire the services over a database; tests pass a clock and ids of their own."""
    clock = clock or SystemClock()
    ledger = Ledger()
    allocations, agreements, audit = AllocationStore(), AgreementStore(), AuditStore()
    requests, lease_store, runs = RequestStore(), LeaseStore(), RunStore()
    invitations, outbox = InvitationStore(), Outbox()
    notices, publications = NoticeStore(), PublicationStore()
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
    overrides = OverrideStore()
    admission = Admission(
        clock=clock,
        new_id=new_id,
        policy=policy,
        ledger=ledger,
        leases=lease_store,
        allocations=allocations,
        agreements=agreements,
        overrides=overrides,
    )
    accounting = Accounting(
        clock=clock, new_id=new_id, policy=policy, ledger=ledger, leases=lease_store, allocations=allocations
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
    return Services(
        database=database,
        clock=clock,
        policy=policy,
        leases=leases,
        lease_store=lease_store,
        offers=OfferService(
            database=database,
            clock=clock,
            policy=policy,
            ledger=ledger,
            leases=lease_store,
            allocations=allocations,
            agreements=agreements,
            overrides=overrides,
        ),
        quotas=QuotaService(
            database=database,
            clock=clock,
            policy=policy,
            ledger=ledger,
            leases=lease_store,
            allocations=allocations,
            overrides=overrides,
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
        people=PeopleService(database=database, clock=clock, people=PeopleStore()),
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
        ),
        runs=RunService(
            database=database,
            clock=clock,
            new_id=new_id,
            policy=policy,
            leases=leases,
            lease_store=lease_store,
            allocations=allocations,
            runs=runs,
            files=RunFiles(run_store),
        ),
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
            shown=AllocationViewBuilder(policy=policy, ledger=ledger),
            awards=StandingViewBuilder(policy=policy, ledger=ledger, lifecycle=lifecycle, requests=requests),
        ),
        reminders=ReminderService(
            database=database, clock=clock, policy=policy, allocations=allocations, notices=notices, outbox=outbox
        ),
        inbox=InboxService(
            database=database, clock=clock, notices=notices, texts=TextService(policy=policy, store=notices)
        ),
    )


def make_mailer(services: Services, transport: Transport, sender: str, domain: str) -> Mailer:
    """Wire the delivery of mail; only the worker has it."""
    return Mailer(
        database=services.database,
        clock=services.clock,
        new_id=random_id,
        notices=services.inbox.notices,
        texts=services.inbox.texts,
        truth=TruthService(notices=services.inbox.notices),
        transport=transport,
        sender=sender,
        domain=domain,
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
    return make_mailer(services, transport, settings.sender, settings.domain)


def services_from(settings: Settings) -> Services:
    """Wire the services as the environment says."""
    policy = with_idle_seconds(load_policy(settings.policies), settings.idle_seconds)
    return make_services(Database(settings.database_url), policy, settings.run_store)
