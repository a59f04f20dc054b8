"""A thousand servers of a thousand people on nodes that exist on paper, against plain KubeSpawner doing the same."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import httpx
import psutil
from sqlalchemy import text

from benchmarks.drive import Timing
from benchmarks.fakes import fake_nodes
from benchmarks.kube import ClusterMissingError, Placing, kube_hub, kube_site, ledger_of
from benchmarks.machine import memory_mib
from benchmarks.platforms import until
from benchmarks.report import Comparison, Report, Section, Share

if TYPE_CHECKING:
    from benchmarks.fakes import FakeNodes
    from benchmarks.kube import KubeHub, Ledger, Site
    from benchmarks.report import Step

PEOPLE, PEOPLE_QUICK = 1_000, 100
# As many starts at once as Zero to JupyterHub lets a hub have.
AT_ONCE = 64
LOOK, LOOK_EVERY_SECONDS = "bench_reconcile_look_seconds", 2.0
WAVE_SECONDS, SETTLED_SECONDS = 1_800, 120.0
WATCHED_SECONDS, WATCHED_SECONDS_QUICK = 60.0, 10.0
COMPARES = (
    f"{PEOPLE:,} people start a server each, {AT_ONCE} at once, on nodes without kubelets whose pods run as soon as "
    "they are scheduled: our hub with the allocations service on PostgreSQL, against a hub with KubeSpawner; the same "
    "cluster."
)


@dataclass(frozen=True, slots=True)
class Wave:
    """What one hub took for it all: MiB, seconds of a processor (`idle_processor`: of each second)."""

    started: Timing
    stopped: Timing
    empty_mib: float
    full_mib: float
    hub_processor: float
    idle_processor: float
    service_mib: tuple[float, float] = (0.0, 0.0)
    service_processor: float = 0.0
    admissions: float = 0.0
    reconcile_look: float = 0.0


def steps(*, quick: bool) -> int:  # noqa: ARG001  as many, only smaller
    """Return how many steps of the progress bar `run` makes."""
    return 2 + 2 * 4


def run(step: Step, *, quick: bool) -> Report:
    """Measure one wave of each side, one after the other: two would not fit on the cluster's own processors."""
    report = Report("fleet", COMPARES, "plain KubeSpawner")
    people = [f"person-{number:04}" for number in range(PEOPLE_QUICK if quick else PEOPLE)]
    step("preparing the cluster")
    try:
        with ExitStack() as stack:
            site = stack.enter_context(kube_site())
            step("registering nodes")
            nodes = stack.enter_context(fake_nodes(len(people)))
            ledger = stack.enter_context(ledger_of(site, people))
            ours = _wave(site, nodes, people, ledger, step, quick=quick)
            theirs = _wave(site, nodes, people, None, step, quick=quick)
            ledger.audit()
    except ClusterMissingError as missing:
        report.notes.append(f"Left out. {missing}")
    else:
        report.sections.append(_section(len(people), ours, theirs))
        report.notes.append("The ledger audit is clean; every lease is settled.")
    return report


def _section(count: int, ours: Wave, theirs: Wave) -> Section:
    section = Section(f"{count:,} servers")
    section.comparisons += [
        Comparison(what, unit, [our], [their])
        for what, unit, our, their in (
            ("starts", "per second", ours.started.per_second, theirs.started.per_second),
            ("start, p50", "ms", ours.started.percentile_ms(50), theirs.started.percentile_ms(50)),
            ("start, p99", "ms", ours.started.percentile_ms(99), theirs.started.percentile_ms(99)),
            ("stops", "per second", ours.stopped.per_second, theirs.stopped.per_second),
            ("hub's processor for a start", "ms", _each(ours.hub_processor, count), _each(theirs.hub_processor, count)),
            ("hub's processor while all run", "% of a core", 100 * ours.idle_processor, 100 * theirs.idle_processor),
            ("hub's memory, no server", "MiB", ours.empty_mib, theirs.empty_mib),
            ("hub's memory, all run", "MiB", ours.full_mib, theirs.full_mib),
        )
    ]
    section.shares += [
        Share(what, unit, [value])
        for what, unit, value in (
            ("admissions", "per second", ours.admissions),
            ("reconcile look, mean", "ms", ours.reconcile_look * 1000),
            ("service's processor for a start", "ms", _each(ours.service_processor, count)),
            ("service's memory, no server", "MiB", ours.service_mib[0]),
            ("service's memory, all run", "MiB", ours.service_mib[1]),
        )
    ]
    return section


