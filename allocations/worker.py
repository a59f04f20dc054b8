"""The clock of the platform: renews leases, stops what has ended, reconciles, moves allocations on by the calendar,
and delivers what people are told."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
from prometheus_client import Counter, Gauge, start_http_server
from sqlalchemy.exc import SQLAlchemyError

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.db.idempotency import forget
from allocations.duties import WORKER_DUTY, Duties
from allocations.factory import mailer_from, services_from
from allocations.hub_client import HubServers
from allocations.leases.watch import LeaseWatch
from allocations.logs import configure_logging
from allocations.settings import MailSettings, Settings, required

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.factory import Services
    from allocations.leases.watch import Servers
    from allocations.notify.mailer import Mailer

log = logging.getLogger(__name__)

TICK_SECONDS = 2.0
DUTY_SECONDS = 20
CALENDAR_SECONDS = 60
MAIL_SECONDS = 60
# A mail that is being sent at the end is waited for: begun and not marked, it would go out twice.
LAST_MAIL_SECONDS = 15
# How many old answers one transaction forgets, and how many of them there are in one go: 100,000 a minute at most.
FORGET_MAX = 1_000
FORGET_SLICES = 100

_RENEWED = Counter("meridian_leases_renewed_total", "Leases renewed")
_LOOKS = Counter("meridian_reconciliations_total", "Comparisons of leases with servers", ["outcome"])
_MAILS = Counter("meridian_mails_sent_total", "Mails sent")
_LEADS = Gauge("meridian_worker_leads", "1 while this worker has the duty")


@contextmanager
def _without_collections() -> Iterator[None]:
    """Look for cyclic garbage afterwards only: thousands of leases are made and dropped, none in a cycle."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Worker:
    """One tick does everything that is due; of several workers, the one that holds the duty ticks."""

    def __init__(self, services: Services, servers: Servers, holder: str) -> None:
        self._services = services
        self._duties = Duties(services.database, services.clock)
        self._holder = holder
        self._watch = LeaseWatch(
            database=services.database,
            clock=services.clock,
            rules=services.policy.leases,
            leases=services.leases,
            store=services.lease_store,
            servers=servers,
        )
        self._looked_at_ms = 0
        self._calendar_at_ms = 0

    @_without_collections()
    def tick(self) -> bool:
        """Do what is due; return whether this worker has the duty."""
        leads = self._duties.take(WORKER_DUTY, self._holder, DUTY_SECONDS)
        _LEADS.set(int(leads))
        if not leads:
            return False
        now_ms = self._services.clock.now_ms()
        kept = False
        if now_ms - self._looked_at_ms >= self._services.policy.leases.reconcile_seconds * MS_PER_SECOND:
            self._look()
            self._looked_at_ms = now_ms
        try:
            _RENEWED.inc(self._watch.keep())
            kept = True
        except httpx.HTTPError as error:
            log.warning("the hub did not take a stop: %s", type(error).__name__)
        self._services.runs.cancel_departed()
        self._services.runs.cancel_suspended()
        self._services.runs.cancel_cut_short()
        self._services.runs.close_expired()
        self._services.chains.cancel_hopeless()
        self._services.schedule_duty.submit_due()
        if now_ms - self._calendar_at_ms >= CALENDAR_SECONDS * MS_PER_SECOND:
            self._services.lifecycle.advance()
            self._services.reminders.remind()
            self._services.stop_warnings.warn()
            self._forget_answers(now_ms)
            self._calendar_at_ms = now_ms
        if kept:
            self._duties.done(WORKER_DUTY, self._holder, now_ms)
        return True

    def lay_down(self) -> None:
        """Let another worker take over at once."""
        self._duties.lay_down(WORKER_DUTY, self._holder)

    def _forget_answers(self, now_ms: int) -> None:
        """Forget the answers that the policy no longer keeps, a slice at a time: nobody waits for long."""
        before_ms = now_ms - self._services.policy.leases.answers_kept_days * MS_PER_DAY
        for _ in range(FORGET_SLICES):
            with self._services.database.write() as connection:
                if forget(connection, before_ms, FORGET_MAX) < FORGET_MAX:
                    break

    def _look(self) -> None:
        try:
            self._watch.look()
        except httpx.HTTPError as error:
            # Nothing is concluded from a hub that does not answer.
            _LOOKS.labels("hub_unavailable").inc()
            log.warning("the hub does not answer: %s", type(error).__name__)
        else:
            _LOOKS.labels("done").inc()


class Delivery(threading.Thread):
    """Delivers the outbox beside the ticks: a mail server that is slow or a mail that fails holds up no lease.

    Each worker delivers, whoever has the duty: mails are claimed one by one.
    """

    def __init__(self, mailer: Mailer, stopped: threading.Event) -> None:
        super().__init__(name="delivery", daemon=True)
        self._mailer = mailer
        self._stopped = stopped

    def run(self) -> None:
        """Deliver every minute until the worker stops."""
        while True:
            try:
                _MAILS.inc(self._mailer.deliver())
            except Exception:
                log.exception("the outbox was not delivered; trying again")
            if self._stopped.wait(MAIL_SECONDS):
                return


def run() -> None:
    """Run until SIGTERM or SIGINT; a database that is away for a while is waited for."""
    configure_logging()
    metrics_host = os.environ.get("MERIDIAN_WORKER_METRICS_HOST", "127.0.0.1")
    start_http_server(int(required("MERIDIAN_WORKER_METRICS_PORT")), addr=metrics_host)
    services = services_from(Settings.from_environment())
    servers = HubServers(required("MERIDIAN_HUB_API_URL"), required("MERIDIAN_TOKEN_WORKER"))
    mailer = mailer_from(services, MailSettings.from_environment())
    worker = Worker(services, servers, f"{socket.gethostname()}:{os.getpid()}")
    stopped = threading.Event()
    delivery = Delivery(mailer, stopped)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    delivery.start()
    while not stopped.is_set():
        try:
            worker.tick()
        except SQLAlchemyError:
            log.exception("the database does not answer; trying again")
        stopped.wait(TICK_SECONDS)
    worker.lay_down()
    delivery.join(LAST_MAIL_SECONDS)
