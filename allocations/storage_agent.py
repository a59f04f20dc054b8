"""The process that has the mounts of people's files: `meridian storage`.

It alone opens areas, limits, measures and charges them, and does the steps of purges and restores. It serves nobody,
so that its rights over everybody's files are out of reach from the network but for its metrics.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, start_http_server

from allocations.duties import Duties
from allocations.factory import make_storage_services, services_from
from allocations.ids import random_id
from allocations.logs import configure_logging
from allocations.settings import Settings, required
from allocations.storage.agent import Duty, Outcome, StorageAgent
from allocations.storage.purge.deleting import OF_A_FILE
from allocations.storage.purge.guarding import HaltError
from allocations.storage.purge.spool import remove_left
from allocations.storage.rights import FILES, LIMITS, keep_only
from allocations.storage.settings import BucketClass, StorageSettings
from allocations.storage.upkeep import ClassUpkeep

if TYPE_CHECKING:
    from collections.abc import Callable

    from allocations.factory import Services, StorageServices
    from allocations.storage.accrual import AccrualService
    from allocations.storage.models import StorageClass

log = logging.getLogger(__name__)

# What is in the middle of something at the end is waited for; Kubernetes gives 30 s.
LAST_SECONDS = 15.0
# An area counts as due when its last measure is this part of the interval old: rounds do not take turns then.
DUE_PART = 0.5
GROUP_OR_OTHERS_WRITE = 0o022

_AREAS = Gauge("meridian_storage_areas", "Areas of a class", ["storage_class"])
_BYTES = Gauge("meridian_storage_bytes", "Bytes of a class's areas as last measured", ["storage_class"])
_PROBLEMS = Gauge("meridian_storage_problems", "Areas that cannot be measured or limited", ["storage_class"])
_LIMITS = Counter("meridian_storage_limits_applied_total", "Limits brought in force", ["storage_class"])
_MEASURED = Counter("meridian_storage_measured_total", "Areas measured", ["storage_class"])
_STEPS = Counter(
    "meridian_storage_purge_steps_total", "Steps of purges, by the state reached", ["storage_class", "state"]
)
_COLLECTED = Counter("meridian_storage_collected_microcredits_total", "Charged for storage")


def make_duties(
    services: Services, storage: StorageServices, settings: StorageSettings, holder: str, *, anew: bool = False
) -> list[Duty]:
    """Return everything that is to be done with these mounts, in its order.

    `holder` is a name that no other process has. `anew`: also what was measured a moment ago is measured.
    """
    intervals = settings.intervals_seconds
    older_than_seconds = 0 if anew else intervals.measure * DUE_PART
    duties = []
    for name, one in settings.classes.items():
        upkeep = ClassUpkeep(
            storage_class=name,
            backend=settings.backend(name, services.policy.storage.purge.entries_per_second),
            clock=services.clock,
            owners=storage.owners,
            measures=storage.measures,
            hard_percent=services.policy.storage.thresholds.hard_percent,
            prefix=one.prefix if isinstance(one, BucketClass) else "",
            plain_names=one.plain_names,
            one_by_one=one.backend in {"scan", "objects"},
            purged=services.purge_runner.areas_deleted_from,
            ended_bytes=services.ends.limits_bytes,
        )
        keep = functools.partial(_keep, upkeep, storage)
        measure = functools.partial(_measure, upkeep, storage, older_than_seconds)
        duties.append(Duty(f"storage-limits-{name}", intervals.limits, keep))
        duties.append(Duty(f"storage-measure-{name}", intervals.measure, measure))
    duties.append(Duty("storage-charges", intervals.charges, functools.partial(_charge, storage.accrual)))
    if settings.purged_classes:
        look = functools.partial(_look, services, settings)
        remove = functools.partial(_remove, services, settings, f"{holder}:archives")
        duties.append(Duty("storage-calendar", intervals.purges, look))
        duties.append(Duty("storage-archives", intervals.purges, remove))
        tidy = functools.partial(_tidy, f"{settings.state}/plans")
        duties.append(Duty("storage-spools", intervals.purges, tidy, is_shared=True))
    for name in settings.purged_classes:
        # One area has one of them at a time, known by the holder: so each has a name of its own.
        purge = functools.partial(_purge, services, settings, name, f"{holder}:purges-{name}")
        bring_back = functools.partial(_restore, storage, settings, name, f"{holder}:restores-{name}")
        duties.append(Duty(f"storage-purges-{name}", intervals.purges, purge, is_shared=True))
        duties.append(Duty(f"storage-restores-{name}", intervals.purges, bring_back, is_shared=True))
    return duties


def run(*, once: bool) -> bool:
    """Run until SIGTERM or SIGINT, or do everything once; return whether all was done."""
    configure_logging()
    settings = StorageSettings.required()
    keep_only(FILES | LIMITS if _sets_limits(settings) else FILES)
    services = services_from(Settings.from_environment())
    _prepare(settings)
    # A pod's only process has the same number each time.
    holder = f"{socket.gethostname()}:{os.getpid()}:{random_id('agent')}"
    agent = StorageAgent(
        make_duties(services, make_storage_services(services), settings, holder, anew=once),
        Duties(services.database, services.clock),
        services.clock,
        holder,
        settings.duty_seconds,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    if once:
        return _all_done(agent.once())
    metrics_host = os.environ.get("MERIDIAN_STORAGE_METRICS_HOST", "127.0.0.1")
    start_http_server(int(required("MERIDIAN_STORAGE_METRICS_PORT")), addr=metrics_host)
    log.info("the classes are %s", ", ".join(settings.classes) or "none")
    if not agent.run(LAST_SECONDS):
        log.warning("what was under way is broken off; it is begun again by whoever has the duty next")
    return True


def _all_done(outcomes: dict[str, Outcome]) -> bool:
    for name, outcome in outcomes.items():
        log.info("%s: %s", name, outcome)
    return set(outcomes.values()) <= {Outcome.DONE}


def _sets_limits(settings: StorageSettings) -> bool:
    return any(one.backend in {"btrfs", "xfs"} for one in settings.classes.values())


def _prepare(settings: StorageSettings) -> None:
    """Make the folder of our own, and say what is dangerous about the others."""
    os.umask(0o077)
    for name in ("plans", "arrivals"):
        Path(settings.state, name).mkdir(parents=True, exist_ok=True)
    Path(settings.state).chmod(0o700)
    for name, one in settings.classes.items():
        if isinstance(one, BucketClass):
            continue
        status = Path(one.folder).stat()
        if status.st_uid not in {0, os.geteuid()} or status.st_mode & GROUP_OR_OTHERS_WRITE:
            log.warning(
                "%s: %s can be written to by others than administrators: they could put one area in another's "
                "place, unless nobody but servers with a folder of their own mounts it",
                name,
                one.folder,
            )


def _keep(upkeep: ClassUpkeep, storage: StorageServices, _goes_on: Callable[[], bool]) -> bool:
    done = upkeep.keep()
    name = upkeep.storage_class
    _LIMITS.labels(name).inc(done.applied)
    _show(storage, name)
    if done.opened or done.made or done.applied:
        log.info(
            "%s: %d areas opened, %d made, %d limits set, %d with problems",
            name,
            done.opened,
            done.made,
            done.applied,
            done.problems,
        )
    return True


def _measure(
    upkeep: ClassUpkeep, storage: StorageServices, older_than_seconds: float, goes_on: Callable[[], bool]
) -> bool:
    done = upkeep.measure(goes_on, older_than_seconds)
    name = upkeep.storage_class
    storage.states.tell(name)
    _MEASURED.labels(name).inc(done.areas)
    _show(storage, name)
    log.info(
        "%s: %d areas measured, %d bytes, %d with problems",
        name,
        done.areas,
        done.bytes,
        done.problems,
        extra={"count": done.areas},
    )
    return done.whole


def _charge(accrual: AccrualService, _goes_on: Callable[[], bool]) -> bool:
    days = accrual.assess()
    collected = accrual.collect()
    _COLLECTED.inc(collected)
    if days or collected:
        log.info("%d days assessed, %d microcredits collected", days, collected, extra={"count": days})
    return True


def _look(services: Services, settings: StorageSettings, _goes_on: Callable[[], bool]) -> bool:
    for what, moved in (
        ("areas that have ended, or come back", services.ends.look(settings.purged_classes)),
        ("purges", services.purges.look()),
        ("archives", services.expiry.look()),
    ):
        if moved:
            log.info("%d %s go on by the calendar", moved, what, extra={"count": moved})
    return True


def _remove(services: Services, settings: StorageSettings, holder: str, goes_on: Callable[[], bool]) -> bool:
    """Remove archives whose time is over; what is held up is tried again when this is next due."""
    removed, problems = services.archive_remover.remove(holder, settings.places, goes_on)
    if removed:
        log.info("%d archives are removed", removed, extra={"count": removed})
    for problem in problems:
        log.error("an archive cannot be removed: %s", problem)
    return goes_on()


def _tidy(plans: str, _goes_on: Callable[[], bool]) -> bool:
    if left := remove_left(plans):
        log.info("what %d plans that were broken off had spooled is removed", left, extra={"count": left})
    return True


def _purge(
    services: Services, settings: StorageSettings, name: StorageClass, holder: str, goes_on: Callable[[], bool]
) -> bool:
    """Take purges of a class on, step by step, until none can go on."""

    def reached(point: str) -> None:
        # Several for each file: too many to be told, and no file is to stay in the trash because we are to stop.
        if point.startswith(OF_A_FILE):
            return
        log.info("%s: a purge has come to: %s", name, point)
        if not goes_on():
            raise HaltError("the process is to stop")

    while goes_on():
        step = services.purge_runner.next_step(holder, [name])
        if step is None:
            return True
        state = services.purge_runner.advance(holder, step, settings.mount(step.area), reached)
        _STEPS.labels(name, state.value).inc()
        log.info("%s: the purge %s of %s is %s", name, step.purge.id, step.area.place, state)
        if state is step.purge.state:
            # Held up by what its problem says, or by our end: not at once again.
            return goes_on()
    return False


def _restore(
    storage: StorageServices,
    settings: StorageSettings,
    name: StorageClass,
    holder: str,
    goes_on: Callable[[], bool],
) -> bool:
    # What is held up is tried again when the duty is next due, and is no failure of it.
    storage.restores.carry_out(holder, [name], settings.mount, goes_on)
    return goes_on()


def _show(storage: StorageServices, name: StorageClass) -> None:
    areas = storage.measures.areas(name)
    _AREAS.labels(name).set(len(areas))
    _BYTES.labels(name).set(sum(area.bytes or 0 for area in areas))
    _PROBLEMS.labels(name).set(sum(area.problem is not None for area in areas))