def _each(seconds: float, count: int) -> float:
    return seconds / count * 1000


def _wave(site: Site, nodes: FakeNodes, people: list[str], ledger: Ledger | None, step: Step, *, quick: bool) -> Wave:
    whose = "of the plain hub" if ledger is None else "of ours"
    step(f"people {whose}")
    placing = Placing(nodes.node_selector, nodes.tolerations, nodes.port, WAVE_SECONDS, LOOK_EVERY_SECONDS)
    with kube_hub(site, people, ledger, placing) as hub:
        pids = [hub.pid, *([hub.service_pid] if hub.service_pid else [])]
        empty, before = [memory_mib(pid, "VmRSS") for pid in pids], [_processor(pid) for pid in pids]
        step(f"servers {whose} start")
        started = _all("POST", hub, people)
        after, full = [_processor(pid) for pid in pids], [memory_mib(pid, "VmRSS") for pid in pids]
        admissions = 0.0 if ledger is None else _admissions(ledger)
        step(f"servers {whose} run")
        idle, looks = _processor(hub.pid), _looks(hub)
        watched = WATCHED_SECONDS_QUICK if quick else WATCHED_SECONDS
        time.sleep(watched)
        idle = (_processor(hub.pid) - idle) / watched
        count, seconds = (later - earlier for later, earlier in zip(_looks(hub), looks, strict=True))
        step(f"servers {whose} stop")
        stopped = _all("DELETE", hub, people)
        if ledger is not None:
            until("The settled leases", lambda: _open_leases(ledger) == 0, SETTLED_SECONDS)
        spent = [later - earlier for later, earlier in zip(after, before, strict=True)]
        wave = Wave(started, stopped, empty[0], full[0], spent[0], idle)
        if ledger is None:
            return wave
        return replace(
            wave,
            service_mib=(empty[1], full[1]),
            service_processor=spent[1],
            admissions=admissions,
            reconcile_look=seconds / count,
        )


def _all(method: str, hub: KubeHub, people: list[str]) -> Timing:
    """Ask for everybody's server, or its end; each answer comes when that is done. Raises RuntimeError for another."""
    return asyncio.run(_ask(method, hub, people))


async def _ask(method: str, hub: KubeHub, people: list[str]) -> Timing:
    limits = httpx.Limits(max_connections=AT_ONCE)
    headers = {"Authorization": f"Bearer {hub.token}"}
    room = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(
        base_url=f"{hub.url}/hub/api", headers=headers, limits=limits, timeout=WAVE_SECONDS
    ) as http:

        async def ask(person: str) -> float:
            async with room:
                begin = time.perf_counter()
                body = hub.options if method == "POST" else None
                answer = await http.request(method, f"/users/{person}/server", json=body)
            if answer.status_code not in {httpx.codes.CREATED, httpx.codes.NO_CONTENT}:
                raise RuntimeError(
                    f"{method} of {person}'s server: {answer.status_code} {answer.text[:500]}\n{hub.complaints()}"
                )
            return time.perf_counter() - begin

        begin = time.perf_counter()
        each = await asyncio.gather(*map(ask, people))
        return Timing(time.perf_counter() - begin, list(each))


def _looks(hub: KubeHub) -> tuple[float, float]:
    """How often the hub has compared its pods with the leases, and the seconds of all; both 0 for the plain one."""
    with hub.http() as http:
        answer = http.get(f"{hub.url}/hub/metrics").raise_for_status().text
    found = dict(line.split(" ", 1) for line in answer.splitlines() if line.startswith(LOOK))
    return float(found.get(f"{LOOK}_count", 0)), float(found.get(f"{LOOK}_sum", 0))


def _processor(pid: int) -> float:
    """The seconds of a processor that a process has had."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _admissions(ledger: Ledger) -> float:
    """How many leases were admitted in each second between the first and the last of them."""
    with ledger.services.database.read() as connection:
        count, first, last = connection.execute(
            text("SELECT count(*), min(acquired_at_ms), max(acquired_at_ms) FROM leases")
        ).one()
    return float(1000 * count / (last - first))


def _open_leases(ledger: Ledger) -> int:
    with ledger.services.database.read() as connection:
        query = text("SELECT count(*) FROM leases WHERE state <> 'settled'")
        return int(connection.execute(query).scalar_one())
